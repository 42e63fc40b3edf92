// Indices of max pooling, and its gradient over small windows, channels_last.
#pragma once
#include "pool/reduce.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// The taps of one output position inside the input.
struct Window {
  Range d, h, w;
  std::int64_t base;  // position of the window's first tap in its volume, inside or not
  std::int64_t plane_offset, row_offset, col_offset;  // positions between taps

  ARRAYNN_MEMBER bool empty() const {
    return d.begin == d.end || h.begin == h.end || w.begin == w.end;
  }
};

ARRAYNN_INLINE Window make_window(const VolumeProblem& v, std::int64_t od, std::int64_t oh,
                                  std::int64_t ow) {
  const PoolProblem& p = v.plane;
  const std::int64_t row = window_first(v.d, od) * p.h.size + window_first(p.h, oh);
  return {window_taps(v.d, od),
          window_taps(p.h, oh),
          window_taps(p.w, ow),
          row * p.w.size + window_first(p.w, ow),
          v.d.dilation * v.in_plane(),
          p.h.dilation * p.w.size,
          p.w.dilation};
}

// f(offset) for every tap in order.
template <class F>
ARRAYNN_INLINE void for_taps(const Window& k, const F& f) {
  for (std::int64_t l = k.d.begin; l < k.d.end; ++l) {
    for (std::int64_t i = k.h.begin; i < k.h.end; ++i) {
      const std::int64_t row = l * k.plane_offset + i * k.row_offset;
      for (std::int64_t j = k.w.begin; j < k.w.end; ++j) f(row + j * k.col_offset);
    }
  }
}

// Of kV vectors of channels, or of n channels, of `c` in all; x is at the window's first tap, and
// the window is not empty.
template <int kV, class T>
ARRAYNN_INLINE void best_of_window(const Window& k, const T* x, std::int64_t c, std::int64_t n,
                                   Best<T> (&b)[kV]) {
  const std::int64_t first =
      k.d.begin * k.plane_offset + k.h.begin * k.row_offset + k.w.begin * k.col_offset;
  Ints<T> all[kV];
#pragma GCC unroll 16
  for (int v = 0; v < kV; ++v) all[v] = set_ints<T>(first);
  find_best(all, b, [&](const auto& take) __attribute__((always_inline)) {
    for_taps(k, [&](std::int64_t offset) __attribute__((always_inline)) {
      const T* in = x + offset * c;
      const Ints<T> at = set_ints<T>(offset);
#pragma GCC unroll 16
      for (int v = 0; v < kV; ++v) {
        take(v, kV == 1 ? load_lanes(in, n) : Vec<T>::load(in + v * kLanes<T>), at);
      }
    });
  });
}

template <class T>
ARRAYNN_INLINE void indices_channels_last(const VolumeProblem v, const T* x, T* y,
                                          std::int64_t* indices, Range rows) {
  const PoolProblem& p = v.plane;
  // Long pieces of every position under many taps, which prefetchers follow.
  const bool many = v.d.kernel * p.h.kernel * p.w.kernel > 16;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t q = r / p.h.out, oh = r - q * p.h.out, sample = q / v.d.out;
    for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
      const Window k = make_window(v, q - sample * v.d.out, oh, ow);
      const std::int64_t at = (r * p.w.out + ow) * p.c;
      if (k.empty()) {
        for (std::int64_t c = 0; c < p.c; ++c) {
          y[at + c] = -T(__builtin_inf());
          indices[at + c] = -1;
        }
        continue;
      }
      const T* in = x + (sample * v.in() + k.base) * p.c;
      const auto some = [&](auto count, std::int64_t c, std::int64_t n)
                            __attribute__((always_inline)) {
                              constexpr int kV = decltype(count)::value;
                              Best<T> best[kV];
                              best_of_window(k, in + c, p.c, n, best);
#pragma GCC unroll 16
                              for (int i = 0; i < kV; ++i) {
                                const std::int64_t to = at + c + i * kLanes<T>;
                                store_lanes(best[i].value, y + to, n);
                                store_positions<T>(k.base, best[i].offset, n, indices + to);
                              }
                            };
      std::int64_t c = 0;
      if (many) {
        constexpr std::int64_t kMany = kReduceVectors / 2 * kLanes<T>;
        for (; c + kMany <= p.c; c += kMany) some(Count<kReduceVectors / 2>{}, c, kLanes<T>);
      }
      for_channels<T>(c, p.c, some);
    }
  }
}

// dx of kV vectors of channels of one window. share(v, offset) tells which lanes of vector v the tap
// at `offset` takes; it is asked in the order of the taps, of rows that are not `mine` too.
template <int kV, class T, class Share>
ARRAYNN_INLINE void spread_window(const PoolProblem p, const Window& k, std::int64_t oh,
                                  std::int64_t ow, bool dense, bool stream, Range mine, T* dx,
                                  std::int64_t c, std::int64_t n, const Vec<T> (&g)[kV],
                                  const Share& share) {
  const std::int64_t top = window_first(p.h, oh), fresh_row = first_reached(p.h, oh);
  const std::int64_t left = window_first(p.w, ow), fresh = first_reached(p.w, ow);
  for (std::int64_t i = k.h.begin; i < k.h.end; ++i) {
    const std::int64_t ih = top + i * p.h.dilation;
    const bool own = ih >= mine.begin && ih < mine.end;
    const bool first_row = dense && ih >= fresh_row;
    for (std::int64_t j = k.w.begin; j < k.w.end; ++j) {
      const std::int64_t offset = i * k.row_offset + j * k.col_offset;
      const bool first = first_row && left + j >= fresh;
      T* d = dx + (k.base + offset) * p.c + c;
      const std::int64_t m = kV == 1 ? n : kLanes<T>;
      Vec<T> part[kV];
#pragma GCC unroll 16
      for (int v = 0; v < kV; ++v) part[v] = share(v, offset).choose(g[v], Vec<T>::zero());
      if (!own) continue;
      if (stream) {
#pragma GCC unroll 16
        for (int v = 0; v < kV; ++v) stream_to(part[v], d + v * kLanes<T>);
        continue;
      }
      if (!first) {
#pragma GCC unroll 16
        for (int v = 0; v < kV; ++v) part[v] = load_lanes(d + v * kLanes<T>, m) + part[v];
      }
#pragma GCC unroll 16
      for (int v = 0; v < kV; ++v) store_lanes(part[v], d + v * kLanes<T>, m);
    }
  }
}

// Of planes: every window is looked through again for its largest value.
template <class T>
void max_backward(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const VolumeProblem planes = flat_volume(p);
  const bool dense = is_dense(p.h) && is_dense(p.w);
  const bool disjoint = is_disjoint(p.h) && is_disjoint(p.w);
  const bool stream = dense && disjoint && is_streamed(p, dx, p.h.size * p.w.size, p.c);
  for_windows(
      p.h, dx, p.w.size * p.c, rows, dense, [&](std::int64_t sample, std::int64_t oh, Range mine) {
        const std::int64_t plane = sample * p.h.size * p.w.size * p.c;
        if (dense) zero_behind_windows(p, dx + plane, oh, mine);
        for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
          const Window k = make_window(planes, 0, oh, ow);
          if (k.empty()) continue;
          const T* from = dy + ((sample * p.h.out + oh) * p.w.out + ow) * p.c;
          for_channels<T>(
              0, p.c,
              [&](auto count, std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
                constexpr int kV = decltype(count)::value;
                const auto load = [&](const T* at) __attribute__((always_inline)) {
                  return kV == 1 ? load_lanes(at, n) : Vec<T>::load(at);
                };
                const T* in = x + plane + k.base * p.c + c;
                Vec<T> g[kV], best[kV], sum[kV];
#pragma GCC unroll 16
                for (int v = 0; v < kV; ++v) {
                  g[v] = load(from + c + v * kL);
                  best[v] = Vec<T>::set1(-T(__builtin_inf()));
                  sum[v] = Vec<T>::zero();
                }
                for_taps(k, [&](std::int64_t offset) __attribute__((always_inline)) {
#pragma GCC unroll 16
                  for (int v = 0; v < kV; ++v) {
                    const Vec<T> value = in_register(load(in + offset * p.c + v * kL));
                    best[v] = max(best[v], value);
                    sum[v] = sum[v] + value;
                  }
                });
                bool ordered = true;  // a NaN makes the sum one; infinities may
#pragma GCC unroll 16
                for (int v = 0; v < kV; ++v) ordered &= Hits<T>::of(sum[v], sum[v]).all();
                if (ordered) {
                  const auto by_value = [&](int v,
                                            std::int64_t offset) __attribute__((always_inline)) {
                    const Hits<T> hit = Hits<T>::of(load(in + offset * p.c + v * kL), best[v]);
                    best[v] = hit.choose(Vec<T>::set1(T(__builtin_nan(""))), best[v]);  // hit once
                    return hit;
                  };
                  spread_window(p, k, oh, ow, dense, stream, mine, dx + plane, c, n, g, by_value);
                  return;
                }
                Best<T> found[kV];
                best_of_window(k, in, p.c, n, found);
                const auto by_offset = [&](int v,
                                           std::int64_t offset) __attribute__((always_inline)) {
                  return Hits<T>::of(found[v].offset, set_ints<T>(offset));
                };
                spread_window(p, k, oh, ow, dense, stream, mine, dx + plane, c, n, g, by_offset);
              });
        }
      });
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
