// Copies of whole boxes of a tensor by one thread (sm_90), which engines of their own make: to them, as to
// wgmma, ordinary accesses of shared memory are another proxy, ordered by a fence alone.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// cp.async.bulk.tensor.3d, global to shared memory: the box of `map` (an array's address, extents, strides
// and swizzle, see core/cuda_tensor_map.hpp) at coordinates x (innermost), y, z; zeros where it is outside the
// array. Its bytes, those zeros too, are counted by `barrier`. `shared` is a multiple of 128, where the map
// swizzles 128 bytes of 1024.
ARRAYNN_PTX_FUNCTION void cp_async_bulk_tensor_3d(void* shared, const void* map, std::int32_t x,
                                                  std::int32_t y, std::int32_t z,
                                                  std::uint64_t* barrier) {
  ARRAYNN_PTX(
      host_ptx::cp_async_bulk_tensor_3d(shared, map, x, y, z, barrier),
      asm volatile(
          "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
          "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
          "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z) : "memory"));
}

// prefetch.tensormap: of a map that is a kernel's parameter.
ARRAYNN_PTX_FUNCTION void prefetch_tensormap(const void* map) {
  ARRAYNN_PTX(host_ptx::prefetch_tensormap(map),
              asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"));
}

// fence.proxy.async.shared::cta: what this thread wrote to shared memory (its barriers, too) is there for the
// copies and products that follow.
ARRAYNN_PTX_FUNCTION void fence_proxy_async_shared() {
  ARRAYNN_PTX(host_ptx::fence_proxy_async_shared(),
              asm volatile("fence.proxy.async.shared::cta;" :: : "memory"));
}

}  // namespace arraynn::ptx
