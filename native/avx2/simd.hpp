// The instructions the kernels stand on where there are no tiles: AVX2, FMA and F16C. Knows no model.
#pragma once

#include "../matrix.hpp"

namespace sightline::avx2 {

constexpr size_t kLanes = 8;  // float32 values in a register
constexpr size_t kRows = 6;   // rows of x that are multiplied together: with 16 weight rows, twelve registers of sums

// 16 float32 values, one for each row of a group.
struct Sixteen {
  __m256 low, high;

  static Sixteen all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Sixteen load(const float* at) { return {_mm256_loadu_ps(at), _mm256_loadu_ps(at + kLanes)}; }
  static Sixteen halves(const uint16_t* at) {  // from float16
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)at)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(at + kLanes)))};
  }
  void store(float* at) const {
    _mm256_storeu_ps(at, low);
    _mm256_storeu_ps(at + kLanes, high);
  }
};
inline Sixteen operator+(Sixteen a, Sixteen b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Sixteen operator*(Sixteen a, Sixteen b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }

inline float sum_of(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float largest_of(__m256 v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

// 16 bf16 values as float32: those at even places, then those at odd ones.
inline __m256 evens(__m256i bf16) { return _mm256_castsi256_ps(_mm256_slli_epi32(bf16, 16)); }
inline __m256 odds(__m256i bf16) {
  return _mm256_castsi256_ps(_mm256_and_si256(bf16, _mm256_set1_epi32(int(0xffff0000))));
}

// e^x within 2 ulp (Cephes expf), not below e^-87: range reduction by ln 2 in two pieces, a polynomial of degree six.
inline __m256 exp(__m256 x) {
  x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.3f)), _mm256_set1_ps(88.3f));
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341f)), 8);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
  __m256 p = _mm256_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
  p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

// 2^x within 1.1e-4 of itself, not below 2^-126: a cubic for what rounding x to an integer leaves.
inline __m256 rough_exp2(__m256 x) {
  x = _mm256_max_ps(x, _mm256_set1_ps(-126.0f));
  const __m256 n = _mm256_round_ps(x, 8), r = _mm256_sub_ps(x, n);
  __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(0.05517166f), r, _mm256_set1_ps(0.24261112f));
  p = _mm256_fmadd_ps(_mm256_fmadd_ps(p, r, _mm256_set1_ps(0.69326099f)), r, _mm256_set1_ps(0.99992807f));
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}

// x * sigmoid(x)
inline __m256 silu(__m256 x) {
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp(_mm256_sub_ps(_mm256_setzero_ps(), x))));
}

// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), written as x * sigmoid of twice the argument
inline __m256 gelu_tanh(__m256 x) {
  const __m256 cube = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
  const __m256 u = _mm256_mul_ps(_mm256_set1_ps(-1.5957691216057308f),
                                 _mm256_fmadd_ps(cube, _mm256_set1_ps(0.044715f), x));
  return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), exp(u)));
}

// Eight rows of eight 32-bit words, each `stride` words behind the one before, become columns of `out`, 16 words apart.
inline void transpose(const uint32_t* in, size_t stride, uint32_t* out) {
  __m256 r[8], t[8];
  for (size_t i = 0; i < 8; i++) r[i] = _mm256_loadu_ps((const float*)(in + i * stride));
  for (size_t i = 0; i < 4; i++) {
    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
  for (size_t i = 0; i < 2; i++) {
    r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  for (size_t i = 0; i < 4; i++) {
    _mm256_storeu_ps((float*)(out + i * kTile), _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
    _mm256_storeu_ps((float*)(out + (i + 4) * kTile), _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
  }
}

// Products of kRows rows of x, `stride` apart, with 16 weight rows [depth][16], put into (when `fresh`) or added to 16
// `sums` of each row, `next` apart. Value k of row r of x is at r * stride + k * step.
inline void multiply(const float* w, const float* x, size_t stride, size_t step, size_t depth, bool fresh, float* sums,
                     size_t next) {
  __m256 low[kRows], high[kRows];
#pragma GCC unroll 6
  for (size_t r = 0; r < kRows; r++) {
    low[r] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(sums + r * next);
    high[r] = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(sums + r * next + kLanes);
  }
  for (size_t k = 0; k < depth; k++, w += kTile, x += step) {
    const __m256 first = _mm256_loadu_ps(w), second = _mm256_loadu_ps(w + kLanes);
#pragma GCC unroll 6
    for (size_t r = 0; r < kRows; r++) {
      const __m256 value = _mm256_broadcast_ss(x + r * stride);
      low[r] = _mm256_fmadd_ps(value, first, low[r]);
      high[r] = _mm256_fmadd_ps(value, second, high[r]);
    }
  }
#pragma GCC unroll 6
  for (size_t r = 0; r < kRows; r++) {
    _mm256_storeu_ps(sums + r * next, low[r]);
    _mm256_storeu_ps(sums + r * next + kLanes, high[r]);
  }
}

}  // namespace sightline::avx2
