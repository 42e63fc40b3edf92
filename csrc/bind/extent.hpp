// The memory that an array can touch.
#pragma once
#include <utility>

#include "core/tensor_view.hpp"

namespace arraynn {

// Lowest and one-past-highest byte.
inline std::pair<const char*, const char*> extent(const TensorView& v) {
  const auto item = static_cast<std::int64_t>(dtype_size(v.dtype));
  const char* low = static_cast<const char*>(v.data);
  const char* high = low + item;
  for (int i = 0; i < v.ndim; ++i) {
    if (v.shape[i] == 0) return {low, low};
    const std::int64_t span = (v.shape[i] - 1) * v.strides[i] * item;
    (span < 0 ? low : high) += span;
  }
  return {low, high};
}

}  // namespace arraynn
