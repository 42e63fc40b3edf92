// Optimizer steps on a GPU: all tensors of a list in one launch, as far as their table fits.
#pragma once
#include <cstdint>
#include <vector>

#include "core/dtype.hpp"
#include "optim/optim.hpp"

namespace arraynn::cuda {

// One block works on a chunk of one tensor; the sums of squares are taken by the same chunks.
inline constexpr std::int64_t kOptimChunk = 16384;

// A number of the step, or where on the device it is.
struct StepNumber {
  double value;
  const void* device;  // or null
  Dtype dtype;         // of what is there: an int or a float of 32 or 64 bits
};

template <class Options>
struct StepOptions {
  Options options;
  StepNumber step, lr;
  double gradient_factor;
  const double* clip_factor;  // or null: the device's, on top of gradient_factor
};

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
template <class T>
void step(const std::vector<OptimTensor<T>>& tensors, const StepOptions<AdamOptions>& s);
template <class T>
void step(const std::vector<OptimTensor<T>>& tensors, const StepOptions<SgdOptions>& s);
template <class T>
void step(const std::vector<OptimTensor<T>>& tensors, const StepOptions<AdagradOptions>& s);
template <class T>
void step(const std::vector<OptimTensor<T>>& tensors, const StepOptions<RmspropOptions>& s);

}  // namespace arraynn::cuda
