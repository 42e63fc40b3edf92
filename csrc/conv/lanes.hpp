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

template <class T>
using DepthwiseTable = ConvKernel<DepthwiseResidues<T>>;

ARRAYNN_KERNEL_TABLE(FloatKernels<DepthwiseTable>, depthwise_kernels)

}  // namespace arraynn
