// Memory that blocks of a launch wait for: integers in global memory, ordered for the whole device.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// ld.acquire.gpu.global.u32: what was released before the value that it reads is there for this thread, and
// after a barrier for its block.
ARRAYNN_PTX_FUNCTION std::uint32_t ld_acquire_gpu(const std::uint32_t* p) {
  ARRAYNN_PTX(host_ptx::ld_acquire_gpu(p), std::uint32_t v;
              asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
              return v);
}

// red.release.gpu.global.add.u32: what this thread wrote, and what it saw others write, comes before.
ARRAYNN_PTX_FUNCTION void red_release_gpu_add(std::uint32_t* p, std::uint32_t value) {
  ARRAYNN_PTX(
      host_ptx::red_release_gpu_add(p, value),
      asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory"));
}

}  // namespace arraynn::ptx
