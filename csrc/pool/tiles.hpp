// Max pooling whose 2 x 2 windows tile planes of even size, channels_first: the windows of one
// output row are two contiguous input rows, whatever the plane, so neither a row in L1 nor its
// set-up is needed. That set-up is most of the time on planes of a few columns.
#pragma once
#include "pool/rows.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

ARRAYNN_INLINE bool is_tiled(const PoolAxis& a) {
  return a.kernel == 2 && a.stride == 2 && a.dilation == 1 && a.begin == 0 && a.size == 2 * a.out;
}
ARRAYNN_INLINE bool is_tiled(const PoolProblem& p) {
  return !p.channels_last && is_tiled(p.h) && is_tiled(p.w);
}

// The four taps of n windows, row by row.
template <class T>
struct TileTaps {
  Vec<T> tap[4];

  ARRAYNN_MEMBER TileTaps(const T* top, const T* bottom, std::int64_t n) {
    constexpr std::int64_t kL = kLanes<T>;
    const std::int64_t rest = max_i(0, 2 * n - kL);
    split_pair(load_some(top, 2 * n), load_some(top + kL, rest), &tap[0], &tap[1]);
    split_pair(load_some(bottom, 2 * n), load_some(bottom + kL, rest), &tap[2], &tap[3]);
  }
};

// b takes the place of a: larger, or the first NaN.
template <class T>
ARRAYNN_INLINE Mask<T> takes_over(Vec<T> b, Vec<T> a) {
  return (b > a) | ((b != b) & (a == a));
}

template <class T>
ARRAYNN_INLINE void max_of_tiles(const PoolProblem p, const T* x, T* y, Range rows) {
  const std::int64_t width = p.w.size, out = p.w.out;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const T* top = x + 2 * r * width;
    for (std::int64_t o = 0; o < out; o += kLanes<T>) {
      const TileTaps<T> t(top + 2 * o, top + width + 2 * o, out - o);
      Vec<T> best = t.tap[0];
      for (int i = 1; i < 4; ++i) best = select(takes_over(t.tap[i], best), t.tap[i], best);
      store_some(best, y + r * out + o, out - o);
    }
  }
}

// `rows` are rows of dx; a window belongs to whoever owns its first row.
template <class T>
ARRAYNN_INLINE void max_of_tiles_backward(const PoolProblem p, const T* dy, const T* x, T* dx,
                                          Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t width = p.w.size, out = p.w.out;
  for (std::int64_t r = ceil_div(rows.begin, 2); r < ceil_div(rows.end, 2); ++r) {
    const std::int64_t first = 2 * r * width;
    for (std::int64_t o = 0; o < out; o += kL) {
      const std::int64_t at = first + 2 * o, n = out - o, rest = max_i(0, 2 * n - kL);
      const TileTaps<T> t(x + at, x + at + width, n);
      const Vec<T> g = load_some(dy + r * out + o, n);
      Vec<T> best = t.tap[0];
      Vec<T> d[4] = {g, Vec<T>::zero(), Vec<T>::zero(), Vec<T>::zero()};
      for (int i = 1; i < 4; ++i) {
        const Mask<T> won = takes_over(t.tap[i], best);
        best = select(won, t.tap[i], best);
        for (int before = 0; before < i; ++before)
          d[before] = select(won, Vec<T>::zero(), d[before]);
        d[i] = select(won, g, Vec<T>::zero());
      }
      for (int row = 0; row < 2; ++row) {
        Vec<T> low, high;
        merge_pair(d[2 * row], d[2 * row + 1], &low, &high);
        store_some(low, dx + at + row * width, 2 * n);
        if (rest > 0) store_some(high, dx + at + row * width + kL, rest);
      }
    }
  }
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
