#include "core/registry.hpp"

namespace arraynn {
namespace {

constexpr KernelInfo kKernels[] = {
#if defined(__x86_64__)
#define ARRAYNN_KERNEL(family, name, dtypes, tile_generic, tile_avx2, tile_avx512) \
  {#family, #name, Isa::kGeneric, dtypes, tile_generic},                           \
      {#family, #name, Isa::kAvx2, dtypes, tile_avx2},                             \
      {#family, #name, Isa::kAvx512, dtypes, tile_avx512},
#else
#define ARRAYNN_KERNEL(family, name, dtypes, tile_generic, tile_avx2, tile_avx512) \
  {#family, #name, Isa::kGeneric, dtypes, tile_generic},
#endif
#if defined(__x86_64__)
#define ARRAYNN_KERNEL_BF16(family, name, tile) \
  {#family, #name, Isa::kAvx512Bf16, "bfloat16", tile},
#else
#define ARRAYNN_KERNEL_BF16(family, name, tile)
#endif
#include "core/kernels.inc"
#undef ARRAYNN_KERNEL
#undef ARRAYNN_KERNEL_BF16
};

}  // namespace

const KernelInfo* registered_kernels(int* count) {
  *count = static_cast<int>(sizeof kKernels / sizeof kKernels[0]);
  return kKernels;
}

}  // namespace arraynn
