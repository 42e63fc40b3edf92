#include "core/parallel.hpp"
#include "optim/rules.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
struct Adam {
  using V = Vec<T>;
  AdamRule<T> rule;

  explicit Adam(const AdamScalars& s) : rule(s) {}

  template <bool kLargest>
  [[gnu::always_inline]] inline void update(const OptimTensor<T>& t, std::int64_t i,
                                            std::int64_t n) const {
    V p = load_lanes(t.param + i, n), m = load_lanes(t.first + i, n),
      v = load_lanes(t.second + i, n);
    const V g = load_lanes(t.grad + i, n);
    V largest = V::zero();
    if constexpr (kLargest) largest = load_lanes(t.largest + i, n);
    rule.template apply<kLargest>(p, g, m, v, largest);
    store_lanes(m, t.first + i, n);
    store_lanes(v, t.second + i, n);
    if constexpr (kLargest) store_lanes(largest, t.largest + i, n);
    store_lanes(p, t.param + i, n);
  }

  void run(const OptimTensor<T>& t, std::int64_t begin, std::int64_t end) const {
    if (t.largest != nullptr) {
      for (std::int64_t i = begin; i < end; i += kLanes<T>) update<true>(t, i, end - i);
    } else {
      std::int64_t i = begin;
      for (; i + kLanes<T> <= end; i += kLanes<T>) update<false>(t, i, kLanes<T>);
      if (i < end) update<false>(t, i, end - i);
    }
  }
};

template <class T>
struct Sgd {
  using V = Vec<T>;
  SgdRule<T> rule;

  explicit Sgd(const SgdScalars& s) : rule(s) {}

  void run(const OptimTensor<T>& t, std::int64_t begin, std::int64_t end) const {
    for (std::int64_t i = begin; i < end; i += kLanes<T>) {
      const std::int64_t n = end - i;
      V p = load_lanes(t.param + i, n), b = V::zero();
      if (rule.reads_buffer()) b = load_lanes(t.first + i, n);
      rule.apply(p, load_lanes(t.grad + i, n), b);
      if (rule.use_buffer) store_lanes(b, t.first + i, n);
      store_lanes(p, t.param + i, n);
    }
  }
};

template <class T>
struct Adagrad {
  using V = Vec<T>;
  AdagradRule<T> rule;

  explicit Adagrad(const AdagradScalars& s) : rule(s) {}

  void run(const OptimTensor<T>& t, std::int64_t begin, std::int64_t end) const {
    for (std::int64_t i = begin; i < end; i += kLanes<T>) {
      const std::int64_t n = end - i;
      V p = load_lanes(t.param + i, n), sum = load_lanes(t.first + i, n);
      rule.apply(p, load_lanes(t.grad + i, n), sum);
      store_lanes(sum, t.first + i, n);
      store_lanes(p, t.param + i, n);
    }
  }
};

template <class T>
struct Rmsprop {
  using V = Vec<T>;
  RmspropRule<T> rule;

  explicit Rmsprop(const RmspropScalars& s) : rule(s) {}

  template <bool kCentred, bool kMomentum>
  void run_part(const OptimTensor<T>& t, std::int64_t begin, std::int64_t end) const {
    for (std::int64_t i = begin; i < end; i += kLanes<T>) {
      const std::int64_t n = end - i;
      V p = load_lanes(t.param + i, n), square = load_lanes(t.first + i, n);
      V mean = V::zero(), buffer = V::zero();
      if constexpr (kCentred) mean = load_lanes(t.second + i, n);
      if constexpr (kMomentum) buffer = load_lanes(t.largest + i, n);
      rule.template apply<kCentred, kMomentum>(p, load_lanes(t.grad + i, n), square, mean, buffer);
      store_lanes(square, t.first + i, n);
      if constexpr (kCentred) store_lanes(mean, t.second + i, n);
      if constexpr (kMomentum) store_lanes(buffer, t.largest + i, n);
      store_lanes(p, t.param + i, n);
    }
  }

  void run(const OptimTensor<T>& t, std::int64_t begin, std::int64_t end) const {
    if (t.second != nullptr) {
      t.largest != nullptr ? run_part<true, true>(t, begin, end)
                           : run_part<true, false>(t, begin, end);
    } else {
      t.largest != nullptr ? run_part<false, true>(t, begin, end)
                           : run_part<false, false>(t, begin, end);
    }
  }
};

// A member of the team takes its part of the flat run.
template <class T, class Step, class Scalars>
void run_flat(const OptimTensor<T>* tensors, std::int64_t count, const Scalars& s, int threads) {
  const Step step(s);
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range part = split_range(count == 0 ? 0 : tensors[count - 1].end, nthreads, tid);
    for (std::int64_t i = 0; i < count; ++i) {
      const OptimTensor<T>& t = tensors[i];
      const std::int64_t begin = max_i(part.begin, t.begin), end = min_i(part.end, t.end);
      if (begin < end) step.run(t, begin - t.begin, end - t.begin);
    }
  });
}

template <class T>
double square_sum(const T* p, std::int64_t n) {
  constexpr int kL = kLanes<double>;
  typedef T Narrow __attribute__((vector_size(kL * sizeof(T))));
  constexpr int kChains = 4;
  Vec<double> acc[kChains];
  for (int c = 0; c < kChains; ++c) acc[c] = Vec<double>::zero();
  std::int64_t i = 0;
  for (; i + kChains * kL <= n; i += kChains * kL) {
    for (int c = 0; c < kChains; ++c) {
      Narrow raw;
      __builtin_memcpy(&raw, p + i + c * kL, sizeof raw);
      const Vec<double> x{__builtin_convertvector(raw, Vec<double>::Raw)};
      acc[c] = fma(x, x, acc[c]);
    }
  }
  double rest = 0;
  for (; i < n; ++i) rest += static_cast<double>(p[i]) * static_cast<double>(p[i]);
  return reduce_add((acc[0] + acc[1]) + (acc[2] + acc[3])) + rest;
}

template <class T>
void square_sums(const OptimTensor<T>* tensors, std::int64_t count, int threads, double* sums) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    std::int64_t chunk = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t n = tensors[i].end - tensors[i].begin;
      for (std::int64_t begin = 0; begin < n; begin += kNormChunk, ++chunk) {
        if (chunk % nthreads != tid) continue;
        sums[chunk] = square_sum(tensors[i].grad + begin, min_i(kNormChunk, n - begin));
      }
    }
  });
}

template <class T>
constexpr OptimTable<T> table() {
  return {&run_flat<T, Adam<T>, AdamScalars>, &run_flat<T, Sgd<T>, SgdScalars>,
          &run_flat<T, Adagrad<T>, AdagradScalars>, &run_flat<T, Rmsprop<T>, RmspropScalars>,
          &square_sums<T>};
}

}  // namespace

extern const OptimKernels optim_kernels = {table<float>(), table<double>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
