// Adaptive windows several rows high, channels_first: they have no common stride to keep apart in a
// row, so their columns are reduced along memory, and what is left of as many rows as a vector has
// lanes is transposed and reduced together. The gradient goes back a row at a time. Units are those of a staged task, without moving its planes.
#pragma once
#include "pool/reduce.hpp"
#include "pool/staged.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// A row of columns, with the divisors of its windows (out[0]), their first columns and their ends.
template <class T>
struct Columns {
  Row<T> row;
  Int<T>*left, *right;
  T* more;  // column_elements()
};
template <class T>
ARRAYNN_INLINE Columns<T> make_columns(const PoolAxis& w, void* scratch) {
  const Row<T> row = make_row(w, scratch, T(0));
  Columns<T> c{row, reinterpret_cast<Int<T>*>(row.out[1]), reinterpret_cast<Int<T>*>(row.out[2]),
               reinterpret_cast<T*>(static_cast<char*>(scratch) + row_scratch_bytes(w, sizeof(T)))};
  for (std::int64_t o = 0; o < w.out; ++o) {
    c.left[o] = static_cast<Int<T>>(window_first(w, o));
    c.right[o] = static_cast<Int<T>>(window_end(w, o));
  }
  return c;
}

// The columns of one row of windows of a plane: up to four vectors of them together, in the order of
// memory.
template <class T, class Op>
ARRAYNN_INLINE void reduce_row(const PoolProblem& p, const Op& op, const T* in, std::int64_t oh,
                               T* row) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t width = p.w.size, first = window_first(p.h, oh), end = window_end(p.h, oh);
  const auto some = [&](auto vectors, std::int64_t c) __attribute__((always_inline)) {
    constexpr int kV = decltype(vectors)::value;
    const std::int64_t last = width - c - (kV - 1) * kL;  // lanes of the last vector
    const auto tap = [&](std::int64_t ih, int v) __attribute__((always_inline)) {
      return load_lanes(in + ih * width + c + v * kL, v + 1 < kV ? kL : last);
    };
    Vec<T> acc[kV];
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) acc[v] = op.map(tap(first, v));
    for (std::int64_t ih = first + 1; ih < end; ++ih) {
#pragma GCC unroll 16
      for (int v = 0; v < kV; ++v) acc[v] = op.combine(acc[v], op.map(tap(ih, v)));
    }
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) acc[v].store(row + c + v * kL);
  };
  std::int64_t c = 0;
  for (; width - c > 3 * kL; c += 4 * kL) some(Count<4>{}, c);
  for (; width - c > kL; c += 2 * kL) some(Count<2>{}, c);
  if (c < width) some(Count<1>{}, c);
}

// As many rows of windows as a vector has lanes: their columns, transposed, are reduced together.
template <class T, class Op>
ARRAYNN_INLINE void reduce_columns(const PoolProblem p, Op op, const T* x, T* y, Range units,
                                   void* scratch) {
  constexpr std::int64_t kL = kLanes<T>;
  const Columns<T> columns = make_columns<T>(p.w, scratch);
  op.begin(p, columns.row);
  const std::int64_t width = round_up(p.w.size, kL), out = round_up(p.w.out, kL);
  T *rows = columns.more, *lanes = rows + kL * width;
  T *windows = lanes + kL * width, *to = windows + kL * out;
  // What is behind the last row and the last window is moved too.
  for (std::int64_t i = 0; i < 2 * kL * (width + out); ++i) rows[i] = T(0);
  const std::int64_t bands = staged_bands(p, sizeof(T), false);
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Band b = forward_band(p, u, bands);
    const std::int64_t height = b.p.h.out, all = b.p.c * height;
    for (std::int64_t first = 0; first < all; first += kL) {
      const std::int64_t n = min_i(kL, all - first);
      for (std::int64_t k = 0; k < n; ++k) {
        const std::int64_t plane = b.plane + (first + k) / height;
        const std::int64_t oh = b.out_row + (first + k) % height;
        reduce_row(p, op, x + plane * p.h.size * p.w.size, oh, rows + k * width);
      }
      transpose_copy(rows, width, lanes, kL, kL, width);
      for (std::int64_t o = 0; o < p.w.out; ++o) {
        Vec<T> acc = Vec<T>::load(lanes + columns.left[o] * kL);
        for (std::int64_t c = columns.left[o] + 1; c < columns.right[o]; ++c) {
          acc = op.combine(acc, Vec<T>::load(lanes + c * kL));
        }
        acc.store(windows + o * kL);
      }
      transpose_copy(windows, kL, to, out, out, kL);
      for (std::int64_t k = 0; k < n; ++k) {
        const std::int64_t plane = b.plane + (first + k) / height;
        const std::int64_t oh = b.out_row + (first + k) % height;
        op.set_row(p, oh);
        for (std::int64_t o = 0; o < p.w.out; o += kL) {
          store_lanes(op.finish_columns(Vec<T>::load(to + k * out + o), o),
                      y + (plane * p.h.out + oh) * p.w.out + o, p.w.out - o);
        }
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
