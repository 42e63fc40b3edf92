// Philox4x32-10 on as many counters at once as a vector has 64-bit lanes.
#pragma once
#include "core/philox.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

inline constexpr int kPhiloxCounters = kVecBytes / 8;
inline constexpr int kPhiloxWords = 4 * kPhiloxCounters;

typedef std::uint64_t PhiloxVec __attribute__((vector_size(kVecBytes)));

// Products of the low halves of the lanes.
ARRAYNN_INLINE PhiloxVec multiply_low(PhiloxVec a, PhiloxVec b) {
#if defined(__AVX512F__)
  // The masked form: GCC 12 warns that the plain one reads its undefined operand.
  return (PhiloxVec)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (PhiloxVec)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (PhiloxVec)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

// The words of kPhiloxCounters counters in order, four per counter.
struct PhiloxOutput {
  PhiloxVec half[2];
};

// The words from each of kN counters on. A round waits for the one before it, so what several streams
// need goes through side by side: the processor does not look far enough ahead to do so by itself.
template <int kN>
ARRAYNN_INLINE void philox(const std::uint64_t (&first)[kN], PhiloxKey key,
                           PhiloxOutput (&out)[kN]) {
  // Only the low half of a lane counts; what the rounds leave in the upper halves is ignored.
  const PhiloxVec m0 = PhiloxVec{} + kPhiloxM0, m1 = PhiloxVec{} + kPhiloxM1;
  PhiloxVec step{}, c0[kN], c1[kN], c2[kN], c3[kN];
  for (int i = 0; i < kPhiloxCounters; ++i) step[i] = static_cast<std::uint64_t>(i);
  // The first round, whose c2 and c3 are 0.
  ARRAYNN_UNROLL
  for (int n = 0; n < kN; ++n) {
    const PhiloxVec index = step + first[n];
    c3[n] = multiply_low(index, m0);
    c0[n] = (index >> 32) ^ (PhiloxVec{} + key.k0);
    c2[n] = (c3[n] >> 32) ^ (PhiloxVec{} + key.k1);
    c1[n] = PhiloxVec{};
  }
  ARRAYNN_UNROLL
  for (int round = 1; round < kPhiloxRounds; ++round) {
    key.k0 += kPhiloxW0;
    key.k1 += kPhiloxW1;
    ARRAYNN_UNROLL
    for (int n = 0; n < kN; ++n) {
      const PhiloxVec p0 = multiply_low(c0[n], m0), p1 = multiply_low(c2[n], m1);
      c0[n] = (p1 >> 32) ^ c1[n] ^ (PhiloxVec{} + key.k0);
      c2[n] = (p0 >> 32) ^ c3[n] ^ (PhiloxVec{} + key.k1);
      c1[n] = p1;
      c3[n] = p0;
    }
  }
  const PhiloxVec low = PhiloxVec{} + 0xFFFFFFFFu;
  ARRAYNN_UNROLL
  for (int n = 0; n < kN; ++n) {
    const PhiloxVec front = (c0[n] & low) | (c1[n] << 32), back = (c2[n] & low) | (c3[n] << 32);
#if defined(__AVX512F__)
    out[n] = {{__builtin_shufflevector(front, back, 0, 8, 1, 9, 2, 10, 3, 11),
               __builtin_shufflevector(front, back, 4, 12, 5, 13, 6, 14, 7, 15)}};
#elif defined(__AVX2__)
    out[n] = {{__builtin_shufflevector(front, back, 0, 4, 1, 5),
               __builtin_shufflevector(front, back, 2, 6, 3, 7)}};
#else
    out[n] = {
        {__builtin_shufflevector(front, back, 0, 2), __builtin_shufflevector(front, back, 1, 3)}};
#endif
  }
}

// The words of counters first, first + 1, ...
ARRAYNN_INLINE void philox_words(std::uint64_t first, PhiloxKey key, std::uint32_t* words) {
  PhiloxOutput out[1];
  philox({first}, key, out);
  // A copy: the words are read one by one, which a store of 64-bit lanes may not be moved past.
  __builtin_memcpy(words, out[0].half, sizeof out[0].half);
}

// Bit i says whether lane i is at least the threshold, of 32-bit lanes.
ARRAYNN_INLINE std::uint32_t bits_at_least(PhiloxVec words, std::uint32_t threshold) {
#if defined(__AVX512F__)
  return _mm512_cmpge_epu32_mask((__m512i)words, _mm512_set1_epi32(static_cast<int>(threshold)));
#else
  typedef std::uint32_t Words __attribute__((vector_size(kVecBytes)));
  const auto keep = reinterpret_cast<Words>(words) >= threshold;
#if defined(__AVX2__)
  return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)keep));
#elif defined(__SSE2__)
  return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)keep));
#else
  std::uint32_t bits = 0;
  for (int i = 0; i < kVecBytes / 4; ++i) bits |= keep[i] != 0 ? 1u << i : 0u;
  return bits;
#endif
#endif
}

// Bit i of bits[n] says whether word i from counter first[n] on, of 32, is at least the threshold.
template <int kN>
ARRAYNN_INLINE void philox_bits(const std::uint64_t (&first)[kN], PhiloxKey key,
                                std::uint32_t threshold, std::uint32_t (&bits)[kN]) {
  for (int n = 0; n < kN; ++n) bits[n] = 0;
  for (int w = 0; w < 32; w += kPhiloxWords) {
    std::uint64_t at[kN];
    for (int n = 0; n < kN; ++n) at[n] = first[n] + static_cast<std::uint64_t>(w / 4);
    PhiloxOutput out[kN];
    philox(at, key, out);
    for (int n = 0; n < kN; ++n) {
      bits[n] |= bits_at_least(out[n].half[0], threshold) << w;
      bits[n] |= bits_at_least(out[n].half[1], threshold) << (w + kPhiloxWords / 2);
    }
  }
}

// The lanes whose word is at least the threshold.
template <class T>
ARRAYNN_INLINE Mask<T> kept(const std::uint32_t* words, std::uint32_t threshold) {
  typedef std::uint32_t Words __attribute__((vector_size(kLanes<T> * 4), aligned(4), may_alias));
  typedef std::int32_t Bits __attribute__((vector_size(kLanes<T> * 4)));
  const Words w = *reinterpret_cast<const Words*>(words);
  const Bits keep = w >= threshold;
  if constexpr (sizeof(T) == 4) {
    return {keep};
  } else {
    return {__builtin_convertvector(keep, typename Vec<T>::RawInt)};
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
