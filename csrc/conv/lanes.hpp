// Convolutions that are no matrix products: lanes are columns of a row, or planes.
#pragma once
#include "conv/conv.hpp"

namespace arraynn {

// Result channels up to which columns of a row are better lanes than channels of a pixel.
inline constexpr std::int64_t kFewResults = 4;

// By x: a depthwise convolution for every residue of the stride, of which all are computed from one look
// at the source. Their axes replace those of the convolution; one without taps has results of bias and residual alone.
template <class T>
struct DepthwiseResidues : DepthwiseConv<T> {
  const DirectAxis *d_residues = nullptr, *h_residues = nullptr, *w_residues = nullptr;
  std::int64_t d_count = 1, h_count = 1, w_count = 1;

  const DirectAxis& depth_at(std::int64_t i) const {
    return d_residues == nullptr ? this->depth : d_residues[i];
  }
  const DirectAxis& h_at(std::int64_t i) const {
    return h_residues == nullptr ? this->h : h_residues[i];
  }
  const DirectAxis& w_at(std::int64_t i) const {
    return w_residues == nullptr ? this->w : w_residues[i];
  }
  // Rows of a plane of the result.
  std::int64_t rows() const { return h_residues == nullptr ? this->h.count : this->out_h; }
};

// By x: all residues of the stride from lines that are staged once. h and w span what their taps see, in
// positions of the residue that has most; a residue without taps is left out.
template <class T>
struct FewConv : DirectConv<T> {
  const DirectAxis *h_residues, *w_residues;
  std::int64_t h_count, w_count;
  std::int64_t taps;  // of all residues

  std::int64_t residues() const { return h_count * w_count; }
};

template <class T>
using FewTable = ConvKernel<FewConv<T>>;
template <class T>
using DepthwiseTable = ConvKernel<DepthwiseResidues<T>>;

ARRAYNN_KERNEL_TABLE(FloatKernels<FewTable>, few_kernels)
ARRAYNN_KERNEL_TABLE(FloatKernels<DepthwiseTable>, depthwise_kernels)

}  // namespace arraynn
