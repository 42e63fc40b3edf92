// Runs of results, stored in the caches or past them: see core/stream.hpp.
#pragma once
#include "core/stream.hpp"
#include "simd/storage.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Past the caches, to an address of whole vectors. Others see it when parallel() has returned.
template <class T>
ARRAYNN_INLINE void stream_to(Vec<T> a, T* p) {
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)a.v);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)a.v);
#elif defined(__SSE2__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)a.v);
#else
  a.store(p);
#endif
}

ARRAYNN_INLINE void stream_shorts(Shorts bits, void* p) {
#if defined(__AVX512F__)
  _mm256_stream_si256(static_cast<__m256i*>(p), (__m256i)bits);
#elif defined(__AVX2__)
  _mm_stream_si128(static_cast<__m128i*>(p), (__m128i)bits);
#else
  store_shorts(bits, p);
#endif
}
ARRAYNN_INLINE void stream_to(Vec<float> a, Half* p) { stream_shorts(narrowed(a, Half{}), p); }
ARRAYNN_INLINE void stream_to(Vec<float> a, Bfloat16* p) {
  stream_shorts(narrowed(a, Bfloat16{}), p);
}

// to[i] = f(i, lanes) for every vector of a run; lanes < kLanes only at its ends. An element may not
// depend on its lane: where the vectors begin follows from the address when they are streamed.
template <class S, class F>
ARRAYNN_INLINE void write_run(S* to, std::int64_t n, bool stream, const F& f) {
  using V = Vec<Compute<S>>;
  constexpr int kL = V::kSize;
  std::int64_t i = 0;
  constexpr auto kItem = static_cast<std::int64_t>(sizeof(S));
  const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(to) % (kL * kItem));
  if (stream && past % kItem == 0) {
    if (past != 0) {
      i = min_i(n, kL - past / kItem);
      store_n(f(0, i), to, i);
    }
    for (; i + 2 * kL <= n; i += 2 * kL) {
      const V a = f(i, std::int64_t{kL}), b = f(i + kL, std::int64_t{kL});
      stream_to(a, to + i);
      stream_to(b, to + i + kL);
    }
  }
  for (; i + 2 * kL <= n; i += 2 * kL) {
    const V a = f(i, std::int64_t{kL}), b = f(i + kL, std::int64_t{kL});
    store(a, to + i);
    store(b, to + i + kL);
  }
  for (; i < n; i += kL) {
    const std::int64_t lanes = min_i(kL, n - i);
    store_lanes(f(i, lanes), to + i, lanes);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
