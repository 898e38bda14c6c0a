// What weights of four bits are multiplied with where products are sums of pairs of bytes: rows of x as bytes, with a
// scale for each 8 or 16 of them.
#pragma once

#include "simd.hpp"

namespace sightline::avx2 {

constexpr size_t kNibbles = 64;  // weights in a register

// Registers of weights that share a scale of x, and mostly one of their own; 0 where the kernels of bytes cannot do it.
inline size_t registers(const Matrix& w) {
  const size_t group = w.width / w.groups;
  if (w.width % kNibbles) return 0;
  return group == 2 * kNibbles ? 2 : group == kNibbles || 2 * group == kNibbles ? 1 : 0;
}

// 64 weights, each as 0 to 15, which is 8 too much: those at even places, then those at odd ones.
struct Nibbles {
  __m256i even, odd;
  explicit Nibbles(const uint8_t* at) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i all = _mm256_xor_si256(_mm256_loadu_si256((const __m256i*)at), _mm256_set1_epi8(int8_t(0x88)));
    even = _mm256_and_si256(all, low), odd = _mm256_and_si256(_mm256_srli_epi16(all, 4), low);
  }

  // Sums of four of their products each with the 64 levels of a block of x, in 16 bits. Written out, since a compiler
  // multiplies everything first and then runs out of registers.
  __m256i products(const uint8_t* levels) const {
    const auto* x = (const __m256i*)levels;
    __m256i first, second;
    asm("vpmaddubsw %4, %2, %0\n\tvpmaddubsw %5, %3, %1\n\tvpaddw %1, %0, %0"
        : "=&x"(first), "=&x"(second)
        : "x"(even), "x"(odd), "m"(x[0]), "m"(x[1]));
    return first;
  }
};

// A row of x in blocks, each of one or two times 64 levels and eight scales. Of each 64 levels come 32 at even places,
// then 32 at odd ones, as nibbles do. The j-th scale is for values 8 j to 8 j + 7 of every 64, which is where a 32-bit sum
// of products with them lies in its register.
struct ByteRow {
  static size_t deep(const Matrix& w) { return registers(w) * kNibbles; }
  static size_t blocks(const Matrix& w) { return w.width / deep(w); }
  static size_t bytes(const Matrix& w) { return deep(w) + kLanes * sizeof(float); }  // of a block
  static size_t groups(const Matrix& w) { return w.groups / blocks(w); }  // of weights in a block: one, or its halves
  static size_t eights(const Matrix& w) { return (w.groups + kLanes - 1) / kLanes * kLanes; }

  // Rounds `x`, as long as a row of w, to blocks that begin `step` bytes apart. `eights`: for each group of weights,
  // what their being 8 too much adds; zeros behind.
  static void put(const float* x, const Matrix& w, uint8_t* out, size_t step, float* eights) {
    std::memset(eights, 0, ByteRow::eights(w) * sizeof(float));
    const size_t each = deep(w), of_block = groups(w);
    for (size_t k = 0, b = 0; k < w.width; k += each, b++, out += step) {
      const __m256 added = block(x + k, each, (int8_t*)out, (float*)(out + each));
      const __m256 none = _mm256_setzero_ps();
      eights[of_block * b] = 8 * sum_of(of_block == 1 ? added : _mm256_blend_ps(added, none, 0xf0));
      if (of_block == 2) eights[2 * b + 1] = 8 * sum_of(_mm256_blend_ps(added, none, 0x0f));
    }
  }

 private:
  // One block; returns the sums of its rounded values, one for each scale.
  static __m256 block(const float* x, size_t deep, int8_t* levels, float* scales) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    float inverse[kLanes];
    for (size_t j = 0; j < kLanes; j++) {
      __m256 most = _mm256_setzero_ps();
      for (size_t k = 0; k < deep; k += kNibbles)
        most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + k + j * kLanes)));
      const float largest = largest_of(most);
      scales[j] = largest / 127;
      inverse[j] = largest > 1e-36f ? 127 / largest : 0.0f;
    }
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i apart = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    __m256i sums = _mm256_setzero_si256();
    for (size_t k = 0; k < deep; k += kNibbles) {
      for (size_t j = 0; j < kLanes; j += 4) {
        const auto level = [&](size_t i) {
          return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + i * kLanes), _mm256_set1_ps(inverse[i])));
        };
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(level(j), level(j + 1)),
                                                 _mm256_packs_epi32(level(j + 2), level(j + 3)));
        const __m256i halves = _mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(bytes, order), apart);
        const __m256i sorted = _mm256_permute4x64_epi64(halves, 0xd8);
        int8_t* to = levels + k + j * 4;
        _mm_storeu_si128((__m128i*)to, _mm256_castsi256_si128(sorted));
        _mm_storeu_si128((__m128i*)(to + kNibbles / 2), _mm256_extracti128_si256(sorted, 1));
      }
      const __m256i ones = _mm256_set1_epi8(1);
      for (size_t half = 0; half < kNibbles; half += kNibbles / 2)
        sums = _mm256_add_epi16(
            sums, _mm256_maddubs_epi16(ones, _mm256_loadu_si256((const __m256i*)(levels + k + half))));
    }
    const __m256i whole = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_loadu_ps(scales));
  }
};

}  // namespace sightline::avx2
