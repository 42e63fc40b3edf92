// The kernels of golden.cu on the emulated device.
#pragma once
#include <cstdint>

namespace arraynn::cuda {

struct GoldenKernel {
  const char* name;
  int in, out;  // words of an item
  void (*run)(const std::uint32_t* in, std::uint32_t* out, int items);
};
const GoldenKernel* golden_kernels(int* count);
void run_golden(const GoldenKernel& kernel, const std::uint32_t* in, std::uint32_t* out, int items);

}  // namespace arraynn::cuda
