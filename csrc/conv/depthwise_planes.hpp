// Depthwise convolution with the columns of a row as lanes, a plane at a time. Taps are added in
// ascending order from 0.
#pragma once
#include "conv/depthwise.hpp"
#include "core/parallel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Whether a part of a vector is loaded and stored by one instruction.
inline constexpr bool kMaskedMemory = kVecBytes == 64;

// One plane of the result.
template <class T>
struct Plane {
  const T* src;
  T* out;             // of the plane's first position
  const T* residual;  // likewise, or null
  T bias;
};

// Plane p of the batch, of `channel`.
template <class T>
static Plane<T> plane_of(const DepthwiseConv<T>& d, std::int64_t p, std::int64_t channel) {
  const std::int64_t src = d.multiplier == 1 ? p : p / d.multiplier;
  const std::int64_t at = (p * d.out_h + d.h.out_begin) * d.out_w + d.w.out_begin;
  return {d.src + src * d.h.size * d.w.size, d.out + at,
          d.residual != nullptr ? d.residual + at : nullptr,
          d.bias != nullptr ? d.bias[channel] : T(0)};
}

// The part of a tile that is seen, and where it goes.
struct TilePlace {
  std::int64_t rows, columns;
  std::int64_t pitch;  // elements between the tile's rows
  std::int64_t row_step, out_step;
};

// Of a tile in memory: what is out of the ordinary is not worth code of its own in every tile.
template <class T>
[[gnu::noinline]] static void add_residual(const T* residual, const TilePlace& t, T* tile) {
  for (std::int64_t q = 0; q < t.rows; ++q) {
    for (std::int64_t b = 0; b < t.columns; ++b) {
      tile[q * t.pitch + b] += residual[q * t.row_step + b * t.out_step];
    }
  }
}
template <class T>
[[gnu::noinline]] static void store_tile(const T* tile, const TilePlace& t, T* out) {
  constexpr int kL = kLanes<T>;
  for (std::int64_t q = 0; q < t.rows; ++q) {
    const T* from = tile + q * t.pitch;
    T* to = out + q * t.row_step;
    std::int64_t b = 0;
    if (t.out_step == 1) {
      for (; b + kL <= t.columns; b += kL) Vec<T>::load(from + b).store(to + b);
      ARRAYNN_UNROLL for (int n = kL / 2; n > 0; n /= 2) {
        if (((t.columns - b) & n) == 0) continue;
        std::memcpy(to + b, from + b, static_cast<std::size_t>(n) * sizeof(T));
        b += n;
      }
    }
    for (; b < t.columns; ++b) to[b * t.out_step] = from[b];
  }
}

// Sums of rows [r, r + kR) and kV vectors of columns from b on become results of rows `row + r` on;
// rows from `count` on are not stored.
template <class T, int kR, int kV>
ARRAYNN_INLINE void finish_tile(const DepthwiseConv<T>& d, const Plane<T>& plane, std::int64_t row,
                                std::int64_t r, std::int64_t count, std::int64_t b,
                                Vec<T> (&sum)[kR * kV]) {
  constexpr int kL = kLanes<T>;
  const std::int64_t row_step = d.h.out_step * d.out_w;
  const TilePlace place{min_i(kR, count - r), min_i(kV * kL, d.w.count - b), kV * kL, row_step,
                        d.w.out_step};
  const std::int64_t at = (row + r) * row_step + b * d.w.out_step;
  const Vec<T> bias = Vec<T>::set1(plane.bias);
  ARRAYNN_UNROLL for (int i = 0; i < kR * kV; ++i) sum[i] = sum[i] + bias;
  if (plane.residual != nullptr) {
    T tile[kR * kV * kL];
    ARRAYNN_UNROLL for (int i = 0; i < kR * kV; ++i) sum[i].store(tile + i * kL);
    add_residual(plane.residual + at, place, tile);
    ARRAYNN_UNROLL for (int i = 0; i < kR * kV; ++i) sum[i] = Vec<T>::load(tile + i * kL);
  }
  activate_tile(d.activation, sum);
  T* out = plane.out + at;
  if (place.out_step == 1 && (kMaskedMemory || place.columns == kV * kL)) {
    ARRAYNN_UNROLL for (int q = 0; q < kR; ++q) {
      if (q >= place.rows) break;
      ARRAYNN_UNROLL for (int v = 0; v < kV; ++v) {
        T* p = out + q * row_step + v * kL;
        if constexpr (kMaskedMemory) {
          store_lanes(sum[q * kV + v], p, max_i(0, place.columns - v * kL));
        } else {
          sum[q * kV + v].store(p);
        }
      }
    }
    return;
  }
  T tile[kR * kV * kL];
  ARRAYNN_UNROLL for (int i = 0; i < kR * kV; ++i) sum[i].store(tile + i * kL);
  store_tile(tile, place, out);
}

// Any taps: rows of a strip that begins with output row `row`, from staged lines.
template <class T, int kR, int kV, int kStep>
ARRAYNN_INLINE void line_tile(const DepthwiseConv<T>& d, const LineLayout& l,
                              const LineScratch<T>& s, const Plane<T>& plane, std::int64_t row,
                              std::int64_t r, std::int64_t count, std::int64_t b) {
  constexpr int kL = kLanes<T>;
  const std::int64_t step = d.w.step, next = d.h.step * l.pitch;
  Vec<T> sum[kR * kV];
  ARRAYNN_UNROLL for (int i = 0; i < kR * kV; ++i) sum[i] = Vec<T>::zero();
  const T* first = s.staged + r * next + b * step;
  for (std::int64_t t = 0; t < d.h.taps * d.w.taps; ++t) {
    const Vec<T> w = Vec<T>::set1(s.weights[t]);
    const T* p = first + s.tap_at[t];
    ARRAYNN_UNROLL for (int q = 0; q < kR; ++q) {
      ARRAYNN_UNROLL for (int v = 0; v < kV; ++v) {
        const Vec<T> x = load_line<T, kStep>(p + q * next + v * kL * step, step);
        sum[q * kV + v] = fma(w, x, sum[q * kV + v]);
      }
    }
  }
  finish_tile<T, kR, kV>(d, plane, row, r, count, b, sum);
}

template <class T, int kStep>
static void run_plane(const DepthwiseConv<T>& d, const LineLayout& l, const LineScratch<T>& s,
                      const Plane<T>& plane) {
  constexpr int kL = kLanes<T>;
  const std::int64_t strips = ceil_div(d.h.count, l.rows);
  for (std::int64_t i = 0; i < strips; ++i) {
    const Range rows = split_range(d.h.count, strips, i);
    stage_lines(l, d.h, d.w, plane.src, rows, s.staged);
    const std::int64_t count = rows.end - rows.begin;
    std::int64_t b = 0;
    for (; b + kL < d.w.count; b += 2 * kL) {
      for (std::int64_t r = 0; r < count; r += kTileSums / 2) {
        line_tile<T, kTileSums / 2, 2, kStep>(d, l, s, plane, rows.begin, r, count, b);
      }
    }
    if (b >= d.w.count) continue;
    for (std::int64_t r = 0; r < count; r += kTileSums) {
      line_tile<T, kTileSums, 1, kStep>(d, l, s, plane, rows.begin, r, count, b);
    }
  }
}

template <class T>
static void run_lines(const DepthwiseConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const LineLayout l = make_line_layout<T>(d.h, d.w);
    const LineScratch<T> s = line_scratch<T>(l, d.h, d.w, d.kernel_w, tid, scratch);
    const Range planes = split_range(d.n * d.channels, nthreads, tid);
    const std::int64_t taps = d.h.taps * d.w.taps;
    for (std::int64_t p = planes.begin; p < planes.end; ++p) {
      const std::int64_t channel = p % d.channels;
      const T* weight = d.weight + channel * d.kernel_h * d.kernel_w;
      for (std::int64_t t = 0; t < taps; ++t) s.weights[t] = weight[s.kernel_at[t]];
      const Plane<T> plane = plane_of(d, p, channel);
      if (d.w.step == 1) {
        run_plane<T, 1>(d, l, s, plane);
      } else if (d.w.step == 2) {
        run_plane<T, 2>(d, l, s, plane);
      } else {
        run_plane<T, 0>(d, l, s, plane);
      }
    }
  });
}

// 3x3 neighbours of step 1 or 2: rows are read where they lie and a vector that was read serves every
// row that sees it. What lies beside a row is masked. Short rows gain most: planes of 7x7 and 14x14 that
// are transposed and back, or staged, are moved rather than computed.
ARRAYNN_INLINE bool is_three(const DirectAxis& h, const DirectAxis& w) {
  return neighbours(h, 3) && neighbours(w, 3) && h.step == w.step && w.step <= 2;
}

// Of a vector of a row: those inside it, others become 0.
template <class T>
struct InsideLanes {
  std::int64_t begin, end;
  Mask<T> mask;

  InsideLanes() = default;
  // Of columns [first, first + kLanes) of a row of `size`.
  InsideLanes(std::int64_t first, std::int64_t size)
      : begin(min_i(kLanes<T>, max_i(0, -first))),
        end(max_i(begin, min_i(kLanes<T>, size - first))) {
    using Int = typename Vec<T>::Int;
    typename Vec<T>::RawInt lane{};
    for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
    mask.v = (lane >= static_cast<Int>(begin)) & (lane < static_cast<Int>(end));
  }

  ARRAYNN_MEMBER Vec<T> load(const T* p) const {
    if constexpr (kMaskedMemory) {
      return in_register(load_between(p, begin, end));
    } else {
      using V = Vec<T>;
      const auto bits = reinterpret_cast<typename V::RawInt>(V::load(p).v) & mask.v;
      return in_register(V{reinterpret_cast<typename V::Raw>(bits)});
    }
  }
};

// What the vectors of a tile touch of a line, in vectors.
inline constexpr int kLineVectors = 5;

// Lanes from the second on, and then the first of the next vector.
template <class T>
struct NextLane {
  static constexpr int at(int l) { return l + 1; }
};

template <class T>
alignas(kVecBytes) inline constexpr T kZeroLine[kLineVectors * kLanes<T>] = {};

// A tile's piece of a row, from `column` on, with zeros beside the row.
template <class T>
[[gnu::noinline]] static void copy_line(const T* row, std::int64_t column, std::int64_t size,
                                        T* line) {
  for (std::int64_t i = 0; i < kLineVectors * kLanes<T>; ++i) {
    line[i] = column + i >= 0 && column + i < size ? row[column + i] : T(0);
  }
}

// Rows [r, r + kR) and kV vectors of columns from b on; rows from `count` on are not stored. Vectors that
// would leave the source, which ends at `source_end`, are read from a copy.
template <class T, int kR, int kV, int kStep, bool kTurned>
ARRAYNN_INLINE void three_tile(const DepthwiseConv<T>& d, const Plane<T>& plane, const T* weights,
                               const T* source_end, std::int64_t r, std::int64_t count,
                               std::int64_t b) {
  constexpr int kL = kLanes<T>, kLines = (kR - 1) * kStep + 3;
  const std::int64_t column = b * kStep + d.w.offset[0], row = r * kStep + d.h.offset[0];
  const T* line[kLines];
  [[maybe_unused]] T copies[kMaskedMemory ? 1 : kLines * kLineVectors * kL];
  ARRAYNN_UNROLL for (int i = 0; i < kLines; ++i) {
    const bool inside = row + i >= 0 && row + i < d.h.size;
    const T* p = plane.src + (row + i) * d.w.size;
    line[i] = inside ? p + column : kZeroLine<T>;
    if constexpr (!kMaskedMemory) {
      const bool whole = p + column >= d.src && p + column + kLineVectors * kL <= source_end;
      if (inside && !whole) {
        line[i] = copies + i * kLineVectors * kL;
        copy_line(p, column, d.w.size, copies + i * kLineVectors * kL);
      }
    }
  }
  Vec<T> sum[kR * kV];
  ARRAYNN_UNROLL for (int i = 0; i < kR * kV; ++i) sum[i] = Vec<T>::zero();
  const auto add = [&](int i, int j, int v, Vec<T> x) {
    ARRAYNN_UNROLL for (int q = 0; q < kR; ++q) {
      if (i < q * kStep || i > q * kStep + 2) continue;
      const Vec<T> w = Vec<T>::set1(weights[(i - q * kStep) * 3 + j]);
      sum[q * kV + v] = fma(w, x, sum[q * kV + v]);
    }
  };
  const auto inside = [&](std::int64_t by) { return InsideLanes<T>(column + by, d.w.size); };
  if constexpr (kStep == 2) {
    constexpr int kRead = kTurned ? 1 : 2 * kV + 1;
    const auto read = [&](const InsideLanes<T>& lanes, int i, int v) {
      return lanes.load(line[i] + v * kL);
    };
    InsideLanes<T> lanes[kRead];
    ARRAYNN_UNROLL for (int v = 0; v < kRead; ++v) lanes[v] = inside(v * kL);
    ARRAYNN_UNROLL for (int i = 0; i < kLines; ++i) {
      Vec<T> even[kV + 1], odd[kV];
      ARRAYNN_UNROLL for (int v = 0; v < kV; ++v) {
        const Vec<T> a = read(lanes[2 * v], i, 2 * v);
        const Vec<T> c = kTurned ? Vec<T>::zero() : read(lanes[2 * v + 1], i, 2 * v + 1);
        split_pair(a, c, &even[v], &odd[v]);
      }
      even[kV] = kTurned ? Vec<T>::zero() : read(lanes[kRead - 1], i, kRead - 1);
      ARRAYNN_UNROLL for (int v = 0; v < kV; ++v) {
        add(i, 0, v, even[v]);
        add(i, 1, v, odd[v]);
        add(i, 2, v, shuffle<NextLane<T>>(even[v], even[v + 1]));
      }
    }
  } else if constexpr (kTurned) {
    const InsideLanes<T> lanes = inside(0);
    ARRAYNN_UNROLL for (int i = 0; i < kLines; ++i) {
      const Vec<T> x = lanes.load(line[i]);
      add(i, 0, 0, x);
      add(i, 1, 0, rotate_lanes<1>(x));
      add(i, 2, 0, rotate_lanes<2>(x));
    }
  } else {
    ARRAYNN_UNROLL for (int v = 0; v < kV; ++v) {
      const std::int64_t by = v * kL;
      const InsideLanes<T> lanes[3] = {inside(by), inside(by + 1), inside(by + 2)};
      ARRAYNN_UNROLL for (int i = 0; i < kLines; ++i) {
        ARRAYNN_UNROLL for (int j = 0; j < 3; ++j) add(i, j, v, lanes[j].load(line[i] + by + j));
      }
    }
  }
  finish_tile<T, kR, kV>(d, plane, 0, r, count, b, sum);
}

// Whether a row is read by one load: its taps are that vector turned by a lane. The lanes that come round
// are not stored, or a zero takes the place of a zero. Of step 2, zeros follow.
template <class T>
static bool is_turned(const DirectAxis& w) {
  constexpr int kL = kLanes<T>;
  if (w.step == 2) return w.count <= kL && w.size - w.offset[0] <= kL;
  const std::int64_t first = w.offset[0];
  return w.count + 2 <= kL || (w.count + 1 == kL && first < 0 && first + kL >= w.size);
}

// The source of the tile below, while this one is computed: too many rows for the hardware to follow.
template <class T, int kR, int kV, int kStep>
ARRAYNN_INLINE void prefetch_rows(const DepthwiseConv<T>& d, const Plane<T>& plane, std::int64_t r,
                                  std::int64_t b) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  const T* row = plane.src + r * kStep * d.w.size + b * kStep;
  for (int i = 0; i < kR * kStep; ++i, row += d.w.size) {
    ARRAYNN_UNROLL for (int v = 0; v < kV * kStep * kLanes<T>; v += kLine) {
      __builtin_prefetch(row + v);
    }
  }
}

// Rows of results of a plane that a member takes at a time.
inline constexpr std::int64_t kPlaneRows = 32;

template <class T, int kR, int kV, int kStep, bool kTurned>
static void three_rows(const DepthwiseConv<T>& d, const Plane<T>& plane, const T* weights,
                       const T* source_end, Range rows) {
  for (std::int64_t r = rows.begin; r < rows.end; r += kR) {
    for (std::int64_t b = 0; b < d.w.count; b += kV * kLanes<T>) {
      if constexpr (kV == 2 && kStep == 2) prefetch_rows<T, kR, kV, kStep>(d, plane, r + kR, b);
      three_tile<T, kR, kV, kStep, kTurned>(d, plane, weights, source_end, r, rows.end, b);
    }
  }
}

template <class T>
static void three_rows(const DepthwiseConv<T>& d, const Plane<T>& plane, const T* weights,
                       const T* source_end, Range rows) {
  if (d.w.step == 2 && is_turned<T>(d.w)) {
    three_rows<T, kTileSums, 1, 2, true>(d, plane, weights, source_end, rows);
  } else if (d.w.step == 2 && d.w.count <= kLanes<T>) {
    three_rows<T, kTileSums / 2, 1, 2, false>(d, plane, weights, source_end, rows);
  } else if (d.w.step == 2) {
    three_rows<T, kTileSums / 2, 2, 2, false>(d, plane, weights, source_end, rows);
  } else if (is_turned<T>(d.w)) {
    three_rows<T, kTileSums, 1, 1, true>(d, plane, weights, source_end, rows);
  } else {
    three_rows<T, kTileSums / 2, 2, 1, false>(d, plane, weights, source_end, rows);
  }
}

// f(plane, its channel, rows) for all planes of the batch, in strips of `rows`: kPlaneRows at a time.
template <class T, class F>
ARRAYNN_INLINE void for_strips(const DepthwiseConv<T>& d, std::int64_t rows, int threads,
                               const F& f) {
  const std::int64_t strips = ceil_div(rows, kPlaneRows);
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range units = split_range(d.n * d.channels * strips, nthreads, tid);
    // Counted rather than divided: that would take as long as a plane of 7x7.
    std::int64_t strip = units.begin % strips, p = units.begin / strips, channel = p % d.channels;
    for (std::int64_t u = units.begin; u < units.end; ++u) {
      const std::int64_t begin = strip * kPlaneRows;
      f(p, channel, Range{begin, min_i(rows, begin + kPlaneRows)});
      if (++strip < strips) continue;
      strip = 0;
      ++p;
      if (++channel == d.channels) channel = 0;
    }
  });
}

template <class T>
static void run_planes(const DepthwiseConv<T>& d, int threads) {
  std::int64_t tap[9];
  for (std::int64_t t = 0; t < 9; ++t) {
    tap[t] = d.h.kernel[t / 3] * d.kernel_w + d.w.kernel[t % 3];
  }
  const T* source_end = d.src + d.n * (d.channels / d.multiplier) * d.h.size * d.w.size;
  for_strips(d, d.h.count, threads, [&](std::int64_t p, std::int64_t channel, Range rows) {
    T weights[9];
    for (int t = 0; t < 9; ++t) weights[t] = d.weight[channel * d.kernel_h * d.kernel_w + tap[t]];
    three_rows(d, plane_of(d, p, channel), weights, source_end, rows);
  });
}

}  // namespace ARRAYNN_ISA_NAMESPACE
