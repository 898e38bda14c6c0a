// Products of a few rows, where memory sets the pace: every weight is read once, in the order it lies.
#include "finish.hpp"

namespace sightline::amx {
namespace {

// Asks for what will be read soon when `rows` rows are read side by side: the same place three times as many rows on.
// Without it two threads read 17 GB/s of 24, because a row ends before the processor has noticed that it is a stream.
inline void ask(const uint8_t* at, size_t rows, const Matrix& w) {
  _mm_prefetch((const char*)at + 3 * rows * w.row_bytes, _MM_HINT_T1);
}

// The same when rows are read one after the other, which is a tenth faster where little is computed: a page on.
inline void ask(const uint8_t* at) { _mm_prefetch((const char*)at + 4096, _MM_HINT_T0); }

// Sums of products of 16 bf16 rows of a group with M vectors of float32; lane r of sums[m] belongs to row r.
template <int M>
void dots(const Group& g, const float* x, __m512 sums[M]) {
  constexpr size_t kTogether = 4;
  const Matrix& w = *g.matrix;
  alignas(64) float out[M][kTile];
  for (size_t from = 0; from < kTile; from += kTogether) {
    __m512 sum[kTogether][M];
    for (size_t r = 0; r < kTogether; r++)
      for (size_t m = 0; m < M; m++) sum[r][m] = _mm512_setzero_ps();
    for (size_t k = 0; k < w.width; k += 16)
      for (size_t r = 0; r < kTogether; r++) {
        const uint8_t* at = w.row(g.row + from + r) + 2 * k;
        if (k % 32 == 0) ask(at, kTogether, w);
        const __m512 values = widen(_mm256_loadu_si256((const __m256i*)at));
        for (size_t m = 0; m < M; m++)
          sum[r][m] = _mm512_fmadd_ps(values, _mm512_loadu_ps(x + m * w.width + k), sum[r][m]);
      }
    for (size_t r = 0; r < kTogether; r++)
      for (size_t m = 0; m < M; m++) out[m][from + r] = _mm512_reduce_add_ps(sum[r][m]);
  }
  for (size_t m = 0; m < M; m++) sums[m] = _mm512_load_ps(out[m]);
}

// The same for rows with 12 bits a value. `x` has of each 32 values the even ones first, as they come apart.
template <int M>
void dots_12(const Group& g, const float* x, const float* plain, __m512 sums[M]) {
  constexpr size_t kTogether = M <= 2 ? 4 : 2;
  const Matrix& w = *g.matrix;
  const __m512i book = book_of(w), upper = _mm512_set1_epi32(int(0xffff0000));
  alignas(64) float out[M][kTile];
  for (size_t from = 0; from < kTile; from += kTogether) {
    __m512 sum[kTogether][M];
    for (size_t r = 0; r < kTogether; r++)
      for (size_t m = 0; m < M; m++) sum[r][m] = _mm512_setzero_ps();
    for (size_t k = 0; k < w.width; k += 128)
      for (size_t r = 0; r < kTogether; r++) {
        const uint8_t* at = w.row(g.row + from + r) + k / 128 * 192;
        for (size_t line = 0; line < 192; line += 64) ask(at + line, kTogether, w);
        __m512i values[4];
        decode(at, book, values);
        for (size_t j = 0; j < 4; j++) {
          const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(values[j], 16));
          const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(values[j], upper));
          for (size_t m = 0; m < M; m++) {
            const float* with = x + m * w.width + k + 32 * j;
            sum[r][m] = _mm512_fmadd_ps(even, _mm512_loadu_ps(with), sum[r][m]);
            sum[r][m] = _mm512_fmadd_ps(odd, _mm512_loadu_ps(with + 16), sum[r][m]);
          }
        }
      }
    for (size_t r = 0; r < kTogether; r++)
      for (size_t m = 0; m < M; m++)
        out[m][from + r] = _mm512_reduce_add_ps(sum[r][m]) + amends(w, g.row + from + r, plain + m * w.width);
  }
  for (size_t m = 0; m < M; m++) sums[m] = _mm512_load_ps(out[m]);
}

// Rows of x in float32.
template <int M>
struct Floats {
  float *x, *apart;  // apart: of each 32 the even values, then the odd ones

  explicit Floats(const Product& p) {
    static thread_local Scratch own;
    x = own.get<float>(2 * M * p.width);
    apart = x + M * p.width;
    for (size_t m = 0; m < M; m++) {
      float* to = x + m * p.width;
      const float* in = row(p, m, to);
      for (size_t k = 0; k < p.width; k += 16) {
        __m512 values = _mm512_loadu_ps(in + k);
        if (p.parts == 1) values = widen((__m256i)_mm512_cvtneps_pbh(values));  // whatever the batch, one answer
        _mm512_storeu_ps(to + k, values);
      }
    }
    if (!p.any(Matrix::Format::bf12)) return;
    for (size_t k = 0; k < M * p.width; k++) apart[k / 32 * 32 + k % 2 * 16 + k % 32 / 2] = x[k];
  }
  void dot(const Group& g, __m512 sums[M]) const {
    if (g.matrix->format() == Matrix::Format::bf16) dots<M>(g, x, sums);
    else dots_12<M>(g, apart, x, sums);
  }
};

// Rows of x as two int8 parts, as the tiles have them. The instruction takes weights without a sign, so they come with
// 8 or 128 on top, and sums begin with what that is too much. int4 levels come apart in each 128 as even and odd ones.
template <int M>
struct Levels {
  const Product& p;
  size_t width;  // of x, filled up with zeros
  int8_t *high, *low, *high_apart, *low_apart;
  int32_t* excess;  // [M][2 parts][16] for int8, then [M][blocks of 128][2 parts][16] for int4
  float scales[M];

  explicit Levels(const Product& product) : p(product), width((p.width + 127) / 128 * 128) {
    static thread_local Scratch bytes, words, floats;
    high = bytes.get<int8_t>(4 * M * width);
    low = high + M * width, high_apart = low + M * width, low_apart = high_apart + M * width;
    excess = words.get<int32_t>(M * (1 + width / 128) * 32);
    float* normal = floats.get<float>(width);
    for (size_t m = 0; m < M; m++) {
      scales[m] = split_levels(row(p, m, normal), p.width, width, high + m * width, low + m * width);
      if (p.any(Matrix::Format::int8)) prepare_int8(m);
      if (p.any(Matrix::Format::int4)) prepare_int4(m);
    }
  }

  void prepare_int8(size_t m) {
    for (size_t part = 0; part < 2; part++) {
      __m512i sum = _mm512_setzero_si512();
      for (size_t k = 0; k < width; k += 64) sum = quads(sum, 1, (part ? low : high) + m * width + k);
      sum = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sum, 7));
      _mm512_storeu_si512(excess + (2 * m + part) * 16, sum);
    }
  }

  void prepare_int4(size_t m) {
    for (size_t k = m * width; k < (m + 1) * width; k++) {
      const size_t apart = k / 128 * 128 + k % 2 * 64 + k % 128 / 2;
      high_apart[apart] = high[k];
      low_apart[apart] = low[k];
    }
    for (size_t part = 0; part < 2; part++)
      for (size_t k = 0; k < width; k += 128) {
        const int8_t* x = (part ? low_apart : high_apart) + m * width + k;
        const __m512i sum = quads(quads(_mm512_setzero_si512(), 8, x), 8, x + 64);
        _mm512_storeu_si512(block(m, k / 128, part), _mm512_sub_epi32(_mm512_setzero_si512(), sum));
      }
  }

  int32_t* block(size_t m, size_t i, size_t part) const {
    return excess + M * 32 + ((m * width / 128 + i) * 2 + part) * 16;
  }
  static __m512i quads(__m512i sum, char weight, const int8_t* x) {
    return _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(weight), _mm512_loadu_si512(x));
  }

  void dot(const Group& g, __m512 sums[M]) const {
    alignas(64) float out[M][kTile];
    for (size_t r = 0; r < kTile; r++)
      if (g.matrix->format() == Matrix::Format::int8) int8_row(g, r, out);
      else int4_row(g, r, out);
    for (size_t m = 0; m < M; m++) sums[m] = _mm512_mul_ps(_mm512_load_ps(out[m]), _mm512_set1_ps(scales[m]));
  }

  void int8_row(const Group& g, size_t r, float out[M][kTile]) const {
    const Matrix& w = *g.matrix;
    __m512i top[M], rest[M];
    for (size_t m = 0; m < M; m++) {
      top[m] = _mm512_loadu_si512(excess + 2 * m * 16);
      rest[m] = _mm512_loadu_si512(excess + (2 * m + 1) * 16);
    }
    const uint8_t* at = w.row(g.row + r);
    const size_t whole = w.width / 64 * 64, left = w.width - whole;
    const auto add = [&](__m512i values, size_t k) {
      const __m512i levels = _mm512_xor_si512(values, _mm512_set1_epi8(char(0x80)));
      for (size_t m = 0; m < M; m++) {
        top[m] = _mm512_dpbusd_epi32(top[m], levels, _mm512_loadu_si512(high + m * width + k));
        rest[m] = _mm512_dpbusd_epi32(rest[m], levels, _mm512_loadu_si512(low + m * width + k));
      }
    };
    for (size_t k = 0; k < whole; k += 64) {
      ask(at + k);
      add(_mm512_loadu_si512(at + k), k);
    }
    if (left) add(_mm512_maskz_loadu_epi8((__mmask64(1) << left) - 1, at + whole), whole);
    for (size_t m = 0; m < M; m++) {
      const __m512 upper = _mm512_mul_ps(_mm512_cvtepi32_ps(top[m]), _mm512_set1_ps(128.0f));
      out[m][r] = _mm512_reduce_add_ps(_mm512_add_ps(upper, _mm512_cvtepi32_ps(rest[m])));
    }
  }

  void int4_row(const Group& g, size_t r, float out[M][kTile]) const {
    const Matrix& w = *g.matrix;
    const size_t group_blocks = w.width / w.groups / 128;
    const __m512i half = _mm512_set1_epi8(15);
    const uint16_t* scales_of_row = w.scales + (g.row + r) * w.groups;
    __m512 sum[M];
    for (size_t m = 0; m < M; m++) sum[m] = _mm512_setzero_ps();
    const uint8_t* at = w.row(g.row + r);
    for (size_t i = 0; i < w.width / 128; i++, at += 64) {
      ask(at);
      const __m512 scale = _mm512_set1_ps(_cvtsh_ss(scales_of_row[i / group_blocks]));
      const __m512i pairs = _mm512_xor_si512(_mm512_loadu_si512(at), _mm512_set1_epi8(char(0x88)));
      const __m512i even = _mm512_and_si512(pairs, half), odd = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), half);
      for (size_t m = 0; m < M; m++) {
        const int8_t *upper = high_apart + m * width + i * 128, *lower = low_apart + m * width + i * 128;
        __m512i top = _mm512_dpbusd_epi32(_mm512_loadu_si512(block(m, i, 0)), even, _mm512_loadu_si512(upper));
        __m512i rest = _mm512_dpbusd_epi32(_mm512_loadu_si512(block(m, i, 1)), even, _mm512_loadu_si512(lower));
        top = _mm512_dpbusd_epi32(top, odd, _mm512_loadu_si512(upper + 64));
        rest = _mm512_dpbusd_epi32(rest, odd, _mm512_loadu_si512(lower + 64));
        const __m512i both = _mm512_add_epi32(_mm512_slli_epi32(top, 7), rest);
        sum[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(both), scale, sum[m]);
      }
    }
    for (size_t m = 0; m < M; m++) out[m][r] = _mm512_reduce_add_ps(sum[m]);
  }
};

template <int M, class Rows>
void few(const Product& p) {
  const FlushTiny flush;
  const Rows rows(p);
  each_pair(p, [&](const Group* pair, bool both) {
    __m512 one[M], two[M];
    rows.dot(pair[0], one);
    if (both) rows.dot(pair[1], two);
    for (size_t m = 0; m < M; m++) {
      const __m512 first = scaled(p, pair[0], one[m]);
      if (both) put_pair(p, m, pair, first, scaled(p, pair[1], two[m]));
      else put(p, m, pair[0], first);
    }
  });
}

template <int M>
void few(const Product& p) {
  p.all_floats() ? few<M, Floats<M>>(p) : few<M, Levels<M>>(p);
}

}  // namespace

bool few_rows(const Product& p) {
  const bool fine = p.all_floats() || p.all_integers(128);
  if (!fine || p.count > (p.all(Matrix::Format::int8) ? 1 : 4)) return false;
  switch (p.count) {
    case 1: few<1>(p); break;
    case 2: few<2>(p); break;
    case 3: few<3>(p); break;
    case 4: few<4>(p); break;
  }
  return true;
}

}  // namespace sightline::amx
