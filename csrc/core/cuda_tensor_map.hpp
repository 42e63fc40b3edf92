// Tensor maps: what bulk copies of Hopper know of an array in global memory (ptx/bulk.hpp). With them one thread
// moves a box of up to 256 rows in one instruction, the engine swizzles its rows of 128 bytes, and what is
// outside of the array comes as zeros. Copies without a map (cp.async.bulk) move contiguous bytes as they are: a
// row each, which nobody swizzles, and masks for the edges.
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

enum class TensorElement : std::uint8_t { kHalf, kBfloat16 };

// False where there is no such driver, or it refuses.
inline bool encode_tensor_map(TensorMap* map, TensorElement element, const TensorBoxes& b) {
  constexpr std::uint64_t kBytes = 2;
#ifdef __CUDACC__
  using Encode =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    constexpr unsigned kVersion = 12000;  // the first with this function
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kVersion,
                                         cudaEnableDefault, &found) != cudaSuccess) {
      cudaGetLastError();
    }
    return found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(function) : nullptr;
  }();
  if (encode == nullptr) return false;
  const cuuint64_t extent[] = {b.extent[0], b.extent[1], b.extent[2]};
  const cuuint64_t stride[] = {b.stride[0] * kBytes, b.stride[1] * kBytes};
  const cuuint32_t box[] = {b.box[0], b.box[1], b.box[2]}, steps[] = {1, 1, 1};
  const CUtensorMapDataType type = element == TensorElement::kHalf
                                       ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  CUtensorMap encoded;
  const CUresult result =
      encode(&encoded, type, 3, const_cast<void*>(b.base), extent, stride, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
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

}  // namespace arraynn::cuda
