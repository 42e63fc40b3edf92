// Gradient of max pooling, channels_first.
//
// Found again from x: a maximum over a window is one over its rows of those along each row, and the
// first of equal maxima is in the first row that has one, at the first place there. So each input
// row is reduced once to its windows' largest values and the taps they are at; each output row
// picks among its input rows and leaves its gradient with the one that won; and an input row that
// all its windows have seen gathers what is left with it. dx is written once, in order, and nothing
// is scattered; the rows between live in L1.
//
// From given indices: every element of dy is added where its index says.
#pragma once
#include "pool/reduce.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Vectors over the output row, of one input row.
template <class T>
struct Route {
  T* best;
  Int<T>* tap;
  T* grad;  // zeros around
};

template <class T>
struct Routes {
  Row<T> in, out;
  T* rows;
  std::int64_t mask, size, margin;

  ARRAYNN_MEMBER Route<T> at(std::int64_t ih) const {
    T* row = rows + (ih & mask) * 3 * size + margin;
    return {row, reinterpret_cast<Int<T>*>(row + size), row + 2 * size};
  }
};

// in.out[0]: the first tap of every window inside the row, -1 where there is none.
template <class T>
ARRAYNN_INLINE Routes<T> make_routes(const PoolProblem& p, void* scratch) {
  const std::int64_t row_bytes = row_scratch_bytes(p.w, sizeof(T));
  char* base = static_cast<char*>(scratch);
  Routes<T> s{make_row(p.w, base, -T(__builtin_inf())),
              make_row(p.w, base + row_bytes, T(0)),
              reinterpret_cast<T*>(base + 2 * row_bytes),
              route_rows(p.h) - 1,
              out_elements(p.w),
              out_margin(p.w)};
  auto* first = reinterpret_cast<Int<T>*>(s.in.out[0]);
  for (std::int64_t o = 0; o < p.w.out; ++o) {
    const Range taps = window_taps(p.w, o);
    first[o] = static_cast<Int<T>>(taps.begin == taps.end ? -1 : taps.begin);
  }
  zero_fill(s.rows, route_rows(p.h) * 3 * s.size);
  return s;
}

// Input row ih, at `x`.
template <bool kStrided, int kKernel, class T>
ARRAYNN_INLINE void reduce_row(const PoolProblem& p, const Routes<T>& s, const T* x,
                               std::int64_t ih) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t kernel = kKernel > 0 ? kKernel : p.w.kernel;
  const Route<T> r = s.at(ih);
  const auto* first = reinterpret_cast<const Int<T>*>(s.in.out[0]);
  put_row(s.in, [&](std::int64_t col, std::int64_t n)
                    __attribute__((always_inline)) { return load_some(x + col, n); });
  for (std::int64_t o = 0; o < p.w.out; o += kL) {
    Best<T> b{Vec<T>::set1(-T(__builtin_inf())), load_ints<T>(first + o)};
    for (std::int64_t j = 0; j < kernel; ++j) {
      b.take(in_register(load_tap<kStrided>(s.in, j, o, min_i(kL, p.w.out - o))), set_ints<T>(j));
    }
    b.value.store(r.best + o);
    store_ints<T>(b.offset, r.tap + o);
    Vec<T>::zero().store(r.grad + o);
  }
}

// The gradient of output row oh, at `dy`.
template <class T>
ARRAYNN_INLINE void route_row(const PoolProblem& p, const Routes<T>& s, const T* dy,
                              std::int64_t oh) {
  constexpr std::int64_t kL = kLanes<T>;
  const Range taps = window_taps(p.h, oh);
  const std::int64_t top = window_first(p.h, oh);
  for (std::int64_t o = 0; o < p.w.out && taps.begin < taps.end; o += kL) {
    const std::int64_t first = top + taps.begin * p.h.dilation;
    Best<T> b{Vec<T>::load(s.at(first).best + o), set_ints<T>(taps.begin)};
    for (std::int64_t i = taps.begin + 1; i < taps.end; ++i) {
      b.take(Vec<T>::load(s.at(top + i * p.h.dilation).best + o), set_ints<T>(i));
    }
    const Vec<T> g = load_some(dy + o, p.w.out - o);
    for (std::int64_t i = taps.begin; i < taps.end; ++i) {
      T* grad = s.at(top + i * p.h.dilation).grad + o;
      const Hits<T> won = Hits<T>::of(b.offset, set_ints<T>(i));
      (Vec<T>::load(grad) + won.choose(g, Vec<T>::zero())).store(grad);
    }
  }
}

// What was left with input row ih, to `dx`.
template <bool kStrided, int kKernel, class T>
ARRAYNN_INLINE void collect_row(const PoolProblem& p, const Routes<T>& s, std::int64_t ih, T* dx) {
  const Route<T> r = s.at(ih);
  const auto value = [&](std::int64_t j, std::int64_t o) __attribute__((always_inline)) {
    const Hits<T> won = Hits<T>::of(load_ints<T>(r.tap + o), set_ints<T>(j));
    return won.choose(Vec<T>::load(r.grad + o), Vec<T>::zero());
  };
  if (p.w.stride <= 2) return gather_row<false, kKernel>(p.w, dx, value);
  spread_row<kStrided>(s.out, p.w, p.w.stride >= window_span(p.w),
                       [&](std::int64_t j, std::int64_t o, std::int64_t)
                           __attribute__((always_inline)) { return value(j, o); });
  take_row<false>(s.out, dx);
}

template <bool kStrided, int kKernel, class T>
ARRAYNN_INLINE void backward_by_routes(const PoolProblem p, const T* dy, const T* x, T* dx,
                                       Range rows, void* scratch) {
  const Routes<T> s = make_routes<T>(p, scratch);
  const std::int64_t height = p.h.size, width = p.w.size;
  for (std::int64_t r = rows.begin; r < rows.end;) {
    const std::int64_t plane = r / height, base = plane * height * width;
    const Range mine = {r - plane * height, min_i(height, rows.end - plane * height)};
    std::int64_t reduced = 0, written = mine.begin;  // rows below are
    const auto write_below = [&](std::int64_t end) __attribute__((always_inline)) {
      for (; written < min_i(end, reduced); ++written) {
        collect_row<kStrided, kKernel>(p, s, written, dx + base + written * width);
      }
      if (written < end) zero_fill(dx + base + written * width, (end - written) * width);
      written = max_i(written, end);
    };
    const Range windows = windows_touching(p.h, mine.begin, mine.end);
    for (std::int64_t oh = windows.begin; oh < windows.end; ++oh) {
      const std::int64_t top = max_i(0, window_first(p.h, oh));
      const std::int64_t bottom = min_i(height, window_end(p.h, oh));
      write_below(min_i(top, mine.end));
      for (reduced = max_i(reduced, top); reduced < bottom; ++reduced) {
        reduce_row<kStrided, kKernel>(p, s, x + base + reduced * width, reduced);
      }
      route_row(p, s, dy + (plane * p.h.out + oh) * p.w.out, oh);
    }
    write_below(mine.end);
    r += mine.end - mine.begin;
  }
}

// Whether the indices of output row oh lie in their windows.
template <class T>
ARRAYNN_INLINE bool indices_fit(const PoolProblem& p, const std::int64_t* at, std::int64_t oh,
                                const Divider& by_width, const std::int64_t* first,
                                const std::int64_t* count) {
  const Range taps = window_taps(p.h, oh);
  const bool none = taps.begin == taps.end;
  const std::int64_t width = p.w.size, top = window_first(p.h, oh) + taps.begin * p.h.dilation;
  const std::int64_t rows = none ? 0 : (taps.end - 1 - taps.begin) * p.h.dilation + 1;
  std::uint64_t wrong = 0;
  for (std::int64_t o = 0; o < p.w.out; ++o) {
    const std::int64_t row = by_width.quotient(at[o]);
    const auto below = static_cast<std::uint64_t>(row) - static_cast<std::uint64_t>(top);
    const std::uint64_t column =
        static_cast<std::uint64_t>(at[o]) -
        static_cast<std::uint64_t>(row) * static_cast<std::uint64_t>(width);
    const std::uint64_t right = column - static_cast<std::uint64_t>(first[o]);
    const bool inside =
        (below < static_cast<std::uint64_t>(rows)) & (right < static_cast<std::uint64_t>(count[o]));
    const bool empty = ((rows == 0) | (count[o] == 0)) & (at[o] == -1);
    wrong |= (inside | empty) ? 0 : 1;
  }
  if (wrong != 0 || (p.h.dilation == 1 && p.w.dilation == 1)) return wrong == 0;
  for (std::int64_t o = 0; o < p.w.out; ++o) {
    const std::int64_t row = at[o] / width, column = at[o] % width;
    if (at[o] >= 0 && !(is_tap(p.h, oh, row) && is_tap(p.w, o, column))) return false;
  }
  return true;
}

template <class T>
ARRAYNN_INLINE bool backward_by_indices(const PoolProblem p, const T* dy,
                                        const std::int64_t* indices, T* dx, Range rows,
                                        void* scratch) {
  auto* first = static_cast<std::int64_t*>(scratch);
  std::int64_t* count = first + p.w.out;
  for (std::int64_t o = 0; o < p.w.out; ++o) {
    const Range taps = window_taps(p.w, o);
    const bool none = taps.begin == taps.end;
    first[o] = window_first(p.w, o) + taps.begin * p.w.dilation;
    count[o] = none ? 0 : (taps.end - 1 - taps.begin) * p.w.dilation + 1;
  }
  const Divider by_width(p.w.size);
  bool good = true;
  for_windows(p.h, dx, p.w.size, rows, false, [&](std::int64_t plane, std::int64_t oh, Range mine) {
    const std::int64_t from = (plane * p.h.out + oh) * p.w.out;
    good &= indices_fit<T>(p, indices + from, oh, by_width, first, count);
    T* to = dx + plane * p.h.size * p.w.size;
    const std::int64_t low = mine.begin * p.w.size;
    const auto size = static_cast<std::uint64_t>((mine.end - mine.begin) * p.w.size);
    for (std::int64_t o = 0; o < p.w.out; ++o) {
      const std::int64_t at = indices[from + o];
      if (static_cast<std::uint64_t>(at) - static_cast<std::uint64_t>(low) < size) {
        to[at] += dy[from + o];
      }
    }
  });
  return good;
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
