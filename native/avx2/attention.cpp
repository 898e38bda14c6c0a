// Attention inside a frame in float32, a block of keys at a time, so that scores never leave a core's cache.
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "../frame.hpp"
#include "simd.hpp"

namespace sightline::avx2 {
namespace {

constexpr size_t kKeys = 128;              // keys between two looks at the largest score
constexpr size_t kStrips = 16;             // of six queries, that pass a block of keys while it is in the cache
constexpr size_t kScores = kKeys + kTile;  // from one query's scores to the next: they must not share a cache set

constexpr float kLog2E = 1.44269504088896341f;

// One head, turned for the products: keys [groups of 16][values][16], values [groups of 16 values][keys][16].
struct Head {
  const Frame& f;
  size_t head, keys, size;  // keys, and values of a head, both filled up to a multiple of 16
  float *key, *value;

  const float* row(size_t i, size_t which) const { return f.qkv + ((i * 3 + which) * f.heads + head) * f.size; }

  // Query (0) or key (1) of patch i, rotated: x * cos + rotate_half(x) * sin, times `scale`.
  void rotate(size_t i, size_t which, float scale, float* to) const {
    const float *in = row(i, which), *c = f.cos + i * f.size, *s = f.sin + i * f.size;
    const size_t half = f.size / 2;
    for (size_t k = 0; k < half; k++) {
      const float x = in[k] * scale, y = in[half + k] * scale;
      to[k] = x * c[k] - y * s[k];
      to[half + k] = y * c[half + k] + x * s[half + k];
    }
  }

  // Keys and values of 16 patches from `from` on; zeros behind the last.
  void turn(size_t from, float* own) const {
    const size_t end = std::min(f.count, from + kTile);
    float* keys_of = key + from * f.size;
    std::memset(keys_of, 0, kTile * f.size * sizeof(float));
    for (size_t i = from; i < end; i++) {
      rotate(i, 1, 1.0f, own);
      for (size_t k = 0; k < f.size; k++) keys_of[k * kTile + i - from] = own[k];
      const float* in = row(i, 2);
      for (size_t k = 0; k < size; k++) value[(k / kTile * keys + i) * kTile + k % kTile] = k < f.size ? in[k] : 0.0f;
    }
    for (size_t i = end; i < from + kTile; i++)
      for (size_t k = 0; k < size; k++) value[(k / kTile * keys + i) * kTile + k % kTile] = 0.0f;
  }
};

// What six queries have seen so far: the largest score, the sum of 2^(score - largest), and the weighted values,
// [groups of 16 values][6][16].
struct Seen {
  float largest[kRows], sum[kRows];
  float* values;
};

// 2^x: in float32, or close enough for a result that keeps eight bits.
__m256 power(__m256 x, bool rough) {
  return rough ? rough_exp2(x) : exp(_mm256_mul_ps(x, _mm256_set1_ps(0.693147180559945f)));
}

// Turns scores [6][kScores] into shares, and what was seen before to the new scale.
void soften(Seen& seen, float* scores, size_t keys, size_t size, bool rough) {
  for (size_t r = 0; r < kRows; r++, scores += kScores) {
    __m256 most = _mm256_set1_ps(seen.largest[r]), sum = _mm256_setzero_ps();
    for (size_t k = 0; k < keys; k += kLanes) most = _mm256_max_ps(most, _mm256_loadu_ps(scores + k));
    const float largest = largest_of(most);
    most = _mm256_set1_ps(largest);
    for (size_t k = 0; k < keys; k += kLanes) {
      const __m256 share = power(_mm256_sub_ps(_mm256_loadu_ps(scores + k), most), rough);
      sum = _mm256_add_ps(sum, share);
      _mm256_storeu_ps(scores + k, share);
    }
    const float fade = std::exp2(seen.largest[r] - largest);
    seen.sum[r] = seen.sum[r] * fade + sum_of(sum);
    seen.largest[r] = largest;
    if (fade == 1.0f) continue;
    for (size_t c = 0; c < size; c += kTile) {
      float* at = seen.values + (c / kTile * kRows + r) * kTile;
      (Sixteen::load(at) * Sixteen::all(fade)).store(at);
    }
  }
}

// Queries of kStrips strips from `from` on against all keys of a head.
void attend(const Head& h, size_t from) {
  static thread_local Scratch own;
  const size_t strips = std::min(kStrips, (h.f.count - from + kRows - 1) / kRows), strip_values = kRows * h.size;
  float* queries = own.get<float>(strips * (kRows * h.f.size + strip_values) + kRows * kScores);
  float* values = queries + strips * kRows * h.f.size;
  float* scores = values + strips * strip_values;
  Seen seen[kStrips];
  std::memset(values, 0, strips * strip_values * sizeof(float));
  for (size_t s = 0; s < strips; s++) {
    seen[s].values = values + s * strip_values;
    for (size_t r = 0; r < kRows; r++) {
      seen[s].largest[r] = std::numeric_limits<float>::lowest(), seen[s].sum[r] = 0;
      const size_t i = std::min(from + s * kRows + r, h.f.count - 1);  // what only fills up a strip is not written
      h.rotate(i, 0, kLog2E / std::sqrt(float(h.f.size)), queries + (s * kRows + r) * h.f.size);
    }
  }
  for (size_t block = 0; block < h.keys; block += kKeys) {
    const size_t here = std::min(kKeys, h.keys - block);
    for (size_t s = 0; s < strips; s++) {
      for (size_t k = 0; k < here; k += kTile)
        multiply(h.key + (block + k) * h.f.size, queries + s * kRows * h.f.size, h.f.size, 1, h.f.size, true,
                 scores + k, kScores);
      for (size_t k = std::max(block, h.f.count); k < block + here; k++)  // these only fill up a group
        for (size_t r = 0; r < kRows; r++)
          scores[r * kScores + k - block] = std::numeric_limits<float>::lowest();
      soften(seen[s], scores, here, h.size, h.f.parts == 1);
      for (size_t c = 0; c < h.size; c += kTile)
        multiply(h.value + (c / kTile * h.keys + block) * kTile, scores, kScores, 1, here,
                 false, seen[s].values + c / kTile * kRows * kTile, kTile);
    }
  }
  for (size_t s = 0; s < strips; s++)
    for (size_t r = 0; r < kRows && from + s * kRows + r < h.f.count; r++) {
      float* to = h.f.out + ((from + s * kRows + r) * h.f.heads + h.head) * h.f.size;
      for (size_t k = 0; k < h.f.size; k++)
        to[k] = seen[s].values[(k / kTile * kRows + r) * kTile + k % kTile] / seen[s].sum[r];
    }
}

}  // namespace

void attend(const Frame& f) {
  static thread_local Scratch memory;
  Head h{f, 0, (f.count + kTile - 1) / kTile * kTile, (f.size + kTile - 1) / kTile * kTile, nullptr, nullptr};
  h.key = memory.get<float>(h.keys * (f.size + h.size));
  h.value = h.key + h.keys * f.size;
  for (h.head = 0; h.head < f.heads && !stopped(f.stop); h.head++) {
    tbb::parallel_for(size_t(0), h.keys / kTile, [&](size_t i) {
      static thread_local Scratch own;
      h.turn(i * kTile, own.get<float>(f.size));
    });
    const size_t step = kStrips * kRows;
    tbb::parallel_for(size_t(0), (f.count + step - 1) / step, [&](size_t i) {
      const FlushTiny flush;
      if (!stopped(f.stop)) attend(h, i * step);
    });
  }
}

}  // namespace sightline::avx2
