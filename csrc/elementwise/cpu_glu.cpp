#include "elementwise/glu.hpp"
#include "simd/activation.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// f(run, first, count): the pieces of [begin, end) that lie in one run each.
template <class F>
ARRAYNN_INLINE void for_runs(const GluShape& p, std::int64_t begin, std::int64_t end, const F& f) {
  std::int64_t run = begin / p.inner, first = begin % p.inner;
  for (std::int64_t left = end - begin; left > 0; ++run, first = 0) {
    const std::int64_t count = min_i(p.inner - first, left);
    f(run, first, count);
    left -= count;
  }
}

template <class T>
void forward(const Activation& a, const GluShape& p, const T* x, T* y, std::int64_t begin,
             std::int64_t end) {
  visit_activation<T>(a, [&](const auto& f) {
    for_runs(p, begin, end, [&](std::int64_t run, std::int64_t first, std::int64_t n) {
      constexpr int kL = kLanes<T>;
      const T* u = x + 2 * run * p.inner + first;
      const T* v = u + p.inner;
      T* to = y + run * p.inner + first;
      std::int64_t i = 0;
      for (; i + 2 * kL <= n; i += 2 * kL) {  // two chains: the polynomials are long
        const Vec<T> g = f.forward(Vec<T>::load(v + i)), h = f.forward(Vec<T>::load(v + i + kL));
        (Vec<T>::load(u + i) * g).store(to + i);
        (Vec<T>::load(u + i + kL) * h).store(to + i + kL);
      }
      for (; i < n; i += kL) {
        const std::int64_t left = min_i(n - i, kL);
        store_n(load_n(u + i, left) * f.forward(load_n(v + i, left)), to + i, left);
      }
    });
  });
}

template <class T>
void backward(const Activation& a, const GluShape& p, const T* dy, const T* x, T* dx,
              std::int64_t begin, std::int64_t end) {
  visit_activation<T>(a, [&](const auto& f) {
    for_runs(p, begin, end, [&](std::int64_t run, std::int64_t first, std::int64_t n) {
      constexpr int kL = kLanes<T>;
      const std::int64_t at = 2 * run * p.inner + first;
      const T *u = x + at, *v = u + p.inner, *from = dy + run * p.inner + first;
      T *du = dx + at, *dv = du + p.inner;
      std::int64_t i = 0;
      for (; i + kL <= n; i += kL) {
        const Vec<T> d = Vec<T>::load(from + i), gate = Vec<T>::load(v + i);
        (d * f.forward(gate)).store(du + i);
        (d * Vec<T>::load(u + i) * f.derivative(gate)).store(dv + i);
      }
      if (const std::int64_t left = n - i; left > 0) {
        const Vec<T> d = load_n(from + i, left), gate = load_n(v + i, left);
        store_n(d * f.forward(gate), du + i, left);
        store_n(d * load_n(u + i, left) * f.derivative(gate), dv + i, left);
      }
    });
  });
}

}  // namespace

extern const GluKernels glu_kernels = {
    {&forward<float>, &backward<float>},
    {&forward<double>, &backward<double>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
