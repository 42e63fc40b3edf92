// The checked arguments of cross_entropy, nll_loss and their gradients.
#pragma once
#include "bind/array.hpp"
#include "softmax/softmax.hpp"

namespace arraynn {

// An argument as the caller named it.
struct NamedHandle {
  const char* name;
  py::handle value;
};

struct CrossEntropyArgs {
  // Without label_smoothing (nll_loss) targets are class indices.
  CrossEntropyArgs(const char* op, NamedHandle logits, py::handle target, py::handle weight,
                   py::handle ignore_index, const py::handle* label_smoothing,
                   py::handle reduction);

  const char* op;
  const char* name;              // of logits
  Array logits, target, weight;  // target: class indices, or probabilities of logits' dtype
  Reduction reduction;
  std::int64_t ignore_index;
  double smoothing;
  SoftmaxShape shape{};
  std::int64_t samples = 0;
  std::int64_t sample_shape[kMaxDims] = {};  // logits' without the class axis
  int sample_ndim = 0;

  bool has_indices() const { return target->dtype == Dtype::kI32 || target->dtype == Dtype::kI64; }
};

// From checked arguments to the kernels, defined once per device: loss.cpp and loss_cuda.cpp.
//
// The CPU looks at all class indices first and raises ValueError; on a GPU that would have to be waited
// for, so a sample with a wrong one gets NaN.
template <class T>
void compute_loss(Loss kind, const CrossEntropyArgs& args, T* out);
// grad_out: one per sample, or a scalar that is reduced from them; nullptr for 1. All are times `scale`.
template <class T>
void compute_loss_gradient(Loss kind, const CrossEntropyArgs& args, const T* grad_out, double scale,
                           T* dx);

}  // namespace arraynn
