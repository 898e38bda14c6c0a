// What happens to rows of x before they are multiplied, and to the sums of products afterwards.
#pragma once

#include "../product.hpp"
#include "nibbles.hpp"

namespace sightline::avx2 {

// Row i of x, normalised into `out` where a norm is wanted.
inline const float* row(const Product& p, size_t i, float* out) {
  const float* in = p.x + i * p.width;
  if (p.norm == Norm::none) return in;
  const auto sum = [&](const auto& value) {
    Sixteen total = Sixteen::all(0);
    for (size_t k = 0; k < p.width; k += kTile) total = total + value(Sixteen::load(in + k));
    return sum_of(_mm256_add_ps(total.low, total.high));
  };
  const float mean = p.norm == Norm::layer ? sum([](Sixteen v) { return v; }) / p.width : 0.0f;
  const Sixteen down = Sixteen::all(-mean);
  const float square = sum([&](Sixteen v) { return (v + down) * (v + down); }) / p.width;
  const Sixteen factor = Sixteen::all(1.0f / std::sqrt(square + p.eps));
  for (size_t k = 0; k < p.width; k += kTile) {
    const Sixteen values = (Sixteen::load(in + k) + down) * factor * Sixteen::load(p.gain + k);
    (p.shift ? values + Sixteen::load(p.shift + k) : values).store(out + k);
  }
  return out;
}

// The same, in `out` either way.
inline void put_row(const Product& p, size_t i, float* out) {
  const float* in = row(p, i, out);
  if (in != out) std::memcpy(out, in, p.width * sizeof(float));
}

// A row of x as levels of its largest value / 16256; returns what one level is worth. They are the levels that the
// kernels of tiles split into two parts.
inline float to_levels(const float* x, size_t count, int16_t* out) {
  constexpr float kMost = 127 * 128;
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 most = _mm256_setzero_ps();
  for (size_t k = 0; k < count; k += kLanes) most = _mm256_max_ps(most, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + k)));
  const float largest = largest_of(most);
  const __m256 inverse = _mm256_set1_ps(largest > 0 ? kMost / largest : 0.0f);
  for (size_t k = 0; k < count; k += 2 * kLanes) {
    const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k), inverse));
    const __m256i high = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + kLanes), inverse));
    _mm256_storeu_si256((__m256i*)(out + k), _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8));
  }
  return largest / kMost;
}

// Sums of products of a row of x with a group's rows, with their scales and what is added. `level`: what one level of
// that row of x is worth to int8; the others are whole before.
inline Sixteen scaled(const Product& p, const Group& g, const float* sums, float level) {
  Sixteen values = Sixteen::load(sums);
  if (g.matrix->format() == Matrix::Format::int8)
    values = values * Sixteen::all(level) * Sixteen::halves(g.matrix->scales + g.row);
  return p.bias ? values + Sixteen::load(p.bias + g.row) : values;
}

inline void put(const Product& p, size_t i, const Group& g, Sixteen values) {
  const size_t at = i * g.columns + g.row;
  if (p.act == Act::gelu_tanh) values = {gelu_tanh(values.low), gelu_tanh(values.high)};
  if (p.residual) values = values + Sixteen::load(p.residual + at);
  values.store(g.y + at);
}

// Finish 16 values each of row i of y for the two groups of `pair`, or for the one there is.
inline void finish(const Product& p, size_t i, const Group* pair, bool both, const float* one, const float* two,
                   float level) {
  const Sixteen first = scaled(p, pair[0], one, level);
  if (!both) return put(p, i, pair[0], first);
  const Sixteen second = scaled(p, pair[1], two, level);
  if (p.act == Act::silu_gate) return put(p, i, pair[0], Sixteen{silu(first.low), silu(first.high)} * second);
  put(p, i, pair[0], first);
  put(p, i, pair[1], second);
}

// Whether all matrices are integers, those of four bits in groups that are alike and that the kernels of bytes can take.
// What becomes one value has one format.
inline bool by_integers(const Product& p) {
  size_t groups = 0;
  if (p.act == Act::silu_gate && p.matrices.front().format() != p.matrices.back().format()) return false;
  return std::all_of(p.matrices.begin(), p.matrices.end(), [&](const Matrix& w) {
    if (w.format() == Matrix::Format::int8) return true;
    if (w.format() != Matrix::Format::int4 || !registers(w) || (groups && groups != w.groups)) return false;
    groups = w.groups;
    return true;
  });
}

void by_panels(const Product& p);  // any number of rows

}  // namespace sightline::avx2
