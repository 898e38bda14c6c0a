// Weights as the tiles want them: bf16 values or int8 levels, row by row; and rows of x as levels.
#pragma once

#include "simd.hpp"

namespace sightline::amx {

// The 16 values an int4 level can mean as bf16: 0..7, then -8..-1, as the level's four bits count.
inline __m256i meanings(uint16_t scale) {
  const __m512 levels = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  return (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(levels, _mm512_set1_ps(_cvtsh_ss(scale))));
}

// A block of 128 values with 12 bits each as bf16, in order.
inline void decode(const uint8_t* block, __m512i book, __m512i out[4]) {
  const __m512i codes = _mm512_loadu_si512(block + 128), nibble = _mm512_set1_epi8(15);
  const __m512i first = _mm512_shuffle_epi8(book, _mm512_and_si512(codes, nibble));
  const __m512i second = _mm512_shuffle_epi8(book, _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble));
  const __m512i low = _mm512_loadu_si512(block), next = _mm512_loadu_si512(block + 64);
  out[0] = _mm512_unpacklo_epi8(low, first), out[1] = _mm512_unpackhi_epi8(low, first);
  out[2] = _mm512_unpacklo_epi8(next, second), out[3] = _mm512_unpackhi_epi8(next, second);
}
inline __m512i book_of(const Matrix& w) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)w.scales)); }

// `count` values of row i from `at` on, as bf16: bf16 values and levels of int8 stay what they are, int4 comes scaled.
// `at` and `count` are multiples of 128 but for the end of a row.
inline void unpack(const Matrix& w, size_t i, size_t at, size_t count, uint16_t* out) {
  const uint8_t* in = w.row(i);
  switch (w.format()) {
    case Matrix::Format::bf16:
      std::memcpy(out, in + 2 * at, 2 * count);
      return;
    case Matrix::Format::bf12: {
      const __m512i book = book_of(w);
      __m512i values[4];
      for (size_t k = 0; k < count; k += 128) {
        decode(in + (at + k) / 128 * 192, book, values);
        for (size_t j = 0; j < 4; j++) _mm512_storeu_si512(out + k + 32 * j, values[j]);
      }
      for (const Exception& e : Exceptions(w, i))
        if (e.column >= at && e.column < at + count) out[e.column - at] = e.value;
      return;
    }
    case Matrix::Format::int8:
      for (size_t k = 0; k < count; k += 16) {
        const __m512i levels = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(in + at + k)));
        _mm256_storeu_si256((__m256i*)(out + k), (__m256i)_mm512_cvtneps_pbh(_mm512_cvtepi32_ps(levels)));
      }
      return;
    case Matrix::Format::int4: {
      const size_t group = w.width / w.groups;
      __m512i table = _mm512_setzero_si512();
      for (size_t k = at; k < at + count; k += kDepth, out += kDepth) {
        if (k == at || k % group == 0) table = _mm512_castsi256_si512(meanings(w.scales[i * w.groups + k / group]));
        const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(in + k / 2)));
        const __m256i high = _mm256_slli_epi16(_mm256_srli_epi16(pairs, 4), 8);
        const __m256i levels = _mm256_or_si256(_mm256_and_si256(pairs, _mm256_set1_epi16(15)), high);
        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(levels), table));
      }
    }
  }
}

// The levels of row i as int8.
inline void levels(const Matrix& w, size_t i, int8_t* out) {
  const size_t count = w.width;
  if (w.format() == Matrix::Format::int8) {
    std::memcpy(out, w.row(i), count);
    return;
  }
  const __m512i half = _mm512_set1_epi8(15);
  const __m512i meaning = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1));
  const __m512i front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  for (size_t k = 0; k < count; k += 128) {
    const __mmask64 mask = count - k >= 128 ? ~__mmask64(0) : (__mmask64(1) << (count - k) / 2) - 1;
    const __m512i pairs = _mm512_maskz_loadu_epi8(mask, w.row(i) + k / 2);
    const __m512i low = _mm512_shuffle_epi8(meaning, _mm512_and_si512(pairs, half));
    const __m512i high = _mm512_shuffle_epi8(meaning, _mm512_and_si512(_mm512_srli_epi16(pairs, 4), half));
    const __m512i even = _mm512_unpacklo_epi8(low, high), odd = _mm512_unpackhi_epi8(low, high);
    _mm512_storeu_si512(out + k, _mm512_permutex2var_epi64(even, front, odd));
    if (count - k > 64) _mm512_storeu_si512(out + k + 64, _mm512_permutex2var_epi64(even, back, odd));
  }
}

// A row of x as levels 128 * high + low of its largest value / 16256, zeros from `count` to `padded`; returns what one
// level is worth. Both parts are int8; together they keep 15 bits.
inline float split_levels(const float* x, size_t count, size_t padded, int8_t* high, int8_t* low) {
  constexpr float kMost = 127 * 128;
  __m512 most = _mm512_setzero_ps();
  for (size_t k = 0; k < count; k += 16) most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_loadu_ps(x + k)));
  const float largest = _mm512_reduce_max_ps(most);
  const __m512 inverse = _mm512_set1_ps(largest > 0 ? kMost / largest : 0.0f);
  for (size_t k = 0; k < count; k += 16) {
    const __m512i level = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + k), inverse));
    const __m512i top = _mm512_srai_epi32(_mm512_add_epi32(level, _mm512_set1_epi32(64)), 7);
    _mm_storeu_si128((__m128i*)(high + k), _mm512_cvtepi32_epi8(top));
    _mm_storeu_si128((__m128i*)(low + k), _mm512_cvtepi32_epi8(_mm512_sub_epi32(level, _mm512_slli_epi32(top, 7))));
  }
  std::memset(high + count, 0, padded - count);
  std::memset(low + count, 0, padded - count);
  return largest / kMost;
}

}  // namespace sightline::amx
