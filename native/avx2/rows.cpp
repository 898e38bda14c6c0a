// Products of a few rows, where memory sets the pace: every weight comes from there once, row by row.
#include <type_traits>

#include "finish.hpp"
#include "nibbles.hpp"

namespace sightline::avx2 {
namespace {

// Rows of x up to which weights are multiplied in the order they lie, with four of the rows at a time. Unfolding integers
// takes an instruction or two; floats, which take more, are from 17 rows on better unfolded once for all.
constexpr size_t kFew = 32, kFewFloats = 16;
constexpr int kTogether = 4;   // rows of x that are multiplied with a weight while it is in a register: more is slower

template <int N>
using Constant = std::integral_constant<int, N>;

inline __m256i load(const void* at) { return _mm256_loadu_si256((const __m256i*)at); }

// R rows of weights that are read side by side, some pages from each other. A core has more lines on their way to it then
// than with one row after the other and asking ahead: 35 instead of 31 GB/s here, 19 with rows that follow each other.
template <int R>
struct Side {
  const Matrix* w[R];
  size_t i[R];    // which row of it
  float* out[R];  // where its sum goes; the next row of x has its own 16 behind it

  // The r-th of each R-th part of the rows of `count` groups, whose sums are `each` apart.
  Side(const Group* groups, size_t count, size_t r, float* sums, size_t each) {
    for (size_t j = 0; j < R; j++) {
      const size_t at = j * count * kTile / R + r, g = at / kTile;
      w[j] = groups[g].matrix, i[j] = groups[g].row + at % kTile, out[j] = sums + g * each + at % kTile;
    }
  }
};

template <int R, class Take>
void side_by_side(const Group* groups, size_t count, float* sums, size_t each, const Take& take) {
  for (size_t r = 0; r < count * kTile / R; r++) take(Side<R>(groups, count, r, sums, each));
}

// How many, with M rows of x, so that all sums stay in registers; fewer where unfolding takes registers, too.
template <int M>
constexpr int kSide = M <= 2 ? 4 : 2;
template <int M>
constexpr int kSideUnfolded = M == 1 ? 4 : 2;

// Rows of x in float32, plain and with, of each 16, the even values first, as bf16 values come apart.
struct Floats {
  float *x, *apart;
  size_t width;
  float level(size_t) const { return 1.0f; }

  explicit Floats(const Product& p) : width(p.width) {
    static thread_local Scratch own;
    x = own.get<float>(2 * p.count * width);
    apart = x + p.count * width;
    for (size_t m = 0; m < p.count; m++) put_row(p, m, x + m * width);
    for (size_t k = 0; k < p.count * width; k++) apart[k / 16 * 16 + k % 2 * 8 + k % 16 / 2] = x[k];
  }

  template <int M>
  void dots(const Group* groups, size_t count, size_t m, float* sums, size_t each) const {
    if (groups->matrix->format() == Matrix::Format::bf16)
      side_by_side<kSide<M>>(groups, count, sums, each, [&](const auto& side) { plain<M>(side, m); });
    else
      side_by_side<kSideUnfolded<M>>(groups, count, sums, each, [&](const auto& side) { coded<M>(side, m); });
  }

  // Sums for M rows of x.
  template <int M>
  struct Sums {
    __m256 even[M], odd[M];
    Sums() {
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) even[m] = odd[m] = _mm256_setzero_ps();
    }
    void add(__m256i values, const float* with, size_t width) {
      const __m256 first = evens(values), second = odds(values);
#pragma GCC unroll 4
      for (size_t m = 0; m < M; m++) {
        even[m] = _mm256_fmadd_ps(first, _mm256_loadu_ps(with + m * width), even[m]);
        odd[m] = _mm256_fmadd_ps(second, _mm256_loadu_ps(with + m * width + kLanes), odd[m]);
      }
    }
    void put(float* out) const {
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) out[m * kTile] = sum_of(_mm256_add_ps(even[m], odd[m]));
    }
  };

  template <int M, int R>
  void plain(const Side<R>& side, size_t m) const {
    const uint8_t* at[R];
    for (size_t j = 0; j < R; j++) at[j] = side.w[j]->row(side.i[j]);
    const float* with = apart + m * width;
    Sums<M> sums[R];
    for (size_t k = 0; k < width; k += 16)
#pragma GCC unroll 4
      for (size_t j = 0; j < R; j++) sums[j].add(load(at[j] + 2 * k), with + k, width);
#pragma GCC unroll 4
    for (size_t j = 0; j < R; j++) sums[j].put(side.out[j]);
  }

  // 12 bits a value, in blocks of 128.
  template <int M, int R>
  void coded(const Side<R>& side, size_t m) const {
    const uint8_t* at[R];
    __m256i book[R];
    for (size_t j = 0; j < R; j++) {
      at[j] = side.w[j]->row(side.i[j]);
      book[j] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)side.w[j]->scales));
    }
    const __m256i nibble = _mm256_set1_epi8(15);
    const float* with = apart + m * width;
    Sums<M> sums[R];
    for (size_t k = 0, byte = 0; k < width; k += 128, byte += 192)
      for (size_t c = 0; c < 2; c++)
#pragma GCC unroll 4
        for (size_t j = 0; j < R; j++) {
          const uint8_t* block = at[j] + byte + 32 * c;
          __m256i codes = load(block + 128);
          for (size_t half = 0; half < 2; half++, codes = _mm256_srli_epi16(codes, 4)) {
            const __m256i low = load(block + 64 * half);
            const __m256i high = _mm256_shuffle_epi8(book[j], _mm256_and_si256(codes, nibble));
            const float* here = with + k + 64 * half + 16 * c;
            sums[j].add(_mm256_unpacklo_epi8(low, high), here, width);
            sums[j].add(_mm256_unpackhi_epi8(low, high), here + 32, width);
          }
        }
#pragma GCC unroll 4
    for (size_t j = 0; j < R; j++) {
      sums[j].put(side.out[j]);
      for (size_t n = 0; n < M; n++) side.out[j][n * kTile] += amends(*side.w[j], side.i[j], x + (m + n) * width);
    }
  }
};

// Rows of x for weights that are integers: as levels of 15 bits for int8, so that sums are exact, and as bytes for int4.
struct Levels {
  int16_t* x;
  float* worth;
  uint8_t* bytes_ = nullptr;  // of the rows that are multiplied together one block each, then the next
  float* eights_ = nullptr;
  size_t width, row_bytes = 0, eights = 0;  // of one row
  float level(size_t m) const { return worth[m]; }

  explicit Levels(const Product& p) : width(p.width) {
    static thread_local Scratch words, floats, bytes, shares;
    worth = floats.get<float>(kFew + width);
    x = words.get<int16_t>(p.count * width);
    const auto w = std::find_if(p.matrices.begin(), p.matrices.end(),
                                [](const Matrix& each) { return each.format() == Matrix::Format::int4; });
    const bool four = w != p.matrices.end(), eight = p.any(Matrix::Format::int8);
    if (four) {
      row_bytes = ByteRow::blocks(*w) * ByteRow::bytes(*w), eights = ByteRow::eights(*w);
      bytes_ = bytes.get<uint8_t>(p.count * row_bytes);
      eights_ = shares.get<float>(p.count * eights);
    }
    for (size_t m = 0; m < p.count; m++) {
      const float* values = row(p, m, worth + kFew);
      if (eight) worth[m] = to_levels(values, width, x + m * width);
      if (!four) continue;
      const size_t first = m / kTogether * kTogether, together = std::min<size_t>(kTogether, p.count - first);
      const size_t block = ByteRow::bytes(*w);
      ByteRow::put(values, *w, bytes_ + first * row_bytes + (m - first) * block, together * block, eights_ + m * eights);
    }
  }

  template <int M>
  void dots(const Group* groups, size_t count, size_t m, float* sums, size_t each) const {
    const Matrix& w = *groups->matrix;
    if (w.format() == Matrix::Format::int8) return bytes<M>(groups, count, m, sums, each);
    const auto take = [&](auto registers, auto halves) {
      side_by_side<kSideUnfolded<M>>(groups, count, sums, each, [&](const auto& side) {
        nibbles<M, registers(), halves()>(side, m);
      });
    };
    if (registers(w) == 2) take(Constant<2>(), Constant<0>());
    else if (ByteRow::groups(w) == 1) take(Constant<1>(), Constant<0>());
    else take(Constant<1>(), Constant<1>());
  }

  // In blocks of a row, so that what they are multiplied with stays in the first-level cache for all rows of the groups,
  // and so that products fit into 32 bits however large they are: 8192 do.
  template <int M>
  void bytes(const Group* groups, size_t count, size_t m, float* sums, size_t each) const {
    constexpr size_t kBlock = 8192 / M / kTile * kTile;
    for (size_t from = 0; from < width; from += kBlock) {
      const size_t end = std::min(width, from + kBlock);
      side_by_side<kSide<M>>(groups, count, sums, each, [&](const auto& side) { add<M>(side, m, from, end); });
    }
  }

  template <int M, int R>
  void add(const Side<R>& side, size_t m, size_t from, size_t end) const {
    const uint8_t* at[R];
    for (size_t j = 0; j < R; j++) at[j] = side.w[j]->row(side.i[j]);
    const int16_t* with = x + m * width;
    __m256i sums[R][M];
#pragma GCC unroll 4
    for (int j = 0; j < R; j++)
#pragma GCC unroll 4
      for (int n = 0; n < M; n++) sums[j][n] = _mm256_setzero_si256();
#pragma GCC unroll 4
    for (size_t k = from; k < end; k += 16)
#pragma GCC unroll 4
      for (size_t j = 0; j < R; j++) {
        const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(at[j] + k)));
#pragma GCC unroll 4
        for (size_t n = 0; n < M; n++)
          sums[j][n] = _mm256_add_epi32(sums[j][n], _mm256_madd_epi16(weights, load(with + n * width + k)));
      }
#pragma GCC unroll 4
    for (int j = 0; j < R; j++)
#pragma GCC unroll 4
      for (int n = 0; n < M; n++) {
        float& out = side.out[j][n * kTile];
        const float sum = sum_of(_mm256_cvtepi32_ps(sums[j][n]));
        out = from ? out + sum : sum;
      }
  }

  // Scales of one row in float32, filled up with zeros.
  void scales_of(const Matrix& w, size_t i, float* out) const {
    const uint16_t* in = w.scales + i * w.groups;
    size_t k = 0;
    for (; k + kLanes <= w.groups; k += kLanes)
      _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(in + k))));
    for (; k < eights; k++) out[k] = k < w.groups ? _cvtsh_ss(in[k]) : 0.0f;
  }

  // B registers of weights to a block; with Halves each half of one has its own scale.
  template <int M, int B, bool Halves, int R>
  void nibbles(const Side<R>& side, size_t m) const {
    static thread_local Scratch own;
    float* all = own.get<float>(R * eights);
    const uint8_t* at[R];
    const float* own_scales[R];
    __m256 total[R][M];
#pragma GCC unroll 4
    for (int j = 0; j < R; j++) {
      at[j] = side.w[j]->row(side.i[j]);
      own_scales[j] = all + j * eights;
      scales_of(*side.w[j], side.i[j], all + j * eights);
#pragma GCC unroll 4
      for (int n = 0; n < M; n++) total[j][n] = _mm256_setzero_ps();
    }
    for (size_t g = 0; g < eights; g += kLanes)
#pragma GCC unroll 4
      for (int j = 0; j < R; j++)
#pragma GCC unroll 4
        for (int n = 0; n < M; n++)
          total[j][n] = _mm256_fnmadd_ps(_mm256_loadu_ps(own_scales[j] + g),
                                         _mm256_loadu_ps(eights_ + (m + n) * eights + g), total[j][n]);
    const __m256i ones = _mm256_set1_epi16(1);
    constexpr size_t kDeep = B * kNibbles, kBytes = kDeep + kLanes * sizeof(float);
    const uint8_t* with = bytes_ + m * row_bytes;
    for (size_t byte = 0, b = 0; byte < width / 2; byte += kDeep / 2, b++, with += M * kBytes)
#pragma GCC unroll 4
      for (int j = 0; j < R; j++) {
        __m256i sums[M];
#pragma GCC unroll 2
        for (int part = 0; part < B; part++) {
          const Nibbles weights(at[j] + byte + part * (kNibbles / 2));
#pragma GCC unroll 4
          for (size_t n = 0; n < M; n++) {
            const uint8_t* levels = with + n * kBytes + part * kNibbles;
            const __m256i pairs = weights.products(levels);
            sums[n] = part ? _mm256_add_epi16(sums[n], pairs) : pairs;
          }
        }
        __m256 scale = _mm256_broadcast_ss(own_scales[j] + (Halves ? 2 * b : b));
        if (Halves) scale = _mm256_blend_ps(scale, _mm256_broadcast_ss(own_scales[j] + 2 * b + 1), 0xf0);
#pragma GCC unroll 4
        for (size_t n = 0; n < M; n++) {
          const __m256 share = _mm256_mul_ps(scale, _mm256_loadu_ps((const float*)(with + n * kBytes + kDeep)));
          total[j][n] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(sums[n], ones)), share, total[j][n]);
        }
      }
#pragma GCC unroll 4
    for (int j = 0; j < R; j++)
#pragma GCC unroll 4
      for (int n = 0; n < M; n++) side.out[j][n * kTile] = sum_of(total[j][n]);
  }
};

// Sums [groups][kFew][16] of `count` rows of x from m on with the 16 rows of each group.
template <class Rows, int M = kTogether>
void dots(const Rows& rows, const Group* groups, size_t many, size_t m, size_t count, float* sums) {
  for (; count >= M; count -= M, m += M, sums += M * kTile)
    rows.template dots<M>(groups, many, m, sums, kFew * kTile);
  if constexpr (M > 1)
    if (count) dots<Rows, M - 1>(rows, groups, many, m, count, sums);
}

template <class Rows>
void few(const Product& p) {
  const FlushTiny flush;
  const Rows rows(p);
  each_pair(p, [&](const Group* pair, bool both) {
    float sums[2][kFew * kTile];
    const bool alike = both && pair[0].matrix->row_bytes == pair[1].matrix->row_bytes;
    dots(rows, pair, alike ? 2 : 1, 0, p.count, sums[0]);
    if (both && !alike) dots(rows, pair + 1, 1, 0, p.count, sums[1]);
    for (size_t m = 0; m < p.count; m++)
      finish(p, m, pair, both, sums[0] + m * kTile, sums[1] + m * kTile, rows.level(m));
  });
}

// False where it cannot.
bool few_rows(const Product& p) {
  if (p.count > (p.all_floats() ? kFewFloats : kFew)) return false;
  if (p.all_floats()) few<Floats>(p);
  else if (by_integers(p)) few<Levels>(p);
  else return false;
  return true;
}

}  // namespace

void compute(const Product& p) {
  if (p.count && !few_rows(p)) by_panels(p);
}

}  // namespace sightline::avx2
