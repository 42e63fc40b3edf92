// Depthwise convolution: every output channel reads one source channel, so there is nothing to
// multiply as a matrix and memory sets the pace. Forward, and backward by x as for the direct kernel.
//
//   channels_first  a plane at a time, rows of a strip staged with their border as lines of one pitch,
//                   positions of one residue modulo the stride together: then a tap is an offset

//   channels_last   lanes are channels; some neighbouring pixels at a time share a tap's weights
// Taps are added in ascending order from 0.
#include "conv/border.hpp"
#include "conv/depthwise.hpp"
#include "conv/tables.hpp"
#include "core/parallel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Pixels of a tile of channels_last.
constexpr int kPixels = 8;

// First n of the values at p, p + step, ...
template <class T>
Vec<T> gather_n(const T* p, std::int64_t step, std::int64_t n) {
  if (step == 1) return load_n(p, n);
  T values[kLanes<T>];
  for (std::int64_t i = 0; i < n; ++i) values[i] = p[i * step];
  return load_n(values, n);
}
template <class T>
void scatter_n(Vec<T> v, T* p, std::int64_t step, std::int64_t n) {
  if (step == 1) return store_n(v, p, n);
  if (step == 2) return store_even(v, p, n);
  T values[kLanes<T>];
  v.store(values);
  for (std::int64_t i = 0; i < n; ++i) p[i * step] = values[i];
}

// channels_first: one plane of the result.
template <class T>
struct Plane {
  const T* src;
  T* out;             // of the plane's first position
  const T* residual;  // likewise, or null
  T bias;
};

// Rows [r, r + kR) of a strip that begins with output row `row`, and kV vectors of columns from b on;
// rows from `count` on are not stored. kThree: the taps are 3 x 3 neighbours, and a staged vector
// serves every row that sees it.
template <class T, int kR, int kV, int kStep, bool kThree>
ARRAYNN_INLINE void line_tile(const DepthwiseConv<T>& d, const LineLayout& l,
                              const LineScratch<T>& s, const Plane<T>& plane, std::int64_t row,
                              std::int64_t r, std::int64_t count, std::int64_t b) {
  constexpr int kL = kLanes<T>;
  const std::int64_t step = d.w.step;
  Vec<T> sum[kR * kV];
  ARRAYNN_UNROLL for (int i = 0; i < kR * kV; ++i) sum[i] = Vec<T>::zero();
  const T* first = s.staged + r * d.h.step * l.pitch + b * step;
  if constexpr (kThree) {
    ARRAYNN_UNROLL for (int i = 0; i < (kR - 1) * kStep + 3; ++i) {
      ARRAYNN_UNROLL for (int j = 0; j < 3; ++j) {
        ARRAYNN_UNROLL for (int v = 0; v < kV; ++v) {
          const Vec<T> x =
              in_register(load_line<T, kStep>(first + i * l.pitch + j + v * kL * kStep, kStep));
          ARRAYNN_UNROLL for (int q = 0; q < kR; ++q) {
            if (i < q * kStep || i > q * kStep + 2) continue;
            const Vec<T> w = Vec<T>::set1(s.weights[(i - q * kStep) * 3 + j]);
            sum[q * kV + v] = fma(w, x, sum[q * kV + v]);
          }
        }
      }
    }
  } else {
    const std::int64_t next = d.h.step * l.pitch;
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
  }
  const std::int64_t out_step = d.w.out_step, row_step = d.h.out_step * d.out_w;
  const std::int64_t at = (row + r) * row_step + b * out_step;
  const Vec<T> bias = Vec<T>::set1(plane.bias);
  ARRAYNN_UNROLL for (int i = 0; i < kR * kV; ++i) sum[i] = sum[i] + bias;
  if (plane.residual != nullptr) {
    for (int i = 0; i < kR * kV; ++i) {
      if (r + i / kV >= count) break;
      const std::int64_t column = i % kV * kL;
      sum[i] = sum[i] + gather_n(plane.residual + at + i / kV * row_step + column * out_step,
                                 out_step, max_i(0, min_i(kL, d.w.count - b - column)));
    }
  }
  activate_tile(d.activation, sum);
  T* out = plane.out + at;
  ARRAYNN_UNROLL for (int q = 0; q < kR; ++q) {
    if (r + q >= count) break;
    ARRAYNN_UNROLL for (int v = 0; v < kV; ++v) {
      const std::int64_t n = d.w.count - b - v * kL;
      T* p = out + q * row_step + v * kL * out_step;
      if (out_step == 1 && n >= kL) {
        sum[q * kV + v].store(p);
      } else if (n > 0) {
        scatter_n(sum[q * kV + v], p, out_step, min_i(kL, n));
      }
    }
  }
}

template <class T, int kStep, bool kThree>
void run_plane(const DepthwiseConv<T>& d, const LineLayout& l, const LineScratch<T>& s,
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
        line_tile<T, kTileSums / 2, 2, kStep, kThree>(d, l, s, plane, rows.begin, r, count, b);
      }
    }
    if (b >= d.w.count) continue;
    for (std::int64_t r = 0; r < count; r += kTileSums) {
      line_tile<T, kTileSums, 1, kStep, kThree>(d, l, s, plane, rows.begin, r, count, b);
    }
  }
}

template <class T>
void run_channels_first(const DepthwiseConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const LineLayout l = make_line_layout<T>(d.h, d.w);
    const LineScratch<T> s = line_scratch<T>(l, d.h, d.w, d.kernel_w, tid, scratch);
    const Range planes = split_range(d.n * d.channels, nthreads, tid);
    const std::int64_t taps = d.h.taps * d.w.taps;
    const std::int64_t begin = d.h.out_begin * d.out_w + d.w.out_begin;
    const bool three = neighbours(d.h, 3) && neighbours(d.w, 3) && d.h.step == d.w.step;
    const auto run = [&](const Plane<T>& plane) {
      if (d.w.step == 1) {
        return three ? run_plane<T, 1, true>(d, l, s, plane)
                     : run_plane<T, 1, false>(d, l, s, plane);
      }
      if (d.w.step == 2) {
        return three ? run_plane<T, 2, true>(d, l, s, plane)
                     : run_plane<T, 2, false>(d, l, s, plane);
      }
      run_plane<T, 0, false>(d, l, s, plane);
    };
    for (std::int64_t p = planes.begin; p < planes.end; ++p) {
      const std::int64_t sample = p / d.channels, channel = p % d.channels;
      const std::int64_t src = sample * (d.channels / d.multiplier) + channel / d.multiplier;
      const std::int64_t at = p * d.out_h * d.out_w + begin;
      const Plane<T> plane{d.src + src * d.h.size * d.w.size, d.out + at,
                           d.residual != nullptr ? d.residual + at : nullptr,
                           d.bias != nullptr ? d.bias[channel] : T(0)};
      for (std::int64_t t = 0; t < taps; ++t) {
        s.weights[t] = d.weight[channel * d.kernel_h * d.kernel_w + s.kernel_at[t]];
      }
      run(plane);
    }
  });
}

// channels_last: what the pixels of an output row share.
template <class T>
struct PixelRow {
  std::int64_t count;                    // taps along the height that lie inside the source
  const T* lines[kMostDepthwiseTaps];    // for each the source row, at its first column
  const T* weights[kMostDepthwiseTaps];  // and its packed weights
  std::int64_t weight_step;              // from tap to tap along the width
  T* out;                                // of the first pixel
  const T* residual;                     // likewise, or null
};

// kU neighbouring pixels from column b on, `lanes` channels from c on. With kTaps the taps of a row
// are kTaps neighbours and the step is kStep, so that a pixel of the source is read once for all of
// them; a checked tile reads zeros beside the source.
template <class T, int kU, int kTaps, int kStep, bool kWhole, bool kChecked>
ARRAYNN_INLINE void pixel_sums(const DepthwiseConv<T>& d, const PixelRow<T>& r, std::int64_t b,
                               std::int64_t c, std::int64_t lanes, Vec<T> (&sum)[kU]) {
  const std::int64_t channels = d.channels, step = kTaps > 0 ? kStep : d.w.step;
  const auto load = [&](const T* p, std::int64_t column) {
    if (kChecked) p = column >= 0 && column < d.w.size ? p : kZeros<T>;
    if constexpr (kWhole) {
      return Vec<T>::load(p);
    } else {
      return load_n(p, lanes);
    }
  };
  ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) sum[u] = Vec<T>::zero();
  const std::int64_t first = b * step;
  for (std::int64_t i = 0; i < r.count; ++i) {
    const T* line = r.lines[i] + first * channels + c;
    const T* w = r.weights[i] + c;
    if constexpr (kTaps > 0) {
      const std::int64_t column = first + d.w.offset[0];
      Vec<T> weight[kTaps];
      ARRAYNN_UNROLL for (int j = 0; j < kTaps; ++j) {
        weight[j] = Vec<T>::load(w + j * r.weight_step);
      }
      line += d.w.offset[0] * channels;
      ARRAYNN_UNROLL for (int q = 0; q < (kU - 1) * kStep + kTaps; ++q) {
        const Vec<T> x = in_register(load(line, column + q));
        line += channels;
        ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) {
          const int j = q - u * kStep;
          if (j >= 0 && j < kTaps) sum[u] = fma(weight[j], x, sum[u]);
        }
      }
    } else {
      for (std::int64_t j = 0; j < d.w.taps; ++j) {
        const Vec<T> weight = Vec<T>::load(w + j * r.weight_step);
        const std::int64_t column = first + d.w.offset[j];
        const T* p = line + d.w.offset[j] * channels;
        ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) {
          sum[u] = fma(weight, load(p + u * step * channels, column + u * step), sum[u]);
        }
      }
    }
  }
}

template <class T, int kU, int kTaps, int kStep, bool kWhole>
ARRAYNN_INLINE void pixel_tile(const DepthwiseConv<T>& d, const PixelRow<T>& r, std::int64_t b,
                               const Segment& inside, std::int64_t c, std::int64_t lanes) {
  Vec<T> sum[kU];
  if (b >= inside.begin && b + kU <= inside.end) {
    pixel_sums<T, kU, kTaps, kStep, kWhole, false>(d, r, b, c, lanes, sum);
  } else {
    pixel_sums<T, kU, kTaps, kStep, kWhole, true>(d, r, b, c, lanes, sum);
  }
  const std::int64_t step = d.w.out_step * d.channels;
  const std::int64_t at = b * step + c;
  if (d.bias != nullptr) {
    const Vec<T> bias = load_n(d.bias + c, lanes);
    ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) sum[u] = sum[u] + bias;
  }
  if (r.residual != nullptr) {
    ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) {
      sum[u] = sum[u] + load_n(r.residual + at + u * step, lanes);
    }
  }
  activate_tile(d.activation, sum);
  T* out = r.out + at;
  if constexpr (kWhole) {
    ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) sum[u].store(out + u * step);
  } else {
    ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) store_n(sum[u], out + u * step, lanes);
  }
}

template <class T, int kTaps, int kStep, bool kWhole>
ARRAYNN_INLINE void pixel_tiles(const DepthwiseConv<T>& d, const PixelRow<T>& r,
                                const Segment& inside, std::int64_t c, std::int64_t lanes) {
  std::int64_t b = 0;
  for (; b + kPixels <= d.w.count; b += kPixels) {
    pixel_tile<T, kPixels, kTaps, kStep, kWhole>(d, r, b, inside, c, lanes);
  }
  if (b + 4 <= d.w.count) {
    pixel_tile<T, 4, kTaps, kStep, kWhole>(d, r, b, inside, c, lanes);
    b += 4;
  }
  if (b + 2 <= d.w.count) {
    pixel_tile<T, 2, kTaps, kStep, kWhole>(d, r, b, inside, c, lanes);
    b += 2;
  }
  if (b < d.w.count) pixel_tile<T, 1, kTaps, kStep, kWhole>(d, r, b, inside, c, lanes);
}

template <class T, int kTaps, int kStep>
void pixel_row(const DepthwiseConv<T>& d, const PixelRow<T>& r, const Segment& inside) {
  std::int64_t c = 0;
  for (; c + kLanes<T> <= d.channels; c += kLanes<T>) {
    pixel_tiles<T, kTaps, kStep, true>(d, r, inside, c, kLanes<T>);
  }
  if (c < d.channels) pixel_tiles<T, kTaps, kStep, false>(d, r, inside, c, d.channels - c);
}

template <class T>
void run_channels_last(const DepthwiseConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const std::int64_t packed_row = round_up(d.channels, kLanes<T>);
    T* packed = static_cast<T*>(scratch) + tid * d.h.taps * d.w.taps * packed_row;
    pack_channel_weights(d, packed, packed_row);
    const Segment inside = inside_positions(d.w);
    const Range rows = split_range(d.n * d.h.count, nthreads, tid);
    for (std::int64_t g = rows.begin; g < rows.end; ++g) {
      const std::int64_t sample = g / d.h.count, a = g % d.h.count;
      const Segment h = taps_at(d.h, a);
      const std::int64_t at =
          ((sample * d.out_h + a * d.h.out_step + d.h.out_begin) * d.out_w + d.w.out_begin) *
          d.channels;
      PixelRow<T> r{h.taps(),   {},         {},
                    packed_row, d.out + at, d.residual != nullptr ? d.residual + at : nullptr};
      for (std::int64_t i = 0; i < r.count; ++i) {
        const std::int64_t tap = h.tap_begin + i;
        r.lines[i] =
            d.src + (sample * d.h.size + a * d.h.step + d.h.offset[tap]) * d.w.size * d.channels;
        r.weights[i] = packed + tap * d.w.taps * packed_row;
      }
      if (neighbours(d.w, 3) && d.w.step == 1) {
        pixel_row<T, 3, 1>(d, r, inside);
      } else if (neighbours(d.w, 3) && d.w.step == 2) {
        pixel_row<T, 3, 2>(d, r, inside);
      } else if (neighbours(d.w, 5) && d.w.step == 1) {
        pixel_row<T, 5, 1>(d, r, inside);
      } else if (neighbours(d.w, 7) && d.w.step == 1) {
        pixel_row<T, 7, 1>(d, r, inside);
      } else {
        pixel_row<T, 0, 0>(d, r, inside);
      }
    }
  });
}

template <class T>
std::int64_t depthwise_scratch(const DepthwiseConv<T>& d, int threads) {
  if (d.channels_last) {
    return threads * d.h.taps * d.w.taps * round_up(d.channels, kLanes<T>) *
           static_cast<std::int64_t>(sizeof(T));
  }
  return threads * line_scratch_bytes<T>(make_line_layout<T>(d.h, d.w), d.h, d.w);
}

template <class T>
void run_depthwise(const DepthwiseConv<T>& d, int threads, void* scratch) {
  if (d.channels_last) return run_channels_last(d, threads, scratch);
  run_channels_first(d, threads, scratch);
}

}  // namespace

std::int64_t depthwise_scratch_f32(const DepthwiseConv<float>& d, int threads) {
  return depthwise_scratch(d, threads);
}
std::int64_t depthwise_scratch_f64(const DepthwiseConv<double>& d, int threads) {
  return depthwise_scratch(d, threads);
}
void depthwise_f32(const DepthwiseConv<float>& d, int threads, void* scratch) {
  run_depthwise(d, threads, scratch);
}
void depthwise_f64(const DepthwiseConv<double>& d, int threads, void* scratch) {
  run_depthwise(d, threads, scratch);
}

}  // namespace ARRAYNN_ISA_NAMESPACE
