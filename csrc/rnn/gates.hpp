// Activations and their derivatives over the vectors of a tile, in L1.
#pragma once
#include <type_traits>

#include "rnn/rnn.hpp"
#include "simd/activation.hpp"
#if defined(ARRAYNN_CUDA)
#include "core/cuda_activate.hpp"
#include "core/cuda_pack.hpp"
// A thread has one element: there is nothing to keep apart, and its values stay in registers.
#define ARRAYNN_RNN_APART ARRAYNN_MEMBER
#else
#define ARRAYNN_RNN_APART [[gnu::noinline]] static
#endif

namespace ARRAYNN_ISA_NAMESPACE {

#if defined(ARRAYNN_CUDA)
// The first n lanes, 0 <= n <= 1, of 16-bit elements.
#define ARRAYNN_STORED_LANES(T)                                         \
  ARRAYNN_MEMBER Vec<float> load_lanes(const T* p, std::int64_t n) {    \
    return {n > 0 ? to_compute(*p) : 0.0f};                             \
  }                                                                     \
  ARRAYNN_MEMBER void store_lanes(Vec<float> a, T* p, std::int64_t n) { \
    if (n > 0) *p = from_compute<T>(a.v);                               \
  }
ARRAYNN_STORED_LANES(Half)
ARRAYNN_STORED_LANES(Bfloat16)
#undef ARRAYNN_STORED_LANES
#endif

// v[i] = f(v[i]), i < count vectors. One choice of f for a whole tile.
template <class T>
ARRAYNN_RNN_APART void activate_vectors(const Activation& f, T* v, std::int64_t count) {
#if defined(ARRAYNN_CUDA)
  for (std::int64_t i = 0; i < count; ++i) v[i] = activate(f, v[i]);
#else
  constexpr int kL = kLanes<T>;
  visit_activation<T>(f, [&](const auto& a) {
    std::int64_t i = 0;
    for (; i + 2 <= count; i += 2) {  // two chains: the polynomials are long
      const Vec<T> x = a.forward(Vec<T>::load(v + i * kL));
      const Vec<T> y = a.forward(Vec<T>::load(v + (i + 1) * kL));
      x.store(v + i * kL);
      y.store(v + (i + 1) * kL);
    }
    if (i < count) a.forward(Vec<T>::load(v + i * kL)).store(v + i * kL);
  });
#endif
}

// d[i] *= f'(x[i]).
template <class T>
ARRAYNN_RNN_APART void times_derivative(const Activation& f, const T* x, T* d, std::int64_t count) {
#if defined(ARRAYNN_CUDA)
  for (std::int64_t i = 0; i < count; ++i) d[i] = d[i] * activation_slope(f, x[i]);
#else
  visit_activation<T>(f, [&](const auto& a) {
    for (std::int64_t i = 0; i < count * kLanes<T>; i += kLanes<T>) {
      (Vec<T>::load(d + i) * a.derivative(Vec<T>::load(x + i))).store(d + i);
    }
  });
#endif
}

template <class T>
ARRAYNN_MEMBER Vec<T> clamp(Vec<T> x, T bound) {
  return min(Vec<T>::set1(bound), max(Vec<T>::set1(-bound), x));
}

// What a value is once it is stored.
template <class T>
ARRAYNN_MEMBER Vec<Compute<T>> as_stored(Vec<Compute<T>> v) {
#if defined(ARRAYNN_CUDA)
  return {to_compute(from_compute<T>(v.v))};
#else
  return v;
#endif
}

// The bounds of a cell; none is infinity.
template <class T>
struct Bounds {
  T z, c;
  ARRAYNN_MEMBER explicit Bounds(const RnnCell& cell)
      : z(cell.clips ? static_cast<T>(cell.clip) : static_cast<T>(__builtin_inf())),
        c(cell.clips_cell ? static_cast<T>(cell.cell_clip) : static_cast<T>(__builtin_inf())) {}
};

// d f'(x) from y = f(x).
template <class T>
ARRAYNN_MEMBER Vec<T> sigmoid_back(Vec<T> y, Vec<T> d) {
  return d * (y * (Vec<T>::set1(T(1)) - y));
}
template <class T>
ARRAYNN_MEMBER Vec<T> tanh_back(Vec<T> y, Vec<T> d) {
  return d * fma(-y, y, Vec<T>::set1(T(1)));
}

// d[i] *= f'(x[i]) from y = f(x), for those of derivative_from_value().
template <class T>
ARRAYNN_RNN_APART void times_derivative_of_value(const Activation& f, const T* y, T* d,
                                                 std::int64_t count) {
  using V = Vec<T>;
  const auto each = [&](const auto& of) {
    for (std::int64_t i = 0; i < count * kLanes<T>; i += kLanes<T>) {
      of(V::load(y + i), V::load(d + i)).store(d + i);
    }
  };
  switch (f.kind) {
    case ActivationKind::kSigmoid:
      return each([](V v, V g) { return sigmoid_back(v, g); });
    case ActivationKind::kTanh:
      return each([](V v, V g) { return tanh_back(v, g); });
    case ActivationKind::kRelu:
      return each([](V v, V g) { return select(v <= V::zero(), V::zero(), g); });
    case ActivationKind::kLeakyRelu: {
      const V slope = V::set1(static_cast<T>(f.alpha));
      return each([&](V v, V g) { return select(v > V::zero(), g, g * slope); });
    }
    case ActivationKind::kElu: {  // alpha exp(x) = y + alpha
      const V alpha = V::set1(static_cast<T>(f.alpha));
      return each([&](V v, V g) { return select(v > V::zero(), g, g * (v + alpha)); });
    }
    case ActivationKind::kSelu: {
      const V alpha = V::set1(Selu<T>::kAlphaScale), scale = V::set1(Selu<T>::kScale);
      return each([&](V v, V g) { return g * select(v > V::zero(), scale, v + alpha); });
    }
    case ActivationKind::kHardsigmoid: {
      const V one = V::set1(T(1)), slope = V::set1(T(1.0 / 6.0));
      return each(
          [&](V v, V g) { return select((v > V::zero()) & (v < one), g * slope, V::zero()); });
    }
    case ActivationKind::kSoftplus: {  // sigmoid(beta x) = 1 - exp(-beta y)
      const V beta = V::set1(static_cast<T>(f.alpha));
      return each([&](V v, V g) { return -g * expm1(-(beta * v)); });
    }
    default:  // none: the derivative is 1
      return;
  }
}

// f of one vector through L1.
template <class T>
ARRAYNN_MEMBER Vec<T> activated(const Activation& f, Vec<T> x) {
  alignas(64) T v[kLanes<T>];
  x.store(v);
  activate_vectors(f, v, 1);
  return Vec<T>::load(v);
}

// The activations of an LSTM or a GRU: those of kUsual stay in registers.
enum class CellActivations : bool { kAny, kUsual };
template <CellActivations kOf>
using ActivationsOf = std::integral_constant<CellActivations, kOf>;

// f(ActivationsOf), compiled for both; the kernels of a GPU have one for all.
template <class F>
ARRAYNN_MEMBER void visit_cell([[maybe_unused]] const RnnCell& cell, const F& f) {
#if !defined(ARRAYNN_CUDA)
  if (cell.gate.kind == ActivationKind::kSigmoid && cell.main.kind == ActivationKind::kTanh &&
      (cell.kind != RnnKind::kLstm || cell.output.kind == ActivationKind::kTanh)) {
    return f(ActivationsOf<CellActivations::kUsual>{});
  }
#endif
  f(ActivationsOf<CellActivations::kAny>{});
}

template <CellActivations kOf, class T>
ARRAYNN_MEMBER Vec<T> gate_of(const RnnCell& cell, Vec<T> x) {
  if constexpr (kOf == CellActivations::kUsual) {
    return sigmoid(x);
  } else {
    return activated(cell.gate, x);
  }
}
// f is the cell's main activation or an LSTM's of the output.
template <CellActivations kOf, class T>
ARRAYNN_MEMBER Vec<T> main_of(const Activation& f, Vec<T> x) {
  if constexpr (kOf == CellActivations::kUsual) {
    return tanh(x);
  } else {
    return activated(f, x);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
