// Pairs of bfloat16, neighbours along k, in the lanes of float32 vectors: what vdpbf16ps multiplies.
#pragma once
#include "simd/storage.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

inline constexpr int kPair = 2;

#if defined(__AVX512BF16__)

// A lane of vdpbf16ps adds two exact products to a float32 sum, one after the other, each rounded to nearest;
// denormals are zero.
struct PairProducts {
  template <class T>
  ARRAYNN_MEMBER static Vec<T> add(Vec<T> a, Vec<T> b, Vec<T> sum) {
    return {(typename Vec<T>::Raw)_mm512_dpbf16_ps((__m512)sum.v, (__m512bh)a.v, (__m512bh)b.v)};
  }
};

ARRAYNN_INLINE __mmask32 low_bits(std::int64_t n) { return n >= 32 ? ~0u : (1u << n) - 1u; }

// n <= 16 elements of 16 bits, one a lane, 0 behind them.
ARRAYNN_INLINE Words load_words(const Bfloat16* p, std::int64_t n) {
  const auto lanes = static_cast<__mmask16>(low_bits(n));
  return (Words)_mm512_maskz_cvtepu16_epi32(lanes, _mm256_maskz_loadu_epi16(lanes, p));
}
// Lanes of pairs from their halves.
ARRAYNN_INLINE Vec<float> join_pairs(Words even, Words odd) {
  return {(Vec<float>::Raw)(even | odd << 16)};
}

// Vectors of an operand: `count` rows or columns of it, k neighbours each, `stride` and `step` elements apart.
struct PairSource {
  const Bfloat16* at;
  std::int64_t stride, step;  // one of them is 1
  std::int64_t count, k;

  // Pairs [p, p + 16) of vector i, and pair p of vectors [i, i + 16); zero beyond count and k.
  ARRAYNN_MEMBER Vec<float> along_k(std::int64_t i, std::int64_t p) const {
    const std::int64_t left = min_i(kPair * kLanes<float>, k - kPair * p);
    return {(Vec<float>::Raw)_mm512_maskz_loadu_epi16(low_bits(left), at + i * stride + kPair * p)};
  }
  ARRAYNN_MEMBER Vec<float> across(std::int64_t i, std::int64_t p) const {
    const std::int64_t lanes = min_i(kLanes<float>, count - i);
    const Bfloat16* first = at + i + kPair * p * step;
    return join_pairs(load_words(first, lanes),
                      kPair * p + 1 < k ? load_words(first + step, lanes) : Words{});
  }
};

#endif

}  // namespace ARRAYNN_ISA_NAMESPACE
