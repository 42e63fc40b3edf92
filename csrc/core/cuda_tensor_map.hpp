// Tensor maps: what bulk copies of Hopper know of an array in global memory (ptx/bulk.hpp). With them one thread
// moves a box of up to 256 rows in one instruction, the engine swizzles its rows of 128 bytes, and what is
// outside of the array comes as zeros. Copies without a map (cp.async.bulk) move contiguous bytes as they are: a
// row each, which nobody swizzles, and masks for the edges. Maps of images (im2col) copy pixels instead: those that
// one place of a convolution's kernel meets, one after the other, in steps of its stride, through row after row and
// image after image.
//
// The driver fills them in. libcuda is not linked: a machine without a GPU imports the module. Its function is
// asked for at run time, through the runtime library.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#ifdef __CUDACC__
#include <cuda.h>

#include <cstring>
#else
#include "engine.hpp"
#endif

namespace arraynn::cuda {

struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

// 16-bit elements; strides in elements, of all but the innermost extent; box[0] is 128 bytes at most.
struct TensorBoxes {
  const void* base;
  std::uint64_t extent[3], stride[2];
  std::uint32_t box[3];
};

// Packed images of 16-bit elements in channels_last with one to three axes beside channels and samples: channels
// first, then width, height, depth, samples. The pixels that places of the kernel begin at are a box: along an axis
// lower, lower + step, ... up to extent - 1 + upper.
inline constexpr int kMostImageAxes = 3;
struct TensorImage {
  const void* base;
  int axes;
  std::uint64_t extent[kMostImageAxes + 2];
  std::int32_t lower[kMostImageAxes], upper[kMostImageAxes];
  std::uint32_t step[kMostImageAxes];
  std::uint32_t channels, pixels;  // of a copy; channels are 128 bytes at most
};
// Of 16 bits for all axes together: the corners are signed, the places of a kernel are not and one below.
constexpr std::int64_t most_image_corner(int axes) { return std::int64_t{1} << (16 / axes - 1); }
constexpr std::int64_t most_image_place(int axes) { return (std::int64_t{1} << 16 / axes) - 2; }
inline constexpr std::int64_t kMostImageStep = 8, kMostImagePixels = 1024;

enum class TensorElement : std::uint8_t { kHalf, kBfloat16 };

#ifdef __CUDACC__
inline void* tensor_map_encoder(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  constexpr unsigned kVersion = 12000;  // the first with these functions
  if (cudaGetDriverEntryPointByVersion(name, &function, kVersion, cudaEnableDefault, &found) !=
      cudaSuccess) {
    cudaGetLastError();
  }
  return found == cudaDriverEntryPointSuccess ? function : nullptr;
}
inline CUtensorMapDataType tensor_map_type(TensorElement element) {
  return element == TensorElement::kHalf ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                         : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}
#endif

// False where there is no such driver, or it refuses.
inline bool encode_tensor_map(TensorMap* map, TensorElement element, const TensorBoxes& b) {
  constexpr std::uint64_t kBytes = 2;
#ifdef __CUDACC__
  using Encode =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
  static const auto encode = reinterpret_cast<Encode>(tensor_map_encoder("cuTensorMapEncodeTiled"));
  if (encode == nullptr) return false;
  const cuuint64_t extent[] = {b.extent[0], b.extent[1], b.extent[2]};
  const cuuint64_t stride[] = {b.stride[0] * kBytes, b.stride[1] * kBytes};
  const cuuint32_t box[] = {b.box[0], b.box[1], b.box[2]}, steps[] = {1, 1, 1};
  CUtensorMap encoded;
  const CUresult result =
      encode(&encoded, tensor_map_type(element), 3, const_cast<void*>(b.base), extent, stride, box,
             steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return false;
  std::memcpy(map->bytes, &encoded, sizeof encoded);
  return true;
#else
  static_assert(sizeof(TensorMap) >= sizeof(host_cuda::BoxMap));
  static_cast<void>(element);
  return host_cuda::encode_box_map(map, {0,
                                         kBytes,
                                         static_cast<const char*>(b.base),
                                         {b.extent[0], b.extent[1], b.extent[2]},
                                         {b.stride[0] * kBytes, b.stride[1] * kBytes},
                                         {b.box[0], b.box[1], b.box[2]}});
#endif
}

inline bool encode_image_map(TensorMap* map, TensorElement element, const TensorImage& image) {
  constexpr std::uint64_t kBytes = 2;
  const auto rank = static_cast<std::uint32_t>(image.axes + 2);
  std::uint64_t stride[kMostImageAxes + 1];  // of all but the channels
  std::uint32_t step[kMostImageAxes + 2] = {1, 1, 1, 1, 1};
  std::uint64_t size = kBytes;
  for (std::uint32_t i = 0; i + 1 < rank; ++i) stride[i] = size *= image.extent[i];
  for (int i = 0; i < image.axes; ++i) step[i + 1] = image.step[i];
#ifdef __CUDACC__
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                              const cuuint64_t*, const cuuint64_t*, const int*, const int*,
                              cuuint32_t, cuuint32_t, const cuuint32_t*, CUtensorMapInterleave,
                              CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const auto encode =
      reinterpret_cast<Encode>(tensor_map_encoder("cuTensorMapEncodeIm2col"));
  if (encode == nullptr) return false;
  cuuint64_t extents[kMostImageAxes + 2], strides[kMostImageAxes + 1];
  for (std::uint32_t i = 0; i < rank; ++i) extents[i] = image.extent[i];
  for (std::uint32_t i = 0; i + 1 < rank; ++i) strides[i] = stride[i];
  CUtensorMap encoded;
  const CUresult result =
      encode(&encoded, tensor_map_type(element), rank, const_cast<void*>(image.base), extents,
             strides, image.lower, image.upper, image.channels, image.pixels, step,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) return false;
  std::memcpy(map->bytes, &encoded, sizeof encoded);
  return true;
#else
  static_assert(sizeof(TensorMap) >= sizeof(host_cuda::ImageMap));
  static_cast<void>(element);
  host_cuda::ImageMap m{0,
                        kBytes,
                        static_cast<const char*>(image.base),
                        {},
                        {},
                        {},
                        {},
                        {},
                        image.channels,
                        image.pixels,
                        image.axes};
  for (std::uint32_t i = 0; i < rank; ++i) m.extent[i] = image.extent[i];
  for (std::uint32_t i = 0; i + 1 < rank; ++i) m.stride[i] = stride[i];
  for (int i = 0; i < image.axes; ++i) {
    m.lower[i] = static_cast<std::int16_t>(image.lower[i]);
    m.upper[i] = static_cast<std::int16_t>(image.upper[i]);
    m.step[i] = static_cast<std::uint8_t>(step[i + 1]);
  }
  return host_cuda::encode_image_map(map, m);
#endif
}

}  // namespace arraynn::cuda
