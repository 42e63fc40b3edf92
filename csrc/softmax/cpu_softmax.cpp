#include "softmax/rows.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// y[i] = f(x[i]).
template <class From, class S, class F>
ARRAYNN_INLINE void map_row(const From* x, S* y, std::int64_t n, bool stream, const F& f) {
  write_run(y, n, stream, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    return f(load_lanes(x + i, lanes));
  });
}

template <class S>
SoftmaxStats<Compute<S>> block_stats(const S* x, std::int64_t n) {
  return block_stats_of(x, n);
}

template <class T>
SoftmaxStats<T> merge(const SoftmaxStats<T>* stats, std::int64_t count) {
  SoftmaxStats<T> all = stats[0];
  for (std::int64_t i = 1; i < count; ++i) all = merge_stats(all, stats[i]);
  return all;
}

template <class S>
void block_finish(SoftmaxKind kind, SoftmaxStats<Compute<S>> stats, const S* x, S* y,
                  std::int64_t n, bool stream) {
  using T = Compute<S>;
  using V = Vec<T>;
  const V m = V::set1(stats.max);
  if (kind == SoftmaxKind::kSoftmax) {
    const V scale = V::set1(T(1) / stats.sum);
    map_row(x, y, n, stream,
            [=](V v) __attribute__((always_inline)) { return exp(v - m) * scale; });
  } else {
    const V log_sum = V::set1(log_of_sum(stats.sum));
    map_row(x, y, n, stream, [=](V v) __attribute__((always_inline)) { return (v - m) - log_sum; });
  }
}

template <class S>
void rows(SoftmaxKind kind, const S* x, S* y, std::int64_t count, std::int64_t n, bool stream) {
  using T = Compute<S>;
  using V = Vec<T>;
  alignas(64) T buffer[kRowRoom<S>];
  for (std::int64_t r = 0; r < count; ++r, x += n, y += n) {
    T* e = kind == SoftmaxKind::kSoftmax ? room_for_row(y, buffer, n) : nullptr;
    if (e == nullptr) {
      block_finish(kind, row_stats(x, n), x, y, n, stream);
      continue;
    }
    const T m = row_max(x, n);
    const V scale = V::set1(T(1) / row_exp_sum<true>(x, m, e, n));
    map_row(e, y, n, false, [=](V v) __attribute__((always_inline)) { return v * scale; });
  }
}

// sum dy (log_softmax) or sum dy y (softmax) of a row.
template <bool kProduct, class S>
ARRAYNN_INLINE Compute<S> row_sum(const S* dy, const S* y, std::int64_t n) {
  using T = Compute<S>;
  return sum_row<T>(n, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    const Vec<T> g = load_lanes(dy + i, lanes);
    return kProduct ? g * load_lanes(y + i, lanes) : g;
  });
}

template <class T>
ARRAYNN_INLINE Vec<T> gradient(SoftmaxKind kind, Vec<T> g, Vec<T> y, Vec<T> sum) {
  return kind == SoftmaxKind::kSoftmax ? y * (g - sum) : g - exp(y) * sum;
}

template <class S>
void rows_backward(SoftmaxKind kind, const S* dy, const S* y, S* dx, std::int64_t count,
                   std::int64_t n, bool stream) {
  using T = Compute<S>;
  for (std::int64_t r = 0; r < count; ++r, dy += n, y += n, dx += n) {
    const T total =
        kind == SoftmaxKind::kSoftmax ? row_sum<true>(dy, y, n) : row_sum<false>(dy, y, n);
    const Vec<T> sum = Vec<T>::set1(total);
    write_run(dx, n, stream,
              [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
                return gradient(kind, load_lanes(dy + i, lanes), load_lanes(y + i, lanes), sum);
              });
  }
}

template <class S>
void strip(SoftmaxKind kind, const S* x, S* y, std::int64_t n, std::int64_t inner,
           std::int64_t width) {
  using T = Compute<S>;
  using V = Vec<T>;
  alignas(64) T max_of[kStrip], sum_of[kStrip];
  strip_stats(x, n, inner, width, max_of, sum_of);
  for_vectors<T>(width, [&](std::int64_t j, std::int64_t) __attribute__((always_inline)) {
    const V s = V::load(sum_of + j);
    (kind == SoftmaxKind::kSoftmax ? V::set1(T(1)) / s : log_of_sum(s)).store(sum_of + j);
  });
  for (std::int64_t k = 0; k < n; ++k) {
    const S* from = x + k * inner;
    S* to = y + k * inner;
    for_vectors<T>(width, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
      const V shifted = load_lanes(from + j, lanes) - V::load(max_of + j);
      const V s = V::load(sum_of + j);
      store_lanes(kind == SoftmaxKind::kSoftmax ? exp(shifted) * s : shifted - s, to + j, lanes);
    });
  }
}

template <class S>
void strip_backward(SoftmaxKind kind, const S* dy, const S* y, S* dx, std::int64_t n,
                    std::int64_t inner, std::int64_t width) {
  using T = Compute<S>;
  using V = Vec<T>;
  alignas(64) T sum_of[kStrip];
  for (std::int64_t j = 0; j < kStrip; j += kLanes<T>) V::zero().store(sum_of + j);
  for (std::int64_t k = 0; k < n; ++k) {
    for_vectors<T>(width, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
      const V g = load_lanes(dy + k * inner + j, lanes), s = V::load(sum_of + j);
      const V sum =
          kind == SoftmaxKind::kSoftmax ? fma(g, load_lanes(y + k * inner + j, lanes), s) : s + g;
      sum.store(sum_of + j);
    });
  }
  for (std::int64_t k = 0; k < n; ++k) {
    for_vectors<T>(width, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
      const V g = load_lanes(dy + k * inner + j, lanes), v = load_lanes(y + k * inner + j, lanes);
      store_lanes(gradient(kind, g, v, V::load(sum_of + j)), dx + k * inner + j, lanes);
    });
  }
}

template <class T>
constexpr SoftmaxTable<T> table() {
  return {&rows<T>,         &rows_backward<T>, &block_stats<T>,   &merge<Compute<T>>,
          &block_finish<T>, &strip<T>,         &strip_backward<T>};
}

}  // namespace

extern const SoftmaxKernels softmax_kernels = {table<float>(), table<double>(), table<Half>(),
                                               table<Bfloat16>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
