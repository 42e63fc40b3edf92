// Indices and gradient of max pooling, channels_last.
#pragma once
#include "pool/reduce.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// The taps of one output pixel inside the input.
struct Window {
  Range h, w;
  std::int64_t base;  // position of the window's first tap in its plane, inside or not
  std::int64_t row_offset, col_offset;  // positions between taps

  ARRAYNN_MEMBER bool empty() const { return h.begin == h.end || w.begin == w.end; }
};

ARRAYNN_INLINE Window make_window(const PoolProblem p, std::int64_t oh, std::int64_t ow) {
  return {window_taps(p.h, oh), window_taps(p.w, ow),
          window_first(p.h, oh) * p.w.size + window_first(p.w, ow), p.h.dilation * p.w.size,
          p.w.dilation};
}

// Of kV vectors of channels from c on of the plane x, or of n channels; the window is not empty.
template <int kV, class T>
ARRAYNN_INLINE void best_of_window(const PoolProblem p, const Window& k, const T* x, std::int64_t c,
                                   std::int64_t n, Best<T> (&b)[kV]) {
  const std::int64_t first = k.h.begin * k.row_offset + k.w.begin * k.col_offset;
  for (int v = 0; v < kV; ++v) b[v] = {Vec<T>::set1(-T(__builtin_inf())), set_ints<T>(first)};
  for (std::int64_t i = k.h.begin; i < k.h.end; ++i) {
    std::int64_t offset = i * k.row_offset + k.w.begin * k.col_offset;
    const T* in = x + (k.base + offset) * p.c + c;
    for (std::int64_t j = k.w.begin; j < k.w.end; ++j) {
      const Ints<T> at = set_ints<T>(offset);
      for (int v = 0; v < kV; ++v) {
        b[v].take(kV == 1 ? load_some(in, n) : Vec<T>::load(in + v * kLanes<T>), at);
      }
      offset += k.col_offset;
      in += k.col_offset * p.c;
    }
  }
}

template <class T>
ARRAYNN_INLINE void indices_channels_last(const PoolProblem p, const T* x, T* y,
                                          std::int64_t* indices, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t sample = r / p.h.out, oh = r % p.h.out;
    const T* plane = x + sample * p.h.size * p.w.size * p.c;
    for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
      const Window k = make_window(p, oh, ow);
      const std::int64_t at = (r * p.w.out + ow) * p.c;
      if (k.empty()) {
        for (std::int64_t c = 0; c < p.c; ++c) {
          y[at + c] = -T(__builtin_inf());
          indices[at + c] = -1;
        }
        continue;
      }
      const auto some = [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        Best<T> best[1];
        best_of_window(p, k, plane, c, n, best);
        const Best<T>& b = best[0];
        store_some(b.value, y + at + c, n);
        Int<T> offset[kL];
        store_ints<T>(b.offset, offset);
        for (std::int64_t l = 0; l < n; ++l) indices[at + c + l] = k.base + offset[l];
      };
      std::int64_t c = 0;
      for (; c + kL <= p.c; c += kL) some(c, kL);
      if (c < p.c) some(c, p.c - c);
    }
  }
}

// Offsets of n <= kSize given indices from the window's first position; the last one repeats. One
// that does not fit becomes one that no window has.
template <class T>
ARRAYNN_INLINE Ints<T> narrow_offsets(const std::int64_t* indices, std::int64_t base,
                                      std::int64_t n) {
  constexpr std::int64_t kL = kLanes<T>;
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    if (n == kL) {  // saturating to all ones; maskz for GCC 12's warnings
      const __m512i from = _mm512_set1_epi64(base);
      const auto part = [&](const std::int64_t* at) __attribute__((always_inline)) {
        return (__v8si)_mm512_maskz_cvtusepi64_epi32(
            0xff, _mm512_sub_epi64(_mm512_loadu_si512(at), from));
      };
      return __builtin_shufflevector(part(indices), part(indices + 8), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
                                     10, 11, 12, 13, 14, 15);
    }
  }
#endif
  Int<T> lanes[kL];
  for (std::int64_t l = 0; l < kL; ++l) {
    const std::int64_t o = indices[min_i(l, n - 1)] - base;
    lanes[l] = static_cast<Int<T>>(o);
    if (o != static_cast<std::int64_t>(lanes[l])) lanes[l] = -1;
  }
  return load_ints<T>(lanes);
}

// dx of kV vectors of channels of one window. share(v, offset, in) tells which lanes of vector v the
// tap at `offset` takes; it is asked in the order of the taps, of rows that are not `mine` too.
template <int kV, class T, class Share>
ARRAYNN_INLINE void spread_window(const PoolProblem p, const Window& k, std::int64_t oh,
                                  std::int64_t ow, bool dense, Range mine, T* dx, std::int64_t c,
                                  std::int64_t n, const Vec<T> (&g)[kV], const Share& share) {
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
      for (int v = 0; v < kV; ++v) part[v] = share(v, offset).choose(g[v], Vec<T>::zero());
      if (!own) continue;
      if (!first) {
        for (int v = 0; v < kV; ++v) part[v] = load_some(d + v * kLanes<T>, m) + part[v];
      }
      for (int v = 0; v < kV; ++v) store_some(part[v], d + v * kLanes<T>, m);
    }
  }
}

template <class T>
ARRAYNN_INLINE bool backward_channels_last(const PoolProblem p, const T* dy, const T* x,
                                           const std::int64_t* indices, T* dx, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  bool good = true;
  const bool dense = is_dense(p.h) && is_dense(p.w);
  for_windows(
      p.h, dx, p.w.size * p.c, rows, dense, [&](std::int64_t sample, std::int64_t oh, Range mine) {
        const std::int64_t plane = sample * p.h.size * p.w.size * p.c;
        if (dense) zero_behind_windows(p, dx + plane, oh, mine);
        for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
          const Window k = make_window(p, oh, ow);
          const std::int64_t at = ((sample * p.h.out + oh) * p.w.out + ow) * p.c;
          if (k.empty()) {
            for (std::int64_t c = 0; indices != nullptr && c < p.c; ++c)
              good &= indices[at + c] == -1;
            continue;
          }
          const auto some = [&](auto count, std::int64_t c,
                                std::int64_t n) __attribute__((always_inline)) {
            constexpr int kV = decltype(count)::value;
            const auto load = [&](const T* from) __attribute__((always_inline)) {
              return kV == 1 ? load_some(from, n) : Vec<T>::load(from);
            };
            Vec<T> g[kV];
            Hits<T> done[kV];
            Ints<T> offset[kV];
            for (int v = 0; v < kV; ++v) {
              g[v] = load(dy + at + c + v * kL);
              done[v] = Hits<T>::none();
            }
            const auto by_offset = [&](int v, std::int64_t tap) __attribute__((always_inline)) {
              const Hits<T> hit = Hits<T>::of(offset[v], set_ints<T>(tap));
              done[v] = done[v] | hit;
              return hit;
            };
            if (indices != nullptr) {
              for (int v = 0; v < kV; ++v) {
                offset[v] = narrow_offsets<T>(indices + at + c + v * kL, k.base, n);
              }
              spread_window(p, k, oh, ow, dense, mine, dx + plane, c, n, g, by_offset);
              for (int v = 0; v < kV; ++v) good &= done[v].all();
              return;
            }
            Vec<T> best[kV], sum[kV];
            for (int v = 0; v < kV; ++v) {
              best[v] = Vec<T>::set1(-T(__builtin_inf()));
              sum[v] = Vec<T>::zero();
            }
            const T* in = x + plane + c;
            for (std::int64_t i = k.h.begin; i < k.h.end; ++i) {
              for (std::int64_t j = k.w.begin; j < k.w.end; ++j) {
                const T* q = in + (k.base + i * k.row_offset + j * k.col_offset) * p.c;
                for (int v = 0; v < kV; ++v) {
                  const Vec<T> value = in_register(load(q + v * kL));
                  best[v] = max(best[v], value);
                  sum[v] = sum[v] + value;
                }
              }
            }
            bool ordered = true;  // a NaN makes the sum one; infinities may
            for (int v = 0; v < kV; ++v) ordered &= Hits<T>::of(sum[v], sum[v]).all();
            if (ordered) {
              const auto by_value = [&](int v, std::int64_t tap) __attribute__((always_inline)) {
                const Vec<T> value = load(in + (k.base + tap) * p.c + v * kL);
                const Hits<T> hit = Hits<T>::of(value, best[v]);
                best[v] = hit.choose(Vec<T>::set1(T(__builtin_nan(""))), best[v]);  // hit once
                return hit;
              };
              spread_window(p, k, oh, ow, dense, mine, dx + plane, c, n, g, by_value);
              return;
            }
            Best<T> found[kV];
            best_of_window(p, k, x + plane, c, n, found);
            for (int v = 0; v < kV; ++v) offset[v] = found[v].offset;
            spread_window(p, k, oh, ow, dense, mine, dx + plane, c, n, g, by_offset);
          };
          std::int64_t c = 0;
          for (; c + 4 * kL <= p.c; c += 4 * kL) some(Count<4>{}, c, kL);
          for (; c + kL <= p.c; c += kL) some(Count<1>{}, c, kL);
          if (c < p.c) some(Count<1>{}, c, p.c - c);
        }
      });
  return good;
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
