#include "elementwise/glu.hpp"
#include "simd/activation.hpp"
#include "simd/storage.hpp"

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

template <class S>
void forward(const Activation& a, const GluShape& p, const S* x, S* y, std::int64_t begin,
             std::int64_t end) {
  using T = Compute<S>;
  visit_activation<T>(a, [&](const auto& f) {
    for_runs(p, begin, end, [&](std::int64_t run, std::int64_t first, std::int64_t n) {
      constexpr int kL = kLanes<T>;
      const S* u = x + 2 * run * p.inner + first;
      const S* v = u + p.inner;
      S* to = y + run * p.inner + first;
      std::int64_t i = 0;
      for (; i + 2 * kL <= n; i += 2 * kL) {  // two chains: the polynomials are long
        const Vec<T> g = f.forward(load(v + i)), h = f.forward(load(v + i + kL));
        store(load(u + i) * g, to + i);
        store(load(u + i + kL) * h, to + i + kL);
      }
      for (; i < n; i += kL) {
        const std::int64_t left = min_i(n - i, kL);
        store_n(load_n(u + i, left) * f.forward(load_n(v + i, left)), to + i, left);
      }
    });
  });
}

template <class S>
void backward(const Activation& a, const GluShape& p, const S* dy, const S* x, S* dx,
              std::int64_t begin, std::int64_t end) {
  using T = Compute<S>;
  visit_activation<T>(a, [&](const auto& f) {
    for_runs(p, begin, end, [&](std::int64_t run, std::int64_t first, std::int64_t n) {
      constexpr int kL = kLanes<T>;
      const std::int64_t at = 2 * run * p.inner + first;
      const S *u = x + at, *v = u + p.inner, *from = dy + run * p.inner + first;
      S *du = dx + at, *dv = du + p.inner;
      std::int64_t i = 0;
      for (; i + kL <= n; i += kL) {
        const Vec<T> d = load(from + i), gate = load(v + i);
        store(d * f.forward(gate), du + i);
        store(d * load(u + i) * f.derivative(gate), dv + i);
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
    {&forward<Half>, &backward<Half>},
    {&forward<Bfloat16>, &backward<Bfloat16>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
