// A weight matrix as it lies in a checkpoint or a pack, read row by row. Knows formats, not what they are used for.
#pragma once

#include "memory.hpp"

namespace sightline {

constexpr size_t kTile = 16;  // rows of a matrix that are computed together

// Rows of bf16 values, of such values in 12 bits each, of int8 levels with one scale each, or of int4 levels in groups
// with one scale each. Two int4 levels share a byte, the first in the low half. Scales are float16.
//
// 12 bits, in blocks of 128 values: 64 low bytes of the first half, 64 of the second, and 64 bytes of codes for their
// high bytes, first half in the low nibbles. In a half, byte 16 j + i is value 8 j + i, or 24 + 8 j + i from i = 8 on,
// so that a high and a low register of bytes are in order once they are interleaved. Scales then mean: 16 high bytes
// that the codes stand for, in 64 bytes; how many exceptions come before each row; and the exceptions.
struct Matrix {
  const uint8_t* data;
  const uint16_t* scales;
  size_t rows, width;
  size_t row_bytes;
  size_t groups;  // scales in a row

  enum class Format { bf16, bf12, int8, int4 };
  Format format() const {
    if (row_bytes == 2 * width) return Format::bf16;
    if (2 * row_bytes == 3 * width) return Format::bf12;
    return row_bytes == width ? Format::int8 : Format::int4;
  }
  bool floats() const { return format() == Format::bf16 || format() == Format::bf12; }
  const uint8_t* row(size_t i) const { return data + i * row_bytes; }
};

// A value whose high byte has no code: it stands in the row with code 0.
struct Exception {
  uint16_t column, value;
};

// The exceptions of row i of a matrix with 12 bits a value.
struct Exceptions {
  const Exception *begin_, *end_;
  Exceptions(const Matrix& w, size_t i) {
    const auto* starts = reinterpret_cast<const int32_t*>(w.scales) + 16;
    const auto* all = reinterpret_cast<const Exception*>(starts + (w.rows + 1 + 15) / 16 * 16);
    begin_ = all + starts[i], end_ = all + starts[i + 1];
  }
  const Exception* begin() const { return begin_; }
  const Exception* end() const { return end_; }
};

// What exceptions of row i add to its sum in place of what stands for them in the row.
inline float amends(const Matrix& w, size_t i, const float* x) {
  const auto value = [](uint32_t bf16) {
    bf16 <<= 16;
    float out;
    std::memcpy(&out, &bf16, sizeof out);
    return out;
  };
  const auto common = uint32_t(reinterpret_cast<const uint8_t*>(w.scales)[0]) << 8;
  float sum = 0;
  for (const Exception& e : Exceptions(w, i)) {
    sum += x[e.column] * value(e.value);
    sum -= x[e.column] * value(common | (e.value & 0xff));
  }
  return sum;
}

}  // namespace sightline
