// A barrier of all blocks of a launch that has Grid::together.
#pragma once
#include "core/cuda_launch.hpp"
#include "ptx/memory.hpp"

namespace arraynn::cuda {

// `arrived` counts on, from the 0 that it is before the launch, through all barriers of it; `barriers` are
// those that the block has passed.
__device__ __forceinline__ void grid_barrier(std::uint32_t* arrived, std::uint32_t& barriers) {
  __syncthreads();
  ++barriers;
  if (threadIdx.x == 0) {
    const std::uint32_t all = barriers * gridDim.x;
    ptx::red_release_gpu_add(arrived, 1);
    while (static_cast<std::int32_t>(ptx::ld_acquire_gpu(arrived) - all) < 0) {
    }
  }
  __syncthreads();
}

}  // namespace arraynn::cuda
