// By x every residue of the position modulo the stride is a convolution of its own, with the taps that
// hit it. All of them read the same source, which is staged once for all.
#pragma once
#include "conv/conv.hpp"

namespace arraynn {

// h and w span what the taps of all residues see, in positions of the residue that has most. A residue
// without taps has results of bias and residual alone. Without residues h and w are the axes themselves.
template <class T>
struct ResidueConv : DirectConv<T> {
  const DirectAxis *h_residues = nullptr, *w_residues = nullptr;
  std::int64_t h_count = 1, w_count = 1;

  std::int64_t residues() const { return h_count * w_count; }
  // Of residue i, which are sorted by rows.
  [[gnu::always_inline]] const DirectAxis& h_at(std::int64_t i) const {
    return h_residues == nullptr ? this->h : h_residues[i / w_count];
  }
  [[gnu::always_inline]] const DirectAxis& w_at(std::int64_t i) const {
    return w_residues == nullptr ? this->w : w_residues[i % w_count];
  }
  [[gnu::always_inline]] std::int64_t taps_at(std::int64_t i) const {
    return h_at(i).taps * w_at(i).taps;
  }
  [[gnu::always_inline]] std::int64_t taps() const {  // of all
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < residues(); ++i) count += taps_at(i);
    return count;
  }
  // As the results of residue i lie, in positions of the one that has most.
  [[gnu::always_inline]] DirectConv<T> lie_of(std::int64_t i) const {
    DirectConv<T> one = *this;
    one.h.out_begin = h_at(i).out_begin;
    one.w.out_begin = w_at(i).out_begin;
    return one;
  }
};

template <class T>
using DirectTable = PreparedConvKernel<ResidueConv<T>>;
// Few results; residues without taps are left out.
template <class T>
using FewTable = ConvKernel<ResidueConv<T>>;

ARRAYNN_KERNEL_TABLE(FloatKernels<DirectTable>, direct_kernels)
ARRAYNN_KERNEL_TABLE(FloatKernels<FewTable>, few_kernels)
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
