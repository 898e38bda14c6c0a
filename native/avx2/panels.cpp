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

// The same of int8, as levels of 16 bits, two in a word.
void unpack(const Matrix& w, size_t i, size_t at, size_t count, int16_t* out) {
  const uint8_t* in = w.row(i) + at;
  for (size_t k = 0; k < count; k += 16)
    _mm256_storeu_si256((__m256i*)(out + k), _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(in + k))));
}

// The same of int4, as levels of 8 bits from 0 to 15, four in a word, as Nibbles puts them.
void unpack(const Matrix& w, size_t i, size_t at, size_t count, int8_t* out) {
  const uint8_t* in = w.row(i) + at / 2;
  for (size_t k = 0; k < count; k += kNibbles, in += kNibbles / 2) {
    const Nibbles weights(in);
    _mm256_storeu_si256((__m256i*)(out + k), weights.even);
    _mm256_storeu_si256((__m256i*)(out + k + kNibbles / 2), weights.odd);
  }
}

// Rows of x in strips of six, [words of a row][6], what one level of each row is worth, and scales, where a kind has some.
struct Packed {
  const uint32_t* words;
  const float *worth, *scales;
  size_t strips, deep, more;  // deep: words of a row; more: scales of a strip
};

// In float32: a word is a value.
struct Floats {
  static constexpr size_t kValues = 1;             // in a word
  static constexpr size_t kMore = 0, kScales = 0;  // scales of a step: of a strip of x, of 16 rows of weights
  using Value = float;
  static size_t step(const Matrix&) { return kWordsDeep; }  // words that are multiplied together
  static void scale(const Group&, size_t, float*) {}
  static float pack(const Product& p, size_t i, const Matrix&, float* out, float*, float*) {
    put_row(p, i, out);
    return 1.0f;
  }
  static void multiply(const uint32_t* w, const uint32_t* x, size_t depth, const float*, const float*, float* sums) {
    avx2::multiply((const float*)w, (const float*)x, 1, kRows, depth, false, sums, kTile);
  }
};

// In levels of 16 bits: a word is a pair of them, and sums are exact.
struct Levels {
  static constexpr size_t kValues = 2, kMore = 0, kScales = 0;
  using Value = int16_t;
  static size_t step(const Matrix&) { return kWordsDeep; }
  static void scale(const Group&, size_t, float*) {}
  static float pack(const Product& p, size_t i, const Matrix&, int16_t* out, float* own, float*) {
    return to_levels(row(p, i, own), p.width, out);
  }
  // Written out, since a compiler multiplies everything first and then runs out of registers.
  static void add_products(__m256i& sums, __m256i a, __m256i b) {
    __m256i products;
    asm("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sums), "=&x"(products) : "x"(a), "x"(b));
  }
  static void multiply(const uint32_t* w, const uint32_t* x, size_t depth, const float*, const float*, float* sums) {
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
#pragma GCC unroll 6
    for (size_t r = 0; r < kRows; r++, sums += kTile)
      (Sixteen::load(sums) + Sixteen{_mm256_cvtepi32_ps(low[r]), _mm256_cvtepi32_ps(high[r])}).store(sums);
  }
};

// In bytes, four to a word, for int4: B registers of a row are a step. What a step needs of x are the scales of ByteRow,
// [8][6], and the eights of its one or two groups, [2][6]; of the weights the scales of the first half and of the second.
template <int B>
struct Bytes {
  static constexpr size_t kValues = 4, kMore = (kLanes + 2) * kRows, kScales = 2 * kTile, kDeep = B * kNibbles / kValues;
  using Value = int8_t;
  static size_t step(const Matrix&) { return kDeep; }
  // Of 16 rows from word `at` on.
  static void scale(const Group& g, size_t at, float* out) {
    const Matrix& w = *g.matrix;
    const size_t first = at * kValues * w.groups / w.width, second = (at + kDeep / 2) * kValues * w.groups / w.width;
    for (size_t r = 0; r < kTile; r++) {
      const uint16_t* of_row = w.scales + (g.row + r) * w.groups;
      out[r] = _cvtsh_ss(of_row[first]), out[kTile + r] = _cvtsh_ss(of_row[second]);
    }
  }
  static float pack(const Product& p, size_t i, const Matrix& w, int8_t* out, float* own, float* more) {
    static thread_local Scratch byte_memory, eight_memory;
    const size_t blocks = ByteRow::blocks(w), deep = ByteRow::deep(w), step = ByteRow::bytes(w);
    const bool halves = ByteRow::groups(w) == 2;
    auto* bytes = byte_memory.get<uint8_t>(blocks * step);
    auto* eights = eight_memory.get<float>(ByteRow::eights(w));
    ByteRow::put(row(p, i, own), w, bytes, step, eights);
    for (size_t b = 0; b < blocks; b++, more += kMore, bytes += step) {
      std::memcpy(out + b * deep, bytes, deep);
      for (size_t j = 0; j < kLanes; j++) more[j * kRows] = ((const float*)(bytes + deep))[j];
      more[kLanes * kRows] = *eights++;
      more[(kLanes + 1) * kRows] = halves ? *eights++ : 0.0f;
    }
    return 1.0f;
  }
  // Eight of the 16 rows at a time, so that all sums stay in registers.
  static void multiply(const uint32_t* w, const uint32_t* x, size_t, const float* scales, const float* more,
                       float* sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (size_t rows = 0; rows < kTile; rows += kLanes)
      for (size_t half = 0; half < 2; half++) {
        __m256 total[kRows];
#pragma GCC unroll 6
        for (size_t r = 0; r < kRows; r++)
          total[r] = _mm256_sub_ps(_mm256_setzero_ps(), _mm256_broadcast_ss(more + (kLanes + half) * kRows + r));
        for (size_t j = half * kLanes / 2; j < (half + 1) * kLanes / 2; j++) {
          __m256i weights[2 * B];
#pragma GCC unroll 4
          for (size_t part = 0; part < 2 * B; part++)
            weights[part] = _mm256_loadu_si256((const __m256i*)(w + (part * kLanes + j) * kTile + rows));
#pragma GCC unroll 6
          for (size_t r = 0; r < kRows; r++) {
            __m256i pairs = _mm256_maddubs_epi16(weights[0], _mm256_set1_epi32(int(x[j * kRows + r])));
#pragma GCC unroll 4
            for (size_t part = 1; part < 2 * B; part++)
              pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(
                  weights[part], _mm256_set1_epi32(int(x[(part * kLanes + j) * kRows + r]))));
            total[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones)),
                                       _mm256_broadcast_ss(more + j * kRows + r), total[r]);
          }
        }
        const __m256 scale = _mm256_loadu_ps(scales + half * kTile + rows);
#pragma GCC unroll 6
        for (size_t r = 0; r < kRows; r++) {
          float* to = sums + r * kTile + rows;
          _mm256_storeu_ps(to, _mm256_fmadd_ps(total[r], scale, _mm256_loadu_ps(to)));
        }
      }
  }
};

template <class Kind>
Packed pack(const Product& p, const Matrix& w) {
  static thread_local Scratch word_memory, worth_memory, more_memory;
  const size_t strips = (p.count + kRows - 1) / kRows, deep = p.width / Kind::kValues;
  const size_t more = Kind::kMore ? deep / Kind::step(w) * Kind::kMore : 0;
  uint32_t* words = word_memory.get<uint32_t>(strips * deep * kRows);
  float* worth = worth_memory.get<float>(strips * kRows);
  float* scales = more_memory.get<float>(strips * more);
  tbb::parallel_for(size_t(0), strips, [&](size_t s) {
    const FlushTiny flush;
    static thread_local Scratch own, plain;
    auto* line = own.get<uint32_t>(deep);
    float* normal = plain.get<float>(p.width);
    uint32_t* out = words + s * deep * kRows;
    std::memset(scales + s * more, 0, more * sizeof(float));
    for (size_t r = 0; r < kRows; r++) {
      const size_t i = s * kRows + r;
      if (i < p.count) worth[i] = Kind::pack(p, i, w, (typename Kind::Value*)line, normal, scales + s * more + r);
      else std::memset(line, 0, deep * sizeof(uint32_t));
      for (size_t k = 0; k < deep; k++) out[k * kRows + r] = line[k];
    }
  });
  return {words, worth, scales, strips, deep, more};
}

// Words [from, from + count) of the 16 rows of a group, turned: [count][16]. And the scales of its steps.
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
  for (size_t k = 0; k < count; k += Kind::step(w), scales += Kind::kScales) Kind::scale(g, from + k, scales);
}

// All sums of `groups` groups with all of x.
template <class Kind>
void panel_by_strips(const Product& p, const Packed& x, const Group* of, size_t groups) {
  static thread_local Scratch panel_memory, scale_memory, sum_memory;
  constexpr size_t kTileSums = kRows * kTile, kMost = kWordsDeep * 2;  // of scales: enough for the shortest steps
  const bool whole = x.deep <= kWordsDeep;  // then sums wait for nothing, and one place serves them all
  auto* panel = panel_memory.get<uint32_t>(groups * kWordsDeep * kTile);
  auto* scales = scale_memory.get<float>(groups * kMost);
  auto* all = sum_memory.get<float>((whole ? std::min(kStrips, x.strips) : x.strips) * groups * kTileSums);
  const size_t step = Kind::step(*of->matrix);
  for (size_t from = 0; from < x.deep; from += kWordsDeep) {
    const size_t here = std::min(kWordsDeep, x.deep - from);
    for (size_t g = 0; g < groups; g++)
      turn<Kind>(of[g], from, here, panel + g * kWordsDeep * kTile, scales + g * kMost);
    for (size_t first = 0; first < x.strips; first += kStrips) {
      const size_t last = std::min(x.strips, first + kStrips);
      float* block = all + (whole ? 0 : first * groups * kTileSums);  // [groups][strips of the block]
      if (from == 0) std::memset(block, 0, (last - first) * groups * kTileSums * sizeof(float));
      for (size_t g = 0; g < groups; g++)
        for (size_t s = first; s < last; s++) {
          const uint32_t* rows = x.words + (s * x.deep + from) * kRows;
          const float* more = x.scales + s * x.more + from / step * Kind::kMore;
          float* sums = block + (g * (last - first) + s - first) * kTileSums;
          for (size_t k = 0, i = 0; k < here; k += step, i++)
            Kind::multiply(panel + (g * kWordsDeep + k) * kTile, rows + k * kRows, std::min(step, here - k),
                           scales + g * kMost + i * Kind::kScales, more + i * Kind::kMore, sums);
        }
      if (from + here < x.deep) continue;
      for (size_t g = 0; g < groups; g += 2)
        for (size_t s = first; s < last; s++) {
          const float* one = block + (g * (last - first) + s - first) * kTileSums;
          const float* two = one + (last - first) * kTileSums;
          for (size_t r = 0, i = s * kRows; r < kRows && i < p.count; r++, i++)
            finish(p, i, of + g, g + 1 < groups, one + r * kTile, two + r * kTile, x.worth[i]);
        }
    }
  }
}

// `count` groups of one format.
template <class Kind>
void compute(const Product& p, const Group* groups, size_t count) {
  const Packed x = pack<Kind>(p, *groups->matrix);
  const size_t pairs = (count + 1) / 2, step = 2 * std::clamp<size_t>(pairs / 8, 1, kPairs);
  tbb::parallel_for(size_t(0), (count + step - 1) / step, [&](size_t task) {
    const FlushTiny flush;
    if (!stopped(p.stop)) panel_by_strips<Kind>(p, x, groups + task * step, std::min(step, count - task * step));
  });
}

}  // namespace

void by_panels(const Product& p) {
  if (!by_integers(p)) return compute<Floats>(p, p.groups.data(), p.groups.size());
  const auto end = p.groups.end();
  for (auto from = p.groups.begin(); from != end;) {
    const Matrix::Format format = from->matrix->format();
    const auto to = std::find_if(from, end, [=](const Group& g) { return g.matrix->format() != format; });
    const auto multiply = format == Matrix::Format::int8      ? compute<Levels>
                          : registers(*from->matrix) == 2 ? compute<Bytes<2>>
                                                          : compute<Bytes<1>>;
    multiply(p, &*from, to - from);
    from = to;
  }
}

}  // namespace sightline::avx2
