// Runs of results, stored in the caches or past them: see core/stream.hpp.
#pragma once
#include "core/stream.hpp"
#include "simd/vec.hpp"

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

// to[i] = f(i, lanes) for every vector of a run; lanes < kLanes only at its ends. An element may not
// depend on its lane: where the vectors begin follows from the address when they are streamed.
template <class T, class F>
ARRAYNN_INLINE void write_run(T* to, std::int64_t n, bool stream, const F& f) {
  constexpr int kL = kLanes<T>;
  std::int64_t i = 0;
  const auto past = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(to) % kVecBytes);
  constexpr auto kItem = static_cast<std::int64_t>(sizeof(T));
  if (stream && past % kItem == 0) {
    if (past != 0) {
      i = min_i(n, kL - past / kItem);
      store_n(f(0, i), to, i);
    }
    for (; i + 2 * kL <= n; i += 2 * kL) {
      const Vec<T> a = f(i, std::int64_t{kL}), b = f(i + kL, std::int64_t{kL});
      stream_to(a, to + i);
      stream_to(b, to + i + kL);
    }
  }
  for (; i + 2 * kL <= n; i += 2 * kL) {
    const Vec<T> a = f(i, std::int64_t{kL}), b = f(i + kL, std::int64_t{kL});
    a.store(to + i);
    b.store(to + i + kL);
  }
  for (; i < n; i += kL) {
    const std::int64_t lanes = min_i(kL, n - i);
    store_lanes(f(i, lanes), to + i, lanes);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
