// Optimizer steps on a GPU: all tensors of a list in one launch, as far as their table fits.
#pragma once
#include <cstdint>
#include <vector>

#include "optim/optim.hpp"

namespace arraynn::cuda {

// One block works on a chunk of one tensor; the sums of squares are taken by the same chunks.
inline constexpr std::int64_t kOptimChunk = 16384;

// The norm of all gradients and the factor that clips it, computed and used on the device.
struct Clipping {
  double* sums;    // scratch, one per chunk
  double* norm;    // the result: before clipping, after unscaling
  double* factor;  // scratch
  double max_norm;
  double scale;  // of the gradients, its absolute value
};

template <class T>
std::int64_t chunk_count(const std::vector<OptimTensor<T>>& tensors);
template <class T>
void clip(const std::vector<OptimTensor<T>>& tensors, const Clipping& clipping);
// clip_factor: nullptr, or the device's factor on top of scalars.gradient_factor.
template <class T>
void adam(const std::vector<OptimTensor<T>>& tensors, const AdamScalars& scalars,
          const double* clip_factor);
template <class T>
void sgd(const std::vector<OptimTensor<T>>& tensors, const SgdScalars& scalars,
         const double* clip_factor);

}  // namespace arraynn::cuda
