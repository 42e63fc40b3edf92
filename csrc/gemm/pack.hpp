// Copies of A and B in the order in which the microkernel reads them.
#pragma once
#include "gemm/blocking.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Panels of B, kc rows of NR columns each, `panel_step` elements apart:
//   dst[q * panel_step + p * NR + j] = b[p * rs_b + (q * NR + j) * cs_b]
// One of the strides is 1. Columns >= n are left as they are: no product of theirs is stored.
template <class T>
static inline void pack_b(const T* b, std::int64_t rs_b, std::int64_t cs_b, std::int64_t kc,
                          std::int64_t n, T* dst, std::int64_t panel_step) {
  constexpr int kL = kLanes<T>;
  if (cs_b != 1) {
    for (std::int64_t j = 0; j < n; j += kNR<T>, dst += panel_step) {
      transpose_copy(b + j * cs_b, cs_b, dst, kNR<T>, min_i(kNR<T>, n - j), kc);
    }
    return;
  }
  // A few panels at a time: every row of B is a page of its own, and a visit to it costs a walk of
  // the page table once B is large.
  for (std::int64_t j = 0; j < n; j += kPanelsAtOnce * kNR<T>, dst += kPanelsAtOnce * panel_step) {
    const std::int64_t width = min_i(kPanelsAtOnce * kNR<T>, n - j), whole = width / kNR<T>;
    for (std::int64_t p = 0; p < kc; ++p) {
      const T* row = b + p * rs_b + j;
      T* out = dst + p * kNR<T>;
      for (std::int64_t q = 0; q < whole; ++q, row += kNR<T>, out += panel_step) {
        for (int v = 0; v < kNV; ++v) Vec<T>::load(row + v * kL).store(out + v * kL);
      }
      const std::int64_t rest = width - whole * kNR<T>;
      for (std::int64_t v = 0; v < rest; v += kL) {
        load_n(row + v, min_i(kL, rest - v)).store(out + v);
      }
    }
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

}  // namespace ARRAYNN_ISA_NAMESPACE
