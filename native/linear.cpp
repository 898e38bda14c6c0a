// The operation Linear: its shapes, its attributes, its inputs.
#include "ops.hpp"
#include "product.hpp"

namespace sightline {
namespace {

const float* floats(const ov::Tensor& tensor) {
  return tensor.get_size() ? static_cast<const float*>(tensor.data()) : nullptr;
}

}  // namespace

enum Input { kX, kGain, kShift, kResidual, kBias };

void Linear::validate_and_infer_types() {
  const size_t outputs = act_ == "silu_gate" ? 1 : rows_.size();
  set_output_size(outputs);
  for (size_t i = 0; i < outputs; i++) {
    ov::PartialShape shape = get_input_partial_shape(kX);
    shape[shape.size() - 1] = rows_[i];
    set_output_type(i, ov::element::f32, shape);
  }
}

bool Linear::visit_attributes(ov::AttributeVisitor& visitor) {
  Computed<Linear>::visit_attributes(visitor);
  visitor.on_attribute("norm", norm_);
  visitor.on_attribute("act", act_);
  visitor.on_attribute("eps", eps_);
  visitor.on_attribute("rows", rows_);
  places_.visit(visitor);
  return true;
}

bool Linear::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  ov::Shape shape = inputs[kX].get_shape();
  Product p{};
  p.width = shape.back();
  p.x = floats(inputs[kX]), p.gain = floats(inputs[kGain]), p.shift = floats(inputs[kShift]);
  p.residual = floats(inputs[kResidual]), p.bias = floats(inputs[kBias]);
  p.norm = norm_ == "rms" ? Norm::rms : norm_ == "layer" ? Norm::layer : Norm::none;
  p.act = act_ == "gelu_tanh" ? Act::gelu_tanh : act_ == "silu_gate" ? Act::silu_gate : Act::none;
  p.eps = eps_;
  p.parts = parts_;
  p.stop = stop();
  for (size_t i = 0; i < rows_.size(); i++) p.matrices.push_back(places_.matrix(i, rows_[i], p.width));
  std::vector<float*> results;
  for (size_t i = 0; i < outputs.size(); i++) {
    shape.back() = rows_[i];
    outputs[i].set_shape(shape);
    results.push_back(static_cast<float*>(outputs[i].data()));
  }
  if (stopped(p.stop)) return true;
  p.count = inputs[kX].get_size() / p.width;
  compute(p, results, by_tiles());
  return true;
}

}  // namespace sightline
