// Indices of max pooling, channels_first.
#pragma once
#include "pool/reduce.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// row.out: [0] the largest values of an output row, [1] their offsets, [2] the offset of each
// window's first tap inside the row, -1 where there is none.
template <class T>
struct FirstRows {
  Row<T> row;
  Range full;  // outputs whose windows lie wholly inside the row
  bool any_empty;
  Int<T>*offset, *first;
};

template <class T>
ARRAYNN_INLINE FirstRows<T> make_first_rows(const PoolAxis& w, void* scratch, T fill) {
  FirstRows<T> f{make_row(w, scratch, fill), {}, false, nullptr, nullptr};
  f.offset = reinterpret_cast<Int<T>*>(f.row.out[1]);
  f.first = reinterpret_cast<Int<T>*>(f.row.out[2]);
  for (std::int64_t o = 0; o < w.out; ++o) {
    const Range taps = window_taps(w, o);
    const bool empty = taps.begin == taps.end;
    f.first[o] = static_cast<Int<T>>(empty ? -1 : taps.begin * w.dilation);
    f.any_empty |= empty;
  }
  const std::int64_t room = w.size + w.begin - window_span(w);
  f.full.begin = min_i(w.out, ceil_div(w.begin, w.stride));
  f.full.end = max_i(f.full.begin, room < 0 ? 0 : min_i(w.out, room / w.stride + 1));
  return f;
}

// Largest values and offsets of output row oh of a plane.
template <bool kStrided, class T>
ARRAYNN_INLINE void best_of_row(const PoolProblem p, const FirstRows<T>& f, const T* plane,
                                std::int64_t oh) {
  constexpr std::int64_t kL = kLanes<T>;
  const Range taps = window_taps(p.h, oh);
  const std::int64_t top = oh * p.h.stride - p.h.begin;
  T* best = f.row.out[0];
  if (taps.begin == taps.end) {
    for (std::int64_t o = 0; o < p.w.out; ++o) {
      best[o] = -T(__builtin_inf());
      f.offset[o] = -1;
    }
    return;
  }
  for (std::int64_t i = taps.begin; i < taps.end; ++i) {
    const T* in = plane + (top + i * p.h.dilation) * p.w.size;
    put_row(f.row, [&](std::int64_t col, std::int64_t n)
                       __attribute__((always_inline)) { return load_some(in + col, n); });
    const std::int64_t down = i * p.h.dilation * p.w.size;
    for (std::int64_t o = 0; o < p.w.out; o += kL) {
      Best<T> b;
      if (i == taps.begin) {
        b = {Vec<T>::set1(-T(__builtin_inf())), load_ints<T>(f.first + o) + set_ints<T>(down)};
      } else {
        b = {Vec<T>::load(best + o), load_ints<T>(f.offset + o)};
      }
      for (std::int64_t j = 0; j < p.w.kernel; ++j) {
        b.take(load_tap<kStrided>(f.row, j, o, min_i(kL, p.w.out - o)),
               set_ints<T>(down + j * p.w.dilation));
      }
      b.value.store(best + o);
      store_ints<T>(b.offset, f.offset + o);
    }
  }
  if (!f.any_empty) return;
  for (std::int64_t o = 0; o < p.w.out; ++o) {
    if (f.first[o] < 0) f.offset[o] = -1;
  }
}

template <bool kStrided, class T>
ARRAYNN_INLINE void indices_channels_first(const PoolProblem p, const T* x, T* y,
                                           std::int64_t* indices, Range rows, void* scratch) {
  const FirstRows<T> f = make_first_rows(p.w, scratch, -T(__builtin_inf()));
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t plane = r / p.h.out, oh = r % p.h.out;
    best_of_row<kStrided>(p, f, x + plane * p.h.size * p.w.size, oh);
    const T* best = f.row.out[0];
    T* out = y + r * p.w.out;
    std::int64_t* where = indices + r * p.w.out;
    const std::int64_t base = (oh * p.h.stride - p.h.begin) * p.w.size - p.w.begin;
    for (std::int64_t o = 0; o < p.w.out; ++o) out[o] = best[o];
    for (std::int64_t o = 0; o < p.w.out; ++o) {
      const std::int64_t at = f.offset[o];
      where[o] = at < 0 ? -1 : base + o * p.w.stride + at;
    }
  }
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
