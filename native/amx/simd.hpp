// The instructions the kernels stand on: AMX tiles of bf16, AVX-512 for everything around them. Knows no model.
#pragma once

#include <initializer_list>

#include "../matrix.hpp"

namespace sightline::amx {

// kTile is also the rows of a tile, and the float32 values or bf16 pairs in one of its rows.
constexpr size_t kDepth = 32;      // bf16 values in a row of a tile
constexpr size_t kLevels = 64;     // int8 values in a row of a tile
constexpr size_t kTileWords = 256; // 32-bit words in a tile

// As long as it lives, the calling thread's tiles have 16 rows of 64 bytes.
class Tiles {
 public:
  Tiles() { _tile_loadconfig(&config()); }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

 private:
  struct alignas(64) Config {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  FlushTiny flush_;

  static const Config& config() {
    static const Config all = [] {
      Config c;
      for (int i = 0; i < 8; i++) c.row_bytes[i] = 64, c.rows[i] = kTile;
      return c;
    }();
    return all;
  }
};

inline __mmask16 first(size_t count) { return count >= 16 ? 0xffff : __mmask16((1u << count) - 1); }

// 16 bf16 values as float32.
inline __m512 widen(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }

// Two vectors of float32 as 32 bf16 values in order, rounded to the nearest. `rest`: what rounding took away.
inline __m512i narrow(__m512& a, __m512& b, bool rest) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
  if (rest) {
    a = _mm512_sub_ps(a, widen(_mm512_castsi512_si256(both)));
    b = _mm512_sub_ps(b, widen(_mm512_extracti64x4_epi64(both, 1)));
  }
  return both;
}

// Rows become columns: 16 vectors of 16 words.
inline void transpose(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; i++) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Packs 16 rows of float32 as right-hand tiles: [depth blocks][parts] tiles of 16 pairs by 16 rows, zero padded.
// With three parts a value is the sum of its bf16 parts to 24 bits, which is all that float32 holds.
inline void pack_columns(const float* const rows[kTile], size_t depth, size_t parts, uint32_t* out) {
  __m512i words[3][kTile];
  for (size_t at = 0; at < depth; at += kDepth) {
    const __mmask16 low = first(depth - at), high = depth - at > 16 ? first(depth - at - 16) : 0;
    for (size_t r = 0; r < kTile; r++) {
      __m512 a = _mm512_setzero_ps(), b = a;
      if (rows[r]) {
        a = _mm512_maskz_loadu_ps(low, rows[r] + at);
        b = _mm512_maskz_loadu_ps(high, rows[r] + at + 16);
      }
      for (size_t p = 0; p < parts; p++) words[p][r] = narrow(a, b, p + 1 < parts);
    }
    for (size_t p = 0; p < parts; p++, out += kTileWords) {
      transpose(words[p]);
      for (size_t i = 0; i < kTile; i++) _mm512_storeu_si512(out + i * 16, words[p][i]);
    }
  }
}

// e^x within 2 ulp (Cephes expf): range reduction by ln 2 in two pieces and a polynomial of degree six.
inline __m512 exp(__m512 x) {
  x = _mm512_min_ps(_mm512_max_ps(x, _mm512_set1_ps(-103.0f)), _mm512_set1_ps(88.7f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// 2^x within 1.1e-4 of itself: a cubic for what rounding x to an integer leaves.
inline __m512 rough_exp2(__m512 x) {
  const __m512 n = _mm512_roundscale_ps(x, 0), r = _mm512_sub_ps(x, n);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0.05517166f), r, _mm512_set1_ps(0.24261112f));
  p = _mm512_fmadd_ps(_mm512_fmadd_ps(p, r, _mm512_set1_ps(0.69326099f)), r, _mm512_set1_ps(0.99992807f));
  return _mm512_scalef_ps(p, n);
}

// x * sigmoid(x)
inline __m512 silu(__m512 x) {
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp(_mm512_sub_ps(_mm512_setzero_ps(), x))));
}

// x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))), written as x * sigmoid of twice the argument
inline __m512 gelu_tanh(__m512 x) {
  const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
  const __m512 u = _mm512_mul_ps(_mm512_set1_ps(-1.5957691216057308f),
                                 _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x));
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exp(u)));
}

}  // namespace sightline::amx
