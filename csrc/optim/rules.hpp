// The arithmetic of a step, over vectors: of the CPU, or of one lane in a CUDA unit.
#pragma once
#include "optim/optim.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

template <class T>
struct AdamRule {
  using V = Vec<T>;
  V beta1, rest1, beta2, rest2, step_size, inv_correction2, eps, weight_decay, decay_factor, factor;

  constexpr explicit AdamRule(const AdamScalars& s)
      : beta1(V::set1(static_cast<T>(s.beta1))),
        rest1(V::set1(static_cast<T>(1 - s.beta1))),
        beta2(V::set1(static_cast<T>(s.beta2))),
        rest2(V::set1(static_cast<T>(1 - s.beta2))),
        step_size(V::set1(static_cast<T>(s.step_size))),
        inv_correction2(V::set1(static_cast<T>(s.inv_correction2))),
        eps(V::set1(static_cast<T>(s.eps))),
        weight_decay(V::set1(static_cast<T>(s.weight_decay))),
        decay_factor(V::set1(static_cast<T>(s.decay_factor))),
        factor(V::set1(static_cast<T>(s.gradient_factor))) {}

  // Updates parameters, first and second moments and, with kLargest, the largest second moments.
  template <bool kLargest>
  ARRAYNN_MEMBER void apply(V& p, V grad, V& m, V& v, V& largest) const {
    const V g = fma(weight_decay, p, factor * grad);
    p = p * decay_factor;
    m = fma(beta1, m, rest1 * g);
    v = fma(beta2, v, rest2 * (g * g));
    V u = v;
    if constexpr (kLargest) {
      // The larger one, NaN when either is.
      u = select(largest != largest, largest, max(largest, v));
      largest = u;
    }
    const V denominator = fma(sqrt(u), inv_correction2, eps);
    p = p - step_size * (m / denominator);
  }
};

template <class T>
struct SgdRule {
  using V = Vec<T>;
  V lr, momentum, undamped, weight_decay, factor;
  bool nesterov, first_step, use_buffer;

  constexpr explicit SgdRule(const SgdScalars& s)
      : lr(V::set1(static_cast<T>(s.lr))),
        momentum(V::set1(static_cast<T>(s.momentum))),
        undamped(V::set1(static_cast<T>(1 - s.dampening))),
        weight_decay(V::set1(static_cast<T>(s.weight_decay))),
        factor(V::set1(static_cast<T>(s.gradient_factor))),
        nesterov(s.nesterov),
        first_step(s.first_step),
        use_buffer(s.use_buffer) {}

  ARRAYNN_MEMBER bool reads_buffer() const { return use_buffer && !first_step; }

  // Updates parameters and, when use_buffer, momentum buffers.
  ARRAYNN_MEMBER void apply(V& p, V grad, V& b) const {
    V g = fma(weight_decay, p, factor * grad);
    if (use_buffer) {
      b = first_step ? g : fma(momentum, b, undamped * g);
      g = nesterov ? fma(momentum, b, g) : b;
    }
    p = p - lr * g;
  }
};

template <class T>
struct AdagradRule {
  using V = Vec<T>;
  V step_size, eps, weight_decay, factor;

  constexpr explicit AdagradRule(const AdagradScalars& s)
      : step_size(V::set1(static_cast<T>(s.step_size))),
        eps(V::set1(static_cast<T>(s.eps))),
        weight_decay(V::set1(static_cast<T>(s.weight_decay))),
        factor(V::set1(static_cast<T>(s.gradient_factor))) {}

  // Updates parameters and sums of squares.
  ARRAYNN_MEMBER void apply(V& p, V grad, V& sum) const {
    const V g = fma(weight_decay, p, factor * grad);
    sum = fma(g, g, sum);
    p = p - step_size * (g / (sqrt(sum) + eps));
  }
};

template <class T>
struct RmspropRule {
  using V = Vec<T>;
  V lr, alpha, rest, eps, weight_decay, momentum, factor;

  constexpr explicit RmspropRule(const RmspropScalars& s)
      : lr(V::set1(static_cast<T>(s.lr))),
        alpha(V::set1(static_cast<T>(s.alpha))),
        rest(V::set1(static_cast<T>(1 - s.alpha))),
        eps(V::set1(static_cast<T>(s.eps))),
        weight_decay(V::set1(static_cast<T>(s.weight_decay))),
        momentum(V::set1(static_cast<T>(s.momentum))),
        factor(V::set1(static_cast<T>(s.gradient_factor))) {}

  // Updates parameters, mean squares and, with kCentred and kMomentum, means and momentum buffers.
  template <bool kCentred, bool kMomentum>
  ARRAYNN_MEMBER void apply(V& p, V grad, V& square, V& mean, V& buffer) const {
    const V g = fma(weight_decay, p, factor * grad);
    square = fma(alpha, square, rest * (g * g));
    V u = square;
    if constexpr (kCentred) {
      mean = fma(alpha, mean, rest * g);
      u = max(V::zero(), fma(-mean, mean, u));  // rounding may leave less than nothing
    }
    V step = g / (sqrt(u) + eps);
    if constexpr (kMomentum) {
      buffer = fma(momentum, buffer, step);
      step = buffer;
    }
    p = p - lr * step;
  }
};

}  // namespace ARRAYNN_ISA_NAMESPACE
