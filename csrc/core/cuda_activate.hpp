// An activation that is known at run time, for epilogues.
#pragma once
#include "simd/activation.hpp"

namespace arraynn::cuda {

// visit_activation() for device code: f(formula) of one that is known at run time.
template <class T, class F>
__device__ __forceinline__ T visit_on_device(const Activation& a, const F& f) {
  switch (a.kind) {
    case ActivationKind::kNone:
      break;
    case ActivationKind::kRelu:
      return f(Relu<T>(a));
    case ActivationKind::kLeakyRelu:
      return f(LeakyRelu<T>(a));
    case ActivationKind::kElu:
      return f(Elu<T>(a));
    case ActivationKind::kSelu:
      return f(Selu<T>(a));
    case ActivationKind::kSigmoid:
      return f(Sigmoid<T>(a));
    case ActivationKind::kTanh:
      return f(Tanh<T>(a));
    case ActivationKind::kHardsigmoid:
      return f(Hardsigmoid<T>(a));
    case ActivationKind::kHardswish:
      return f(Hardswish<T>(a));
    case ActivationKind::kSilu:
      return f(Silu<T>(a));
    case ActivationKind::kGelu:
      return f(Gelu<T>(a));
    case ActivationKind::kGeluTanh:
      return f(GeluTanh<T>(a));
    case ActivationKind::kMish:
      return f(Mish<T>(a));
    case ActivationKind::kSoftplus:
      return f(Softplus<T>(a));
  }
  return f(Identity<T>(a));
}

// Out of line: one copy in a kernel's file, not one in each kernel.
template <class T>
[[gnu::noinline]] static __device__ T activate_out_of_line(Activation a, T x) {
  return visit_on_device<T>(a, [x](const auto& f) { return f.forward(Vec<T>{x}).v; });
}
template <class T>
[[gnu::noinline]] static __device__ T slope_out_of_line(Activation a, T x) {
  return visit_on_device<T>(a, [x](const auto& f) { return f.derivative(Vec<T>{x}).v; });
}

template <bool kOutOfLine = true, class T>
__device__ __forceinline__ T activate(const Activation& a, T x) {
  if (a.kind == ActivationKind::kNone) return x;
  if (a.kind == ActivationKind::kRelu) return Relu<T>(a).forward(Vec<T>{x}).v;
  if constexpr (kOutOfLine) return activate_out_of_line(a, x);
  return visit_on_device<T>(a, [x](const auto& f) { return f.forward(Vec<T>{x}).v; });
}

// The factor of a gradient that passes the activation of x.
template <class T>
__device__ __forceinline__ T activation_slope(const Activation& a, T x) {
  if (a.kind == ActivationKind::kNone) return T(1);
  return slope_out_of_line(a, x);
}

}  // namespace arraynn::cuda
