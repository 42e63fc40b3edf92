// Optimizer steps over lists of tensors, one parallel region a call.
//
//   g = gradient_factor * grad                    (unscaling, clipping and maximize in one factor)
//   adam  p = (1 - lr wd) p decoupled, else g += wd p
//         m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2,  u = v or max(u, v)
//         p -= step_size m / (sqrt(u) inv_correction2 + eps)
//         with step_size = lr / (1 - beta1^t), inv_correction2 = 1 / sqrt(1 - beta2^t); "hat" moves
//         the second correction into step_size (Kingma and Ba 2014, section 2)
//   sgd   b = mu b + (1 - dampening) g, or g at step 1;  p -= lr (b, or g + mu b, or g)
//   adagrad  s += g^2;  p -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)
//   rmsprop  v = alpha v + (1 - alpha) g^2,  a = alpha a + (1 - alpha) g
//            u = v, or centred max(0, v - a^2);  d = g / (sqrt(u) + eps)
//            p -= lr (d, or b = mu b + d)
//
// Plan. The tensors form one flat run of elements, cut into as many equal parts as there are
// threads. Every element is on its own, so the cut does not show in the bits. The norm is summed in
// double over chunks of kNormChunk elements of a tensor, then over the chunks in order.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/host_device.hpp"
#include "core/index.hpp"

namespace arraynn {

inline constexpr std::int64_t kNormChunk = 1 << 14;

// Pointers of one tensor of the list; those that a step does not use are null.
template <class T>
struct OptimTensor {
  T* param;
  const T* grad;
  T* first;                 // exp_avg, momentum buffer, state_sum, square_avg
  T* second;                // exp_avg_sq, grad_avg
  T* largest;               // max_exp_avg_sq, RMSprop's momentum buffer
  std::int64_t begin, end;  // its place in the flat run
};

struct AdamScalars {
  double beta1, beta2, step_size, inv_correction2, eps, weight_decay, decay_factor, gradient_factor;
};

// What a step is told, but for its number and its learning rate.
struct AdamOptions {
  double beta1, beta2, eps, weight_decay;
  bool decoupled, hat;
};

ARRAYNN_HOST_DEVICE ARRAYNN_INLINE AdamScalars step_scalars(const AdamOptions& o, double step,
                                                            double lr, double gradient_factor) {
  const double correction1 = 1 - std::pow(o.beta1, step);
  const double root2 = std::sqrt(1 - std::pow(o.beta2, step));
  return {o.beta1,
          o.beta2,
          o.hat ? lr * root2 / correction1 : lr / correction1,
          o.hat ? 1.0 : 1 / root2,
          o.eps,
          o.decoupled ? 0.0 : o.weight_decay,
          o.decoupled ? 1 - lr * o.weight_decay : 1.0,
          gradient_factor};
}

struct SgdOptions {
  double momentum, dampening, weight_decay;
  bool nesterov;
};

struct SgdScalars {
  double lr, momentum, dampening, weight_decay, gradient_factor;
  bool nesterov, first_step, use_buffer;
};

ARRAYNN_HOST_DEVICE ARRAYNN_INLINE SgdScalars step_scalars(const SgdOptions& o, double step,
                                                           double lr, double gradient_factor) {
  return {lr,         o.momentum, o.dampening,    o.weight_decay, gradient_factor,
          o.nesterov, step == 1,  o.momentum != 0};
}

struct AdagradOptions {
  double lr_decay, eps, weight_decay;
};

struct AdagradScalars {
  double step_size, eps, weight_decay, gradient_factor;
};

ARRAYNN_HOST_DEVICE ARRAYNN_INLINE AdagradScalars step_scalars(const AdagradOptions& o, double step,
                                                               double lr, double gradient_factor) {
  return {lr / (1 + (step - 1) * o.lr_decay), o.eps, o.weight_decay, gradient_factor};
}

struct RmspropOptions {
  double alpha, eps, weight_decay, momentum;
};

struct RmspropScalars {
  double lr, alpha, eps, weight_decay, momentum, gradient_factor;
};

ARRAYNN_HOST_DEVICE ARRAYNN_INLINE RmspropScalars step_scalars(const RmspropOptions& o, double,
                                                               double lr, double gradient_factor) {
  return {lr, o.alpha, o.eps, o.weight_decay, o.momentum, gradient_factor};
}

template <class T, class Scalars>
using OptimStep = void (*)(const OptimTensor<T>* tensors, std::int64_t count, const Scalars& s,
                           int threads);
template <class T>
struct OptimTable {
  OptimStep<T, AdamScalars> adam;
  OptimStep<T, SgdScalars> sgd;
  OptimStep<T, AdagradScalars> adagrad;
  OptimStep<T, RmspropScalars> rmsprop;
  // sums[i] = sum of squares of chunk i; chunks are those of the tensors in order.
  void (*square_sums)(const OptimTensor<T>* tensors, std::int64_t count, int threads, double* sums);
};
using OptimKernels = StorageKernels<OptimTable>;

ARRAYNN_KERNEL_TABLE(OptimKernels, optim_kernels)

}  // namespace arraynn
