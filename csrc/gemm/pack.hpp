// Copies of A and B in the order in which the microkernel reads them.
#pragma once
#include "gemm/blocking.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Panel of B, kc rows of NR columns:  dst[p * NR + j] = b[p * rs_b + j * cs_b], j < n.
// One of the strides is 1. Columns >= n are left as they are: no product of theirs is stored.
template <class T>
static inline void pack_b(const T* b, std::int64_t rs_b, std::int64_t cs_b, std::int64_t kc,
                          std::int64_t n, T* dst) {
  constexpr int kL = kLanes<T>;
  if (cs_b != 1) {
    transpose_copy(b, cs_b, dst, kNR<T>, n, kc);
    return;
  }
  if (n == kNR<T>) {
    for (std::int64_t p = 0; p < kc; ++p) {
      for (int j = 0; j < kNV; ++j) Vec<T>::load(b + p * rs_b + j * kL).store(dst + j * kL);
      dst += kNR<T>;
    }
    return;
  }
  for (std::int64_t p = 0; p < kc; ++p) {
    for (int j = 0; j < kNV; ++j) {
      load_n(b + p * rs_b + j * kL, min_i(kL, max_i(0, n - j * kL))).store(dst + j * kL);
    }
    dst += kNR<T>;
  }
}

// Rows of A:  dst[i * ld + p] = a[i * rs_a + p * cs_a], i < m, p < kc. One of the strides is 1.
template <class T>
static inline void pack_a(const T* a, std::int64_t rs_a, std::int64_t cs_a, std::int64_t m,
                          std::int64_t kc, T* dst, std::int64_t ld) {
  constexpr int kL = kLanes<T>;
  if (cs_a != 1) {
    transpose_copy(a, cs_a, dst, ld, kc, m);
    return;
  }
  for (std::int64_t i = 0; i < m; ++i) {
    const T* s = a + i * rs_a;
    T* d = dst + i * ld;
    std::int64_t p = 0;
    for (; p + kL <= kc; p += kL) Vec<T>::load(s + p).store(d + p);
    if (p < kc) store_n(load_n(s + p, kc - p), d + p, kc - p);
  }
}

// True when rows this far apart would share cache sets: 14 rows over fewer than four sets of an
// 8-way L1 evict each other before their line is used up.
template <class T>
ARRAYNN_INLINE bool rows_alias(std::int64_t row_stride) {
  return row_stride * static_cast<std::int64_t>(sizeof(T)) % 2048 == 0;
}

}  // namespace ARRAYNN_ISA_NAMESPACE
