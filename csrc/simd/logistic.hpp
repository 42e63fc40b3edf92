// The logistic function over the exponentials of simd/math.hpp, or of csrc/lane's for CUDA units.
#pragma once
#include "simd/math.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// 1 / (1 + e^-x): 0 and 1 at the infinities.
// Max error: 3 ULP.
template <class T>
ARRAYNN_MEMBER Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> one = Vec<T>::set1(T(1));
  return one / (one + exp(-x));
}

// Both sides of the logistic function from one exponential, each with full relative precision:
// above = sigmoid(x), below = sigmoid(-x).
template <class T>
struct Logistic {
  Vec<T> above, below;
};

template <class T>
ARRAYNN_MEMBER Logistic<T> logistic(Vec<T> x) {
  const Vec<T> one = Vec<T>::set1(T(1));
  const Vec<T> e = exp(-abs(x));
  const Vec<T> large = one / (one + e), small = e * large;
  const Mask<T> negative = x < Vec<T>::zero();
  return {select(negative, small, large), select(negative, large, small)};
}

// x sigmoid(z) for z of the sign of x and |z| >= |x|: x / (1 + e) or x e / (1 + e), e = e^-|z|.
// NaN at -inf.
template <class T>
ARRAYNN_MEMBER Vec<T> times_sigmoid(Vec<T> x, Vec<T> z) {
  using V = Vec<T>;
  const ExpTimes<T> t = exp_times(-abs(z), x);
  const V product = select(x < V::set1(T(2) * ExpConstants<T>::kLo), x * V::zero(), t.product);
  return select(x < V::zero(), product, x) / (V::set1(T(1)) + t.exp);
}

}  // namespace ARRAYNN_ISA_NAMESPACE
