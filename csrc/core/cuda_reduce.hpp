// Reductions over a warp and over a block in a fixed order: the same bits on every run.
#pragma once
#include "core/cuda_launch.hpp"

namespace arraynn::cuda {

// Every lane gets the result: lanes are combined as a butterfly, l with l ^ 16, ^ 8, ... ^ 1. `combine`
// must be commutative, so that both partners of a pair get the same bits.
template <class T, class Combine>
__device__ __forceinline__ T warp_reduce(T value, const Combine& combine) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, step));
  }
  return value;
}

// One partial result per warp.
template <class T, int kWarps>
struct BlockReduceStorage {
  T partial[kWarps];
};

// Every thread gets the result. The storage may be used again after the next __syncthreads().
template <class T, int kWarps, class Combine>
__device__ __forceinline__ T block_reduce(T value, BlockReduceStorage<T, kWarps>& storage,
                                          const Combine& combine) {
  value = warp_reduce(value, combine);
  if constexpr (kWarps == 1) return value;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (static_cast<int>(threadIdx.x) % kWarp == 0) storage.partial[warp] = value;
  __syncthreads();
  T total = storage.partial[0];
#pragma unroll
  for (int i = 1; i < kWarps; ++i) total = combine(total, storage.partial[i]);
  return total;
}

}  // namespace arraynn::cuda
