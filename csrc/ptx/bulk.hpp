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

// cp.async.bulk.tensor.*.im2col, global to shared memory: as many pixels of an image as `map` tells, in
// channels_last as rows of channels from c on. The first one is (x, y, z) of sample n, inside the box of the map;
// the next ones follow in its steps, from the end of a row of the box to its next row, to its next sample.
// Each is read `dx`, `dy`, `dz` further, and is zeros where that is outside the image. 1, 2, 3 axes: 3d, 4d, 5d.
ARRAYNN_PTX_FUNCTION void cp_async_bulk_tensor_3d_im2col(void* shared, const void* map,
                                                         std::int32_t c, std::int32_t x,
                                                         std::int32_t n, std::uint16_t dx,
                                                         std::uint64_t* barrier) {
  ARRAYNN_PTX(
      host_ptx::cp_async_bulk_tensor_im2col(shared, map, {c, x, n}, {dx}, barrier),
      asm volatile(
          "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
          "[%0], [%1, {%3, %4, %5}], [%2], {%6};" ::"r"(shared_address(shared)),
          "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(x), "r"(n), "h"(dx) : "memory"));
}
ARRAYNN_PTX_FUNCTION void cp_async_bulk_tensor_4d_im2col(void* shared, const void* map,
                                                         std::int32_t c, std::int32_t x,
                                                         std::int32_t y, std::int32_t n,
                                                         std::uint16_t dx, std::uint16_t dy,
                                                         std::uint64_t* barrier) {
  ARRAYNN_PTX(
      host_ptx::cp_async_bulk_tensor_im2col(shared, map, {c, x, y, n}, {dx, dy}, barrier),
      asm volatile(
          "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
          "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(shared)),
          "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(x), "r"(y), "r"(n), "h"(dx),
          "h"(dy) : "memory"));
}
ARRAYNN_PTX_FUNCTION void cp_async_bulk_tensor_5d_im2col(
    void* shared, const void* map, std::int32_t c, std::int32_t x, std::int32_t y, std::int32_t z,
    std::int32_t n, std::uint16_t dx, std::uint16_t dy, std::uint16_t dz, std::uint64_t* barrier) {
  ARRAYNN_PTX(
      host_ptx::cp_async_bulk_tensor_im2col(shared, map, {c, x, y, z, n}, {dx, dy, dz}, barrier),
      asm volatile(
          "cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
          "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], {%8, %9, %10};" ::"r"(shared_address(shared)),
          "l"(map), "r"(shared_address(barrier)), "r"(c), "r"(x), "r"(y), "r"(z), "r"(n), "h"(dx),
          "h"(dy), "h"(dz) : "memory"));
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
