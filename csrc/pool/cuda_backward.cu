// Gradients of the poolings. A thread takes a strip of input elements down a column and sums what the
// windows that they are taps of pass on, in the order of memory: no atomics, the same bits on every run.
#include "pool/cuda_reduce.hpp"

namespace arraynn {
namespace cuda {
namespace {

// A window seen from an input element: its offset in a sample of outputs, and its place.
template <class I>
struct Source {
  I offset, d, h, w;
};

template <class T, int V>
struct MeanGradient {
  using C = Compute<T>;
  static constexpr int kAtOnce = V == 1 ? 4 : 2;  // windows loaded before one is used
  static constexpr int kBlocks = 4;
  struct Loaded {
    Values<T, V> grad;
  };
  const T* grad;
  Divisor divisor;

  template <class I>
  __device__ __forceinline__ Loaded load(I offset) const {
    return {load_values<V>(grad + offset)};
  }
  template <class I>
  __device__ __forceinline__ void add(const WindowProblem<I>& p, C (&sum)[V], const Loaded& in,
                                      const Source<I>& s, I) const {
    const C scale = divisor.uniform != 0 ? C(1) : divisor.of<C>(p, s.d, s.h, s.w);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const C g = to_compute(in.grad.v[j]);
      sum[j] += divisor.uniform != 0 ? g : g / scale;
    }
  }
  template <class I>
  __device__ __forceinline__ void finish(C (&sum)[V], I) const {
    if (divisor.uniform == 0) return;
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] /= static_cast<C>(divisor.uniform);
  }
};

// Of the position that won. Indices outside their windows are those of no element.
template <class T, int V>
struct MaxGradient {
  using C = Compute<T>;
  static constexpr int kAtOnce = V == 1 ? 4 : 2;
  static constexpr int kBlocks = 4;
  struct Loaded {
    Values<T, V> grad;
    Values<std::int64_t, V> winner;
  };
  const T* grad;
  const std::int64_t* indices;

  template <class I>
  __device__ __forceinline__ Loaded load(I offset) const {
    return {load_values<V>(grad + offset), load_values<V>(indices + offset)};
  }
  template <class I>
  __device__ __forceinline__ void add(const WindowProblem<I>&, C (&sum)[V], const Loaded& in,
                                      const Source<I>&, I own) const {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (in.winner.v[j] == own) sum[j] += to_compute(in.grad.v[j]);
    }
  }
  template <class I>
  __device__ __forceinline__ void finish(C (&)[V], I) const {}
};

// dy kernel / taps (x / y)^(p - 1); nothing where y is 0, unless p = 1.
template <class T, int V>
struct LpGradient {
  using C = Compute<T>;
  static constexpr int kAtOnce = 1;  // pow takes the registers
  static constexpr int kBlocks = 2;
  struct Loaded {
    Values<T, V> grad, y;
  };
  const T *grad, *x, *y;
  double norm, kernel;
  Divisor taps;

  template <class I>
  __device__ __forceinline__ Loaded load(I offset) const {
    return {load_values<V>(grad + offset), load_values<V>(y + offset)};
  }
  template <class I>
  __device__ __forceinline__ void add(const WindowProblem<I>& p, C (&sum)[V], const Loaded& in,
                                      const Source<I>& s, I) const {
    const C scale = static_cast<C>(kernel) / taps.of<C>(p, s.d, s.h, s.w);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const C g = to_compute(in.grad.v[j]) * scale, out = to_compute(in.y.v[j]);
      if (norm == 1) {
        sum[j] += g;
      } else if (out != 0) {
        sum[j] += norm == 2 ? g / out : g * power(out, 1 - norm);
      }
    }
  }
  template <class I>
  __device__ __forceinline__ void finish(C (&sum)[V], I offset) const {
    if (norm == 1) return;
    const Values<T, V> in = load_values<V>(x + offset);
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] *= power(to_compute(in.v[j]), norm - 1);
  }
};

template <class T, int V, class I, class Rule>
__global__ void __launch_bounds__(kPoolThreads, (kPoolBlocks<Rule, I, V>))
    pool_backward_kernel(const __grid_constant__ WindowProblem<I> p,
                         const __grid_constant__ Strips<I> strips, Rule rule, T* dx) {
  using C = Compute<T>;
  constexpr int kAtOnce = sizeof(I) == 4 ? Rule::kAtOnce : 1;
  const I step = static_cast<I>(gridDim.x) * kPoolThreads;
  for (I e = static_cast<I>(blockIdx.x * kPoolThreads + threadIdx.x); e < strips.count; e += step) {
    const Place<I> at = strips.locate(e);
    const I channel = at.group * V;
    const Touching<I> d = p.d.touching(at.d), w = p.w.touching(at.w);
    for (int r = 0; r < kStripRows && at.h + r < p.h.size; ++r) {
      const Touching<I> h = p.h.touching(at.h + r);
      const I windows = d.count * h.count * w.count;
      const I own = (at.d * p.h.size + at.h + r) * p.w.size + at.w;
      const I row = p.w.out * p.c, first = (d.first * p.h.out + h.first) * p.w.out + w.first;
      Walk<I> walk(at.n * p.out + first * p.c + channel, w.count, h.count, p.w.step * p.c,
                   p.h.step * row, p.d.step * p.h.out * row);
      C sum[V] = {};
      for (I t = 0; t < windows; t += kAtOnce) {
        typename Rule::Loaded in[kAtOnce] = {};
        Source<I> sources[kAtOnce];
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          sources[u] = {walk.offset, d.first + walk.i * p.d.step, h.first + walk.j * p.h.step,
                        w.first + walk.k * p.w.step};
          if (t + u < windows) in[u] = rule.load(walk.offset);
          walk.advance();
        }
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          if (t + u < windows) rule.add(p, sum, in[u], sources[u], own);
        }
      }
      const I to = at.n * p.in + own * p.c + channel;
      rule.finish(sum, to);
      Values<T, V> out;
#pragma unroll
      for (int j = 0; j < V; ++j) out.v[j] = from_compute<T>(sum[j]);
      store_values<V>(dx + to, out);
    }
  }
}

// make(width, offset of a launch's first output, and input) gives the rule.
template <class T, class Make>
void gather(const Windows& all, std::initializer_list<const void*> arrays, T* dx,
            const Make& make) {
  for_launches(all, [&](auto tag, const Windows& v, std::int64_t first) {
    using I = decltype(tag);
    const auto launch_rule = [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const auto rule = make(width, first * v.out(), first * v.in());
      const Strips<I> strips(v.n, v.d.size, v.h.size, v.w.size, v.c / kWidth, kStripRows);
      const Grid grid{persistent_blocks(ceil_div(strips.count, kPoolThreads), kPoolGridBlocks),
                      kPoolThreads};
      using Rule = std::remove_cvref_t<decltype(rule)>;
      ARRAYNN_LAUNCH((pool_backward_kernel<T, kWidth, I, Rule>), grid, problem_of<I>(v), strips,
                     rule, dx + first * v.in());
    };
    // Samples of whole packs: what is aligned once is aligned at every launch.
    if constexpr (sizeof(I) == 4) {
      if (is_vector_wide<T>(v, arrays) && is_packed(dx)) {
        return launch_rule(std::integral_constant<int, kPack<T>>{});
      }
    }
    launch_rule(std::integral_constant<int, 1>{});
  });
}

template <class T>
void mean_backward(const Windows& v, const AverageDivisor& d, const T* dy, T* dx) {
  const Divisor divisor = divisor_of(v, d);
  gather(v, {dy}, dx, [&](auto width, std::int64_t out, std::int64_t) {
    return MeanGradient<T, decltype(width)::value>{dy + out, divisor};
  });
}

template <class T>
bool max_backward(const Windows& v, const T* dy, const std::int64_t* indices, T* dx) {
  gather(v, {dy, indices}, dx, [&](auto width, std::int64_t out, std::int64_t) {
    return MaxGradient<T, decltype(width)::value>{dy + out, indices + out};
  });
  return true;  // indices outside their windows would have to be waited for
}

template <class T>
void lp_backward(const Windows& v, double norm, const T* dy, const T* x, const T* y, T* dx) {
  gather(v, {dy, x, y}, dx, [&](auto width, std::int64_t out, std::int64_t in) {
    return LpGradient<T, decltype(width)::value>{dy + out,           x + in,    y + out, norm,
                                                 kernel_elements(v), lp_taps(v)};
  });
}

}  // namespace
}  // namespace cuda

template <class T>
bool max_pool_backward(const char*, const PoolProblem& p, const T* dy, const T*,
                       const std::int64_t* indices, T* dx) {
  return cuda::max_backward(cuda::windows_of(p), dy, indices, dx);
}
template <class T>
bool max_pool_backward(const char*, const VolumeProblem& v, const T* dy, const T*,
                       const std::int64_t* indices, T* dx) {
  return cuda::max_backward(cuda::windows_of(v), dy, indices, dx);
}
template <class T>
void avg_pool_backward(const char*, const PoolProblem& p, const AverageDivisor& d, const T* dy,
                       T* dx) {
  cuda::mean_backward(cuda::windows_of(p), d, dy, dx);
}
template <class T>
void avg_pool_backward(const char*, const VolumeProblem& v, const AverageDivisor& d, const T* dy,
                       T* dx) {
  cuda::mean_backward(cuda::windows_of(v), d, dy, dx);
}
template <class T>
void lp_pool_backward(const char*, const PoolProblem& p, double norm, const T* dy, const T* x,
                      const T* y, T* dx) {
  cuda::lp_backward(cuda::windows_of(p), norm, dy, x, y, dx);
}
template <class T>
void lp_pool_backward(const char*, const VolumeProblem& v, double norm, const T* dy, const T* x,
                      const T* y, T* dx) {
  cuda::lp_backward(cuda::windows_of(v), norm, dy, x, y, dx);
}

#define ARRAYNN_INSTANTIATE_FOR(Problem, T)                                                        \
  template bool max_pool_backward<T>(const char*, const Problem&, const T*, const T*,              \
                                     const std::int64_t*, T*);                                     \
  template void avg_pool_backward<T>(const char*, const Problem&, const AverageDivisor&, const T*, \
                                     T*);                                                          \
  template void lp_pool_backward<T>(const char*, const Problem&, double, const T*, const T*,       \
                                    const T*, T*);
#define ARRAYNN_INSTANTIATE(T)            \
  ARRAYNN_INSTANTIATE_FOR(PoolProblem, T) \
  ARRAYNN_INSTANTIATE_FOR(VolumeProblem, T)
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE
#undef ARRAYNN_INSTANTIATE_FOR

}  // namespace arraynn
