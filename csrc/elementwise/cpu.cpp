#include "elementwise/elementwise.hpp"
#include "simd/activation.hpp"
#include "simd/philox.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T, class F>
ARRAYNN_INLINE void map(const F& f, const T* x, T* y, std::int64_t n) {
  constexpr int kL = kLanes<T>;
  std::int64_t i = 0;
  for (; i + 2 * kL <= n; i += 2 * kL) {  // two chains: the polynomials are long
    const Vec<T> a = f(Vec<T>::load(x + i)), b = f(Vec<T>::load(x + i + kL));
    a.store(y + i);
    b.store(y + i + kL);
  }
  for (; i < n; i += kL) {
    const std::int64_t left = min_i(n - i, kL);
    store_n(f(load_n(x + i, left)), y + i, left);
  }
}

template <class T>
void activation(const Activation& a, const T* x, T* y, std::int64_t n) {
  visit_activation<T>(a, [&](const auto& f) {
    map([&f](Vec<T> v) __attribute__((always_inline)) { return f.forward(v); }, x, y, n);
  });
}

template <class T>
void activation_backward(const Activation& a, const T* dy, const T* x, T* dx, std::int64_t n) {
  visit_activation<T>(a, [&](const auto& f) {
    constexpr int kL = kLanes<T>;
    std::int64_t i = 0;
    for (; i + 2 * kL <= n; i += 2 * kL) {
      const Vec<T> u = Vec<T>::load(dy + i) * f.derivative(Vec<T>::load(x + i));
      const Vec<T> v = Vec<T>::load(dy + i + kL) * f.derivative(Vec<T>::load(x + i + kL));
      u.store(dx + i);
      v.store(dx + i + kL);
    }
    for (; i < n; i += kL) {
      const std::int64_t left = min_i(n - i, kL);
      store_n(load_n(dy + i, left) * f.derivative(load_n(x + i, left)), dx + i, left);
    }
  });
}

template <class T>
void dropout(const Dropout& d, const T* x, T* y, std::int64_t begin, std::int64_t end) {
  if (d.threshold > 0xFFFFFFFFu) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = T(0);
    return;
  }
  const auto threshold = static_cast<std::uint32_t>(d.threshold);
  const Vec<T> scale = Vec<T>::set1(static_cast<T>(d.scale));
  alignas(64) std::uint32_t words[kPhiloxWords];
  for (std::int64_t i = begin; i < end; i += kPhiloxWords) {
    philox_words(static_cast<std::uint64_t>(i / 4), d.key, words);
    if (i + kPhiloxWords <= end) {
      for (int j = 0; j < kPhiloxWords; j += kLanes<T>) {
        const Vec<T> v = Vec<T>::load(x + i + j) * scale;
        select(kept<T>(words + j, threshold), v, Vec<T>::zero()).store(y + i + j);
      }
    } else {
      const T factor = static_cast<T>(d.scale);
      for (std::int64_t j = 0; j < end - i; ++j) {
        y[i + j] = words[j] >= threshold ? x[i + j] * factor : T(0);
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
    {&activation<float>, &activation_backward<float>, &dropout<float>, &math<float>},
    {&activation<double>, &activation_backward<double>, &dropout<double>, &math<double>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
