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
  bool together = false;  // all blocks at once: they wait for each other (cuda_grid.hpp)
  int cluster = 1;        // neighbours that reach each other's shared memory (ptx/cluster.hpp)
};

// Blocks of a kernel whose blocks walk over `tiles` in steps of the grid: as many as fit the device at
// once, and no more than there is work for.
inline std::int64_t persistent_blocks(std::int64_t tiles, int blocks_per_multiprocessor) {
  return min_i(tiles, std::int64_t{multiprocessors()} * blocks_per_multiprocessor);
}

#ifdef __CUDACC__
inline void allow_shared(const void* kernel, std::size_t bytes) {
  if (bytes <= kMaxSharedBytes) return;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(bytes));
}
#endif

// Blocks of a kernel that are on the device at once if nothing else is, 0 where a launch of blocks that wait
// for each other is not possible.
template <class... P>
std::int64_t resident_blocks([[maybe_unused]] void (*kernel)(P...), [[maybe_unused]] int threads,
                             [[maybe_unused]] std::size_t shared_bytes) {
  if (!launches_together()) return 0;
  int blocks = 1;
#ifdef __CUDACC__
  const void* const entry = reinterpret_cast<const void*>(kernel);
  allow_shared(entry, shared_bytes);
  if (cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, entry, threads, shared_bytes) !=
      cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
#endif
  return std::int64_t{blocks} * multiprocessors();
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
    allow_shared(reinterpret_cast<const void*>(kernel), grid.shared_bytes);
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&args))..., nullptr};
    const void* const entry = reinterpret_cast<const void*>(kernel);
    if (grid.cluster > 1) {
      cudaLaunchAttribute attribute{};
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {static_cast<unsigned>(grid.cluster), 1, 1};
      const cudaLaunchConfig_t config{blocks,      threads,    grid.shared_bytes,
                                      call.stream, &attribute, 1};
      error = cudaLaunchKernelExC(&config, entry, pointers);
    } else {
      error = grid.together ? cudaLaunchCooperativeKernel(entry, blocks, threads, pointers,
                                                          grid.shared_bytes, call.stream)
                            : cudaLaunchKernel(entry, blocks, threads, pointers, grid.shared_bytes,
                                               call.stream);
    }
#else
    error = host_cuda::launch(name, kernel, blocks, threads, grid.shared_bytes, grid.together,
                              grid.cluster, call.stream, args...);
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
