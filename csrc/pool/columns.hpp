// Adaptive windows several rows high, channels_first: they have no common stride to keep apart in a
// row, so their columns are reduced along memory, and what is left of them one by one. The gradient
// goes the same way back. Units are those of a staged task, without moving its planes.
#pragma once
#include "pool/reduce.hpp"
#include "pool/staged.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Rows of a window from which on that takes less than moving it: 4 rows of 28 columns do not yet.
inline constexpr std::int64_t kColumnRows = 6;

ARRAYNN_INLINE bool is_by_columns(const PoolProblem& p) {
  return !p.channels_last && p.h.to > 0 && p.w.to > 0 && p.h.size >= kColumnRows * p.h.out &&
         p.w.size >= kStagedPlanes;
}

// A row of columns, with the divisors of its windows (out[0]), their first columns and their ends.
// A unit's planes would take more room.
template <class T>
struct Columns {
  Row<T> row;
  Int<T>*left, *right;
};
template <class T>
ARRAYNN_INLINE Columns<T> make_columns(const PoolAxis& w, void* scratch) {
  const Row<T> row = make_row(w, scratch, T(0));
  Columns<T> c{row, reinterpret_cast<Int<T>*>(row.out[1]), reinterpret_cast<Int<T>*>(row.out[2])};
  for (std::int64_t o = 0; o < w.out; ++o) {
    c.left[o] = static_cast<Int<T>>(window_first(w, o));
    c.right[o] = static_cast<Int<T>>(window_end(w, o));
  }
  return c;
}

// One row of windows of a plane.
template <class T, class Op>
ARRAYNN_INLINE void reduce_row(const PoolProblem& p, Op& op, const Columns<T>& columns, const T* in,
                               std::int64_t oh, T* out) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t width = p.w.size, first = window_first(p.h, oh), end = window_end(p.h, oh);
  T* row = columns.row.data;
  for_vectors<T>(width, [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
    Vec<T> acc = op.map(load_lanes(in + first * width + c, n));
    for (std::int64_t ih = first + 1; ih < end; ++ih) {
      acc = op.combine(acc, op.map(load_lanes(in + ih * width + c, n)));
    }
    acc.store(row + c);
  });
  for (std::int64_t o = 0; o < p.w.out; ++o) {
    Vec<T> acc = Vec<T>::set1(row[columns.left[o]]);
    for (std::int64_t c = columns.left[o] + 1; c < columns.right[o]; ++c) {
      acc = op.combine(acc, Vec<T>::set1(row[c]));
    }
    out[o] = acc.v[0];
  }
  op.set_row(p, oh);
  for (std::int64_t o = 0; o < p.w.out; o += kL) {
    const std::int64_t n = p.w.out - o;
    store_lanes(op.finish_columns(load_lanes(out + o, n), o), out + o, n);
  }
}

template <class T, class Op>
ARRAYNN_INLINE void reduce_columns(const PoolProblem p, Op op, const T* x, T* y, Range units,
                                   void* scratch) {
  const Columns<T> columns = make_columns<T>(p.w, scratch);
  op.begin(p, columns.row);
  const std::int64_t bands = staged_bands(p, sizeof(T), false);
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Band b = forward_band(p, u, bands);
    for (std::int64_t plane = b.plane; plane < b.plane + b.p.c; ++plane) {
      for (std::int64_t oh = b.out_row; oh < b.out_row + b.p.h.out; ++oh) {
        reduce_row(p, op, columns, x + plane * p.h.size * p.w.size, oh,
                   y + (plane * p.h.out + oh) * p.w.out);
      }
    }
  }
}

// What every position of a row has of the windows of one row.
template <class T, class Op>
ARRAYNN_INLINE void spread_row_of_windows(const PoolProblem& p, const Op& op,
                                          const Columns<T>& columns, const T* dy) {
  constexpr std::int64_t kL = kLanes<T>;
  T* row = columns.row.data;
  std::int64_t reached = 0;
  for (std::int64_t o = 0; o < p.w.out; o += kL) {
    const std::int64_t n = min_i(kL, p.w.out - o);
    T share[kL];
    op.finish_columns(load_lanes(dy + o, n), o).store(share);
    for (std::int64_t l = 0; l < n; ++l) {
      for (std::int64_t c = columns.left[o + l]; c < reached; ++c) row[c] += share[l];
      const std::int64_t right = columns.right[o + l];
      // Behind the window too, where the next one begins.
      for (; reached < right; reached += kL) Vec<T>::set1(share[l]).store(row + reached);
      reached = right;
    }
  }
}

template <class T, class Op>
ARRAYNN_INLINE void spread_columns(const PoolProblem p, Op op, const T* dy, T* dx, Range units,
                                   void* scratch) {
  constexpr std::int64_t kL = kLanes<T>;
  const Columns<T> columns = make_columns<T>(p.w, scratch);
  op.begin(p, columns.row);
  const T* row = columns.row.data;
  const auto window = [&](std::int64_t plane, std::int64_t oh, Range mine) {
    op.set_row(p, oh);
    spread_row_of_windows(p, op, columns, dy + (plane * p.h.out + oh) * p.w.out);
    const std::int64_t fresh = first_reached(p.h, oh);
    const std::int64_t bottom = min_i(window_end(p.h, oh), mine.end);
    for (std::int64_t ih = max_i(window_first(p.h, oh), mine.begin); ih < bottom; ++ih) {
      T* to = dx + (plane * p.h.size + ih) * p.w.size;
      if (ih >= fresh) {
        for_vectors<T>(p.w.size,
                       [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
                         store_lanes(Vec<T>::load(row + c), to + c, n);
                       });
        continue;
      }
      for (std::int64_t c = 0; c < p.w.size; c += kL) {
        const std::int64_t n = p.w.size - c;
        store_lanes(load_lanes(to + c, n) + Vec<T>::load(row + c), to + c, n);
      }
    }
  };
  const std::int64_t bands = staged_bands(p, sizeof(T), true);
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Band b = backward_band(p, u, bands);
    for (std::int64_t plane = b.plane; plane < b.plane + b.p.c; ++plane) {
      const std::int64_t first = plane * p.h.size + b.in_row;
      for_windows(p.h, dx, p.w.size, {first + b.own.begin, first + b.own.end}, true, window);
    }
  }
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
