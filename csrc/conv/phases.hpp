// Direct convolutions that differ in their weights and in where results go, but read the same positions.
#pragma once
#include "conv/conv.hpp"

namespace arraynn {

// By x: a residue of the stride whose results see the source positions that those of `h` and `w` see.
struct DirectPhase {
  const std::int64_t *kernel_h, *kernel_w;  // in place of DirectAxis::kernel
  std::int64_t shift_h, shift_w;            // of results, behind those of h and w
};
// Phases of a call, along an axis: tables and packed weights grow with them.
inline constexpr std::int64_t kMostPhases = 4;

// All phases go through a strip that is staged once: their columns follow one another.
template <class T>
struct PhasedConv : DirectConv<T> {
  const DirectPhase* phases = nullptr;  // [phase_count], or null: one
  std::int64_t phase_count = 1;

  PhasedConv of_phase(std::int64_t i) const {
    PhasedConv one = *this;
    one.phases = nullptr;
    one.phase_count = 1;
    if (phases == nullptr) return one;
    one.h.kernel = phases[i].kernel_h;
    one.w.kernel = phases[i].kernel_w;
    one.h.out_begin += phases[i].shift_h;
    one.w.out_begin += phases[i].shift_w;
    return one;
  }
};

template <class T>
using DirectTable = PreparedConvKernel<PhasedConv<T>>;

ARRAYNN_KERNEL_TABLE(FloatKernels<DirectTable>, direct_kernels)
#if defined(__x86_64__)
namespace avx512_bf16 {
extern const DirectTable<float> pair_kernels;
}
#endif

// The direct kernel of the level in force, or that of pairs (pairs.hpp).
template <class T>
const DirectTable<T>& direct_table([[maybe_unused]] bool pairs) {
#if defined(__x86_64__)
  if constexpr (sizeof(T) == sizeof(float)) {
    if (pairs) return avx512_bf16::pair_kernels;
  }
#endif
  return direct_kernels().of<T>();
}

}  // namespace arraynn
