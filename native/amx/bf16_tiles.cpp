// Matrix products in tiles of bf16 with float32 sums.
#include <tbb/parallel_for.h>

#include "finish.hpp"

namespace sightline::amx {
namespace {

constexpr size_t kChunk = 64;  // blocks of 32 values of a weight row that are unpacked at a time

// `count` values from `at` on of the rows of groups [begin, end), as bf16; zeros for a missing last group.
void unpack_groups(const Product& p, size_t begin, size_t end, size_t at, size_t count, uint16_t* panel,
                   size_t stride) {
  for (size_t g = begin; g < end; g++)
    for (size_t r = 0; r < kTile; r++, panel += stride) {
      const Matrix& w = *p.groups[g].matrix;
      const size_t there = std::min(count, w.width - at);
      unpack(w, p.groups[g].row + r, at, there, panel);
      std::memset(panel + there, 0, (count - there) * sizeof(uint16_t));
    }
  if ((end - begin) % 2) std::memset(panel, 0, kTile * stride * sizeof(uint16_t));
}

// x as right-hand tiles: strips of 16 rows, each [blocks of the width][parts] tiles; one strip more when they are odd.
const uint32_t* pack(const Product& p, size_t strips, size_t strip_words) {
  static thread_local Scratch memory;
  uint32_t* out = memory.get<uint32_t>(strips * strip_words);
  each_strip(p, strips, [&](size_t s, const float* const* rows) {
    pack_columns(rows, p.width, p.parts, out + s * strip_words);
  });
  return out;
}

// Adds to the 2 x 2 tiles of `sums` the products of 2 x 16 weight rows from `a` with 2 x 16 rows of x from `b`, the
// second 16 `next` words apart; begins at zero when `fresh`.
template <bool kBoth>
void multiply(float* sums, bool fresh, const uint16_t* a, size_t stride, const uint32_t* b, size_t next, size_t blocks,
              size_t parts) {
  if (fresh) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + kTileWords, 64);
    _tile_loadd(2, sums + 2 * kTileWords, 64);
    _tile_loadd(3, sums + 3 * kTileWords, 64);
  }
  for (size_t k = 0; k < blocks; k++, a += kDepth) {
    _tile_loadd(4, a, stride * 2);
    _tile_loadd(5, a + kTile * stride, stride * 2);
    for (size_t part = 0; part < parts; part++, b += kTileWords) {
      _tile_loadd(6, b, 64);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(2, 5, 6);
      if (kBoth) {
        _tile_loadd(7, b + next, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + kTileWords, 64);
  _tile_stored(2, sums + 2 * kTileWords, 64);
  _tile_stored(3, sums + 3 * kTileWords, 64);
}

// What a core works on at a time: a panel of unpacked weights, which stays in its second-level cache.
struct Blocking {
  size_t blocks, strips;                          // of 32 values in a row of x; of 16 rows of x, an even number
  size_t chunk;                                   // blocks that are unpacked at a time
  size_t pairs = 8;                               // of groups of weight rows
  size_t stride;                                  // of unpacked rows: 16 of them must not share a cache set

  explicit Blocking(const Product& p) {
    blocks = (p.width + kDepth - 1) / kDepth;
    strips = (p.count + 2 * kTile - 1) / (2 * kTile) * 2;
    chunk = std::min(blocks, kChunk);
    stride = chunk * kDepth + kDepth;
    if (p.count <= kSmallBatch) pairs = 1;  // memory sets the pace: small tasks share it evenly
    pairs = std::max<size_t>(1, std::min(pairs, (p.groups.size() + 1) / 2 / 8));
  }
};

// All sums of groups [begin, end) with all of x.
void panel_by_tiles(const Product& p, const Blocking& size, const uint32_t* packed, size_t begin, size_t end) {
  static thread_local Scratch panel_memory, sum_memory;
  const bool whole = size.chunk == size.blocks;  // then sums wait for nothing, and one place serves them all
  uint16_t* panel = panel_memory.get<uint16_t>(2 * size.pairs * kTile * size.stride);
  float* sums = sum_memory.get<float>(4 * kTileWords * (whole ? 1 : size.pairs * size.strips / 2));
  const size_t strip_words = size.blocks * p.parts * kTileWords;
  for (size_t k = 0; k < size.blocks; k += size.chunk) {
    const size_t here = std::min(size.chunk, size.blocks - k);
    const bool last = k + here == size.blocks;
    unpack_groups(p, begin, end, k * kDepth, here * kDepth, panel, size.stride);
    float* sum = sums;
    for (size_t s = 0; s < size.strips; s += 2)
      for (size_t g = begin; g < end; g += 2, sum += whole ? 0 : 4 * kTileWords) {
        const uint16_t* a = panel + (g - begin) * kTile * size.stride;
        const uint32_t* b = packed + s * strip_words + k * p.parts * kTileWords;
        const bool two = (s + 1) * kTile < p.count, both = g + 1 < end;
        (two ? multiply<true> : multiply<false>)(sum, k == 0, a, size.stride, b, strip_words, here, p.parts);
        if (last) finish(p, &p.groups[g], both, s * kTile, sum, sum + 2 * kTileWords);
        if (last && two) finish(p, &p.groups[g], both, (s + 1) * kTile, sum + kTileWords, sum + 3 * kTileWords);
      }
  }
}

}  // namespace

// Each weight is unpacked to bf16 once.
void by_bf16_tiles(const Product& p) {
  const Blocking size(p);
  const uint32_t* packed = pack(p, size.strips, size.blocks * p.parts * kTileWords);
  const size_t step = 2 * size.pairs, tasks = (p.groups.size() + step - 1) / step;
  tbb::parallel_for(size_t(0), tasks, [&](size_t task) {
    const Tiles tiles;
    panel_by_tiles(p, size, packed, task * step, std::min(task * step + step, p.groups.size()));
  });
}

void compute(const Product& p) {
  if (p.count == 0 || few_rows(p)) return;
  if (p.all(Matrix::Format::int8) || (p.all_integers(kLevels) && p.count <= kSmallBatch)) by_int8_tiles(p);
  else by_bf16_tiles(p);
}

}  // namespace sightline::amx
