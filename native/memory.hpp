// What every kernel needs, whatever the processor: memory that stays, and numbers that are taken for zero.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace sightline {

using std::size_t;

// As long as it lives, the calling thread takes numbers below 1e-38 for zero: they cost a hundred times as much.
class FlushTiny {
 public:
  FlushTiny() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushTiny() { _mm_setcsr(before_); }
  FlushTiny(const FlushTiny&) = delete;
  FlushTiny& operator=(const FlushTiny&) = delete;

 private:
  unsigned before_;
};

// A byte that somebody else sets when results are not wanted any more: whoever sees it set may leave at once.
using Stop = const volatile uint8_t*;
inline bool stopped(Stop stop) { return stop && *stop; }

// Memory of one thread that grows to the largest size asked for and stays.
class Scratch {
 public:
  template <class T>
  T* get(size_t count) {
    const size_t bytes = (count * sizeof(T) + 4095) & ~size_t(4095);
    if (bytes > size_) {
      std::free(memory_);
      memory_ = std::aligned_alloc(64, bytes);
      size_ = memory_ ? bytes : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return static_cast<T*>(memory_);
  }
  ~Scratch() { std::free(memory_); }

 private:
  void* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace sightline
