// Launches, for .cu files: on the stream of the call, without allocation or synchronisation.
#pragma once
#include <type_traits>

#include "core/cuda_call.hpp"
#include "core/index.hpp"

namespace arraynn::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kWholeWarp = 0xFFFFFFFFu;
// The limit of kernel parameters since CUDA 12.1 (CUDA C++ Programming Guide, "Function Parameters").
inline constexpr std::size_t kMaxParameterBytes = 32764;
// Dynamic shared memory beyond this has to be asked for, kernel by kernel.
inline constexpr std::size_t kMaxSharedBytes = std::size_t{48} << 10;
inline constexpr std::int64_t kMaxBlocks = (std::int64_t{1} << 31) - 1;

struct Grid {
  std::int64_t blocks;
  int threads;
  std::size_t shared_bytes = 0;
};

// Blocks of a kernel whose blocks walk over `tiles` in steps of the grid: as many as fit the device at
// once, and no more than there is work for.
inline std::int64_t persistent_blocks(std::int64_t tiles, int blocks_per_multiprocessor) {
  return min_i(tiles, std::int64_t{multiprocessors()} * blocks_per_multiprocessor);
}

// ARRAYNN_LAUNCH(kernel, grid, arguments...) leaves an error in call_state(). Arguments are converted
// to the kernel's parameters.
template <class... P>
void launch(const char* name, void (*kernel)(P...), Grid grid, std::type_identity_t<P>... args) {
  static_assert((sizeof(P) + ... + 0) <= kMaxParameterBytes, "too many bytes of parameters");
  CallState& call = call_state();
  if (call.error != cudaSuccess || grid.blocks == 0) return;
  cudaError_t error = cudaErrorInvalidConfiguration;
  if (grid.blocks <= kMaxBlocks) {
    const dim3 blocks(static_cast<unsigned>(grid.blocks));
    const dim3 threads(static_cast<unsigned>(grid.threads));
#ifdef __CUDACC__
    if (grid.shared_bytes > kMaxSharedBytes) {
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(grid.shared_bytes));
    }
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))..., nullptr};
    error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks, threads, pointers,
                             grid.shared_bytes, call.stream);
#else
    error =
        host_cuda::launch(name, kernel, blocks, threads, grid.shared_bytes, call.stream, args...);
#endif
  }
  if (error == cudaSuccess && synchronous_launches()) error = cudaStreamSynchronize(call.stream);
  if (error != cudaSuccess) {
    cudaGetLastError();  // clears what our own launch left there
    call.error = error;
    call.kernel = name;
    call.blocks = grid.blocks;
    call.threads = grid.threads;
    call.shared_bytes = grid.shared_bytes;
  }
}

#define ARRAYNN_LAUNCH(kernel, ...) ::arraynn::cuda::launch(#kernel, &kernel, __VA_ARGS__)

}  // namespace arraynn::cuda
