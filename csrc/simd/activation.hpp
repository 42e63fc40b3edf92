// The activations on vectors: forward(x), and derivative(x), the factor that multiplies an incoming
// gradient. Behaviour at NaN and the infinities is PyTorch's, equations are in
// python/arraynn/kernels/elementwise.py.
#pragma once
#include "elementwise/activation.hpp"
#include "simd/logistic.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

template <class T>
struct Identity {
  using V = Vec<T>;
  explicit constexpr Identity(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const { return x; }
  ARRAYNN_MEMBER V derivative(V) const { return V::set1(T(1)); }
};

template <class T>
struct Relu {
  using V = Vec<T>;
  explicit constexpr Relu(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const { return max(V::zero(), x); }
  ARRAYNN_MEMBER V derivative(V x) const {
    return select(x <= V::zero(), V::zero(), V::set1(T(1)));
  }
};

template <class T>
struct LeakyRelu {
  using V = Vec<T>;
  T slope;
  explicit constexpr LeakyRelu(const Activation& a) : slope(static_cast<T>(a.alpha)) {}
  ARRAYNN_MEMBER V forward(V x) const { return select(x > V::zero(), x, V::set1(slope) * x); }
  ARRAYNN_MEMBER V derivative(V x) const {
    return select(x > V::zero(), V::set1(T(1)), V::set1(slope));
  }
};

template <class T>
struct Elu {
  using V = Vec<T>;
  T alpha;
  explicit constexpr Elu(const Activation& a) : alpha(static_cast<T>(a.alpha)) {}
  ARRAYNN_MEMBER V forward(V x) const {
    return select(x > V::zero(), x, V::set1(alpha) * expm1(min(V::zero(), x)));
  }
  ARRAYNN_MEMBER V derivative(V x) const {
    return select(x > V::zero(), V::set1(T(1)), V::set1(alpha) * exp(min(V::zero(), x)));
  }
};

template <class T>
struct Selu {
  using V = Vec<T>;
  static constexpr T kAlpha = T(1.6732632423543772848170429916717);
  static constexpr T kScale = T(1.0507009873554804934193349852946);
  static constexpr T kAlphaScale = T(1.7580993408473768599402175208123);
  explicit constexpr Selu(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const {
    return select(x > V::zero(), V::set1(kScale) * x,
                  V::set1(kAlphaScale) * expm1(min(V::zero(), x)));
  }
  ARRAYNN_MEMBER V derivative(V x) const {
    return select(x > V::zero(), V::set1(kScale), V::set1(kAlphaScale) * exp(min(V::zero(), x)));
  }
};

template <class T>
struct Sigmoid {
  using V = Vec<T>;
  explicit constexpr Sigmoid(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const { return sigmoid(x); }
  // s (1 - s) = e / (1 + e)^2 with e = e^-|x|: nothing cancels in the tails.
  ARRAYNN_MEMBER V derivative(V x) const {
    const V e = exp(-abs(x)), d = V::set1(T(1)) + e;
    return e / (d * d);
  }
};

template <class T>
struct Tanh {
  using V = Vec<T>;
  explicit constexpr Tanh(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const { return tanh(x); }
  // 1 - tanh^2 = 4 e / (1 + e)^2 with e = e^-2|x|.
  ARRAYNN_MEMBER V derivative(V x) const {
    const V a = abs(x), e = exp(-(a + a)), d = V::set1(T(1)) + e;
    return V::set1(T(4)) * e / (d * d);
  }
};

template <class T>
struct Hardsigmoid {
  using V = Vec<T>;
  explicit constexpr Hardsigmoid(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const {
    const V shifted = x + V::set1(T(3));
    return min(V::set1(T(6)), max(V::zero(), shifted)) * V::set1(T(1.0 / 6.0));
  }
  ARRAYNN_MEMBER V derivative(V x) const {
    const Mask<T> inside = (x > V::set1(T(-3))) & (x < V::set1(T(3)));
    return select(inside, V::set1(T(1.0 / 6.0)), V::zero());
  }
};

template <class T>
struct Hardswish {
  using V = Vec<T>;
  explicit constexpr Hardswish(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const {
    const V shifted = x + V::set1(T(3));
    return x * (min(V::set1(T(6)), max(V::zero(), shifted)) * V::set1(T(1.0 / 6.0)));
  }
  ARRAYNN_MEMBER V derivative(V x) const {
    const V ramp = fma(x, V::set1(T(1.0 / 3.0)), V::set1(T(0.5)));
    const V upper = select(x >= V::set1(T(3)), V::set1(T(1)), ramp);
    return select(x <= V::set1(T(-3)), V::zero(), upper);
  }
};

template <class T>
struct Silu {
  using V = Vec<T>;
  explicit constexpr Silu(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const { return times_sigmoid(x, x); }
  // s(x) (1 + x s(-x)).
  ARRAYNN_MEMBER V derivative(V x) const {
    const Logistic<T> s = logistic(x);
    return s.above * fma(x, s.below, V::set1(T(1)));
  }
};

template <class T>
struct Gelu {
  using V = Vec<T>;
  explicit constexpr Gelu(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const {
    const Normal<T> n = normal(x);
    // x first in the lower tail: the distribution alone would be flushed before the product is.
    return select(x < V::zero(), (x * n.mills) * n.gauss, x * (V::set1(T(1)) - n.mills * n.gauss));
  }
  ARRAYNN_MEMBER V derivative(V x) const {
    const Normal<T> n = normal(x);
    return fma(x * V::set1(T(0.39894228040143267794)), n.gauss, n.cdf(x));
  }
};

// x s(z) with z = 2 sqrt(2/pi) (x + 0.044715 x^3), since 1 + tanh u = 2 s(2u).
template <class T>
struct GeluTanh {
  using V = Vec<T>;
  static constexpr T kLinear = T(1.5957691216057307117597842397375);  // 2 sqrt(2/pi)
  static constexpr T kCubic = T(0.071354816272600248776);             // that times 0.044715
  explicit constexpr GeluTanh(const Activation&) {}
  ARRAYNN_MEMBER V argument(V x) const { return x * fma(V::set1(kCubic), x * x, V::set1(kLinear)); }
  ARRAYNN_MEMBER V forward(V x) const { return times_sigmoid(x, argument(x)); }
  // s + x s (1 - s) z'. s (1 - s) vanishes long before |x| = 100, where x and z' are held so that
  // they cannot overflow and turn the product into NaN.
  ARRAYNN_MEMBER V derivative(V x) const {
    const Logistic<T> s = logistic(argument(x));
    const V bounded = min(V::set1(T(100)), max(V::set1(T(-100)), x));
    const V slope = fma(V::set1(T(3) * kCubic), bounded * bounded, V::set1(kLinear));
    return fma(bounded * (s.above * s.below), slope, s.above);
  }
};

// tanh(log(1 + e)) = n / (n + 2) with e = e^x, n = e (e + 2).
template <class T>
struct Mish {
  using V = Vec<T>;
  static constexpr T kMax = sizeof(T) == 4 ? T(43) : T(350);  // e^(2 kMax) is finite
  explicit constexpr Mish(const Activation&) {}
  ARRAYNN_MEMBER V forward(V x) const {
    const ExpTimes<T> t = exp_times(min(V::set1(kMax), x), x);
    const V twice = t.exp + V::set1(T(2)), n = t.exp * twice;
    const V product = select(x < V::set1(T(2) * ExpConstants<T>::kLo), x * V::zero(), t.product);
    const Mask<T> negative = x < V::zero();
    // x e (e + 2) / (n + 2) or x n / (n + 2).
    return select(negative, product, x) * (select(negative, twice, n) / (n + V::set1(T(2))));
  }
  // t + x (1 - t^2) s(x) = t + 4 x e (1 + e) / (n + 2)^2.
  ARRAYNN_MEMBER V derivative(V x) const {
    const V e = exp(min(V::set1(kMax), x)), n = e * (e + V::set1(T(2)));
    const V r = V::set1(T(1)) / (n + V::set1(T(2)));
    const V bell = (V::set1(T(4)) * e * r) * ((V::set1(T(1)) + e) * r);
    // 0 where it is below one rounding of t, so that +inf gives NaN and large x do not.
    return fma(x, select(x < V::set1(T(40)), bell, V::zero()), n * r);
  }
};

template <class T>
struct Softplus {
  using V = Vec<T>;
  T beta, threshold, inverse;
  explicit constexpr Softplus(const Activation& a)
      : beta(static_cast<T>(a.alpha)),
        threshold(static_cast<T>(a.beta)),
        inverse(static_cast<T>(1.0 / a.alpha)) {}
  ARRAYNN_MEMBER V forward(V x) const {
    const V z = V::set1(beta) * x;
    const V soft = (max(V::zero(), z) + log1p_unit(exp(-abs(z)))) * V::set1(inverse);
    return select(z > V::set1(threshold), x, soft);
  }
  ARRAYNN_MEMBER V derivative(V x) const {
    const V z = V::set1(beta) * x;
    return select(z > V::set1(threshold), V::set1(T(1)), sigmoid(z));
  }
};

// Calls f with the functor of `a`: f is compiled once per kind.
template <class T, class F>
ARRAYNN_INLINE void visit_activation(const Activation& a, const F& f) {
  switch (a.kind) {
    case ActivationKind::kNone:
      return f(Identity<T>(a));
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
}

template <class T, int kN>
[[gnu::noinline]] static void activate_out_of_line(const Activation& activation, Vec<T>* v) {
  visit_activation<T>(activation, [&](auto f) {
    for (int i = 0; i < kN; ++i) v[i] = f.forward(v[i]);
  });
}

// Of a tile in registers. Those that are not worth code of their own get a copy whose address is
// taken: the tile itself stays in registers.
template <class T, int kN>
ARRAYNN_INLINE void activate_tile(const Activation& activation, Vec<T> (&v)[kN]) {
  if (activation.kind == ActivationKind::kRelu) {
    ARRAYNN_UNROLL for (int i = 0; i < kN; ++i) v[i] = max(Vec<T>::zero(), v[i]);
  } else if (activation.kind != ActivationKind::kNone) {
    Vec<T> copy[kN];
    ARRAYNN_UNROLL for (int i = 0; i < kN; ++i) copy[i] = v[i];
    activate_out_of_line<T, kN>(activation, copy);
    ARRAYNN_UNROLL for (int i = 0; i < kN; ++i) v[i] = copy[i];
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
