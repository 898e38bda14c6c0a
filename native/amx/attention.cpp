// Attention inside a frame in bf16 tiles, a block of keys at a time, so that scores never leave a core's cache.
#include <tbb/blocked_range.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "../frame.hpp"
#include "simd.hpp"

namespace sightline::amx {
namespace {

constexpr size_t kQueries = 2 * kTile;  // queries computed together: one in each lane of two vectors
constexpr size_t kKeys = 128;           // keys between two looks at the largest score
constexpr size_t kHeads = 4;             // heads whose tiles are in memory together
constexpr float kLog2E = 1.44269504088896341f;

// Some heads of one frame. Scores and results are computed turned on their side, [keys, queries] and [values, queries],
// so that whatever is done for each query is done for 16 of them at once.
struct Heads {
  const float *qkv, *cos, *sin;  // qkv: the first head's first query
  float* out;
  size_t count, heads, size, width;  // patches; heads; values in a head; values of all heads of the frame
  size_t parts;
  uint16_t *keys, *values;  // left-hand tiles
  uint32_t* queries;        // right-hand tiles

  size_t depth() const { return (size + kDepth - 1) / kDepth; }  // blocks of 32 values
  size_t padded() const { return depth() * kDepth; }
  size_t blocks() const { return (count + kQueries - 1) / kQueries; }  // of 32 patches
  // bf16 values of a block of 32 patches of one head, parts and all; the words of its queries are half as many.
  size_t block_values() const { return kQueries * padded() * parts; }
  size_t block(size_t head, size_t i) const { return (head * blocks() + i) * block_values(); }

  // Query (0) or key (1) of patch i, rotated: x * cos + rotate_half(x) * sin, times `scale`.
  void rotate(size_t i, size_t head, size_t which, float scale, float* to) const {
    const float* in = qkv + (i * 3 + which) * width + head * size;
    const float *c = cos + i * size, *s = sin + i * size;
    const __m512 factor = _mm512_set1_ps(scale);
    const size_t half = size / 2;
    for (size_t k = 0; k < half; k += 16) {
      const __mmask16 m = first(half - k);
      const auto at = [m](const float* p) { return _mm512_maskz_loadu_ps(m, p); };
      const __m512 x = _mm512_mul_ps(at(in + k), factor), y = _mm512_mul_ps(at(in + half + k), factor);
      _mm512_mask_storeu_ps(to + k, m, _mm512_fmsub_ps(x, at(c + k), _mm512_mul_ps(y, at(s + k))));
      const __m512 turned = _mm512_fmadd_ps(y, at(c + half + k), _mm512_mul_ps(x, at(s + half + k)));
      _mm512_mask_storeu_ps(to + half + k, m, turned);
    }
  }
};

// Keys of 32 patches: [2 strips of 16 keys][blocks of the head][parts].
void pack_keys(const Heads& h, size_t from, size_t head, float* row, uint16_t* out) {
  for (size_t r = 0; r < kQueries; r++) {
    if (from + r < h.count) h.rotate(from + r, head, 1, 1.0f, row);
    uint16_t* to = out + r / kTile * h.block_values() / 2 + r % kTile * kDepth;
    for (size_t c = 0; c < h.padded(); c += kDepth) {
      __m512 a = _mm512_loadu_ps(row + c), b = _mm512_loadu_ps(row + c + 16);
      for (size_t p = 0; p < h.parts; p++, to += 2 * kTileWords) _mm512_storeu_si512(to, narrow(a, b, p + 1 < h.parts));
    }
  }
}

// Values of 32 patches, turned: [strips of 16 values][parts] tiles of 16 values by 32 patches.
void pack_values(const Heads& h, size_t from, size_t head, uint16_t* out) {
  __m512i low[kTile], high[kTile];
  for (size_t c = 0; c < h.padded(); c += kTile, out += h.parts * 2 * kTileWords) {
    const __mmask16 mask = c < h.size ? first(h.size - c) : 0;
    const auto row = [&](size_t i) {
      const float* at = h.qkv + (i * 3 + 2) * h.width + head * h.size + c;
      return _mm512_castps_si512(i < h.count ? _mm512_maskz_loadu_ps(mask, at) : _mm512_setzero_ps());
    };
    for (size_t r = 0; r < kTile; r++) low[r] = row(from + r), high[r] = row(from + kTile + r);
    transpose(low);
    transpose(high);
    for (size_t r = 0; r < kTile; r++) {
      __m512 a = _mm512_castsi512_ps(low[r]), b = _mm512_castsi512_ps(high[r]);
      for (size_t p = 0; p < h.parts; p++)
        _mm512_storeu_si512(out + p * 2 * kTileWords + r * kDepth, narrow(a, b, p + 1 < h.parts));
    }
  }
}

// Queries of 32 patches: [2 strips of 16 queries][blocks of the head][parts].
void pack_queries(const Heads& h, size_t from, size_t head, float* turned, uint32_t* out) {
  for (size_t i = from; i < from + kQueries; i += kTile, out += h.block_values() / 4) {
    const float* rows[kTile];
    for (size_t r = 0; r < kTile; r++) {
      rows[r] = i + r < h.count ? turned + r * h.size : nullptr;
      if (rows[r]) h.rotate(i + r, head, 0, kLog2E / std::sqrt(float(h.size)), turned + r * h.size);
    }
    pack_columns(rows, h.size, h.parts, out);
  }
}

// 2 x 2 tiles of sums, 32 rows of 32 values, from or to `at`.
void load_tiles(const float* at) {
  _tile_loadd(0, at, kQueries * 4);
  _tile_loadd(1, at + kTile, kQueries * 4);
  _tile_loadd(2, at + kTile * kQueries, kQueries * 4);
  _tile_loadd(3, at + kTile * kQueries + kTile, kQueries * 4);
}
void store_tiles(float* at) {
  _tile_stored(0, at, kQueries * 4);
  _tile_stored(1, at + kTile, kQueries * 4);
  _tile_stored(2, at + kTile * kQueries, kQueries * 4);
  _tile_stored(3, at + kTile * kQueries + kTile, kQueries * 4);
}

// Adds to the tiles' sums the products over `depth` blocks: left tiles from `a` and `a_next` behind, right tiles from
// `b` and `b_next` behind, blocks `a_step` and `b_step` apart. Products that float32 would not see are left out.
void multiply(const uint16_t* a, size_t a_next, size_t a_step, const uint32_t* b, size_t b_next, size_t b_step,
              size_t depth, size_t parts) {
  for (size_t k = 0; k < depth; k++, a += a_step, b += b_step)
    for (size_t i = 0; i < parts; i++) {
      _tile_loadd(4, a + i * 2 * kTileWords, 64);
      _tile_loadd(5, a + i * 2 * kTileWords + a_next, 64);
      for (size_t j = 0; i + j < parts; j++) {
        _tile_loadd(6, b + j * kTileWords, 64);
        _tile_loadd(7, b + j * kTileWords + b_next, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
}

// 2^x: in float32, or close enough for a result that keeps eight bits.
__m512 power(__m512 x, size_t parts) {
  return parts == 1 ? rough_exp2(x) : exp(_mm512_mul_ps(x, _mm512_set1_ps(0.693147180559945f)));
}

// What 32 queries have seen so far: the largest score, the sum of 2^(score - largest), and the weighted values.
struct Seen {
  __m512 largest[2], sum[2];
  float* values;  // [padded, 32]
};

// Turns scores [keys, 32] into shares, right-hand tiles [blocks of 32 keys][2 strips of queries][parts], and what was
// seen before to the new scale.
void soften(Seen& seen, const float* scores, size_t keys, size_t padded, size_t parts, uint32_t* shares) {
  for (size_t q = 0; q < 2; q++) {
    const float* column = scores + q * kTile;
    __m512 largest = seen.largest[q], sum = _mm512_setzero_ps();
    for (size_t k = 0; k < keys; k++) largest = _mm512_max_ps(largest, _mm512_loadu_ps(column + k * kQueries));
    for (size_t k = 0; k < keys; k += 2) {
      __m512 a = power(_mm512_sub_ps(_mm512_loadu_ps(column + k * kQueries), largest), parts);
      __m512 b = power(_mm512_sub_ps(_mm512_loadu_ps(column + (k + 1) * kQueries), largest), parts);
      sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
      uint32_t* to = shares + (k / kDepth * 2 + q) * parts * kTileWords + k % kDepth / 2 * kTile;
      for (size_t p = 0; p < parts; p++, to += kTileWords) {
        const __m512i both = narrow(a, b, p + 1 < parts);
        const __m512i even = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
        const __m512i odd = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
        _mm512_storeu_si512(to, _mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
      }
    }
    const __m512 fade = power(_mm512_sub_ps(seen.largest[q], largest), 3);
    const bool faded = _mm512_cmp_ps_mask(seen.largest[q], largest, _CMP_NEQ_OQ) != 0;
    seen.largest[q] = largest;
    seen.sum[q] = _mm512_fmadd_ps(seen.sum[q], fade, sum);
    for (size_t c = 0; faded && c < padded; c++) {
      float* value = seen.values + c * kQueries + q * kTile;
      _mm512_storeu_ps(value, _mm512_mul_ps(_mm512_loadu_ps(value), fade));
    }
  }
}

// Write the results of 32 queries from `from` on: what was seen, over the sum of its weights, turned back.
void put(const Heads& h, size_t head, size_t from, const Seen& seen) {
  __m512i tile[kTile];
  for (size_t q = 0; q < 2; q++) {
    const __m512 share = _mm512_div_ps(_mm512_set1_ps(1.0f), seen.sum[q]);
    for (size_t c = 0; c < h.size; c += kTile) {
      for (size_t r = 0; r < kTile; r++) {
        const __m512 values = _mm512_loadu_ps(seen.values + (c + r) * kQueries + q * kTile);
        tile[r] = _mm512_castps_si512(_mm512_mul_ps(values, share));
      }
      transpose(tile);
      for (size_t r = 0; r < kTile && from + q * kTile + r < h.count; r++) {
        float* to = h.out + (from + q * kTile + r) * h.width + head * h.size + c;
        _mm512_mask_storeu_ps(to, first(h.size - c), _mm512_castsi512_ps(tile[r]));
      }
    }
  }
}

// Block `i` of 32 queries of a head against all keys.
void attend(const Heads& h, size_t head, size_t i) {
  static thread_local Scratch words, floats;
  const size_t share_block = 2 * h.parts * kTileWords, value_strip = h.parts * 2 * kTileWords;
  uint32_t* shares = words.get<uint32_t>(kKeys / kDepth * share_block);
  float* scores = floats.get<float>((kKeys + h.padded()) * kQueries);
  Seen seen;
  seen.largest[0] = seen.largest[1] = _mm512_set1_ps(std::numeric_limits<float>::lowest());
  seen.sum[0] = seen.sum[1] = _mm512_setzero_ps();
  seen.values = scores + kKeys * kQueries;
  std::memset(seen.values, 0, h.padded() * kQueries * sizeof(float));
  const uint32_t* queries = h.queries + h.block(head, i) / 2;
  for (size_t block = 0; block < h.blocks(); block += kKeys / kDepth) {
    const size_t here = std::min(kKeys / kDepth, h.blocks() - block), step = h.block_values();
    const uint16_t *keys = h.keys + h.block(head, block), *values = h.values + h.block(head, block);
    for (size_t k = 0; k < here; k++) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      multiply(keys + k * step, step / 2, value_strip, queries, step / 4, h.parts * kTileWords, h.depth(), h.parts);
      store_tiles(scores + k * kDepth * kQueries);
    }
    for (size_t k = std::max(block * kDepth, h.count); k < (block + here) * kDepth; k++)  // these only fill up a tile
      std::fill_n(scores + (k - block * kDepth) * kQueries, kQueries, std::numeric_limits<float>::lowest());
    soften(seen, scores, here * kDepth, h.padded(), h.parts, shares);
    for (size_t c = 0; c < h.padded(); c += kDepth) {
      load_tiles(seen.values + c * kQueries);
      multiply(values + c / kTile * value_strip, value_strip, step, shares, h.parts * kTileWords, share_block, here,
               h.parts);
      store_tiles(seen.values + c * kQueries);
    }
  }
  put(h, head, i * kQueries, seen);
}

void compute(Heads h) {
  static thread_local Scratch memory;
  const size_t all = h.heads * h.blocks() * h.block_values();
  h.keys = memory.get<uint16_t>(3 * all);
  h.values = h.keys + all;
  h.queries = reinterpret_cast<uint32_t*>(h.values + all);
  tbb::parallel_for(size_t(0), h.blocks(), [&](size_t i) {
    const FlushTiny flush;
    static thread_local Scratch own;
    float* rows = own.get<float>((kTile + 1) * h.padded());
    for (size_t head = 0; head < h.heads; head++) {
      std::memset(rows, 0, h.padded() * sizeof(float));
      pack_keys(h, i * kQueries, head, rows, h.keys + h.block(head, i));
      pack_values(h, i * kQueries, head, h.values + h.block(head, i));
      pack_queries(h, i * kQueries, head, rows, h.queries + h.block(head, i) / 2);
    }
  });
  tbb::parallel_for(tbb::blocked_range<size_t>(0, h.heads * h.blocks(), 8), [&](const auto& range) {
    const Tiles tiles;
    for (size_t i = range.begin(); i < range.end(); i++) attend(h, i / h.blocks(), i % h.blocks());
  });
}

}  // namespace

void attend(const Frame& f) {
  for (size_t head = 0; head < f.heads && !stopped(f.stop); head += kHeads) {
    Heads h{};
    h.qkv = f.qkv + head * f.size, h.cos = f.cos, h.sin = f.sin, h.out = f.out + head * f.size;
    h.heads = std::min(kHeads, f.heads - head);
    h.count = f.count, h.size = f.size, h.width = f.heads * f.size, h.parts = f.parts;
    compute(h);
  }
}

}  // namespace sightline::amx
