// Kernels that do little for each of many elements: a thread an element, persistent blocks.
#pragma once
#include "core/cuda_launch.hpp"

namespace arraynn::cuda {

inline constexpr int kElementThreads = 256;
// 2048 threads a multiprocessor, of at most 32 registers.
inline constexpr int kElementBlocks = 8;

inline Grid element_grid(std::int64_t n, int blocks_per_multiprocessor = kElementBlocks) {
  return {persistent_blocks(ceil_div(n, kElementThreads), blocks_per_multiprocessor),
          kElementThreads};
}

#define ARRAYNN_ELEMENT_BOUNDS \
  __launch_bounds__(::arraynn::cuda::kElementThreads, ::arraynn::cuda::kElementBlocks)

// f(i) for all i < n, in steps of the grid.
template <class F>
__device__ __forceinline__ void for_elements(std::int64_t n, const F& f) {
  const std::int64_t step = std::int64_t{gridDim.x} * kElementThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kElementThreads + threadIdx.x; i < n;
       i += step) {
    f(i);
  }
}

}  // namespace arraynn::cuda
