// What happens to rows of x before tiles read them, and to the sums of products afterwards.
#pragma once

#include "../product.hpp"
#include "unpack.hpp"

namespace sightline::amx {

// Row i of x, normalised into `out` where a norm is wanted.
inline const float* row(const Product& p, size_t i, float* out) {
  const float *in = p.x + i * p.width, *gain = p.gain, *shift = p.shift;
  const size_t width = p.width;
  if (p.norm == Norm::none) return in;
  __m512 sum = _mm512_setzero_ps(), mean = sum;
  if (p.norm == Norm::layer) {
    for (size_t k = 0; k < width; k += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(in + k));
    mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
  }
  sum = _mm512_setzero_ps();
  for (size_t k = 0; k < width; k += 16) {
    const __m512 v = _mm512_sub_ps(_mm512_loadu_ps(in + k), mean);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / width + p.eps));
  for (size_t k = 0; k < width; k += 16) {
    const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(in + k), mean), factor);
    const __m512 move = shift ? _mm512_loadu_ps(shift + k) : _mm512_setzero_ps();
    _mm512_storeu_ps(out + k, _mm512_fmadd_ps(v, _mm512_loadu_ps(gain + k), move));
  }
  return out;
}

// What sums of products with 16 rows from i on still have to be multiplied by: int4 is scaled group by group before.
inline __m512 scales_from(const Matrix& w, size_t i) {
  if (w.format() != Matrix::Format::int8) return _mm512_set1_ps(1.0f);
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)(w.scales + i)));
}

inline __m512 scaled(const Product& p, const Group& g, __m512 sums) {
  const __m512 offset = p.bias ? _mm512_loadu_ps(p.bias + g.row) : _mm512_setzero_ps();
  return _mm512_fmadd_ps(sums, scales_from(*g.matrix, g.row), offset);
}

// Finish 16 neighbouring values of row i of y.
inline void put(const Product& p, size_t i, const Group& g, __m512 values) {
  const size_t at = i * g.columns + g.row;
  if (p.act == Act::gelu_tanh) values = gelu_tanh(values);
  if (p.residual) values = _mm512_add_ps(values, _mm512_loadu_ps(p.residual + at));
  _mm512_storeu_ps(g.y + at, values);
}

inline void put_pair(const Product& p, size_t i, const Group* pair, __m512 first, __m512 second) {
  if (p.act == Act::silu_gate) return put(p, i, pair[0], _mm512_mul_ps(silu(first), second));
  put(p, i, pair[0], first);
  put(p, i, pair[1], second);
}

// Finish 16 rows of y from i on: `upper` and `lower` are sums [16 weight rows][16 rows of x] of the two groups of
// `pair`, or of the one there is.
inline void finish(const Product& p, const Group* pair, bool both, size_t i, const float* upper, const float* lower) {
  __m512i one[kTile], two[kTile];
  for (size_t r = 0; r < kTile; r++) {
    one[r] = _mm512_load_si512(upper + r * 16);
    two[r] = _mm512_load_si512(lower + r * 16);
  }
  transpose(one);
  transpose(two);
  const size_t end = std::min(kTile, p.count - std::min(p.count, i));
  for (size_t r = 0; r < end; r++) {
    const __m512 first = scaled(p, pair[0], _mm512_castsi512_ps(one[r]));
    if (both) put_pair(p, i + r, pair, first, scaled(p, pair[1], _mm512_castsi512_ps(two[r])));
    else put(p, i + r, pair[0], first);
  }
}

// Calls take(s, rows) for each strip of 16 rows of x, normalised; rows behind the last are null. In several threads.
template <class Take>
void each_strip(const Product& p, size_t strips, const Take& take) {
  tbb::parallel_for(size_t(0), strips, [&](size_t s) {
    const FlushTiny flush;
    static thread_local Scratch own;
    float* normal = p.norm == Norm::none ? nullptr : own.get<float>(kTile * p.width);
    const float* rows[kTile];
    for (size_t r = 0; r < kTile; r++) {
      const size_t i = s * kTile + r;
      rows[r] = i < p.count ? row(p, i, normal + r * p.width) : nullptr;
    }
    take(s, rows);
  });
}

// The three ways to compute it.
bool few_rows(const Product& p);       // up to four rows of x, one where all is int8; false where it cannot
void by_bf16_tiles(const Product& p);  // weights unpacked to bf16, x as one or three bf16 parts
void by_int8_tiles(const Product& p);  // int8 or int4 levels, x as two int8 parts

constexpr size_t kSmallBatch = 64;  // up to here memory sets the pace of tiles

}  // namespace sightline::amx
