// Hopper's engines: barriers that count bytes, copies of boxes, products of a warpgroup. Copies happen at once,
// or when no thread can go on without one; a product when its warp waits for it, each warp forming its own 16
// rows: whatever is read too late or written too early shows.
#pragma once
#include <cstdint>
#include <initializer_list>

#include "runtime.hpp"

namespace host_cuda {

void mbarrier_init(void* barrier, std::uint32_t count, Site site);
// expect: bytes that the phase waits for in addition.
void mbarrier_arrive(void* barrier, std::uint32_t expect, Site site);
bool mbarrier_wait(void* barrier, std::uint32_t parity,
                   Site site);  // returns when the phase has ended
void fence_proxy_async();

// What a tensor map holds here: an array of elements of 2 or 4 bytes, boxes with the swizzle of 128 bytes.
struct BoxMap {
  static constexpr std::uint32_t kMagic = 0x7E4502;
  std::uint32_t magic;
  std::uint32_t element;  // bytes
  const char* base;
  std::uint64_t extent[3];  // innermost first
  std::uint64_t stride[2];  // bytes, of all but the innermost
  std::uint32_t box[3];
};
// False where the driver's encoder would refuse.
bool encode_box_map(void* map, const BoxMap& wanted);
void copy_box(void* shared, const void* map, std::int32_t x, std::int32_t y, std::int32_t z,
              void* barrier, Site site);

// A map of an image: see arraynn::cuda::TensorImage. Strides are in bytes.
struct ImageMap {
  static constexpr std::uint32_t kMagic = 0x7E4503;
  std::uint32_t magic;
  std::uint32_t element;
  const char* base;
  std::uint64_t extent[5], stride[4];
  std::int16_t lower[3], upper[3];
  std::uint8_t step[3];
  std::uint32_t channels, pixels;
  std::int32_t axes;
};
bool encode_image_map(void* map, const ImageMap& wanted);
void copy_image(void* shared, const void* map, std::initializer_list<std::int32_t> at,
                std::initializer_list<std::uint16_t> further, void* barrier, Site site);

struct Product {
  float* d;                // of this thread
  const std::uint32_t* x;  // and its part of a, where that is in registers; or null
  std::uint64_t a, b;
  int n;
  bool along_a, along_b, accumulate;
  float (*to_float)(std::uint16_t);
};
void wgmma(const Product& product, Site site);
void wgmma_fence(Site site);
void wgmma_commit(Site site);
void wgmma_wait(int pending, Site site);

}  // namespace host_cuda
