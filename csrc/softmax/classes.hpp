// What the losses of class indices share: products with a weight, and samples as strips of columns.
#pragma once
#include "softmax/rows.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// t x, where a t of 0 counts for nothing even against an infinite x.
template <class T>
ARRAYNN_INLINE T product_or_zero(T t, T x) {
  return t == T(0) ? T(0) : t * x;
}

template <class T>
ARRAYNN_INLINE void fill_zero(T* p, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) p[i] = T{};
}

// A strip of columns: every column is a sample, classes lie `inner` apart.
struct Strip {
  std::int64_t offset, sample, width;  // into logits, into samples
};
template <class T>
ARRAYNN_INLINE Strip strip_of(const CrossEntropy<T>& p, std::int64_t unit) {
  const std::int64_t per_row = ceil_div(p.shape.inner, kStrip);
  const std::int64_t outer = unit / per_row, first = unit % per_row * kStrip;
  return {outer * p.shape.n * p.shape.inner + first, outer * p.shape.inner + first,
          min_i(kStrip, p.shape.inner - first)};
}

}  // namespace ARRAYNN_ISA_NAMESPACE
