// Every compiled kernel, one line each in kernels.inc. Dispatch tables, show_config, the tests and
// the benchmarks name kernels by these lines, so that none can be chosen and untested.
#pragma once
#include "core/cpu_isa.hpp"

namespace arraynn {

struct KernelInfo {
  const char* family;
  const char* name;
  Isa isa;
  const char* dtypes;
  const char* tile;
};

const KernelInfo* registered_kernels(int* count);

}  // namespace arraynn
