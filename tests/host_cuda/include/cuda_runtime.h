// What .cu files and the code around them take from CUDA's header of this name, on the host.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../runtime.hpp"

// ---- qualifiers -----------------------------------------------------------------------------------
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
// Shared memory goes through shared_storage() of core/cuda_shared.hpp, which the runtime can poison.
#define __shared__ static_assert(false, "use shared_storage");

// ---- built-in variables and types -----------------------------------------------------------------
using dim3 = host_cuda::Dim3;
using uint3 = host_cuda::Uint3;
#define threadIdx (::host_cuda::thread_index())
#define blockIdx (::host_cuda::block_index())
#define blockDim (::host_cuda::block_dim())
#define gridDim (::host_cuda::grid_dim())

// ---- synchronisation and warp operations; the caller's place comes as default arguments ------------
#define HOST_CUDA_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(HOST_CUDA_SITE) { host_cuda::sync_threads({file, line}); }
inline int __syncthreads_or(int predicate, HOST_CUDA_SITE) {
  return host_cuda::sync_threads_or(predicate != 0, {file, line}) ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, HOST_CUDA_SITE) {
  host_cuda::warp_operation(mask, {file, line}, nullptr, nullptr, 0, true);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T>
T host_cuda_shuffle(unsigned mask, T value, int operand, int width, host_cuda::Shuffle kind,
                    host_cuda::Site site) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = host_cuda::shuffle_bits(mask, bits, operand, width, kind, site);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, HOST_CUDA_SITE) {
  return host_cuda_shuffle(mask, value, lane, width, host_cuda::Shuffle::kIndex, {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, HOST_CUDA_SITE) {
  return host_cuda_shuffle(mask, value, lanes, width, host_cuda::Shuffle::kXor, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, HOST_CUDA_SITE) {
  return host_cuda_shuffle(mask, value, static_cast<int>(by), width, host_cuda::Shuffle::kUp,
                           {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, HOST_CUDA_SITE) {
  return host_cuda_shuffle(mask, value, static_cast<int>(by), width, host_cuda::Shuffle::kDown,
                           {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return host_cuda::ballot(mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return host_cuda::ballot(mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, HOST_CUDA_SITE) {
  return host_cuda::ballot(mask, predicate == 0, {file, line}) == 0;
}
#undef HOST_CUDA_SITE

// ---- atomics: integers only. A sum of floats by atomics depends on the order of the threads. -------
template <class T>
using HostCudaInteger = std::enable_if_t<std::is_integral_v<T>, T>;
template <class T>
HostCudaInteger<T> atomicAdd(T* p, std::type_identity_t<T> v) {
  return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <class T>
HostCudaInteger<T> atomicExch(T* p, std::type_identity_t<T> v) {
  return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <class T>
HostCudaInteger<T> atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  __atomic_compare_exchange_n(p, &expected, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
template <class T>
HostCudaInteger<T> atomicMax(T* p, std::type_identity_t<T> v) {
  T seen = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (seen < v &&
         !__atomic_compare_exchange_n(p, &seen, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

// ---- mathematics that the C library lacks -----------------------------------------------------------
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline double erfcx(double x) {
  const long double wide = x;
  return static_cast<double>(std::exp(wide * wide) * std::erfc(wide));
}
inline float erfcxf(float x) { return static_cast<float>(erfcx(static_cast<double>(x))); }

// ---- the runtime library ----------------------------------------------------------------------------
enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorCooperativeLaunchTooLarge = 720,
};
using cudaStream_t = struct CUstream_st*;
enum cudaDeviceAttr : int {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrCooperativeLaunch = 95,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);

namespace host_cuda {
template <class... P>
cudaError_t launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block,
                   std::size_t shared_bytes, bool together, int cluster, cudaStream_t stream,
                   std::type_identity_t<P>... args) {
  const cudaError_t error = cudaStreamSynchronize(stream);  // of no stream, if there is none
  if (error != cudaSuccess) return error;
  return static_cast<cudaError_t>(
      run_kernel(name, kernel, grid, block, shared_bytes, together, cluster, args...));
}
}  // namespace host_cuda

#include "../ptx.hpp"
