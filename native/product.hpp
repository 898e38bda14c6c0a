// One call of Linear: what is multiplied with what, and what happens to the sums. Knows no tiles.
#pragma once

#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "matrix.hpp"

namespace sightline {

enum class Norm { none, rms, layer };
enum class Act { none, gelu_tanh, silu_gate };

// 16 rows of a matrix, and where their results go.
struct Group {
  const Matrix* matrix;
  size_t row;
  float* y;  // [count, columns]
  size_t columns;
};

struct Product {
  const float *x, *gain, *shift, *residual, *bias;
  size_t count, width;  // rows of x and their length
  size_t parts;
  Norm norm;
  Act act;
  float eps;
  std::vector<Matrix> matrices;
  std::vector<Group> groups;  // in the order they are computed, two at a time: for a gate its two halves

  void lay_out(const std::vector<float*>& outputs) {
    size_t rows = 0;
    for (const Matrix& w : matrices) rows += w.rows;
    groups.reserve(rows / kTile);
    if (act == Act::silu_gate) {  // gate and up are two matrices, or the halves of one
      const Matrix &gate = matrices.front(), &up = matrices.back();
      const size_t half = rows / 2, behind = matrices.size() == 1 ? half : 0;
      for (size_t r = 0; r < half; r += kTile) {
        groups.push_back({&gate, r, outputs[0], half});
        groups.push_back({&up, behind + r, outputs[0], half});
      }
      return;
    }
    for (size_t i = 0; i < matrices.size(); i++)
      for (size_t r = 0; r < matrices[i].rows; r += kTile)
        groups.push_back({&matrices[i], r, outputs[i], matrices[i].rows});
  }

  bool any(Matrix::Format format) const {
    return std::any_of(matrices.begin(), matrices.end(), [=](const Matrix& w) { return w.format() == format; });
  }
  bool all(Matrix::Format format) const {
    return std::all_of(matrices.begin(), matrices.end(), [=](const Matrix& w) { return w.format() == format; });
  }
  bool all_floats() const {
    return std::all_of(matrices.begin(), matrices.end(), [](const Matrix& w) { return w.floats(); });
  }
  // Whether all matrices are integers, with one scale for a row or for a group of a multiple of `values`.
  bool all_integers(size_t values) const {
    return std::all_of(matrices.begin(), matrices.end(), [=](const Matrix& w) {
      return w.format() == Matrix::Format::int8 ||
             (w.format() == Matrix::Format::int4 && w.width / w.groups % values == 0);
    });
  }

  // Row i of x, normalised into `out` where a norm is wanted.
  const float* row(size_t i, float* out) const {
    const float* in = x + i * width;
    if (norm == Norm::none) return in;
    __m512 sum = _mm512_setzero_ps(), mean = sum;
    if (norm == Norm::layer) {
      for (size_t k = 0; k < width; k += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(in + k));
      mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
    }
    sum = _mm512_setzero_ps();
    for (size_t k = 0; k < width; k += 16) {
      const __m512 v = _mm512_sub_ps(_mm512_loadu_ps(in + k), mean);
      sum = _mm512_fmadd_ps(v, v, sum);
    }
    const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / width + eps));
    for (size_t k = 0; k < width; k += 16) {
      const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(in + k), mean), factor);
      const __m512 move = shift ? _mm512_loadu_ps(shift + k) : _mm512_setzero_ps();
      _mm512_storeu_ps(out + k, _mm512_fmadd_ps(v, _mm512_loadu_ps(gain + k), move));
    }
    return out;
  }

  __m512 scaled(const Group& g, __m512 sums) const {
    const __m512 offset = bias ? _mm512_loadu_ps(bias + g.row) : _mm512_setzero_ps();
    return _mm512_fmadd_ps(sums, g.matrix->scales_from(g.row), offset);
  }

  // Finish 16 neighbouring values of row i of y.
  void put(size_t i, const Group& g, __m512 values) const {
    const size_t at = i * g.columns + g.row;
    if (act == Act::gelu_tanh) values = gelu_tanh(values);
    if (residual) values = _mm512_add_ps(values, _mm512_loadu_ps(residual + at));
    _mm512_storeu_ps(g.y + at, values);
  }

  void put_pair(size_t i, const Group* pair, __m512 first, __m512 second) const {
    if (act == Act::silu_gate) return put(i, pair[0], _mm512_mul_ps(silu(first), second));
    put(i, pair[0], first);
    put(i, pair[1], second);
  }
};

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
    const __m512 first = p.scaled(pair[0], _mm512_castsi512_ps(one[r]));
    if (both) p.put_pair(i + r, pair, first, p.scaled(pair[1], _mm512_castsi512_ps(two[r])));
    else p.put(i + r, pair[0], first);
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
      rows[r] = i < p.count ? p.row(i, normal + r * p.width) : nullptr;
    }
    take(s, rows);
  });
}

// The three ways to compute it.
bool few_rows(const Product& p);       // up to four rows of x, one where all is int8; false where it cannot
void by_bf16_tiles(const Product& p);  // weights unpacked to bf16, x as one or three bf16 parts
void by_int8_tiles(const Product& p);  // int8 or int4 levels, x as two int8 parts

constexpr size_t kSmallBatch = 64;  // up to here memory sets the pace of tiles

inline void compute(const Product& p) {
  if (p.count == 0 || few_rows(p)) return;
  if (p.all(Matrix::Format::int8) || (p.all_integers(kLevels) && p.count <= kSmallBatch)) by_int8_tiles(p);
  else by_bf16_tiles(p);
}

}  // namespace sightline
