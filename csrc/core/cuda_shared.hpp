// Shared memory as one struct a kernel: every thread of a block gets the same object, uninitialised.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>

namespace arraynn::cuda {

template <class Storage>
__device__ __forceinline__ Storage& shared_storage() {
#ifdef __CUDACC__
  __shared__ alignas(alignof(Storage) > 16 ? alignof(Storage)
                                           : 16) unsigned char bytes[sizeof(Storage)];
  return *reinterpret_cast<Storage*>(bytes);
#else
  return *static_cast<Storage*>(host_cuda::shared_storage<Storage>());
#endif
}

// The bytes that the launch asked for beside it.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#ifdef __CUDACC__
  extern __shared__ __align__(alignof(T) > 16 ? alignof(T)
                                              : 16) unsigned char arraynn_dynamic_shared[];
  return reinterpret_cast<T*>(arraynn_dynamic_shared);
#else
  return static_cast<T*>(host_cuda::dynamic_shared());
#endif
}

}  // namespace arraynn::cuda
