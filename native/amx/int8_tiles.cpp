// Matrix products in tiles of int8 with int32 sums: exact for the numbers they are given, whatever the batch.
#include <tbb/parallel_for.h>

#include "finish.hpp"

namespace sightline::amx {
namespace {

constexpr size_t kParts = 2;  // int8 numbers that stand for a value of x: 128 * high + low

// x in tiles, strip by strip of 16 rows: [blocks of 64 values][2 parts], and what each row was divided by.
struct Packed {
  const int8_t* tiles;
  const float* scales;
  size_t strip;  // bytes
};

// 16 rows as right-hand tiles of groups of four values by 16 rows.
void pack_strip(const float* const rows[kTile], size_t width, int8_t* out, float* scales) {
  static thread_local Scratch own;
  const size_t padded = (width + kLevels - 1) / kLevels * kLevels;
  int8_t* parts[kParts] = {own.get<int8_t>(kParts * kTile * padded)};
  parts[1] = parts[0] + kTile * padded;
  std::memset(parts[0], 0, kParts * kTile * padded);
  for (size_t r = 0; r < kTile; r++)
    scales[r] = rows[r] ? split_levels(rows[r], width, padded, parts[0] + r * padded, parts[1] + r * padded) : 0.0f;
  for (size_t at = 0; at < padded; at += kLevels)
    for (const int8_t* part : parts) {
      __m512i words[kTile];
      for (size_t r = 0; r < kTile; r++) words[r] = _mm512_loadu_si512(part + r * padded + at);
      transpose(words);
      for (size_t r = 0; r < kTile; r++, out += kLevels) _mm512_storeu_si512(out, words[r]);
    }
}

Packed pack(const Product& p, size_t strips) {
  static thread_local Scratch tile_memory, scale_memory;
  const size_t strip = (p.width + kLevels - 1) / kLevels * kParts * kTileWords * 4;
  int8_t* tiles = tile_memory.get<int8_t>(strips * strip);
  float* scales = scale_memory.get<float>(strips * kTile);
  each_strip(p, strips, [&](size_t s, const float* const* rows) {
    pack_strip(rows, p.width, tiles + s * strip, scales + s * kTile);
  });
  return {tiles, scales, strip};
}

// Levels of groups [begin, end) as rows of `stride` bytes, zeros behind the last level; a missing last group is zeros.
void unpack(const Product& p, size_t begin, size_t end, int8_t* panel, size_t stride) {
  for (size_t g = begin; g < end; g++)
    for (size_t r = 0; r < kTile; r++, panel += stride) {
      levels(*p.groups[g].matrix, p.groups[g].row + r, panel);
      std::memset(panel + p.width, 0, stride - p.width);
    }
  if ((end - begin) % 2) std::memset(panel, 0, kTile * stride);
}

// The levels of two groups of weight rows, each row `stride` bytes behind the one before.
struct Levels {
  const int8_t *first, *second;
  size_t stride;
};

// What will be read from memory next: the rows of two groups, asked for line by line while others are multiplied.
struct Ahead {
  const uint8_t* rows[2] = {};
  size_t lines = 0;  // of each group, to ask for with each block

  void ask() {
    for (size_t i = 0; i < lines; i++)
      for (const uint8_t*& at : rows) {
        _mm_prefetch((const char*)at, _MM_HINT_T1);
        at += 64;
      }
  }
};

// Sums of 2 x 16 weight rows with 16 rows of x over `blocks`: tiles 0 and 2 with the high parts, 1 and 3 with the low.
void multiply(const Levels& a, size_t from, const int8_t* b, size_t blocks, Ahead& ahead) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (size_t k = from; k < from + blocks; k++, b += kParts * kTileWords * 4) {
    _tile_loadd(4, a.first + k * kLevels, a.stride);
    _tile_loadd(5, a.second + k * kLevels, a.stride);
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + kTileWords * 4, 64);
    ahead.ask();
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
}

// Adds a group's sums over some blocks, times the scales of its rows there, to float32 sums.
void add(const Group& g, size_t block, const int32_t* high, const int32_t* low, float* sums) {
  const Matrix& w = *g.matrix;
  const bool grouped = w.format() == Matrix::Format::int4;
  const size_t scale_at = grouped ? block * kLevels / (w.width / w.groups) : 0;
  for (size_t r = 0; r < kTile; r++) {
    const __m512 upper = _mm512_cvtepi32_ps(_mm512_load_si512(high + r * 16));
    const __m512 lower = _mm512_cvtepi32_ps(_mm512_load_si512(low + r * 16));
    const __m512 sum = _mm512_fmadd_ps(upper, _mm512_set1_ps(128.0f), lower);
    const float scale = grouped ? _cvtsh_ss(w.scales[(g.row + r) * w.groups + scale_at]) : 1.0f;
    _mm512_store_ps(sums + r * 16, _mm512_fmadd_ps(sum, _mm512_set1_ps(scale), _mm512_load_ps(sums + r * 16)));
  }
}

// Two groups of weight rows, whose levels are `a`, with strip `s` of x.
void pair_by_tiles(const Product& p, size_t g, bool both, const Levels& a, const Packed& x, size_t s, Ahead ahead) {
  alignas(64) float sums[2][kTileWords] = {};
  alignas(64) int32_t tiles[4][kTileWords];
  const size_t blocks = (p.width + kLevels - 1) / kLevels;
  size_t span = blocks;  // blocks between two changes of a scale
  for (const Group* group : {&p.groups[g], &p.groups[both ? g + 1 : g]}) {
    const Matrix& w = *group->matrix;
    if (w.format() == Matrix::Format::int4) span = std::min(span, w.width / w.groups / kLevels);
  }
  for (size_t k = 0; k < blocks; k += span) {
    const int8_t* b = x.tiles + s * x.strip + k * kParts * kTileWords * 4;
    multiply(a, k, b, std::min(span, blocks - k), ahead);
    _tile_stored(0, tiles[0], 64);
    _tile_stored(1, tiles[1], 64);
    _tile_stored(2, tiles[2], 64);
    _tile_stored(3, tiles[3], 64);
    add(p.groups[g], k, tiles[0], tiles[1], sums[0]);
    if (both) add(p.groups[g + 1], k, tiles[2], tiles[3], sums[1]);
  }
  const __m512 scale = _mm512_loadu_ps(x.scales + s * kTile);
  for (float* row = sums[0]; row < sums[0] + 2 * kTileWords; row += kTile)
    _mm512_store_ps(row, _mm512_mul_ps(_mm512_load_ps(row), scale));
  finish(p, &p.groups[g], both, s * kTile, sums[0], sums[1]);
}

// What comes behind group `g` and its pair, a line of each group's for each block of `blocks`.
Ahead behind(const Product& p, size_t g, size_t blocks) {
  if (g + 3 >= p.groups.size()) return {};
  const Group *one = &p.groups[g + 2], *two = &p.groups[g + 3];
  return {{one->matrix->row(one->row), two->matrix->row(two->row)}, kTile * one->matrix->row_bytes / (blocks * 64)};
}

// A few strips of x, while memory sets the pace: levels of int8 are multiplied where they lie, a pair a task.
void in_place(const Product& p, const Packed& x, size_t strips) {
  const size_t blocks = p.width / kLevels, pairs = (p.groups.size() + 1) / 2;
  tbb::parallel_for(size_t(0), pairs, [&](size_t pair) {
    const Tiles tiles;
    const size_t g = 2 * pair;
    const bool both = g + 1 < p.groups.size();
    const Group &one = p.groups[g], &two = p.groups[both ? g + 1 : g];
    const auto levels = [](const Group& group) { return (const int8_t*)group.matrix->row(group.row); };
    for (size_t s = 0; s < strips; s++)
      pair_by_tiles(p, g, both, {levels(one), levels(two), one.matrix->row_bytes}, x, s,
                    s == 0 ? behind(p, g, blocks) : Ahead{});
  });
}

}  // namespace

void by_int8_tiles(const Product& p) {
  const size_t strips = (p.count + kTile - 1) / kTile;
  const Packed x = pack(p, strips);
  const bool memory_bound = p.count <= kSmallBatch;
  if (memory_bound && p.all(Matrix::Format::int8) && p.width % kLevels == 0) return in_place(p, x, strips);
  const size_t stride = (p.width + kLevels - 1) / kLevels * kLevels + kLevels;  // 16 rows must not share a cache set
  const size_t pairs = (p.groups.size() + 1) / 2;
  size_t step = memory_bound ? 1 : std::clamp<size_t>((1 << 20) / (2 * kTile * stride), 1, 16);
  step = std::max<size_t>(1, std::min(step, pairs / 8));
  tbb::parallel_for(size_t(0), (pairs + step - 1) / step, [&](size_t task) {
    const Tiles tiles;
    static thread_local Scratch own;
    int8_t* panel = own.get<int8_t>(2 * step * kTile * stride);
    const size_t begin = 2 * task * step, end = std::min(begin + 2 * step, p.groups.size());
    unpack(p, begin, end, panel, stride);
    for (size_t s = 0; s < strips; s++)
      for (size_t g = begin; g < end; g += 2) {
        const int8_t* first = panel + (g - begin) * kTile * stride;
        const Ahead ahead = memory_bound && s == 0 ? behind(p, g, stride / kLevels - 1) : Ahead{};
        pair_by_tiles(p, g, g + 1 < end, {first, first + kTile * stride, stride}, x, s, ahead);
      }
  });
}

}  // namespace sightline::amx
