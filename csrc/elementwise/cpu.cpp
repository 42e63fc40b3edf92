#include "elementwise/elementwise.hpp"
#include "simd/activation.hpp"
#include "simd/philox.hpp"
#include "simd/storage.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class S, class F>
ARRAYNN_INLINE void map(const F& f, const S* x, S* y, std::int64_t n) {
  using V = Vec<Compute<S>>;
  constexpr int kL = V::kSize;
  std::int64_t i = 0;
  for (; i + 2 * kL <= n; i += 2 * kL) {  // two chains: the polynomials are long
    const V a = f(load(x + i)), b = f(load(x + i + kL));
    store(a, y + i);
    store(b, y + i + kL);
  }
  for (; i < n; i += kL) {
    const std::int64_t left = min_i(n - i, kL);
    store_n(f(load_n(x + i, left)), y + i, left);
  }
}

template <class S>
void activation(const Activation& a, const S* x, S* y, std::int64_t n) {
  using T = Compute<S>;
  visit_activation<T>(a, [&](const auto& f) {
    map([&f](Vec<T> v) __attribute__((always_inline)) { return f.forward(v); }, x, y, n);
  });
}

template <class S>
void activation_backward(const Activation& a, const S* dy, const S* x, S* dx, std::int64_t n) {
  using T = Compute<S>;
  visit_activation<T>(a, [&](const auto& f) {
    constexpr int kL = kLanes<T>;
    std::int64_t i = 0;
    for (; i + 2 * kL <= n; i += 2 * kL) {
      const Vec<T> u = load(dy + i) * f.derivative(load(x + i));
      const Vec<T> v = load(dy + i + kL) * f.derivative(load(x + i + kL));
      store(u, dx + i);
      store(v, dx + i + kL);
    }
    for (; i < n; i += kL) {
      const std::int64_t left = min_i(n - i, kL);
      store_n(load_n(dy + i, left) * f.derivative(load_n(x + i, left)), dx + i, left);
    }
  });
}

template <class S>
void dropout(const Dropout& d, const S* x, S* y, std::int64_t begin, std::int64_t end) {
  using T = Compute<S>;
  if (d.threshold > 0xFFFFFFFFu) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = S{};
    return;
  }
  const auto threshold = static_cast<std::uint32_t>(d.threshold);
  const Vec<T> scale = Vec<T>::set1(static_cast<T>(d.scale));
  alignas(64) std::uint32_t words[kPhiloxWords];
  for (std::int64_t i = begin; i < end; i += kPhiloxWords) {
    philox_words(static_cast<std::uint64_t>(i / 4), d.key, words);
    if (i + kPhiloxWords <= end) {
      for (int j = 0; j < kPhiloxWords; j += kLanes<T>) {
        const Vec<T> v = load(x + i + j) * scale;
        store(select(kept<T>(words + j, threshold), v, Vec<T>::zero()), y + i + j);
      }
    } else {
      const T factor = static_cast<T>(d.scale);
      for (std::int64_t j = 0; j < end - i; ++j) {
        y[i + j] = words[j] >= threshold ? from_compute<S>(to_compute(x[i + j]) * factor) : S{};
      }
    }
  }
}

template <class T>
void math(MathFunction f, const T* x, T* y, std::int64_t n) {
  switch (f) {
    case MathFunction::kExp:
      return map([](Vec<T> v) { return exp(v); }, x, y, n);
    case MathFunction::kExpm1:
      return map([](Vec<T> v) { return expm1(v); }, x, y, n);
    case MathFunction::kLog:
      return map([](Vec<T> v) { return log(v); }, x, y, n);
    case MathFunction::kLog1pUnit:
      return map([](Vec<T> v) { return log1p_unit(v); }, x, y, n);
    case MathFunction::kErf:
      return map([](Vec<T> v) { return erf(v); }, x, y, n);
    case MathFunction::kNormalCdf:
      return map([](Vec<T> v) { return normal(v).cdf(v); }, x, y, n);
  }
}

}  // namespace

extern const ElementwiseKernels elementwise_kernels = {
    {&activation<float>, &activation_backward<float>, &dropout<float>},
    {&activation<double>, &activation_backward<double>, &dropout<double>},
    {&activation<Half>, &activation_backward<Half>, &dropout<Half>},
    {&activation<Bfloat16>, &activation_backward<Bfloat16>, &dropout<Bfloat16>},
};
extern const MathKernels math_kernels = {{&math<float>}, {&math<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
