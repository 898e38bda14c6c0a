// The operations this library adds to OpenVINO. Knows shapes and attributes; the arithmetic is in the .cpp files.
#pragma once

#include <openvino/op/op.hpp>
#include <string>
#include <vector>

#include "matrix.hpp"

namespace sightline {

// Whether the system lets this process use AMX tiles.
bool tiles_granted();

// What all of them have in common. tiles: whether AMX is to compute; else, or where the system refuses it, AVX2 does.
// stop: the address of a byte; as long as it is set, what they put out means nothing and is soon there.
template <class Operation>
class Computed : public ov::op::Op {
 public:
  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    auto copy = std::make_shared<Operation>(static_cast<const Operation&>(*this));
    copy->set_arguments(inputs);
    copy->constructor_validate_and_infer_types();
    return copy;
  }
  bool has_evaluate() const override { return true; }
  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("tiles", tiles_);
    visitor.on_attribute("parts", parts_);
    visitor.on_attribute("stop", stop_);
    return true;
  }

 protected:
  bool by_tiles() const { return tiles_ && tiles_granted(); }
  Stop stop() const { return reinterpret_cast<Stop>(stop_); }

  bool tiles_ = false;
  int64_t parts_ = 3, stop_ = 0;
};

// Where an operation's matrices lie, as attributes of it: addresses that outlive the graph. As constants the plugin would
// copy the weights into memory of its own, which then cannot be shared or dropped. row_bytes and groups, fewer than there
// are addresses, are those of the first ones, of the next ones again, and so on.
struct Places {
  std::vector<int64_t> row_bytes, data, groups, scales;

  void visit(ov::AttributeVisitor& visitor) {
    visitor.on_attribute("row_bytes", row_bytes);
    visitor.on_attribute("data", data);
    visitor.on_attribute("groups", groups);
    visitor.on_attribute("scales", scales);
  }
  Matrix matrix(size_t i, size_t rows, size_t width) const {
    const size_t kind = i % row_bytes.size();
    return {reinterpret_cast<const uint8_t*>(data[i]), reinterpret_cast<const uint16_t*>(scales[i]), rows, width,
            size_t(row_bytes[kind]), size_t(groups[kind])};
  }
};

// Matrices that read the same rows: y = act(norm(x) W^T + bias) + residual, in one pass over x and over each W.
//
// Inputs: x [.., K] f32; gain [K] and shift [K] of the norm, f32; residual [.., N] and bias [N] f32, where there is one
// matrix. What is not wanted comes empty. Outputs: [.., N] f32 for each matrix; with act "silu_gate" there are two
// matrices and one output, silu(first) * second. Every matrix has a multiple of 16 rows and of 16 columns.
//
// parts: how many bf16 numbers stand for one float32 of x: 3 keep all of its bits, 1 its first eight.
// rows: of each matrix.
class Linear : public Computed<Linear> {
 public:
  OPENVINO_OP("Linear", "sightline");
  void validate_and_infer_types() override;
  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

 private:
  std::string norm_, act_;  // "", "rms", "layer"; "", "gelu_tanh", "silu_gate"
  float eps_ = 0;
  std::vector<int64_t> rows_;
  Places places_;
};

// An output head: logits = norm(x) W^T of all tokens as a matrix of few bits tells them, and those of the `best` tokens, or
// a few more, as the one of 8 bits does. Most of its bytes are then not read.
//
// Inputs: x [.., K] f32 and gain [K] of an RMSNorm. Output: [.., N] f32.
// rows: of both matrices [N, K]; the one of few bits lies first.
class Head : public Computed<Head> {
 public:
  OPENVINO_OP("Head", "sightline");
  void validate_and_infer_types() override;
  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

 private:
  float eps_ = 0;
  int64_t best_ = 1, rows_ = 0;
  Places places_;
};

// Attention of every patch of a frame to all of them, after a rotation of queries and keys.
//
// Inputs: qkv [F, 1, n, 3 * heads * d] f32, cos and sin [1, 1, n, d] f32 for x * cos + rotate_half(x) * sin.
// Output: [F, 1, n, heads * d] f32. parts: as above, for every number that is multiplied.
class FrameAttention : public Computed<FrameAttention> {
 public:
  OPENVINO_OP("FrameAttention", "sightline");
  void validate_and_infer_types() override;
  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

 private:
  int64_t heads_ = 1;
};

// A mixture of experts: each token's answers of the experts it chose, times their shares, added up.
//
// Inputs: x [T, K] f32, ids [T, k] i32, shares [T, k] f32. Output: [T, K] f32. An expert:
// down(silu(gate(x)) * up(x)).
// inner: rows of gate and of up, which lie in one matrix; down lies behind it.
class Experts : public Computed<Experts> {
 public:
  OPENVINO_OP("Experts", "sightline");
  void validate_and_infer_types() override;
  bool visit_attributes(ov::AttributeVisitor& visitor) override;
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

 private:
  int64_t inner_ = 0;
  Places places_;
};

}  // namespace sightline
