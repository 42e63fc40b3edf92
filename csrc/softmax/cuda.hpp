// The losses of a GPU: nothing is read on the host.
#pragma once
#include <cstdint>

#include "softmax/softmax.hpp"

namespace arraynn::cuda {

template <class T>
struct LossProblem {
  SoftmaxShape shape;  // (N, C, d1 d2 ...)
  Reduction reduction;
  const T* logits;
  const std::int64_t* target;  // class indices, or
  const std::int32_t* narrow;  // class indices, or
  const T* probabilities;      // of logits' shape
  const T* weight;             // (C,) or nullptr
  std::int64_t ignore_index;
  double smoothing;

  std::int64_t samples() const { return shape.outer * shape.inner; }
};

// out: one loss per sample, or one.
template <class T>
void cross_entropy(const LossProblem<T>& loss, T* out);
// grad_out: as out, times `scale`; nullptr for 1.
template <class T>
void cross_entropy_backward(const LossProblem<T>& loss, const T* grad_out, double scale, T* dx);

// The same of log-probabilities and class indices.
template <class T>
void nll_loss(const LossProblem<T>& loss, T* out);
template <class T>
void nll_loss_backward(const LossProblem<T>& loss, const T* grad_out, double scale, T* dx);

}  // namespace arraynn::cuda
