// Indices and gradient of max pooling, channels_last.
#pragma once
#include "pool/best.hpp"

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
          (oh * p.h.stride - p.h.begin) * p.w.size + ow * p.w.stride - p.w.begin,
          p.h.dilation * p.w.size, p.w.dilation};
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

template <class T>
struct Four {
  Vec<T> v[4];
};

// Offsets of n <= kSize given indices from the window's first position; the last one repeats.
template <class T>
ARRAYNN_INLINE Ints<T> narrow_offsets(const std::int64_t* indices, std::int64_t base,
                                      std::int64_t n, bool* good) {
  constexpr std::int64_t kL = kLanes<T>;
  Int<T> lanes[kL];
  std::int64_t lost = 0;
  for (std::int64_t l = 0; l < kL; ++l) {
    const std::int64_t o = indices[min_i(l, n - 1)] - base;
    lanes[l] = static_cast<Int<T>>(o);
    lost |= o ^ static_cast<std::int64_t>(lanes[l]);
  }
  *good &= lost == 0;
  return load_ints<T>(lanes);
}

// Which lanes are offsets of taps inside the input.
template <class T>
ARRAYNN_INLINE Ints<T> are_taps(const Window& k, Ints<T> offset) {
  Ints<T> hit{};
  for (std::int64_t i = k.h.begin; i < k.h.end; ++i) {
    for (std::int64_t j = k.w.begin; j < k.w.end; ++j) {
      hit |= offset == set_ints<T>(i * k.row_offset + j * k.col_offset);
    }
  }
  return hit;
}

template <class T>
ARRAYNN_INLINE bool backward_channels_last(const PoolProblem p, const T* dy, const T* x,
                                           const std::int64_t* indices, T* dx, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  bool good = true;
  Ints<T> hits = ~Ints<T>{};
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
          const auto some = [&](auto vectors, std::int64_t c,
                                std::int64_t n) __attribute__((always_inline)) {
            constexpr int kV = sizeof(vectors) / sizeof(Vec<T>);
            Best<T> best[kV];
            if (indices == nullptr) {
              best_of_window(p, k, x + plane, c, n, best);
            } else {
              for (int v = 0; v < kV; ++v) {
                const std::int64_t* from = indices + at + c + v * kL;
                best[v].offset = narrow_offsets<T>(from, k.base, n, &good);
                hits &= are_taps<T>(k, best[v].offset);
              }
            }
            Vec<T> g[kV];
            for (int v = 0; v < kV; ++v) {
              g[v] = load_some(dy + at + c + v * kL, kV == 1 ? n : kL);
            }
            for (std::int64_t i = k.h.begin; i < k.h.end; ++i) {
              const std::int64_t ih = oh * p.h.stride - p.h.begin + i * p.h.dilation;
              if (ih < mine.begin || ih >= mine.end) continue;
              const bool first_row = dense && is_first(p.h, oh, ih);
              for (std::int64_t j = k.w.begin; j < k.w.end; ++j) {
                const std::int64_t tap = i * k.row_offset + j * k.col_offset;
                const Ints<T> here = set_ints<T>(tap);
                T* d = dx + plane + (k.base + tap) * p.c + c;
                const bool first = first_row && is_first(p.w, ow, ow * p.w.stride - p.w.begin + j);
                for (int v = 0; v < kV; ++v) {
                  const Mask<T> won{best[v].offset == here};
                  const Vec<T> share = select(won, g[v], Vec<T>::zero());
                  const std::int64_t m = kV == 1 ? n : kL;
                  T* to = d + v * kL;
                  store_some(first ? share : load_some(to, m) + share, to, m);
                }
              }
            }
          };
          std::int64_t c = 0;
          for (; c + 4 * kL <= p.c; c += 4 * kL) some(Four<T>{}, c, kL);
          for (; c + kL <= p.c; c += kL) some(Vec<T>{}, c, kL);
          if (c < p.c) some(Vec<T>{}, c, p.c - c);
        }
      });
  return good && all_lanes<T>(hits);
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
