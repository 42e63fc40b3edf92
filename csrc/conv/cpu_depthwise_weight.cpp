// Gradient of a depthwise convolution by its weights: dw[o, tap] = sum over samples and positions of
// dy[n, o, a] x[n, o / multiplier, position that the tap meets]. The team splits the channels, so
// every sum belongs to one member and runs over samples, rows and columns in ascending order.
#include "conv/depthwise.hpp"
#include "conv/depthwise_planes.hpp"
#include "core/parallel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

constexpr int kPixels = 8;  // of a tile of channels_last

// channels_first, 3x3 of step 1 or 2: columns of dy are lanes, and rows of x are read where they lie.
constexpr int kThreeRows = kVectorRegisters == 32 ? 4 : 2;  // of dy, which share rows of x

// What the lanes of a vector of dy from column b on see of x.
template <class T>
struct ThreeColumns {
  std::int64_t b, column;
  InsideLanes<T> lanes[3];  // of x: by tap, or by vector

  ThreeColumns(const DirectAxis& w, std::int64_t first)
      : b(first), column(first * w.step + w.offset[0]) {
    const std::int64_t by = w.step == 1 ? 1 : kLanes<T>;
    for (int j = 0; j < 3; ++j) lanes[j] = InsideLanes<T>(column + j * by, w.size);
  }
};

// Sums of a channel, by tap: of whole vectors of dy, and of the rest of its rows, where lanes beyond the
// row may hold anything.
template <class T>
struct ThreeSums {
  Vec<T> whole[9], rest[9];
};

// sum[t] += the products of rows [r, r + kR) of dy. kInside: what is read of x lies inside its rows.
template <class T, int kR, int kStep, bool kInside>
ARRAYNN_INLINE void three_sums(const DepthwiseGradient<T>& d, const ThreeColumns<T>& c, const T* x,
                               const T* dy, const T* x_end, std::int64_t r, Vec<T> (&sum)[9]) {
  constexpr int kL = kLanes<T>;
  const auto load = [&](int lanes, const T* p) {
    return kInside ? in_register(Vec<T>::load(p)) : c.lanes[lanes].load(p);
  };
  Vec<T> g[kR];
  ARRAYNN_UNROLL for (int q = 0; q < kR; ++q) {
    const T* p = dy + (r + q) * d.w.count + c.b;
    g[q] = kInside ? Vec<T>::load(p) : load_lanes(p, d.w.count - c.b);
  }
  ARRAYNN_UNROLL for (int i = 0; i < (kR - 1) * kStep + 3; ++i) {
    const std::int64_t row = r * kStep + d.h.offset[0] + i;
    const T* line = x + row * d.w.size + c.column;
    [[maybe_unused]] T copy[kMaskedMemory ? 1 : kLineVectors * kL];
    if (row < 0 || row >= d.h.size) {
      line = kZeroLine<T>;
    } else if constexpr (!kMaskedMemory && !kInside) {
      if (line < d.x || line + kLineVectors * kL > x_end) {
        copy_line(line - c.column, c.column, d.w.size, copy);
        line = copy;
      }
    }
    Vec<T> tap[3];
    if constexpr (kStep == 1) {
      ARRAYNN_UNROLL for (int j = 0; j < 3; ++j) tap[j] = load(j, line + j);
    } else {
      split_pair(load(0, line), load(1, line + kL), &tap[0], &tap[1]);
      tap[2] = shuffle<NextLane<T>>(tap[0], load(2, line + 2 * kL));
    }
    ARRAYNN_UNROLL for (int q = 0; q < kR; ++q) {
      if (i < q * kStep || i > q * kStep + 2) continue;
      ARRAYNN_UNROLL for (int j = 0; j < 3; ++j) {
        Vec<T>& s = sum[(i - q * kStep) * 3 + j];
        s = fma(g[q], tap[j], s);
      }
    }
  }
}

// What rows of the plane read at column b of dy while those two tiles above are summed: memory takes as long.
template <class T, int kStep>
ARRAYNN_INLINE void prefetch_three(const DepthwiseGradient<T>& d, const T* x, const T* dy,
                                   std::int64_t above, std::int64_t b) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  const std::int64_t r = above + 2 * kThreeRows;
  if (r >= d.h.count) return;
  const T* row = x + r * kStep * d.w.size + b * kStep;
  for (int i = 0; i < kThreeRows * kStep; ++i, row += d.w.size) {
    ARRAYNN_UNROLL for (int v = 0; v < kStep * kLanes<T>; v += kLine) __builtin_prefetch(row + v);
  }
  for (int i = 0; i < kThreeRows; ++i) __builtin_prefetch(dy + (r + i) * d.w.count + b);
}

// Adds rows of a plane: whole vectors row by row, as memory has them, and then the rest of each.
template <class T, int kStep>
void add_rows(const DepthwiseGradient<T>& d, const ThreeColumns<T>& rest, const T* x, const T* dy,
              const T* x_end, Range rows, ThreeSums<T>& sums) {
  constexpr int kRead = kStep == 1 ? kLanes<T> + 2 : 3 * kLanes<T>;
  std::int64_t r = rows.begin;
  if (rest.b > 0) {
    Vec<T> sum[9];
    ARRAYNN_UNROLL for (int t = 0; t < 9; ++t) sum[t] = sums.whole[t];
    while (r < rows.end) {
      const bool whole = r + kThreeRows <= rows.end;
      for (std::int64_t b = 0; b < rest.b; b += kLanes<T>) {
        const std::int64_t column = b * kStep + d.w.offset[0];
        if (whole && column >= 0 && column + kRead <= d.w.size) {
          prefetch_three<T, kStep>(d, x, dy, r, b);
          ThreeColumns<T> inside = rest;  // whose lanes are not looked at
          inside.b = b;
          inside.column = column;
          three_sums<T, kThreeRows, kStep, true>(d, inside, x, dy, x_end, r, sum);
        } else if (whole) {
          prefetch_three<T, kStep>(d, x, dy, r, b);
          three_sums<T, kThreeRows, kStep, false>(d, {d.w, b}, x, dy, x_end, r, sum);
        } else {
          three_sums<T, 1, kStep, false>(d, {d.w, b}, x, dy, x_end, r, sum);
        }
      }
      r += whole ? kThreeRows : 1;
    }
    ARRAYNN_UNROLL for (int t = 0; t < 9; ++t) sums.whole[t] = sum[t];
  }
  if (rest.b >= d.w.count) return;
  Vec<T> sum[9];
  ARRAYNN_UNROLL for (int t = 0; t < 9; ++t) sum[t] = sums.rest[t];
  for (r = rows.begin; r + kThreeRows <= rows.end; r += kThreeRows) {
    three_sums<T, kThreeRows, kStep, false>(d, rest, x, dy, x_end, r, sum);
  }
  if constexpr (kThreeRows > 2) {
    if (r + 2 <= rows.end) {
      three_sums<T, 2, kStep, false>(d, rest, x, dy, x_end, r, sum);
      r += 2;
    }
  }
  if (r < rows.end) three_sums<T, 1, kStep, false>(d, rest, x, dy, x_end, r, sum);
  ARRAYNN_UNROLL for (int t = 0; t < 9; ++t) sums.rest[t] = sum[t];
}

template <class T, int kStep>
void run_planes(const DepthwiseGradient<T>& d, int threads) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const std::int64_t sources = d.channels / d.multiplier, in = d.h.size * d.w.size;
    const T* x_end = d.x + d.n * sources * in;
    const ThreeColumns<T> rest(d.w, d.w.count / kLanes<T> * kLanes<T>);
    const Mask<T> seen = InsideLanes<T>(rest.b, d.w.count).mask;
    const Range channels = split_range(d.channels, nthreads, tid);
    for (std::int64_t c = channels.begin; c < channels.end; ++c) {
      ThreeSums<T> sums{};
      for (std::int64_t i = 0; i < d.n; ++i) {
        const T* x = d.x + (i * sources + c / d.multiplier) * in;
        const T* dy = d.dy + (i * d.channels + c) * d.h.count * d.w.count;
        for (std::int64_t r = 0; r < d.h.count; r += kPlaneRows) {
          const Range rows{r, min_i(d.h.count, r + kPlaneRows)};
          add_rows<T, kStep>(d, rest, x, dy, x_end, rows, sums);
        }
      }
      T* dw = d.dw + c * d.kernel_h * d.kernel_w;
      for (int t = 0; t < 9; ++t) {
        const Vec<T> sum = sums.whole[t] + select(seen, sums.rest[t], Vec<T>::zero());
        dw[d.h.kernel[t / 3] * d.kernel_w + d.w.kernel[t % 3]] = reduce_add(sum);
      }
    }
  });
}

// channels_first: sums[t] += the products of kTaps taps over the rows of a strip, lanes apart.
template <class T, int kTaps, int kStep>
void line_sums(const DepthwiseGradient<T>& d, const LineLayout& l, const T* staged,
               const std::int64_t* tap_at, const T* dy, std::int64_t rows, Vec<T>* sums) {
  constexpr int kL = kLanes<T>;
  const std::int64_t step = d.w.step;
  Vec<T> sum[kTaps];
  ARRAYNN_UNROLL for (int t = 0; t < kTaps; ++t) sum[t] = sums[t];
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* line = staged + r * d.h.step * l.pitch;
    for (std::int64_t b = 0; b < d.w.count; b += kL) {
      const std::int64_t n = min_i(kL, d.w.count - b);
      const Vec<T> g = n == kL ? Vec<T>::load(dy + b) : load_n(dy + b, n);
      const T* x = line + b * step;
      if (n == kL) {
        ARRAYNN_UNROLL for (int t = 0; t < kTaps; ++t) {
          sum[t] = fma(g, load_line<T, kStep>(x + tap_at[t], step), sum[t]);
        }
      } else {  // what lies behind the row may not be finite
        ARRAYNN_UNROLL for (int t = 0; t < kTaps; ++t) {
          sum[t] = fma(g, load_line_n<T, kStep>(x + tap_at[t], step, n), sum[t]);
        }
      }
    }
    dy += d.w.count;
  }
  ARRAYNN_UNROLL for (int t = 0; t < kTaps; ++t) sums[t] = sum[t];
}

template <class T, int kStep>
void strip_sums(const DepthwiseGradient<T>& d, const LineLayout& l, const LineScratch<T>& s,
                const T* dy, std::int64_t rows, Vec<T>* sums) {
  const std::int64_t taps = d.h.taps * d.w.taps;
  std::int64_t t = 0;
  for (; t + 9 <= taps; t += 9) {
    line_sums<T, 9, kStep>(d, l, s.staged, s.tap_at + t, dy, rows, sums + t);
  }
  for (; t + 3 <= taps; t += 3) {
    line_sums<T, 3, kStep>(d, l, s.staged, s.tap_at + t, dy, rows, sums + t);
  }
  for (; t < taps; ++t) {
    line_sums<T, 1, kStep>(d, l, s.staged, s.tap_at + t, dy, rows, sums + t);
  }
}

template <class T>
std::int64_t sums_bytes(const DepthwiseGradient<T>& d) {
  return d.h.taps * d.w.taps * kVecBytes;
}

template <class T>
void run_lines(const DepthwiseGradient<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const std::int64_t taps = d.h.taps * d.w.taps;
    auto* sums = reinterpret_cast<Vec<T>*>(static_cast<char*>(scratch) + tid * sums_bytes(d));
    void* lines = static_cast<char*>(scratch) + nthreads * sums_bytes(d);
    const LineLayout l = make_line_layout<T>(d.h, d.w);
    const LineScratch<T> s = line_scratch<T>(l, d.h, d.w, d.kernel_w, tid, lines);
    const std::int64_t strips = ceil_div(d.h.count, l.rows);
    const Range channels = split_range(d.channels, nthreads, tid);
    for (std::int64_t c = channels.begin; c < channels.end; ++c) {
      for (std::int64_t t = 0; t < taps; ++t) sums[t] = Vec<T>::zero();
      for (std::int64_t i = 0; i < d.n; ++i) {
        const std::int64_t plane = i * (d.channels / d.multiplier) + c / d.multiplier;
        for (std::int64_t strip = 0; strip < strips; ++strip) {
          const Range rows = split_range(d.h.count, strips, strip);
          stage_lines(l, d.h, d.w, d.x + plane * d.h.size * d.w.size, rows, s.staged);
          const T* dy = d.dy + ((i * d.channels + c) * d.h.count + rows.begin) * d.w.count;
          const std::int64_t count = rows.end - rows.begin;
          if (d.w.step == 1) {
            strip_sums<T, 1>(d, l, s, dy, count, sums);
          } else if (d.w.step == 2) {
            strip_sums<T, 2>(d, l, s, dy, count, sums);
          } else {
            strip_sums<T, 0>(d, l, s, dy, count, sums);
          }
        }
      }
      T* dw = d.dw + c * d.kernel_h * d.kernel_w;
      for (std::int64_t t = 0; t < taps; ++t) dw[s.kernel_at[t]] = reduce_add(sums[t]);
    }
  });
}

// channels_last: a row of dy and the source row that a tap along the height meets, one vector of
// channels. sum[q][j]: two sums a tap, of even and odd pixels, to hide the latency of FMA.
template <class T, int kU, int kTaps, int kStep, bool kWhole, bool kChecked>
ARRAYNN_INLINE void pixel_sums(const DepthwiseGradient<T>& d, const T* line, const T* dy,
                               std::int64_t b, std::int64_t lanes, Vec<T> (&sum)[2][kTaps]) {
  const auto load = [&](const T* p) {
    if constexpr (kWhole) {
      return Vec<T>::load(p);
    } else {
      return load_n(p, lanes);
    }
  };
  const std::int64_t column = b * kStep + d.w.offset[0];
  const T* x = line + column * d.channels;
  Vec<T> g[kU];
  ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) g[u] = load(dy + (b + u) * d.channels);
  ARRAYNN_UNROLL for (int q = 0; q < (kU - 1) * kStep + kTaps; ++q) {
    const bool inside = !kChecked || (column + q >= 0 && column + q < d.w.size);
    const Vec<T> v = in_register(load(inside ? x : kZeros<T>));
    x += d.channels;
    ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) {
      const int j = q - u * kStep;
      if (j >= 0 && j < kTaps) sum[u % 2][j] = fma(g[u], v, sum[u % 2][j]);
    }
  }
}

// acc[j * acc_row] += the sums of the taps of a row. kTaps 0: any taps and any step, one at a time.
template <class T, int kTaps, int kStep, bool kWhole>
ARRAYNN_INLINE void pixel_row(const DepthwiseGradient<T>& d, const T* line, const T* dy,
                              const Segment& inside, std::int64_t lanes, T* acc,
                              std::int64_t acc_row) {
  if constexpr (kTaps > 0) {
    Vec<T> sum[2][kTaps];
    ARRAYNN_UNROLL for (int j = 0; j < kTaps; ++j) {
      sum[0][j] = Vec<T>::load(acc + j * acc_row);
      sum[1][j] = Vec<T>::zero();
    }
    std::int64_t b = 0;
    for (; b + kPixels <= d.w.count; b += kPixels) {
      if (b >= inside.begin && b + kPixels <= inside.end) {
        pixel_sums<T, kPixels, kTaps, kStep, kWhole, false>(d, line, dy, b, lanes, sum);
      } else {
        pixel_sums<T, kPixels, kTaps, kStep, kWhole, true>(d, line, dy, b, lanes, sum);
      }
    }
    for (; b + 2 <= d.w.count; b += 2) {
      pixel_sums<T, 2, kTaps, kStep, kWhole, true>(d, line, dy, b, lanes, sum);
    }
    if (b < d.w.count) pixel_sums<T, 1, kTaps, kStep, kWhole, true>(d, line, dy, b, lanes, sum);
    ARRAYNN_UNROLL for (int j = 0; j < kTaps; ++j)(sum[0][j] + sum[1][j]).store(acc + j * acc_row);
  } else {
    for (std::int64_t j = 0; j < d.w.taps; ++j) {
      const Range columns = tap_positions(d.w, j);
      Vec<T> sum = Vec<T>::load(acc + j * acc_row);
      for (std::int64_t b = columns.begin; b < columns.end; ++b) {
        const T* x = line + (b * d.w.step + d.w.offset[j]) * d.channels;
        sum = fma(load_n(dy + b * d.channels, lanes), load_n(x, lanes), sum);
      }
      sum.store(acc + j * acc_row);
    }
  }
}

template <class T, int kTaps, int kStep>
void channel_row(const DepthwiseGradient<T>& d, const T* line, const T* dy, const Segment& inside,
                 Range channels, T* acc, std::int64_t acc_row) {
  constexpr int kL = kLanes<T>;
  std::int64_t c = channels.begin;
  for (; c + kL <= channels.end; c += kL) {
    pixel_row<T, kTaps, kStep, true>(d, line + c, dy + c, inside, kL, acc + c, acc_row);
  }
  if (c < channels.end) {
    pixel_row<T, kTaps, kStep, false>(d, line + c, dy + c, inside, channels.end - c, acc + c,
                                      acc_row);
  }
}

// Adds output row a of one sample to acc[tap * acc_row + c]; x and dy are the sample's, from source row
// `first` and from that output row on.
template <class T>
void add_row(const DepthwiseGradient<T>& d, const Segment& inside, std::int64_t a, const T* x,
             std::int64_t first, const T* dy, Range channels, T* acc, std::int64_t acc_row) {
  const Segment h = taps_at(d.h, a);
  for (std::int64_t i = h.tap_begin; i < h.tap_end; ++i) {
    const T* line = x + (a * d.h.step + d.h.offset[i] - first) * d.w.size * d.channels;
    T* out = acc + i * d.w.taps * acc_row;
    if (neighbours(d.w, 3) && d.w.step == 1) {
      channel_row<T, 3, 1>(d, line, dy, inside, channels, out, acc_row);
    } else if (neighbours(d.w, 3) && d.w.step == 2) {
      channel_row<T, 3, 2>(d, line, dy, inside, channels, out, acc_row);
    } else if (neighbours(d.w, 5) && d.w.step == 1) {
      channel_row<T, 5, 1>(d, line, dy, inside, channels, out, acc_row);
    } else {
      channel_row<T, 0, 0>(d, line, dy, inside, channels, out, acc_row);
    }
  }
}

template <class T>
std::int64_t all_taps(const DepthwiseGradient<T>& d) {
  return d.depth.taps * d.h.taps * d.w.taps;
}

template <class T>
void store_taps(const DepthwiseGradient<T>& d, const T* acc, std::int64_t acc_row, Range channels,
                T* dw) {
  for (std::int64_t c = channels.begin; c < channels.end; ++c) {
    T* out = dw + c * d.kernel_d * d.kernel_h * d.kernel_w;
    const T* from = acc + c;
    for (std::int64_t k = 0; k < d.depth.taps; ++k) {
      for (std::int64_t i = 0; i < d.h.taps; ++i) {
        T* row = out + (d.depth.kernel[k] * d.kernel_h + d.h.kernel[i]) * d.kernel_w;
        for (std::int64_t j = 0; j < d.w.taps; ++j, from += acc_row) row[d.w.kernel[j]] = *from;
      }
    }
  }
}

template <class T>
void run_channels_last(const DepthwiseGradient<T>& d, int threads, void* scratch) {
  const std::int64_t acc_row = round_up(d.channels, kLanes<T>), rows = d.h.taps * d.w.taps;
  T* acc = static_cast<T*>(scratch);
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range vectors = split_range(acc_row / kLanes<T>, nthreads, tid);
    const Range channels{vectors.begin * kLanes<T>, min_i(d.channels, vectors.end * kLanes<T>)};
    for (std::int64_t t = 0; t < all_taps(d); ++t) {
      for (std::int64_t v = vectors.begin; v < vectors.end; ++v) {
        Vec<T>::zero().store(acc + t * acc_row + v * kLanes<T>);
      }
    }
    const Segment inside = inside_positions(d.w);
    const std::int64_t in = d.h.size * d.w.size * d.channels;
    for (std::int64_t g = 0; g < d.n * d.depth.count * d.h.count; ++g) {
      const std::int64_t image = g / d.h.count, z = image % d.depth.count;
      const Segment deep = taps_at(d.depth, z);
      for (std::int64_t k = deep.tap_begin; k < deep.tap_end; ++k) {
        const std::int64_t plane =
            image / d.depth.count * d.depth.size + z * d.depth.step + d.depth.offset[k];
        add_row(d, inside, g % d.h.count, d.x + plane * in, 0, d.dy + g * d.w.count * d.channels,
                channels, acc + k * rows * acc_row, acc_row);
      }
    }
    store_taps(d, acc, acc_row, channels, d.dw);
  });
}

// Planes as lanes: strips of as many planes as a vector has lanes, of x and of dy, as pixels of
// channels_last. Lanes are those of dy: a plane of x is repeated for the results that read it. Of a volume
// the planes of x that the next one of dy meets as well stay.
constexpr std::int64_t kBandBytes = std::int64_t{96} << 10;

template <class T>
struct BandLayout {
  std::int64_t strips, ring;      // of the rows of dy; planes of x
  std::int64_t source, gradient;  // elements, of a plane
  std::int64_t bytes;             // of a member
};

template <class T>
Range band_source(const DepthwiseGradient<T>& d, Range rows) {
  const std::int64_t begin = max_i(0, rows.begin * d.h.step + d.h.offset[0]);
  const std::int64_t last = (rows.end - 1) * d.h.step + d.h.offset[d.h.taps - 1];
  return {begin, max_i(begin, min_i(d.h.size, last + 1))};
}

template <class T>
BandLayout<T> make_band_layout(const DepthwiseGradient<T>& d) {
  constexpr int kL = kLanes<T>;
  const auto item = static_cast<std::int64_t>(sizeof(T));
  BandLayout<T> l{};
  const std::int64_t in_row = d.w.size * kL, out_row = d.w.count * kL;
  l.ring = max_i(1, min_i(d.depth.size, tap_span(d.depth)));
  const std::int64_t all = l.ring * d.h.size * in_row + d.h.count * out_row;
  l.strips = min_i(d.h.count, ceil_div(all * item, kBandBytes));
  std::int64_t most = 0;
  for (std::int64_t i = 0; i < l.strips; ++i) {
    const Range source = band_source(d, split_range(d.h.count, l.strips, i));
    most = max_i(most, source.end - source.begin);
  }
  l.source = most * in_row;
  l.gradient = ceil_div(d.h.count, l.strips) * out_row;
  l.bytes = (all_taps(d) * kL + l.ring * l.source + l.gradient) * item;
  return l;
}

template <class T>
void run_bands(const DepthwiseGradient<T>& d, int threads, void* scratch) {
  constexpr int kL = kLanes<T>;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const BandLayout<T> l = make_band_layout(d);
    const std::int64_t rows_taps = d.h.taps * d.w.taps;
    T* acc = reinterpret_cast<T*>(static_cast<char*>(scratch) + tid * l.bytes);
    T *staged = acc + all_taps(d) * kL, *staged_dy = staged + l.ring * l.source;
    const std::int64_t in = d.h.size * d.w.size, out = d.h.count * d.w.count;
    const std::int64_t sources = d.channels / d.multiplier;
    // Elements between channels, or between the pixels of channels_last.
    const std::int64_t in_step = d.channels_last ? sources : d.depth.size * in;
    const std::int64_t out_step = d.channels_last ? d.channels : d.depth.count * out;
    const auto at = [&](std::int64_t channels, std::int64_t channel, std::int64_t sample,
                        std::int64_t depth, std::int64_t size, std::int64_t pixel) {
      return d.channels_last ? (sample * depth * size + pixel) * channels + channel
                             : (sample * channels + channel) * depth * size + pixel;
    };
    const Segment inside = inside_positions(d.w);
    DepthwiseGradient<T> lanes = d;
    lanes.channels = kL;
    const Range blocks = split_range(ceil_div(d.channels, kL), nthreads, tid);
    for (std::int64_t b = blocks.begin; b < blocks.end; ++b) {
      const std::int64_t count = min_i(kL, d.channels - b * kL),
                         first_source = b * kL / d.multiplier;
      const std::int64_t seen = (b * kL + count - 1) / d.multiplier + 1 - first_source;
      for (std::int64_t t = 0; t < all_taps(d); ++t) Vec<T>::zero().store(acc + t * kL);
      std::int64_t held = 0;  // planes of x up to this one lie in the band
      for (std::int64_t i = 0; i < d.n * l.strips * d.depth.count; ++i) {
        const std::int64_t z = i % d.depth.count, strip = i / d.depth.count % l.strips;
        const std::int64_t sample = i / d.depth.count / l.strips;
        const Range rows = split_range(d.h.count, l.strips, strip);
        const Range source = band_source(d, rows);
        if (z == 0) held = 0;
        const Segment deep = taps_at(d.depth, z);
        if (deep.taps() == 0) continue;
        const std::int64_t first = z * d.depth.step;
        held = max_i(held, first + d.depth.offset[deep.tap_begin]);
        for (; held <= first + d.depth.offset[deep.tap_end - 1]; ++held) {
          const std::int64_t pixel = held * in + source.begin * d.w.size;
          const std::int64_t pixels = (source.end - source.begin) * d.w.size;
          T* plane = staged + held % l.ring * l.source;
          to_band(d.channels_last, d.x + at(sources, first_source, sample, d.depth.size, in, pixel),
                  in_step, seen, pixels, plane);
          if (d.multiplier > 1) repeat_lanes(d.multiplier, b * kL, pixels, plane);
        }
        const std::int64_t pixel = z * out + rows.begin * d.w.count;
        to_band(d.channels_last, d.dy + at(d.channels, b * kL, sample, d.depth.count, out, pixel),
                out_step, count, (rows.end - rows.begin) * d.w.count, staged_dy);
        for (std::int64_t a = rows.begin; a < rows.end; ++a) {
          for (std::int64_t k = deep.tap_begin; k < deep.tap_end; ++k) {
            const std::int64_t plane = (first + d.depth.offset[k]) % l.ring;
            add_row(lanes, inside, a, staged + plane * l.source, source.begin,
                    staged_dy + (a - rows.begin) * d.w.count * kL, {0, kL},
                    acc + k * rows_taps * kL, kL);
          }
        }
      }
      store_taps(d, acc, kL, {0, count}, d.dw + b * kL * d.kernel_d * d.kernel_h * d.kernel_w);
    }
  });
}

// Planes as lanes: enough of them to fill a vector by half, and volumes. Pixels of channels_last that are
// read by several results each.
template <class T>
bool is_banded(const DepthwiseGradient<T>& d) {
  if (d.channels_last) return d.multiplier > 1;
  return !d.is_image() || (d.multiplier == 1 && d.channels >= kLanes<T> / 2);
}

// Columns as lanes. Sums of few rows cost less than to add up the lanes of nine of them, a channel.
constexpr std::int64_t kFewRows = 8;

template <class T>
bool is_planes(const DepthwiseGradient<T>& d) {
  if (d.channels_last || !d.is_image() || !is_three(d.h, d.w)) return false;
  return d.n * d.h.count > kFewRows || !is_banded(d);
}

template <class T>
std::int64_t scratch_bytes(const DepthwiseGradient<T>& d, int threads) {
  if (is_planes(d)) return 0;
  if (is_banded(d)) return threads * make_band_layout(d).bytes;
  if (d.channels_last) {
    return all_taps(d) * round_up(d.channels, kLanes<T>) * static_cast<std::int64_t>(sizeof(T));
  }
  return threads * (sums_bytes(d) + line_scratch_bytes<T>(make_line_layout<T>(d.h, d.w), d.h, d.w));
}

template <class T>
void run(const DepthwiseGradient<T>& d, int threads, void* scratch) {
  if (is_planes(d))
    return d.w.step == 1 ? run_planes<T, 1>(d, threads) : run_planes<T, 2>(d, threads);
  if (is_banded(d)) return run_bands(d, threads, scratch);
  if (d.channels_last) return run_channels_last(d, threads, scratch);
  run_lines(d, threads, scratch);
}

}  // namespace

extern const FloatKernels<DepthwiseGradientTable> depthwise_gradient_kernels = {
    {&scratch_bytes<float>, &run<float>}, {&scratch_bytes<double>, &run<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
