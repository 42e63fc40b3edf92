// Shape arithmetic. Everything user-given is int64 and every product is overflow-checked.
#pragma once
#include <cstdint>
#include <limits>
#include <string>

#include "core/error.hpp"

namespace arraynn {

// Bytes of one array stay below this, so that element offsets and byte offsets both fit.
inline constexpr std::int64_t kMaxBytes = std::int64_t{1} << 46;

inline std::int64_t checked_mul(const char* op, const char* arg, std::int64_t a, std::int64_t b) {
  std::int64_t r = 0;
  if (__builtin_mul_overflow(a, b, &r) || r > kMaxBytes) {
    fail<OutOfMemory>(op, arg, "expected at most 2**46 bytes, got a product of ", a, " and ", b);
  }
  return r;
}

// Elements of a shape; the byte count is checked as well.
inline std::int64_t checked_size(const char* op, const char* arg, const std::int64_t* shape,
                                 int ndim, std::int64_t item_bytes) {
  for (int i = 0; i < ndim; ++i) {
    if (shape[i] == 0) return 0;
  }
  std::int64_t bytes = item_bytes;
  for (int i = 0; i < ndim; ++i) bytes = checked_mul(op, arg, bytes, shape[i]);
  return bytes / item_bytes;
}

inline std::string shape_str(const std::int64_t* shape, int ndim) {
  std::string s = "(";
  for (int i = 0; i < ndim; ++i) {
    s += std::to_string(shape[i]);
    if (i + 1 < ndim || ndim == 1) s += ndim == 1 ? "," : ", ";
  }
  return s + ")";
}

}  // namespace arraynn
