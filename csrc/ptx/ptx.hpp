// One inline function per PTX instruction, named after it, in namespace arraynn::ptx. These files hold
// the only inline assembly. Reference: NVIDIA, "Parallel Thread Execution ISA", docs.nvidia.com/cuda.
//
// ARRAYNN_PTX(meaning, asm) is the body of such a function: the assembly under nvcc; under a host
// compiler `meaning`, a call into namespace host_ptx, which only tests/host_cuda declares. A function
// without a meaning there does not compile.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#ifdef __CUDACC__
#define ARRAYNN_PTX(meaning, ...) __VA_ARGS__
#else
#define ARRAYNN_PTX(meaning, ...) return meaning
#endif
#define ARRAYNN_PTX_FUNCTION __device__ __forceinline__

namespace arraynn::ptx {

// The 32-bit address of shared memory that instructions take.
ARRAYNN_PTX_FUNCTION std::uint32_t shared_address(const void* shared) {
#ifdef __CUDACC__
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
#else
  return host_ptx::shared_address(shared);
#endif
}

}  // namespace arraynn::ptx
