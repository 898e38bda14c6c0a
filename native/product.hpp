// One call of Linear: what is multiplied with what, and what happens to the sums. Knows no tiles.
#pragma once

#include <tbb/blocked_range.h>
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
  Stop stop;
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
};

// Calls take(pair, both) for each pair of groups, or for the one that is left, two pairs a task at least.
template <class Take>
void each_pair(const Product& p, const Take& take) {
  const size_t pairs = (p.groups.size() + 1) / 2;
  tbb::parallel_for(tbb::blocked_range<size_t>(0, pairs, 2), [&](const auto& range) {
    const FlushTiny flush;
    for (size_t i = range.begin(); i < range.end(); i++) take(&p.groups[2 * i], 2 * i + 1 < p.groups.size());
  });
}

// The ways to compute it.
namespace amx {
void compute(const Product& p);
}
namespace avx2 {
void compute(const Product& p);
}

// Into `outputs`, one for each matrix, or one where there is a gate.
inline void compute(Product& p, const std::vector<float*>& outputs, bool tiles) {
  p.lay_out(outputs);
  tiles ? amx::compute(p) : avx2::compute(p);
}

}  // namespace sightline
