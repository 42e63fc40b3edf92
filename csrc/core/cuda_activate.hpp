// An activation that is known at run time, for epilogues.
#pragma once
#include "simd/activation.hpp"

namespace arraynn::cuda {

// visit_activation() for device code. Out of line: one copy in a kernel's file, not one in each kernel.
template <class T>
[[gnu::noinline]] static __device__ T activate_out_of_line(Activation a, T x) {
  const Vec<T> v{x};
  switch (a.kind) {
    case ActivationKind::kNone:
      return x;
    case ActivationKind::kRelu:
      return Relu<T>(a).forward(v).v;
    case ActivationKind::kLeakyRelu:
      return LeakyRelu<T>(a).forward(v).v;
    case ActivationKind::kElu:
      return Elu<T>(a).forward(v).v;
    case ActivationKind::kSelu:
      return Selu<T>(a).forward(v).v;
    case ActivationKind::kSigmoid:
      return Sigmoid<T>(a).forward(v).v;
    case ActivationKind::kTanh:
      return Tanh<T>(a).forward(v).v;
    case ActivationKind::kHardsigmoid:
      return Hardsigmoid<T>(a).forward(v).v;
    case ActivationKind::kHardswish:
      return Hardswish<T>(a).forward(v).v;
    case ActivationKind::kSilu:
      return Silu<T>(a).forward(v).v;
    case ActivationKind::kGelu:
      return Gelu<T>(a).forward(v).v;
    case ActivationKind::kGeluTanh:
      return GeluTanh<T>(a).forward(v).v;
    case ActivationKind::kMish:
      return Mish<T>(a).forward(v).v;
    case ActivationKind::kSoftplus:
      return Softplus<T>(a).forward(v).v;
  }
  return x;
}

template <class T>
__device__ __forceinline__ T activate(const Activation& a, T x) {
  if (a.kind == ActivationKind::kNone) return x;
  if (a.kind == ActivationKind::kRelu) return Relu<T>(a).forward(Vec<T>{x}).v;
  return activate_out_of_line(a, x);
}

}  // namespace arraynn::cuda
