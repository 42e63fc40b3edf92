// Windows of 2 x 2 that tile planes of even width, channels_first. The rows of all planes lie one
// behind the other and every pair of columns is a pair of memory, so a block of rows is halved along
// its memory first, whatever the length of its rows, and pairs of its halved rows meet in L1. Neither
// short rows nor two rows at a time cost anything: memory is read and written in order, once.
#pragma once
#include "pool/best.hpp"
#include "pool/walk.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Elements of a block of halved rows; with the rows themselves it stays in L1.
inline constexpr std::int64_t kTileBlock = 1024;

// Windows [begin, end) of output rows `rows`: whole rows, or a piece of one.
struct TileBlock {
  Range rows, columns;

  ARRAYNN_MEMBER std::int64_t width() const { return columns.end - columns.begin; }
};

// f(block) in the order of memory; `f` sees 2 width() halved elements for each of its rows.
template <class F>
ARRAYNN_INLINE void for_tile_blocks(Range rows, std::int64_t out, const F& f) {
  if (2 * out <= kTileBlock) {
    const std::int64_t count = kTileBlock / (2 * out);
    for (std::int64_t r = rows.begin; r < rows.end; r += count) {
      f(TileBlock{{r, min_i(r + count, rows.end)}, {0, out}});
    }
    return;
  }
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    for (std::int64_t o = 0; o < out; o += kTileBlock / 2) {
      f(TileBlock{{r, r + 1}, {o, min_i(o + kTileBlock / 2, out)}});
    }
  }
}

// f(first, n) for runs of the block's input rows: `first` is an element of the planes, `n` pairs.
template <class F>
ARRAYNN_INLINE void for_tile_runs(const TileBlock& b, std::int64_t out, const F& f) {
  if (b.width() == out) return f(4 * b.rows.begin * out, 2 * (b.rows.end - b.rows.begin) * out, 0);
  f(4 * b.rows.begin * out + 2 * b.columns.begin, b.width(), 0);
  f(4 * b.rows.begin * out + 2 * (out + b.columns.begin), b.width(), b.width());
}

// f(k, n) for vectors [k, k + n) of n_all elements; the last one overlaps the one before it.
template <class T, class F>
ARRAYNN_INLINE void for_vectors(std::int64_t n_all, const F& f) {
  constexpr std::int64_t kL = kLanes<T>;
  std::int64_t k = 0;
  for (; k + kL <= n_all; k += kL) f(k, kL);
  if (k == n_all) return;
  if (n_all >= kL) {
    f(n_all - kL, kL);
  } else {
    f(0, n_all);
  }
}

// Pairs [k, k + n) of x.
template <class T>
ARRAYNN_INLINE void load_pairs(const T* x, std::int64_t n, Vec<T>* even, Vec<T>* odd) {
  constexpr std::int64_t kL = kLanes<T>;
  if (n == kL) {
    return split_pair(in_register(Vec<T>::load(x)), in_register(Vec<T>::load(x + kL)), even, odd);
  }
  split_pair(load_lanes(x, 2 * n), load_lanes(x + kL, max_i(0, 2 * n - kL)), even, odd);
}
template <class T>
ARRAYNN_INLINE void store_pairs(Vec<T> even, Vec<T> odd, T* y, std::int64_t n,
                                bool stream = false) {
  constexpr std::int64_t kL = kLanes<T>;
  Vec<T> low, high;
  merge_pair(even, odd, &low, &high);
  if (stream && n == kL) {
    stream_to(low, y);
    stream_to(high, y + kL);
    return;
  }
  store_lanes(low, y, 2 * n);
  if (2 * n > kL) store_lanes(high, y + kL, 2 * n - kL);
}

// Pairs of the block's input rows into `half`, row by row.
template <class T, class Op>
ARRAYNN_INLINE void reduce_pairs(const TileBlock& b, std::int64_t out, const Op& op, const T* x,
                                 T* half) {
  for_tile_runs(
      b, out,
      [&](std::int64_t first, std::int64_t pairs, std::int64_t to) __attribute__((always_inline)) {
        for_vectors<T>(pairs, [&](std::int64_t k, std::int64_t n) __attribute__((always_inline)) {
          Vec<T> even, odd;
          load_pairs(x + first + 2 * k, n, &even, &odd);
          op.combine(op.map(even), op.map(odd)).store(half + to + k);
        });
      });
}

// g where a window's largest tap is, 0 elsewhere.
template <int kTaps, class T>
ARRAYNN_INLINE void give_to_largest(const Vec<T> (&taps)[kTaps], Vec<T> g, Vec<T> (&to)[kTaps]) {
  Vec<T> best = taps[0];
  Hits<T> won[kTaps];  // of every tap when it was looked at
#pragma GCC unroll 16
  for (int k = 1; k < kTaps; ++k) {
    won[k] = Hits<T>::larger(taps[k], best);
    best = won[k].choose(taps[k], best);
  }
  for (int k = kTaps - 1; k > 0; --k) {
    to[k] = won[k].choose(g, Vec<T>::zero());
    g = won[k].choose(Vec<T>::zero(), g);
  }
  to[0] = g;
}

// Every second run of kRun lanes of a and b laid end to end, and the way back.
template <class T, int kRun, bool kOdd>
struct EverySecondRun {
  static constexpr int at(int l) { return l / kRun * 2 * kRun + l % kRun + (kOdd ? kRun : 0); }
};
template <class T, int kRun, bool kUpper>
struct RunsByTurns {
  static constexpr int at(int l) {
    const int from = l + (kUpper ? kLanes<T> : 0), run = from / kRun;
    return run / 2 * kRun + from % kRun + (run % 2 != 0 ? kLanes<T> : 0);
  }
};

// The four taps of a vector of windows whose rows are kOut windows long: kOut divides a vector, and
// windows are consecutive in memory as their elements are.
template <int kOut, class T>
ARRAYNN_INLINE void load_narrow_tiles(const T* x, Vec<T> (&taps)[4]) {
  constexpr std::int64_t kL = kLanes<T>;
  Vec<T> left[2], right[2];
  for (int k = 0; k < 2; ++k) {
    split_pair(Vec<T>::load(x + 2 * k * kL), Vec<T>::load(x + (2 * k + 1) * kL), &left[k],
               &right[k]);
  }
  taps[0] = shuffle<EverySecondRun<T, kOut, false>>(left[0], left[1]);
  taps[1] = shuffle<EverySecondRun<T, kOut, false>>(right[0], right[1]);
  taps[2] = shuffle<EverySecondRun<T, kOut, true>>(left[0], left[1]);
  taps[3] = shuffle<EverySecondRun<T, kOut, true>>(right[0], right[1]);
}
template <int kOut, class T>
ARRAYNN_INLINE void store_narrow_tiles(const Vec<T> (&taps)[4], T* x) {
  constexpr std::int64_t kL = kLanes<T>;
  const Vec<T> left[2] = {shuffle<RunsByTurns<T, kOut, false>>(taps[0], taps[2]),
                          shuffle<RunsByTurns<T, kOut, true>>(taps[0], taps[2])};
  const Vec<T> right[2] = {shuffle<RunsByTurns<T, kOut, false>>(taps[1], taps[3]),
                           shuffle<RunsByTurns<T, kOut, true>>(taps[1], taps[3])};
  for (int k = 0; k < 2; ++k) {
    Vec<T> low, high;
    merge_pair(left[k], right[k], &low, &high);
    low.store(x + 2 * k * kL);
    high.store(x + (2 * k + 1) * kL);
  }
}

// f(Count of windows in a row, first window) for vectors of windows `all`, the last overlapping the
// one before it; false where rows are not narrow or windows too few.
template <class T, class F>
ARRAYNN_INLINE bool for_narrow_tiles(Range all, std::int64_t out, const F& f) {
  constexpr std::int64_t kL = kLanes<T>;
  if (all.end - all.begin < kL) return false;
  const auto each = [&](auto count) __attribute__((always_inline)) {
    for (std::int64_t i = all.begin; i < all.end; i += kL) f(count, min_i(i, all.end - kL));
    return true;
  };
  if (out == 1) return each(Count<1>{});
  if constexpr (kL > 2) {
    if (out == 2) return each(Count<2>{});
  }
  if constexpr (kL > 4) {
    if (out == 4) return each(Count<4>{});
  }
  if constexpr (kL > 8) {
    if (out == 8) return each(Count<8>{});
  }
  return false;
}

template <class T, class Op>
ARRAYNN_INLINE void reduce_tiles(const PoolProblem p, Op op, const T* x, T* y, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t out = p.w.out;
  op.set_row(p, 0);
  op.set_pixel(p, 0);
  const auto narrow = [&](auto count, std::int64_t i) __attribute__((always_inline)) {
    Vec<T> taps[4];
    load_narrow_tiles<decltype(count)::value>(x + 4 * i, taps);
    const Vec<T> top = op.combine(op.map(taps[0]), op.map(taps[1]));
    op.finish(op.combine(top, op.combine(op.map(taps[2]), op.map(taps[3])))).store(y + i);
  };
  if (for_narrow_tiles<T>({rows.begin * out, rows.end * out}, out, narrow)) return;
  const bool stream = is_streamed(p, y, p.h.out * out, out);
  alignas(64) T half[kTileBlock + kL];
  for_tile_blocks(rows, out, [&](const TileBlock& b) __attribute__((always_inline)) {
    reduce_pairs(b, out, op, x, half);
    const std::int64_t width = b.width();
    for (std::int64_t r = b.rows.begin; r < b.rows.end; ++r) {
      const T* top = half + 2 * (r - b.rows.begin) * width;
      const auto some = [&](std::int64_t o) __attribute__((always_inline)) {
        return op.finish(op.combine(Vec<T>::load(top + o), Vec<T>::load(top + width + o)));
      };
      T* to = y + r * out + b.columns.begin;
      if (width < kL) {  // what is behind the row is written next
        const std::int64_t left = (rows.end - r) * out - b.columns.begin;
        store_lanes(some(0), to, left >= kL ? kL : width);
        continue;
      }
      for_vectors<T>(width, [&](std::int64_t o, std::int64_t) __attribute__((always_inline)) {
        if (stream) {
          stream_to(some(o), to + o);
        } else {
          some(o).store(to + o);
        }
      });
    }
  });
}

// `rows` are rows of dx; a window belongs to whoever owns its first row.
template <class T>
void max_of_tiles_backward(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t out = p.w.out;
  const Range mine = {ceil_div(rows.begin, 2), ceil_div(rows.end, 2)};
  const auto narrow = [&](auto count, std::int64_t i) __attribute__((always_inline)) {
    Vec<T> taps[4], to[4];
    load_narrow_tiles<decltype(count)::value>(x + 4 * i, taps);
    give_to_largest(taps, Vec<T>::load(dy + i), to);
    store_narrow_tiles<decltype(count)::value>(to, dx + 4 * i);
  };
  if (for_narrow_tiles<T>({mine.begin * out, mine.end * out}, out, narrow)) return;
  const bool stream = is_streamed(p, dx, p.h.size * p.w.size, 2 * out);
  alignas(64) T half[kTileBlock + kL], grad[kTileBlock + kL];
  for_tile_blocks(mine, out, [&](const TileBlock& b) __attribute__((always_inline)) {
    reduce_pairs(b, out, Max<T>{}, x, half);
    const std::int64_t width = b.width();
    for (std::int64_t r = b.rows.begin; r < b.rows.end; ++r) {
      const std::int64_t at = 2 * (r - b.rows.begin) * width;
      const T* from = dy + r * out + b.columns.begin;
      const auto some = [&](std::int64_t o, Vec<T> g) __attribute__((always_inline)) {
        const Hits<T> lower =
            Hits<T>::larger(Vec<T>::load(half + at + width + o), Vec<T>::load(half + at + o));
        lower.choose(Vec<T>::zero(), g).store(grad + at + o);
        lower.choose(g, Vec<T>::zero()).store(grad + at + width + o);
      };
      if (width < kL) {  // what is behind the rows is written next
        const std::int64_t left = (mine.end - r) * out - b.columns.begin;
        some(0, load_lanes(from, left >= kL ? kL : width));
        continue;
      }
      for_vectors<T>(width, [&](std::int64_t o, std::int64_t) __attribute__((always_inline)) {
        some(o, Vec<T>::load(from + o));
      });
    }
    for_tile_runs(b, out,
                  [&](std::int64_t first, std::int64_t pairs, std::int64_t from)
                      __attribute__((always_inline)) {
                        for_vectors<T>(pairs, [&](std::int64_t k,
                                                  std::int64_t n) __attribute__((always_inline)) {
                          Vec<T> even, odd;
                          load_pairs(x + first + 2 * k, n, &even, &odd);
                          const Hits<T> right = Hits<T>::larger(odd, even);
                          const Vec<T> g = Vec<T>::load(grad + from + k), zero = Vec<T>::zero();
                          store_pairs(right.choose(zero, g), right.choose(g, zero),
                                      dx + first + 2 * k, n, stream);
                        });
                      });
  });
}

// Taps of windows of kRun elements side by side, first to last, and the way back.
template <int kRun, class T>
ARRAYNN_INLINE void split_run(const Vec<T> (&in)[kRun], Vec<T> (&taps)[kRun]) {
  if constexpr (kRun == 2) {
    split_pair(in[0], in[1], &taps[0], &taps[1]);
  } else {
    split_four(in, taps);
  }
}
template <int kRun, class T>
ARRAYNN_INLINE void merge_run(const Vec<T> (&taps)[kRun], Vec<T> (&out)[kRun]) {
  if constexpr (kRun == 2) {
    merge_pair(taps[0], taps[1], &out[0], &out[1]);
  } else {
    merge_four(taps, out);
  }
}

// Every element of a window shares alike.
template <class T, class Op>
ARRAYNN_INLINE void spread_tiles(const PoolProblem p, Op op, const T* dy, T* dx, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t out = p.w.out, last = ceil_div(rows.end, 2);
  const bool stream = is_streamed(p, dx, p.h.size * p.w.size, 2 * out);
  op.set_row(p, 0);
  op.set_pixel(p, 0);
  for (std::int64_t r = ceil_div(rows.begin, 2); r < last; ++r) {
    const T* from = dy + r * out;
    T* to = dx + 4 * r * out;
    if (out < kL) {  // what is behind a row is written next
      const bool inside = (last - r) * out >= kL;
      const Vec<T> share = op.finish(load_lanes(from, inside ? kL : out));
      store_pairs(share, share, to, (last - r) * 4 * out >= 2 * kL ? kL : out);
      store_pairs(share, share, to + 2 * out, ((last - r) * 4 - 2) * out >= 2 * kL ? kL : out);
      continue;
    }
    for_vectors<T>(out, [&](std::int64_t o, std::int64_t) __attribute__((always_inline)) {
      const Vec<T> share = op.finish(Vec<T>::load(from + o));
      store_pairs(share, share, to + 2 * o, kL, stream);
      store_pairs(share, share, to + 2 * (out + o), kL, stream);
    });
  }
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
