// The forward pass of both poolings, over an operation:
//   identity()            of combine
//   map(v)                a tap's share
//   combine(acc, v)       one more share
//   begin(p, row)         once per thread            (channels_first)
//   set_row(p, oh)        once per output row
//   finish_columns(v, o)  outputs [o, o + kSize) of the row     (channels_first)
//   set_pixel(p, ow), finish(v)                                 (channels_last)
#pragma once
#include "pool/tiles.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Loops over the vectors that a kernel keeps in registers have to be unrolled by name: at -O2 the
// compiler leaves them as they are, and the vectors in memory.
#if defined(__AVX512F__)
inline constexpr int kReduceVectors = 16;
#else
inline constexpr int kReduceVectors = 8;
#endif

// some(Count, channel, n) from channel c on: four vectors, then one, then the n channels left.
template <class T, class F>
ARRAYNN_INLINE void for_channels(std::int64_t c, std::int64_t channels, const F& some) {
  constexpr std::int64_t kL = kLanes<T>;
  for (; c + 4 * kL <= channels; c += 4 * kL) some(Count<4>{}, c, kL);
  for (; c + kL <= channels; c += kL) some(Count<1>{}, c, kL);
  if (c < channels) some(Count<1>{}, c, channels - c);
}

// f(i) for i in [1, count), that of windows of two and three without a loop.
template <class F>
ARRAYNN_INLINE void for_others(std::int64_t count, const F& f) {
  if (count == 3) {
    f(1);
    f(2);
  } else if (count == 2) {
    f(1);
  } else {
    for (std::int64_t i = 1; i < count; ++i) f(i);
  }
}

// kRun > 0: windows of as many taps side by side (is_run), without the padded row.
template <bool kStrided, int kRun, class T, class Op>
ARRAYNN_INLINE void reduce_channels_first(const PoolProblem p, Op& op, const T* x, T* y, Range rows,
                                          void* scratch) {
  constexpr std::int64_t kL = kLanes<T>;
  const Row<T> row = make_row(p.w, scratch, op.identity().v[0]);
  op.begin(p, row);
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t plane = r / p.h.out, oh = r % p.h.out;
    const Range taps = window_taps(p.h, oh);
    const std::int64_t count = taps.end - taps.begin;
    const std::int64_t top = window_first(p.h, oh) + taps.begin * p.h.dilation;
    const std::int64_t step = p.h.dilation * p.w.size;
    const T* in = x + plane * p.h.size * p.w.size + (count > 0 ? top * p.w.size : 0);
    op.set_row(p, oh);
    const auto columns = [&](std::int64_t col, std::int64_t n) __attribute__((always_inline)) {
      if (count == 0) return op.identity();
      Vec<T> acc = op.map(load_lanes(in + col, n));
      for_others(count, [&](std::int64_t i) __attribute__((always_inline)) {
        acc = op.combine(acc, op.map(load_lanes(in + i * step + col, n)));
      });
      return acc;
    };
    if constexpr (kRun == 0) put_row(row, columns);
    T* out = y + r * p.w.out;
    const auto outputs = [&](std::int64_t o, std::int64_t n) __attribute__((always_inline)) {
      Vec<T> acc;
      if constexpr (kRun == 0) {
        acc = load_tap<kStrided>(row, 0, o, n);
        for_others(p.w.kernel, [&](std::int64_t j) __attribute__((always_inline)) {
          acc = op.combine(acc, load_tap<kStrided>(row, j, o, n));
        });
      } else {
        Vec<T> run[kRun], tap[kRun];
#pragma GCC unroll 16
        for (int k = 0; k < kRun; ++k) {
          const std::int64_t left = n * kRun - k * kL;
          run[k] = left > 0 ? columns(o * kRun + k * kL, left) : op.identity();
        }
        split_run(run, tap);
        acc = tap[0];
#pragma GCC unroll 16
        for (int k = 1; k < kRun; ++k) acc = op.combine(acc, tap[k]);
      }
      return op.finish_columns(acc, o);
    };
    std::int64_t o = 0;
    for (; o + kL <= p.w.out; o += kL) outputs(o, kL).store(out + o);
    if (o < p.w.out) store_n(outputs(o, p.w.out - o), out + o, p.w.out - o);
  }
}

template <class T, class Op>
ARRAYNN_INLINE void reduce_channels_last(const PoolProblem p, Op& op, const T* x, T* y,
                                         Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t row_step = p.h.dilation * p.w.size * p.c, col_step = p.w.dilation * p.c;
  const bool stream = is_streamed(p, y, p.h.out * p.w.out, p.c);
  const auto put = [&](Vec<T> v, T* to) __attribute__((always_inline)) {
    if (stream) {
      stream_to(v, to);
    } else {
      v.store(to);
    }
  };
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t sample = r / p.h.out, oh = r % p.h.out;
    const Range h = window_taps(p.h, oh);
    const std::int64_t top = sample * p.h.size + window_first(p.h, oh);
    op.set_row(p, oh);
    for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
      const Range w = window_taps(p.w, ow);
      op.set_pixel(p, ow);
      const bool none = h.begin == h.end || w.begin == w.end;
      const std::int64_t left = window_first(p.w, ow);
      const T* in =
          none ? x : x + (top * p.w.size + left) * p.c + h.begin * row_step + w.begin * col_step;
      const std::int64_t height = none ? 0 : h.end - h.begin, width = w.end - w.begin;
      T* out = y + (r * p.w.out + ow) * p.c;
      std::int64_t c = 0;
      const auto vectors = [&](auto count) __attribute__((always_inline)) {
        constexpr int kV = decltype(count)::value;
        for (; c + kV * kL <= p.c; c += kV * kL) {
          Vec<T> acc[kV];
#pragma GCC unroll 16
          for (int v = 0; v < kV; ++v) acc[v] = op.identity();
          for (std::int64_t i = 0; i < height; ++i) {
            const T* q = in + i * row_step + c;
            for (std::int64_t j = 0; j < width; ++j, q += col_step) {
#pragma GCC unroll 16
              for (int v = 0; v < kV; ++v) {
                acc[v] = op.combine(acc[v], op.map(Vec<T>::load(q + v * kL)));
              }
            }
          }
#pragma GCC unroll 16
          for (int v = 0; v < kV; ++v) put(op.finish(acc[v]), out + c + v * kL);
        }
      };
      // Many channels under many taps: long pieces of every pixel, which prefetchers follow.
      if (height * width > 16) vectors(Count<kReduceVectors>{});
      vectors(Count<4>{});
      vectors(Count<2>{});
      const auto one = [&](std::int64_t first, std::int64_t n) __attribute__((always_inline)) {
        Vec<T> acc = op.identity();
        for (std::int64_t i = 0; i < height; ++i) {
          const T* q = in + i * row_step + first;
          for (std::int64_t j = 0; j < width; ++j, q += col_step) {
            acc = op.combine(acc, op.map(load_lanes(q, n)));
          }
        }
        store_lanes(op.finish(acc), out + first, n);
      };
      for (; c + kL <= p.c; c += kL) one(c, kL);
      if (c < p.c) {
        if (p.c >= kL) {
          one(p.c - kL, kL);  // some channels twice: cheaper than a masked tail
        } else {
          one(c, p.c - c);
        }
      }
    }
  }
}

// Of one plane: four vectors side by side, added in pairs; lanes behind the plane hold the identity.
// The last plane of x must not be read past its end.
template <class T, class Op>
ARRAYNN_INLINE Vec<T> reduce_plane(const Op& op, const T* in, std::int64_t size, bool last,
                                   Mask<T> tail) {
  constexpr std::int64_t kL = kLanes<T>;
  constexpr int kV = 4;
  Vec<T> acc[kV];
  std::int64_t i = 0;
  if (size >= kV * kL) {
#pragma GCC unroll 16
    for (int v = 0; v < kV; ++v) acc[v] = op.map(Vec<T>::load(in + v * kL));
    for (i = kV * kL; i + kV * kL <= size; i += kV * kL) {
#pragma GCC unroll 16
      for (int v = 0; v < kV; ++v) {
        acc[v] = op.combine(acc[v], op.map(Vec<T>::load(in + i + v * kL)));
      }
    }
    acc[0] = op.combine(op.combine(acc[0], acc[1]), op.combine(acc[2], acc[3]));
  } else {
    acc[0] = op.identity();
  }
  for (; i + kL <= size; i += kL) acc[0] = op.combine(acc[0], op.map(Vec<T>::load(in + i)));
  if (i == size) return acc[0];
  const Vec<T> rest = last ? load_n(in + i, size - i) : Vec<T>::load(in + i);
  return op.combine(acc[0], select(tail, op.map(rest), op.identity()));
}

// Vectors of a plane up to which one accumulator is enough: the next planes do not wait for it.
inline constexpr std::int64_t kShortPlane = 8;

// `count` planes of at least one vector, in order of memory. A last vector that is not full overlaps
// the one before it, without the lanes that were counted: nothing is read behind a plane.
template <class T, class Op>
ARRAYNN_INLINE void reduce_short_planes(const Op& op, const T* in, std::int64_t size,
                                        std::int64_t count, Mask<T> uncounted,
                                        Vec<T> (&all)[kLanes<T>]) {
  constexpr std::int64_t kL = kLanes<T>;
#pragma GCC unroll 16
  for (int k = 0; k < kL; ++k) {
    const T* plane = in + (k < count ? k : 0) * size;
    Vec<T> sum = op.map(Vec<T>::load(plane));
    for (std::int64_t i = kL; i + kL <= size; i += kL) {
      sum = op.combine(sum, op.map(Vec<T>::load(plane + i)));
    }
    const Vec<T> rest = op.map(Vec<T>::load(plane + size - kL));
    all[k] = op.combine(sum, select(uncounted, rest, op.identity()));
  }
}

// Lane k of the result is vector first + k reduced, neighbours first.
template <int kCount, int kFirst = 0, class T, class Op>
ARRAYNN_INLINE Vec<T> reduce_each(const Op& op, const Vec<T> (&all)[kLanes<T>]) {
  if constexpr (kCount == 1) {
    return all[kFirst];
  } else {
    Vec<T> even, odd;
    split_pair(reduce_each<kCount / 2, kFirst>(op, all),
               reduce_each<kCount / 2, kFirst + kCount / 2>(op, all), &even, &odd);
    return op.combine(even, odd);
  }
}

// One window over a whole plane, channels_first: planes are reduced along their memory to a vector
// each, and as many of those as they have lanes to one.
template <class T, class Op>
ARRAYNN_INLINE void reduce_planes(const PoolProblem p, Op op, const T* x, T* y, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t size = p.h.size * p.w.size, rest = size % kL;
  op.set_row(p, 0);
  op.set_pixel(p, 0);
  Mask<T> tail{};
  Vec<T> all[kL];
  const auto put = [&](std::int64_t r) __attribute__((always_inline)) {
    store_lanes(op.finish(reduce_each<kL>(op, all)), y + r, rows.end - r);
  };
  if (size >= kL && size < kShortPlane * kL) {
    for (int l = 0; l < kL; ++l) tail.v[l] = l >= kL - rest ? -1 : 0;
    for (std::int64_t r = rows.begin; r < rows.end; r += kL) {
      reduce_short_planes(op, x + r * size, size, rows.end - r, tail, all);
      put(r);
    }
    return;
  }
  for (int l = 0; l < kL; ++l) tail.v[l] = l < rest ? -1 : 0;
  for (std::int64_t r = rows.begin; r < rows.end; r += kL) {
    for (int k = 0; k < kL; ++k) {
      all[k] = op.identity();
      if (r + k < rows.end) {
        const bool near_end = (rows.end - r - k - 1) * size < kL;
        all[k] = reduce_plane(op, x + (r + k) * size, size, near_end, tail);
      }
    }
    put(r);
  }
}

template <class T, class Op>
ARRAYNN_INLINE void reduce_windows(const PoolProblem p, Op op, const T* x, T* y, Range rows,
                                   void* scratch) {
  if (p.channels_last) return reduce_channels_last(p, op, x, y, rows);
  if (is_tiled(p, PoolTask::kSum)) return reduce_tiles(p, op, x, y, rows);
  if (is_whole(p, PoolTask::kSum)) return reduce_planes(p, op, x, y, rows);
  if (is_run(p.w) && p.w.kernel == 2) {
    reduce_channels_first<false, 2>(p, op, x, y, rows, scratch);
  } else if (is_run(p.w)) {
    reduce_channels_first<false, 4>(p, op, x, y, rows, scratch);
  } else if (p.w.stride <= kMaxPhases) {
    reduce_channels_first<false, 0>(p, op, x, y, rows, scratch);
  } else {
    reduce_channels_first<true, 0>(p, op, x, y, rows, scratch);
  }
}

// Windows without gaps between them and between their taps: every element up to the last window is
// in one, so that the first window to reach it can store where later ones add.
ARRAYNN_INLINE bool is_dense(const PoolAxis& a) { return a.dilation == 1 && a.stride <= a.kernel; }
// Windows without common taps.
ARRAYNN_INLINE bool is_disjoint(const PoolAxis& a) {
  return a.to == 0 && a.stride >= window_span(a);
}
// The position from which on output position o of a dense axis is the first to reach the input.
ARRAYNN_INLINE std::int64_t first_reached(const PoolAxis& a, std::int64_t o) {
  return o == 0 ? INT64_MIN : window_end(a, o - 1);
}

// Calls window(plane, oh, mine) for every output row that touches rows [begin, end) of the planes
// of dx, in order; `mine` are the thread's rows of that plane. Rows that no window reaches are
// zeroed; the others too, just ahead of their first window, unless the windows store there.
template <class T, class Window>
ARRAYNN_INLINE void for_windows(const PoolAxis& h, T* dx, std::int64_t row_size, Range rows,
                                bool windows_store, const Window& window) {
  for (std::int64_t r = rows.begin; r < rows.end;) {
    const std::int64_t plane = r / h.size;
    const Range mine = {r - plane * h.size, min_i(h.size, rows.end - plane * h.size)};
    T* base = dx + plane * h.size * row_size;
    std::int64_t next = mine.begin;
    const Range windows = windows_touching(h, mine.begin, mine.end);
    for (std::int64_t oh = windows.begin; oh < windows.end; ++oh) {
      const std::int64_t bottom = min_i(mine.end, window_end(h, oh));
      if (bottom > next) {
        if (!windows_store) zero_fill(base + next * row_size, (bottom - next) * row_size);
        next = bottom;
      }
      window(plane, oh, mine);
    }
    zero_fill(base + next * row_size, (mine.end - next) * row_size);
    r += mine.end - mine.begin;
  }
}

// channels_last, dense windows: zeroes what lies to the right of the last window in the rows that
// output row oh is the first to reach.
template <class T>
ARRAYNN_INLINE void zero_behind_windows(const PoolProblem p, T* plane, std::int64_t oh,
                                        Range mine) {
  const std::int64_t right = window_end(p.w, p.w.out - 1);
  if (right >= p.w.size) return;
  const std::int64_t top = max_i(window_first(p.h, oh), first_reached(p.h, oh));
  const std::int64_t bottom = min_i(window_end(p.h, oh), mine.end);
  for (std::int64_t ih = max_i(top, mine.begin); ih < bottom; ++ih) {
    zero_fill(plane + (ih * p.w.size + right) * p.c, (p.w.size - right) * p.c);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
