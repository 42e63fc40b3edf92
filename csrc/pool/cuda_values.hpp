// One element or 16 bytes of them, and what windows are reduced to.
#pragma once
#include <limits>

#include "core/cuda_pack.hpp"
#include "pool/cuda_windows.hpp"

namespace arraynn::cuda {

template <class T, int V>
struct Values {
  T v[V];
};

template <int V, class T>
__device__ __forceinline__ Values<T, V> load_values(const T* p) {
  Values<T, V> r;
  if constexpr (V == 1) {
    r.v[0] = *p;
  } else {
#pragma unroll
    for (int i = 0; i < V; i += kPack<T>) {
      const Pack<T> pack = load_pack<Access::kRepeated>(p + i, true);
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) r.v[i + j] = pack.v[j];
    }
  }
  return r;
}

template <int V, class T>
__device__ __forceinline__ void store_values(T* p, const Values<T, V>& x) {
  if constexpr (V == 1) {
    *p = x.v[0];
  } else {
#pragma unroll
    for (int i = 0; i < V; i += kPack<T>) {
      Pack<T> pack;
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) pack.v[j] = x.v[i + j];
      store_pack(p + i, pack, true);
    }
  }
}

template <class T>
__device__ __forceinline__ Compute<T> value_of(T x) {
  if constexpr (std::is_integral_v<T>) {
    return x;
  } else {
    return to_compute(x);
  }
}

// x^p. Norms other than 1 and 2 are rare, and powf is off by up to 4 units in the last place: in double.
template <class C>
__device__ __forceinline__ C power(C x, double p) {
  if (p == 1) return x;
  if (p == 2) return x * x;
  return static_cast<C>(::pow(static_cast<double>(x), p));
}

__device__ __forceinline__ float root_of(float x) { return ::sqrtf(x); }
__device__ __forceinline__ double root_of(double x) { return ::sqrt(x); }

// The divisor of a window: one number, or its taps.
struct Divisor {
  double uniform;  // 0: count
  bool include_pad;

  template <class C, class I>
  __device__ __forceinline__ C of(const WindowProblem<I>& p, I od, I oh, I ow) const {
    if (uniform != 0) return static_cast<C>(uniform);
    const std::int64_t count = std::int64_t{p.d.counted(od, include_pad)} *
                               p.h.counted(oh, include_pad) * p.w.counted(ow, include_pad);
    return static_cast<C>(count < 1 ? 1 : count);  // an empty window sums to 0 and stays 0
  }
};

// Whether windows count the same taps everywhere.
inline bool is_uniform(const PoolAxis& a, bool include_pad) {
  if (a.out <= 1) return true;
  return a.to == 0 && counted_taps(a, 0, include_pad) == a.kernel &&
         counted_taps(a, a.out - 1, include_pad) == a.kernel;
}
inline Divisor divisor_of(const Windows& v, const AverageDivisor& d) {
  if (d.fixed != 0) return {static_cast<double>(d.fixed), false};
  double count = 1;
  for (const PoolAxis& a : {v.d, v.h, v.w}) {
    if (a.out == 0) return {1.0, false};
    if (!is_uniform(a, d.include_pad)) return {0.0, d.include_pad};
    count *= static_cast<double>(counted_taps(a, 0, d.include_pad));
  }
  return {count < 1 ? 1.0 : count, d.include_pad};
}

// An output element.
template <class I>
struct Output3 {
  I d, h, w;
};

// Largest values: the first NaN, then the first of equal maxima.
template <class T, bool kIndexed>
struct Largest {
  using C = Compute<T>;
  static constexpr int kAtOnce = 4;  // taps loaded before one is used
  static constexpr int kBlocks = 4;  // a multiprocessor, of 64 registers a thread
  template <class I>
  struct State {
    C value;
    I at;  // the tap, -1 before the first
  };

  template <class I>
  __device__ __forceinline__ State<I> start() const {
    constexpr C kLowest = std::numeric_limits<C>::has_infinity ? -std::numeric_limits<C>::infinity()
                                                               : std::numeric_limits<C>::lowest();
    return {kLowest, -1};
  }
  template <class I>
  __device__ __forceinline__ void take(State<I>& s, C v, I at) const {
    if constexpr (kIndexed) {
      const bool wins = s.at < 0 || v > s.value || (v != v && s.value == s.value);
      s.value = wins ? v : s.value;
      s.at = wins ? at : s.at;
    } else {
      s.value = v > s.value || v != v ? v : s.value;
    }
  }
  // Of taps in any order.
  template <class I>
  __device__ __forceinline__ void merge(State<I>& s, const State<I>& other) const {
    if (other.at < 0) return;
    const bool nan = s.value != s.value, other_nan = other.value != other.value;
    const bool equal = nan == other_nan && (nan || s.value == other.value);
    const bool ahead = equal ? other.at < s.at : other_nan || (!nan && other.value > s.value);
    if (s.at < 0 || ahead) s = other;
  }
  template <class I>
  __device__ __forceinline__ C finish(const WindowProblem<I>&, const State<I>& s,
                                      Output3<I>) const {
    return s.value;
  }
};

template <class T>
struct Mean {
  using C = Compute<T>;
  static constexpr int kAtOnce = 4;
  static constexpr int kBlocks = 4;
  template <class I>
  struct State {
    C value;
  };
  Divisor divisor;

  template <class I>
  __device__ __forceinline__ State<I> start() const {
    return {C(0)};
  }
  template <class I>
  __device__ __forceinline__ void take(State<I>& s, C v, I) const {
    s.value += v;
  }
  template <class I>
  __device__ __forceinline__ void merge(State<I>& s, const State<I>& other) const {
    s.value += other.value;
  }
  template <class I>
  __device__ __forceinline__ C finish(const WindowProblem<I>& p, const State<I>& s,
                                      Output3<I> o) const {
    return s.value / divisor.of<C>(p, o.d, o.h, o.w);
  }
};

// (sum of x^p, times kernel / taps)^(1 / p), those in the padding among the taps
template <class T>
struct LpNorm {
  using C = Compute<T>;
  static constexpr int kAtOnce = 2;  // pow takes the registers
  static constexpr int kBlocks = 2;
  template <class I>
  struct State {
    C value;
  };
  double norm, kernel;  // its elements
  Divisor taps;

  template <class I>
  __device__ __forceinline__ State<I> start() const {
    return {C(0)};
  }
  template <class I>
  __device__ __forceinline__ void take(State<I>& s, C v, I) const {
    s.value += power(v, norm);
  }
  template <class I>
  __device__ __forceinline__ void merge(State<I>& s, const State<I>& other) const {
    s.value += other.value;
  }
  template <class I>
  __device__ __forceinline__ C finish(const WindowProblem<I>& p, const State<I>& s,
                                      Output3<I> o) const {
    const C total = s.value * (static_cast<C>(kernel) / taps.of<C>(p, o.d, o.h, o.w));
    return norm == 2 ? root_of(total) : power(total, 1 / norm);
  }
};

inline double kernel_elements(const Windows& v) {
  return static_cast<double>(v.d.kernel) * static_cast<double>(v.h.kernel) *
         static_cast<double>(v.w.kernel);
}
// Of an Lp pooling.
inline Divisor lp_taps(const Windows& v) { return divisor_of(v, {true, 0}); }

}  // namespace arraynn::cuda
