// Products of a few rows, where memory sets the pace: every weight comes from there once, in the order it lies.
#include "finish.hpp"

namespace sightline::avx2 {
namespace {

// Rows of x up to which weights are multiplied in the order they lie, with four of the rows at a time. One instruction
// unfolds int8; what takes more is from 17 rows on better unfolded once for all.
constexpr size_t kFew = 32, kFewUnfolded = 16;
constexpr size_t kWords = 64;  // int4 levels in a register
constexpr int kTogether = 4;  // rows of x that are multiplied with a weight while it is in a register: more is slower

// How far ahead to ask for what will be read: of 512 to 8192 bytes, here two threads read nearly all that memory gives.
constexpr size_t kAhead = 1536;
inline void ask(const uint8_t* at, size_t ahead = kAhead) { _mm_prefetch((const char*)at + ahead, _MM_HINT_T0); }

inline __m256i load(const void* at) { return _mm256_loadu_si256((const __m256i*)at); }

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
  void dots(const Matrix& w, size_t first, size_t m, float* out) const {
    for (size_t r = 0; r < kTile; r++)
      w.format() == Matrix::Format::bf16 ? plain<M>(w, first + r, m, out + r) : coded<M>(w, first + r, m, out + r);
  }

  // Sums for M rows of x. Two of these take turns where registers allow, so that no sum waits for the one before.
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
    void put(const Sums& more, float* out) const {
#pragma GCC unroll 4
      for (int m = 0; m < M; m++) {
        const __m256 both = _mm256_add_ps(_mm256_add_ps(even[m], odd[m]), _mm256_add_ps(more.even[m], more.odd[m]));
        out[m * kTile] = sum_of(both);
      }
    }
  };

  template <int M>
  void plain(const Matrix& w, size_t i, size_t m, float* out) const {
    const uint8_t* at = w.row(i);
    const float* with = apart + m * width;
    Sums<M> sums, more, &other = M > 2 ? sums : more;
    size_t k = 0;
    for (; k + 32 <= width; k += 32) {
      ask(at + 2 * k);
      sums.add(load(at + 2 * k), with + k, width);
      other.add(load(at + 2 * k + 32), with + k + 16, width);
    }
    if (k < width) sums.add(load(at + 2 * k), with + k, width);
    sums.put(more, out);
  }

  // 12 bits a value, in blocks of 128.
  template <int M>
  void coded(const Matrix& w, size_t i, size_t m, float* out) const {
    const __m256i book = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)w.scales));
    const __m256i nibble = _mm256_set1_epi8(15);
    const float* with = apart + m * width;
    Sums<M> sums, more, &other = M > 2 ? sums : more;
    const uint8_t* at = w.row(i);
    for (size_t k = 0; k < width; k += 128, at += 192) {
      for (size_t line = 0; line < 192; line += 64) ask(at + line);
      for (size_t c = 0; c < 2; c++) {
        __m256i codes = load(at + 128 + 32 * c);
        for (size_t half = 0; half < 2; half++, codes = _mm256_srli_epi16(codes, 4)) {
          const __m256i low = load(at + 64 * half + 32 * c);
          const __m256i high = _mm256_shuffle_epi8(book, _mm256_and_si256(codes, nibble));
          const float* here = with + k + 64 * half + 16 * c;
          sums.add(_mm256_unpacklo_epi8(low, high), here, width);
          other.add(_mm256_unpackhi_epi8(low, high), here + 32, width);
        }
      }
    }
    sums.put(more, out);
#pragma GCC unroll 4
    for (int j = 0; j < M; j++) out[j * kTile] += amends(w, i, x + (m + j) * width);
  }
};

// Rows of x as levels of 15 bits, so that sums are exact: plain for int8, and for int4, of each 64, those first that
// meet the lowest four bits of the 16 words that hold 64 weights, then those that meet the next four, and so on.
struct Levels {
  int16_t *x, *apart;
  float* worth;
  size_t width;
  float level(size_t m) const { return worth[m]; }

  explicit Levels(const Product& p) : width(p.width) {
    static thread_local Scratch words, floats;
    x = words.get<int16_t>(2 * p.count * width);
    apart = x + p.count * width;
    worth = floats.get<float>(kFew + width);
    for (size_t m = 0; m < p.count; m++) worth[m] = to_levels(row(p, m, worth + kFew), width, x + m * width);
    if (!p.any(Matrix::Format::int4)) return;
    for (size_t k = 0; k < p.count * width; k++) apart[k / 64 * 64 + k % 4 * 16 + k % 64 / 4] = x[k];
  }

  template <int M>
  void dots(const Matrix& w, size_t first, size_t m, float* out) const {
    if (w.format() == Matrix::Format::int8) return bytes<M>(w, first, m, out);
    for (size_t r = 0; r < kTile; r++) nibbles<M>(w, first + r, m, out + r);
  }

  // In blocks of a row, so that what they are multiplied with stays in the first-level cache for all 16 rows.
  template <int M>
  void bytes(const Matrix& w, size_t first, size_t m, float* out) const {
    constexpr size_t kBlock = 8192 / M / 64 * 64;  // so many products fit into 32 bits, however large
    const size_t ahead = width <= kBlock ? kAhead : w.row_bytes;
    for (size_t from = 0; from < width; from += kBlock)
      for (size_t r = 0; r < kTile; r++) {
        const size_t end = std::min(width, from + kBlock);
        const uint8_t* at = w.row(first + r);
        const int16_t* with = x + m * width;
        __m256i sums[M], more[M];
#pragma GCC unroll 4
        for (int j = 0; j < M; j++) sums[j] = more[j] = _mm256_setzero_si256();
        size_t k = from;
        for (; k + 64 <= end; k += 64) {
          ask(at + k, ahead);
          for (size_t part = 0; part < 64; part += 32) {
            add<M>(sums, at + k + part, with + k + part);
            add<M>(more, at + k + part + 16, with + k + part + 16);
          }
        }
        for (; k < end; k += 16) add<M>(sums, at + k, with + k);
#pragma GCC unroll 4
        for (int j = 0; j < M; j++) {
          const float sum = sum_of(_mm256_cvtepi32_ps(_mm256_add_epi32(sums[j], more[j])));
          out[j * kTile + r] = from ? out[j * kTile + r] + sum : sum;
        }
      }
  }
  template <int M>
  void add(__m256i* sums, const uint8_t* at, const int16_t* with) const {
    const __m256i weights = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)at));
#pragma GCC unroll 4
    for (size_t j = 0; j < M; j++)
      sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(weights, load(with + j * width)));
  }

  static const float* scales_of(const Matrix& w, size_t i) {
    static thread_local Scratch own;
    float* out = own.get<float>(w.groups + kLanes);
    const uint16_t* in = w.scales + i * w.groups;
    size_t k = 0;
    for (; k + kLanes <= w.groups; k += kLanes)
      _mm256_storeu_ps(out + k, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(in + k))));
    for (; k < w.groups; k++) out[k] = _cvtsh_ss(in[k]);
    return out;
  }

  template <int M>
  void nibbles(const Matrix& w, size_t i, size_t m, float* out) const {
    const size_t group = w.width / w.groups, blocks = std::max<size_t>(1, group / kWords);
    const float* scales = scales_of(w, i);
    const uint8_t* at = w.row(i);
    const int16_t* with = apart + m * width;
    __m256 total[M];
#pragma GCC unroll 4
    for (int j = 0; j < M; j++) total[j] = _mm256_setzero_ps();
    for (size_t k = 0; k < width;) {
      __m256i sums[M];
#pragma GCC unroll 4
      for (int j = 0; j < M; j++) sums[j] = _mm256_setzero_si256();
      const size_t end = k + blocks * kWords;
      const size_t first = k / group;
      for (; k < end; k += kWords) {
        if (k % 128 == 0) ask(at + k / 2);
        const __m256i words = load(at + k / 2);
        const __m256i levels[4] = {_mm256_srai_epi16(_mm256_slli_epi16(words, 12), 12),
                                   _mm256_srai_epi16(_mm256_slli_epi16(words, 8), 12),
                                   _mm256_srai_epi16(_mm256_slli_epi16(words, 4), 12), _mm256_srai_epi16(words, 12)};
#pragma GCC unroll 4
        for (size_t j = 0; j < M; j++)
#pragma GCC unroll 4
          for (size_t part = 0; part < 4; part++) {
            const __m256i values = load(with + j * width + k + part * 16);
            sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(levels[part], values));
          }
      }
      __m256 scale = _mm256_broadcast_ss(scales + first);
      if (group < kWords) scale = _mm256_blend_ps(scale, _mm256_broadcast_ss(scales + first + 1), 0xf0);
#pragma GCC unroll 4
      for (int j = 0; j < M; j++) total[j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[j]), scale, total[j]);
    }
#pragma GCC unroll 4
    for (int j = 0; j < M; j++) out[j * kTile] = sum_of(total[j]);
  }
};

// Sums [count][16] of `count` rows of x from m on with the 16 rows of a group.
template <class Rows, int M = kTogether>
void dots(const Rows& rows, const Group& g, size_t m, size_t count, float* sums) {
  for (; count >= M; count -= M, m += M, sums += M * kTile) rows.template dots<M>(*g.matrix, g.row, m, sums);
  if constexpr (M > 1)
    if (count) dots<Rows, M - 1>(rows, g, m, count, sums);
}

template <class Rows>
void few(const Product& p) {
  const FlushTiny flush;
  const Rows rows(p);
  each_pair(p, [&](const Group* pair, bool both) {
    float sums[2][kFew * kTile];
    for (size_t i = 0; i < (both ? 2 : 1); i++) dots(rows, pair[i], 0, p.count, sums[i]);
    for (size_t m = 0; m < p.count; m++)
      finish(p, m, pair, both, sums[0] + m * kTile, sums[1] + m * kTile, rows.level(m));
  });
}

// False where it cannot.
bool few_rows(const Product& p) {
  if (p.count > (p.all(Matrix::Format::int8) ? kFew : kFewUnfolded)) return false;
  const auto halves = [&] {  // whether a group of int4 levels is all of a register, or half of it
    return std::all_of(p.matrices.begin(), p.matrices.end(), [](const Matrix& w) {
      const size_t group = w.format() == Matrix::Format::int4 ? w.width / w.groups : kWords;
      return group % kWords == 0 || 2 * group == kWords;
    });
  };
  if (p.all_floats()) few<Floats>(p);
  else if (p.all(Matrix::Format::int8) || (p.all_integers(1) && p.width % kWords == 0 && halves())) few<Levels>(p);
  else return false;
  return true;
}

}  // namespace

void compute(const Product& p) {
  if (p.count && !few_rows(p)) by_panels(p);
}

}  // namespace sightline::avx2
