// The operation Experts: only experts that somebody chose are read, each once for all tokens that chose it.
#include "ops.hpp"
#include "product.hpp"

namespace sightline {
namespace {

struct Expert {
  Matrix both, down;  // both: rows of gate, then of up
};

// A token that chose an expert, and the share that the expert has in its answer.
struct Choice {
  size_t token;
  float share;
};

void multiply(Product& p, std::vector<Matrix> matrices, const float* x, size_t count, bool tiles,
              float* y) {
  p.matrices = std::move(matrices);
  p.x = x, p.count = count, p.width = p.matrices[0].width;
  compute(p, {y}, tiles);
}

// Adds the expert's answers to the rows of `out`, both [tokens, width].
void answer(const Expert& expert, const std::vector<Choice>& chosen, const float* x, size_t parts, bool tiles,
            float* out) {
  static thread_local Scratch own;
  const size_t width = expert.both.width, inner = expert.down.width, count = chosen.size();
  float* gathered = own.get<float>(count * (2 * width + inner));
  float *between = gathered + count * width, *answers = between + count * inner;
  for (size_t i = 0; i < count; i++)
    std::memcpy(gathered + i * width, x + chosen[i].token * width, width * sizeof(float));
  Product first{}, second{};
  first.parts = second.parts = parts;
  first.act = Act::silu_gate;
  multiply(first, {expert.both}, gathered, count, tiles, between);
  multiply(second, {expert.down}, between, count, tiles, answers);
  for (size_t i = 0; i < count; i++) {
    float* to = out + chosen[i].token * width;
    for (size_t k = 0; k < width; k++) to[k] = std::fma(answers[i * width + k], chosen[i].share, to[k]);
  }
}

}  // namespace

void Experts::validate_and_infer_types() { set_output_type(0, ov::element::f32, get_input_partial_shape(0)); }

bool Experts::visit_attributes(ov::AttributeVisitor& visitor) {
  Computed<Experts>::visit_attributes(visitor);
  visitor.on_attribute("inner", inner_);
  places_.visit(visitor);
  return true;
}

bool Experts::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  const ov::Shape shape = inputs[0].get_shape();
  const size_t tokens = shape[0], width = shape[1], choices = tokens ? inputs[1].get_size() / tokens : 0;
  const size_t experts = places_.data.size() / 2, inner = inner_;
  outputs[0].set_shape(shape);
  auto* out = static_cast<float*>(outputs[0].data());
  std::memset(out, 0, outputs[0].get_byte_size());
  std::vector<std::vector<Choice>> chosen(experts);
  const auto* ids = static_cast<const int32_t*>(inputs[1].data());
  const auto* shares = static_cast<const float*>(inputs[2].data());
  for (size_t i = 0; i < tokens * choices; i++)
    if (size_t(ids[i]) < experts) chosen[ids[i]].push_back({i / choices, shares[i]});
  const auto* x = static_cast<const float*>(inputs[0].data());
  const bool tiles = by_tiles();
  for (size_t e = 0; e < experts && !stopped(stop()); e++)
    if (!chosen[e].empty())
      answer({places_.matrix(2 * e, 2 * inner, width), places_.matrix(2 * e + 1, width, inner)}, chosen[e], x, parts_,
             tiles, out);
  return true;
}

}  // namespace sightline
