// Whole arrays of 16-bit floats to float32 and back, for kernels that read their operands more often
// than once. The caller shares n among its threads.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/dtype.hpp"

namespace arraynn {

template <class S>
struct ConvertTable {
  void (*widen)(const S* x, float* y, std::int64_t n);
  void (*narrow)(const float* x, S* y, std::int64_t n);  // to nearest even
};

struct ConvertKernels {
  ConvertTable<Half> f16;
  ConvertTable<Bfloat16> bf16;

  template <class S>
  const ConvertTable<S>& of() const {
    if constexpr (std::is_same_v<S, Half>) {
      return f16;
    } else {
      return bf16;
    }
  }
};

ARRAYNN_KERNEL_TABLE(ConvertKernels, convert_kernels)

}  // namespace arraynn
