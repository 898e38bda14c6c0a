// The operation Head: every token is scored by few bits, the best of them again by all.
#include <functional>
#include <limits>

#include "avx2/finish.hpp"
#include "ops.hpp"

namespace sightline {
namespace {

// Sum of products with a row of levels.
float dot(const std::vector<float>& x, const int8_t* levels) {
  float sums[kTile] = {};
  for (size_t k = 0; k < x.size(); k += kTile)
    for (size_t j = 0; j < kTile; j++) sums[j] += x[k + j] * levels[k + j];
  float sum = 0;
  for (const float each : sums) sum += each;
  return sum;
}

// Tokens with the `best` highest scores and a few more: all that are not below the best-th highest of the largest scores
// of 16 neighbours, which is found much sooner than the best-th highest of all.
std::vector<size_t> leaders(const float* scores, size_t count, size_t best) {
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  std::vector<float> largest(count / kTile, kLowest);
  for (size_t i = 0; i < count; i++) {
    float& most = largest[i / kTile];
    most = scores[i] > most ? scores[i] : most;  // what is no number never is
  }
  float least = kLowest;
  if (best < largest.size()) {
    const auto place = largest.begin() + best - 1;
    std::nth_element(largest.begin(), place, largest.end(), std::greater<float>());
    least = *place;
  }
  std::vector<size_t> found;
  for (size_t i = 0; i < count; i++)
    if (scores[i] >= least) found.push_back(i);
  return found;
}

}  // namespace

void Head::validate_and_infer_types() {
  ov::PartialShape shape = get_input_partial_shape(0);
  shape[shape.size() - 1] = rows_;
  set_output_type(0, ov::element::f32, shape);
}

bool Head::visit_attributes(ov::AttributeVisitor& visitor) {
  Computed<Head>::visit_attributes(visitor);
  visitor.on_attribute("eps", eps_);
  visitor.on_attribute("best", best_);
  visitor.on_attribute("rows", rows_);
  places_.visit(visitor);
  return true;
}

bool Head::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  ov::Shape shape = inputs[0].get_shape();
  const size_t width = shape.back(), tokens = rows_;
  shape.back() = tokens;
  outputs[0].set_shape(shape);
  auto* scores = static_cast<float*>(outputs[0].data());
  if (stopped(stop())) return true;
  Product p{};
  p.x = static_cast<const float*>(inputs[0].data()), p.gain = static_cast<const float*>(inputs[1].data());
  p.norm = Norm::rms, p.eps = eps_, p.parts = parts_, p.stop = stop();
  p.width = width, p.count = inputs[0].get_size() / width;
  p.matrices.push_back(places_.matrix(0, tokens, width));
  compute(p, {scores}, by_tiles());
  if (stopped(stop())) return true;

  const Matrix whole = places_.matrix(1, tokens, width);
  tbb::parallel_for(size_t(0), p.count, [&](size_t row) {
    std::vector<float> x(width);
    avx2::put_row(p, row, x.data());  // processors with tiles have AVX2, too
    float* mine = scores + row * tokens;
    const std::vector<size_t> found = leaders(mine, tokens, best_);
    tbb::parallel_for(tbb::blocked_range<size_t>(0, found.size(), kTile), [&](const auto& range) {
      for (size_t i = range.begin(); i < range.end(); i++) {
        const size_t token = found[i];
        mine[token] = dot(x, (const int8_t*)whole.row(token)) * _cvtsh_ss(whole.scales[token]);
      }
    });
  });
  return true;
}

}  // namespace sightline
