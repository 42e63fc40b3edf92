// What this machine can do at most, measured: the yardsticks of the benchmarks.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/dtype.hpp"

namespace arraynn {

struct MachineKernels {
  // `iterations` rounds of independent fused multiply-adds in registers; returns the FLOP done.
  double (*fma_f32)(std::int64_t iterations);
  double (*fma_f64)(std::int64_t iterations);
  // dst[0, n) = src[0, n) with vector loads and stores.
  void (*copy)(float* dst, const float* src, std::int64_t n);
  // The sum of src[0, n).
  float (*sum)(const float* src, std::int64_t n);
};

ARRAYNN_KERNEL_TABLE(MachineKernels, machine_kernels)

// FLOP/s of fused multiply-adds in registers on `threads` threads, at the ISA in force: the best of
// `rounds` of about 1 ms.
double measure_fma_rate(Dtype dtype, int threads, int rounds);
// Bytes read plus bytes written per second when copying a block of `bytes`.
double measure_copy_bandwidth(std::int64_t bytes, int threads);
// Bytes read per second when adding up a block of `bytes`.
double measure_read_bandwidth(std::int64_t bytes, int threads);

}  // namespace arraynn
