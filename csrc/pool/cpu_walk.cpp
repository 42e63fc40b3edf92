#include "pool/walk.hpp"

#include "pool/max_last.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// sum + g in the lanes that hit.
template <class T>
ARRAYNN_INLINE Vec<T> add_where(Hits<T> hit, Vec<T> sum, Vec<T> g) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return {(typename Vec<T>::Raw)_mm512_mask_add_ps((__m512)sum.v, hit.bits, (__m512)sum.v,
                                                     (__m512)g.v)};
  } else {
    return {(typename Vec<T>::Raw)_mm512_mask_add_pd((__m512d)sum.v, hit.bits, (__m512d)sum.v,
                                                     (__m512d)g.v)};
  }
#else
  return sum + hit.choose(g, Vec<T>::zero());
#endif
}

// The first n lanes of positions, and 0.
template <class T>
ARRAYNN_INLINE Ints<T> load_ints_n(const Int<T>* p, std::int64_t n) {
  if (n >= kLanes<T>) return load_ints<T>(p);
  Int<T> lanes[kLanes<T>] = {};
  for (std::int64_t l = 0; l < n; ++l) lanes[l] = p[l];
  return load_ints<T>(lanes);
}

template <class T>
ARRAYNN_INLINE void store_ints_n(Ints<T> v, Int<T>* p, std::int64_t n) {
  if (n >= kLanes<T>) return store_ints<T>(v, p);
  for (std::int64_t l = 0; l < n; ++l) p[l] = v[l];
}

// Output row oh of a sample: the positions of its maxima, -1 where a window is empty.
template <class T>
void keep_found(const PoolProblem& p, std::int64_t oh, const T* x, Int<T>* to) {
  const VolumeProblem planes = flat_volume(p);
  for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
    const Window k = make_window(planes, 0, oh, ow);
    Int<T>* out = to + ow * p.c;
    if (k.empty()) {
      for (std::int64_t c = 0; c < p.c; ++c) out[c] = -1;
      continue;
    }
    const T* in = x + k.base * p.c;
    for_channels<T>(0, p.c,
                    [&](auto count, std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
                      constexpr int kV = decltype(count)::value;
                      Best<T> best[kV];
                      best_of_window(k, in + c, p.c, n, best);
#pragma GCC unroll 16
                      for (int v = 0; v < kV; ++v) {
                        const Ints<T> at = best[v].offset + set_ints<T>(k.base);
                        store_ints_n<T>(at, out + c + v * kLanes<T>, n);
                      }
                    });
  }
}

// The windows over one row of dx.
template <class T>
struct Over {
  std::int64_t rows;
  const Int<T>* at[kWalkRows];
  const T* dy[kWalkRows];
};

// kV vectors of channels, or n channels, of a row of dx whose first position is `base`.
template <int kKernel, int kV, class T>
ARRAYNN_INLINE void gather_columns(const PoolProblem& p, const Over<T>& over, std::int64_t base,
                                   std::int64_t c, std::int64_t n, T* dx) {
  constexpr std::int64_t kL = kLanes<T>;
  Vec<T> sum[kKernel][kV];
  for (auto& column : sum) {
    for (Vec<T>& v : column) v = Vec<T>::zero();
  }
  const auto store = [&](std::int64_t iw, const Vec<T>(&v)[kV]) __attribute__((always_inline)) {
    if (iw < 0 || iw >= p.w.size) return;
#pragma GCC unroll 16
    for (int i = 0; i < kV; ++i) store_lanes(v[i], dx + iw * p.c + c + i * kL, n);
  };
  std::int64_t left = -p.w.begin;
  for (std::int64_t o = 0; o < p.w.out; ++o, ++left) {
    Ints<T> tap[kKernel];
#pragma GCC unroll 16
    for (int j = 0; j < kKernel; ++j) tap[j] = set_ints<T>(base + left + j);
    for (std::int64_t r = 0; r < over.rows; ++r) {
#pragma GCC unroll 16
      for (int i = 0; i < kV; ++i) {
        const std::int64_t from = o * p.c + c + i * kL;
        const Ints<T> at = load_ints_n<T>(over.at[r] + from, n);
        const Vec<T> g = load_lanes(over.dy[r] + from, n);
#pragma GCC unroll 16
        for (int j = 0; j < kKernel; ++j) {
          sum[j][i] = add_where(Hits<T>::of(at, tap[j]), sum[j][i], g);
        }
      }
    }
    store(left, sum[0]);
#pragma GCC unroll 16
    for (int j = 0; j < kKernel; ++j) {
#pragma GCC unroll 16
      for (int i = 0; i < kV; ++i) sum[j][i] = j + 1 < kKernel ? sum[j + 1][i] : Vec<T>::zero();
    }
  }
  for (int j = 0; j < kKernel - 1; ++j) store(left + j, sum[j]);
}

template <int kKernel, class T>
void gather_channels(const PoolProblem& p, const Over<T>& over, std::int64_t base, T* dx) {
  constexpr std::int64_t kL = kLanes<T>;
  std::int64_t c = 0;
#if defined(__AVX512F__)  // pieces as long as there are registers for: prefetchers follow them
  for (; c + 4 * kL <= p.c; c += 4 * kL) {
    gather_columns<kKernel, 4>(p, over, base, c, kL, dx);
  }
#endif
  for (; c + 2 * kL <= p.c; c += 2 * kL) {
    gather_columns<kKernel, 2>(p, over, base, c, kL, dx);
  }
  for (; c < p.c; c += kL) {
    gather_columns<kKernel, 1>(p, over, base, c, min_i(kL, p.c - c), dx);
  }
  const std::int64_t end = p.w.out == 0 ? 0 : max_i(0, window_end(p.w, p.w.out - 1));
  zero_fill(dx + end * p.c, (p.w.size - end) * p.c);
}

template <class T>
void gathered(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows, void* scratch) {
  auto* kept = static_cast<Int<T>*>(scratch);
  const std::int64_t mask = ring_size(walk_rows(p.h)) - 1, out_row = p.w.out * p.c;
  const auto gather = p.w.kernel == 2 ? &gather_channels<2, T> : &gather_channels<3, T>;
  std::int64_t sample = -1, ready = 0;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    if (sample != r / p.h.size) {
      sample = r / p.h.size;
      ready = 0;
    }
    const std::int64_t ih = r - sample * p.h.size;
    const Range windows = windows_touching(p.h, ih, ih + 1);
    for (ready = max_i(ready, windows.begin); ready < windows.end; ++ready) {
      keep_found(p, ready, x + sample * p.h.size * p.w.size * p.c, kept + (ready & mask) * out_row);
    }
    Over<T> over{};
    for (std::int64_t oh = windows.begin; oh < windows.end; ++oh) {
      over.at[over.rows] = kept + (oh & mask) * out_row;
      over.dy[over.rows++] = dy + (sample * p.h.out + oh) * out_row;
    }
    gather(p, over, ih * p.w.size, dx + r * p.w.size * p.c);
  }
}

// Rows that are windows of kRun elements side by side.
template <int kRun, class T>
ARRAYNN_INLINE void spread_to_runs(const PoolProblem& p, const T* dy, const T* x, T* dx,
                                   Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const T* in = x + r * p.w.size;
    T* to = dx + r * p.w.size;
    for (std::int64_t o = 0; o < p.w.out; o += kL) {
      const std::int64_t n = min_i(kL, p.w.out - o);
      Vec<T> run[kRun], taps[kRun];
#pragma GCC unroll 16
      for (int k = 0; k < kRun; ++k) {
        const std::int64_t left = n * kRun - k * kL;
        run[k] = left > 0 ? load_lanes(in + o * kRun + k * kL, left) : Vec<T>::zero();
      }
      split_run(run, taps);
      give_to_largest(taps, load_lanes(dy + r * p.w.out + o, n), run);
      merge_run(run, taps);
#pragma GCC unroll 16
      for (int k = 0; k < kRun; ++k) {
        const std::int64_t left = n * kRun - k * kL;
        if (left > 0) store_lanes(taps[k], to + o * kRun + k * kL, left);
      }
    }
    zero_fill(to + p.w.out * kRun, p.w.size - p.w.out * kRun);
  }
}

template <class T>
void runs(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows) {
  if (p.w.kernel == 2) return spread_to_runs<2>(p, dy, x, dx, rows);
  spread_to_runs<4>(p, dy, x, dx, rows);
}

}  // namespace

extern const WalkKernels walk_kernels = {{&runs<float>, &gathered<float>},
                                         {&runs<double>, &gathered<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
