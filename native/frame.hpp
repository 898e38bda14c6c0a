// One frame of a picture whose patches look at each other. Knows shapes; how it is computed is each processor's own.
#pragma once

#include "memory.hpp"

namespace sightline {

// qkv [count, 3, heads, size], cos and sin [count, size], out [count, heads, size]. parts: see ops.hpp.
struct Frame {
  const float *qkv, *cos, *sin;
  float* out;
  size_t count, heads, size, parts;
  Stop stop;
};

namespace amx {
void attend(const Frame& f);
}
namespace avx2 {
void attend(const Frame& f);
}

}  // namespace sightline
