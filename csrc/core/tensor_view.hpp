// A borrowed view of an array: no ownership, no Python.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"

namespace arraynn {

inline constexpr int kMaxDims = 16;

struct TensorView {
  void* data = nullptr;
  int ndim = 0;
  Dtype dtype = Dtype::kOther;
  bool writeable = false;
  bool contiguous = false;  // C order; zero-size and 0-d count as contiguous
  std::int64_t shape[kMaxDims] = {};
  std::int64_t strides[kMaxDims] = {};  // in elements

  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  std::int64_t size() const {
    std::int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
};

}  // namespace arraynn
