// The operation FrameAttention: its shapes, its attributes, its inputs.
#include "frame.hpp"
#include "ops.hpp"

namespace sightline {

void FrameAttention::validate_and_infer_types() {
  ov::PartialShape shape = get_input_partial_shape(0);
  shape[3] = shape[3].get_length() / 3;
  set_output_type(0, ov::element::f32, shape);
}

bool FrameAttention::visit_attributes(ov::AttributeVisitor& visitor) {
  Computed<FrameAttention>::visit_attributes(visitor);
  visitor.on_attribute("heads", heads_);
  return true;
}

bool FrameAttention::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  ov::Shape shape = inputs[0].get_shape();
  shape[3] /= 3;
  outputs[0].set_shape(shape);
  const size_t count = shape[2], width = shape[3];
  const auto floats = [](const ov::Tensor& tensor) { return static_cast<const float*>(tensor.data()); };
  for (size_t i = 0; i < shape[0]; i++) {
    const Frame frame{floats(inputs[0]) + i * count * 3 * width,
                      floats(inputs[1]),
                      floats(inputs[2]),
                      static_cast<float*>(outputs[0].data()) + i * count * width,
                      count,
                      size_t(heads_),
                      width / heads_,
                      size_t(parts_),
                      stop()};
    by_tiles() ? amx::attend(frame) : avx2::attend(frame);
  }
  return true;
}

}  // namespace sightline
