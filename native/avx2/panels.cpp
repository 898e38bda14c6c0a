// Products of many rows: weights are turned into panels that a core's second-level cache holds, and all of x passes by.
#include <tbb/parallel_for.h>

#include "finish.hpp"

namespace sightline::avx2 {
namespace {

constexpr size_t kWordsDeep = 256;  // words of a weight row that are in a panel at a time
constexpr size_t kStrips = 16;      // of x that pass 16 weight rows while these are in the first-level cache
constexpr size_t kPairs = 4;        // of groups in a panel

// `count` values of row i from `at` on, both multiples of 16: int8 as its levels, int4 scaled.
void unpack(const Matrix& w, size_t i, size_t at, size_t count, float* out) {
  const auto put = [&](size_t k, __m128i bf16) {
    _mm256_storeu_ps(out + k, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bf16), 16)));
  };
  const uint8_t* in = w.row(i);
  switch (w.format()) {
    case Matrix::Format::bf16:
      for (size_t k = 0; k < count; k += kLanes) put(k, _mm_loadu_si128((const __m128i*)(in + 2 * (at + k))));
      return;
    case Matrix::Format::bf12: {
      const __m128i book = _mm_loadu_si128((const __m128i*)w.scales), nibble = _mm_set1_epi8(15);
      for (size_t k = 0; k < count; k += 16) {  // 8 values each from the lower and the upper half of 16 bytes
        const size_t half = (at + k) % 128 / 64, place = (at + k) % 64, byte = place % 32 * 2;
        const uint8_t* block = in + (at + k) / 128 * 192;
        for (size_t part = 0; part < 2; part++) {
          const size_t from = byte + 16 * part;
          const __m128i low = _mm_loadu_si128((const __m128i*)(block + 64 * half + from));
          __m128i codes = _mm_loadu_si128((const __m128i*)(block + 128 + from));
          if (half) codes = _mm_srli_epi16(codes, 4);
          const __m128i high = _mm_shuffle_epi8(book, _mm_and_si128(codes, nibble));
          put(k + 8 * part, place < 32 ? _mm_unpacklo_epi8(low, high) : _mm_unpackhi_epi8(low, high));
        }
      }
      for (const Exception& e : Exceptions(w, i))
        if (e.column >= at && e.column < at + count) {
          const uint32_t value = uint32_t(e.value) << 16;
          std::memcpy(out + e.column - at, &value, sizeof value);
        }
      return;
    }
    case Matrix::Format::int8:
      for (size_t k = 0; k < count; k += kLanes) {
        const __m256i levels = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(in + at + k)));
        _mm256_storeu_ps(out + k, _mm256_cvtepi32_ps(levels));
      }
      return;
    case Matrix::Format::int4:
      for (size_t k = 0; k < count; k++) {
        const int level = in[(at + k) / 2] >> (k % 2 * 4) & 15;
        const uint16_t scale = w.scales[i * w.groups + (at + k) / (w.width / w.groups)];
        out[k] = float(level < 8 ? level : level - 16) * _cvtsh_ss(scale);
      }
  }
}

// The same as levels of 16 bits, two in a word.
void unpack(const Matrix& w, size_t i, size_t at, size_t count, int16_t* out) {
  const uint8_t* in = w.row(i);
  const auto put = [&](size_t k, __m128i levels) {
    _mm256_storeu_si256((__m256i*)(out + k), _mm256_cvtepi8_epi16(levels));
  };
  if (w.format() == Matrix::Format::int8) {
    for (size_t k = 0; k < count; k += 16) put(k, _mm_loadu_si128((const __m128i*)(in + at + k)));
    return;
  }
  const __m128i meaning = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
  const __m128i nibble = _mm_set1_epi8(15);
  for (size_t k = 0; k < count; k += 16) {
    const __m128i pairs = _mm_loadl_epi64((const __m128i*)(in + (at + k) / 2));
    const __m128i even = _mm_and_si128(pairs, nibble), odd = _mm_and_si128(_mm_srli_epi16(pairs, 4), nibble);
    put(k, _mm_shuffle_epi8(meaning, _mm_unpacklo_epi8(even, odd)));
  }
}

// In float32: a word is a value.
struct Floats {
  static constexpr size_t kValues = 1;  // in a word
  using Value = float;
  static size_t span(const Matrix&) { return kWordsDeep; }  // words between two changes of a scale
  static float scale(const Matrix&, size_t, size_t) { return 1.0f; }
  static float pack(const Product& p, size_t i, float* out, float*) {
    put_row(p, i, out);
    return 1.0f;
  }
  static void multiply(const uint32_t* w, const uint32_t* x, size_t depth, const float*, float* sums) {
    avx2::multiply((const float*)w, (const float*)x, 1, kRows, depth, false, sums, kTile);
  }
};

// In levels of 16 bits: a word is a pair of them, and sums are exact.
struct Levels {
  static constexpr size_t kValues = 2;
  using Value = int16_t;
  static size_t span(const Matrix& w) {
    return w.format() == Matrix::Format::int8 ? kWordsDeep : w.width / w.groups / kValues;
  }
  // Of row i from word `at` on.
  static float scale(const Matrix& w, size_t i, size_t at) {
    return w.format() == Matrix::Format::int8 ? 1.0f : _cvtsh_ss(w.scales[i * w.groups + at / span(w)]);
  }
  static float pack(const Product& p, size_t i, int16_t* out, float* own) {
    return to_levels(row(p, i, own), p.width, out);
  }
  // Written out, since a compiler multiplies everything first and then runs out of registers.
  static void add_products(__m256i& sums, __m256i a, __m256i b) {
    __m256i products;
    asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(a), "x"(b));
  }
  static void multiply(const uint32_t* w, const uint32_t* x, size_t depth, const float* scales, float* sums) {
    __m256i low[kRows], high[kRows];
#pragma GCC unroll 6
    for (size_t r = 0; r < kRows; r++) low[r] = high[r] = _mm256_setzero_si256();
    for (size_t k = 0; k < depth; k++, w += kTile, x += kRows) {
      const __m256i first = _mm256_loadu_si256((const __m256i*)w);
      const __m256i second = _mm256_loadu_si256((const __m256i*)(w + kLanes));
#pragma GCC unroll 6
      for (size_t r = 0; r < kRows; r++) {
        const __m256i values = _mm256_set1_epi32(int(x[r]));
        add_products(low[r], values, first);
        add_products(high[r], values, second);
      }
    }
    const Sixteen scale = Sixteen::load(scales);
#pragma GCC unroll 6
    for (size_t r = 0; r < kRows; r++, sums += kTile) {
      const Sixteen found{_mm256_cvtepi32_ps(low[r]), _mm256_cvtepi32_ps(high[r])};
      (Sixteen::load(sums) + found * scale).store(sums);
    }
  }
};

// Rows of x in strips of six, [words of a row][6], and what one level of each row is worth.
struct Packed {
  const uint32_t* words;
  const float* worth;
  size_t strips, deep;  // words of a row
};

template <class Kind>
Packed pack(const Product& p) {
  static thread_local Scratch word_memory, worth_memory;
  const size_t strips = (p.count + kRows - 1) / kRows, deep = p.width / Kind::kValues;
  uint32_t* words = word_memory.get<uint32_t>(strips * deep * kRows);
  float* worth = worth_memory.get<float>(strips * kRows);
  tbb::parallel_for(size_t(0), strips, [&](size_t s) {
    const FlushTiny flush;
    static thread_local Scratch own, plain;
    auto* line = own.get<uint32_t>(deep);
    float* normal = plain.get<float>(p.width);
    uint32_t* out = words + s * deep * kRows;
    for (size_t r = 0; r < kRows; r++) {
      const size_t i = s * kRows + r;
      if (i < p.count) worth[i] = Kind::pack(p, i, (typename Kind::Value*)line, normal);
      else std::memset(line, 0, deep * sizeof(uint32_t));
      for (size_t k = 0; k < deep; k++) out[k * kRows + r] = line[k];
    }
  });
  return {words, worth, strips, deep};
}

// Words [from, from + count) of the 16 rows of a group, turned: [count][16]. And the scales of its spans, [spans][16].
template <class Kind>
void turn(const Group& g, size_t from, size_t count, uint32_t* panel, float* scales) {
  static thread_local Scratch own;
  const Matrix& w = *g.matrix;
  auto* lines = own.get<uint32_t>(kTile * (kWordsDeep + 16));
  const size_t stride = count + 16;  // 8 rows must not share a cache set
  for (size_t r = 0; r < kTile; r++)
    unpack(w, g.row + r, from * Kind::kValues, count * Kind::kValues, (typename Kind::Value*)(lines + r * stride));
  for (size_t r = 0; r < kTile; r += kLanes)
    for (size_t k = 0; k < count; k += kLanes) transpose(lines + r * stride + k, stride, panel + k * kTile + r);
  const size_t span = Kind::span(w);
  for (size_t k = 0; k < count; k += span, scales += kTile)
    for (size_t r = 0; r < kTile; r++) scales[r] = Kind::scale(w, g.row + r, from + k);
}

// All sums of groups [begin, end) with all of x.
template <class Kind>
void panel_by_strips(const Product& p, const Packed& x, size_t begin, size_t end) {
  static thread_local Scratch panel_memory, scale_memory, sum_memory;
  constexpr size_t kTileSums = kRows * kTile, kScales = kWordsDeep;  // one scale a word is more than enough
  const size_t groups = end - begin;
  const bool whole = x.deep <= kWordsDeep;  // then sums wait for nothing, and one place serves them all
  auto* panel = panel_memory.get<uint32_t>(groups * kWordsDeep * kTile);
  auto* scales = scale_memory.get<float>(groups * kScales);
  auto* all = sum_memory.get<float>((whole ? std::min(kStrips, x.strips) : x.strips) * groups * kTileSums);
  for (size_t from = 0; from < x.deep; from += kWordsDeep) {
    const size_t here = std::min(kWordsDeep, x.deep - from);
    for (size_t g = 0; g < groups; g++)
      turn<Kind>(p.groups[begin + g], from, here, panel + g * kWordsDeep * kTile, scales + g * kScales);
    for (size_t first = 0; first < x.strips; first += kStrips) {
      const size_t last = std::min(x.strips, first + kStrips);
      float* block = all + (whole ? 0 : first * groups * kTileSums);  // [groups][strips of the block]
      if (from == 0) std::memset(block, 0, (last - first) * groups * kTileSums * sizeof(float));
      for (size_t g = 0; g < groups; g++) {
        const size_t span = Kind::span(*p.groups[begin + g].matrix);
        for (size_t s = first; s < last; s++) {
          const uint32_t* rows = x.words + (s * x.deep + from) * kRows;
          float* sums = block + (g * (last - first) + s - first) * kTileSums;
          for (size_t k = 0, i = 0; k < here; k += span, i++)
            Kind::multiply(panel + (g * kWordsDeep + k) * kTile, rows + k * kRows, std::min(span, here - k),
                           scales + g * kScales + i * kTile, sums);
        }
      }
      if (from + here < x.deep) continue;
      for (size_t g = 0; g < groups; g += 2)
        for (size_t s = first; s < last; s++) {
          const float* one = block + (g * (last - first) + s - first) * kTileSums;
          const float* two = one + (last - first) * kTileSums;
          for (size_t r = 0, i = s * kRows; r < kRows && i < p.count; r++, i++)
            finish(p, i, &p.groups[begin + g], g + 1 < groups, one + r * kTile, two + r * kTile, x.worth[i]);
        }
    }
  }
}

template <class Kind>
void compute(const Product& p) {
  const Packed x = pack<Kind>(p);
  const size_t pairs = (p.groups.size() + 1) / 2, step = 2 * std::clamp<size_t>(pairs / 8, 1, kPairs);
  tbb::parallel_for(size_t(0), (p.groups.size() + step - 1) / step, [&](size_t task) {
    const FlushTiny flush;
    panel_by_strips<Kind>(p, x, task * step, std::min(task * step + step, p.groups.size()));
  });
}

}  // namespace

void by_panels(const Product& p) {
  const bool levels = p.all_integers(16) && std::all_of(p.matrices.begin(), p.matrices.end(), [](const Matrix& w) {
    return w.format() == Matrix::Format::int8 || kWordsDeep * Levels::kValues % (w.width / w.groups) == 0;
  });
  levels ? compute<Levels>(p) : compute<Floats>(p);
}

}  // namespace sightline::avx2
