// Depthwise convolution: every output channel reads one source channel, so there is nothing to
// multiply as a matrix and memory sets the pace. Forward, and backward by x as for the direct kernel.
//
//   channels_first  planes as lanes: brought into a band of pixels and back. Planes too few for that, or with
//                   several results each, one at a time: rows of a strip staged with their border as
//                   lines of one pitch, so that a tap is an offset
//   channels_last   lanes are channels; some neighbouring pixels at a time share a tap's weights
// Taps are added in ascending order from 0.
#include "conv/border.hpp"
#include "conv/depthwise_pixels.hpp"
#include "conv/lanes.hpp"
#include "core/parallel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

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
void run_lines(const DepthwiseConv<T>& d, int threads, void* scratch) {
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

// Weights of the residues of h before residue i, of all residues of w, in taps.
template <class T>
std::int64_t packed_taps(const DepthwiseResidues<T>& d, std::int64_t i) {
  std::int64_t rows = 0, columns = 0;
  for (std::int64_t p = 0; p < i; ++p) rows += d.h_at(p).taps;
  for (std::int64_t q = 0; q < d.w_count; ++q) columns += d.w_at(q).taps;
  return rows * columns;
}

// f(tap of the kernel) for every tap in the order in which the weights are packed: residue by residue.
template <class T, class F>
ARRAYNN_INLINE void for_packed_taps(const DepthwiseResidues<T>& d, const F& f) {
  for (std::int64_t p = 0; p < d.h_count; ++p) {
    for (std::int64_t q = 0; q < d.w_count; ++q) {
      const DirectAxis &h = d.h_at(p), &w = d.w_at(q);
      for (std::int64_t i = 0; i < h.taps; ++i) {
        for (std::int64_t j = 0; j < w.taps; ++j) f(h.kernel[i] * d.kernel_w + w.kernel[j]);
      }
    }
  }
}

// Rows of pixels with channels as lanes: where the source, the results and the residual of one sample
// lie from the row on that each begins with.
template <class T>
struct PixelRows {
  std::int64_t channels;
  const T *packed, *bias;
  const T* src;
  std::int64_t src_row;
  T* out;
  const T* residual;  // or null
  std::int64_t out_row;
};

template <class T>
void run_rows(const DepthwiseResidues<T>& d, const PixelRows<T>& s, Range rows) {
  PixelRow<T> r{};
  r.channels = s.channels;
  r.bias = s.bias;
  r.activation = &d.activation;
  r.weight_step = round_up(s.channels, kLanes<T>);
  const auto inside = [&](const DirectAxis& w) {
    return w.taps == 0 ? Segment{} : inside_positions(w);
  };
  r.inside = inside(d.w_at(0));
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const std::int64_t residue = row % d.h_count, a = row / d.h_count;
    const DirectAxis& h = d.h_at(residue);
    const Segment seen = taps_at(h, a);
    const T* packed = s.packed + packed_taps(d, residue) * r.weight_step;
    for (std::int64_t i = 0; i < d.w_count; ++i) {
      const DirectAxis& w = d.w_at(i);
      r.w = &w;
      if (d.w_count > 1) r.inside = inside(w);
      r.count = seen.taps();
      for (std::int64_t t = 0; t < r.count; ++t) {
        const std::int64_t tap = seen.tap_begin + t;
        r.lines[t] = s.src + (a * h.step + h.offset[tap] - s.src_row) * w.size * s.channels;
        r.weights[t] = packed + tap * w.taps * r.weight_step;
      }
      packed += h.taps * w.taps * r.weight_step;
      const std::int64_t at =
          ((a * h.out_step + h.out_begin - s.out_row) * d.out_w + w.out_begin) * s.channels;
      r.out = s.out + at;
      r.residual = s.residual != nullptr ? s.residual + at : nullptr;
      pixel_row(r);
    }
  }
}

template <class T>
void run_channels_last(const DepthwiseResidues<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const std::int64_t packed_row = round_up(d.channels, kLanes<T>);
    const std::int64_t kernel = d.kernel_h * d.kernel_w;
    T* packed = static_cast<T*>(scratch) + tid * packed_taps(d, d.h_count) * packed_row;
    T* at = packed;
    for_packed_taps(d, [&](std::int64_t tap) {
      for (std::int64_t c = 0; c < packed_row; ++c) {
        at[c] = c < d.channels ? d.weight[c * kernel + tap] : T(0);
      }
      at += packed_row;
    });
    const std::int64_t in = d.h_at(0).size * d.w_at(0).size * d.channels;
    const std::int64_t out = d.out_h * d.out_w * d.channels;
    const Range rows = split_range(d.n * d.rows(), nthreads, tid);
    for (std::int64_t g = rows.begin; g < rows.end;) {
      const std::int64_t sample = g / d.rows(), row = g % d.rows();
      const std::int64_t count = min_i(rows.end - g, d.rows() - row);
      const T* residual = d.residual != nullptr ? d.residual + sample * out : nullptr;
      run_rows(
          d,
          {d.channels, packed, d.bias, d.src + sample * in, 0, d.out + sample * out, residual, 0},
          {row, row + count});
      g += count;
    }
  });
}

// channels_first, planes as lanes: as many planes as a vector has lanes are brought into a band of
// pixels, [row][column][plane], which goes its way as channels_last and back to the planes.
template <class T>
struct BandLayout {
  std::int64_t blocks, strips;  // of planes of a sample, and of the rows of the result
  std::int64_t source, result;  // elements
  std::int64_t bytes;           // of a member
};

// Bytes of a band and its results: in an L2 of 512 KiB, since neighbours read their border twice.
constexpr std::int64_t kBandBytes = std::int64_t{192} << 10;

// Rows of the source that rows [begin, end) of the result read.
template <class T>
Range band_source(const DepthwiseResidues<T>& d, Range rows) {
  Range seen{d.h_at(0).size, 0};
  for (std::int64_t i = 0; i < d.h_count; ++i) {
    const DirectAxis& h = d.h_at(i);
    const std::int64_t first = ceil_div(rows.begin - i, d.h_count);
    const std::int64_t last = (rows.end - 1 - i + d.h_count) / d.h_count - 1;
    if (h.taps == 0 || last < first) continue;
    seen.begin = min_i(seen.begin, first * h.step + h.offset[0]);
    seen.end = max_i(seen.end, last * h.step + h.offset[h.taps - 1] + 1);
  }
  return {max_i(0, seen.begin), max_i(max_i(0, seen.begin), min_i(seen.end, d.h_at(0).size))};
}

template <class T>
BandLayout<T> make_band_layout(const DepthwiseResidues<T>& d) {
  constexpr int kL = kLanes<T>;
  BandLayout<T> l{};
  l.blocks = ceil_div(d.channels, kL);
  const std::int64_t rows = d.rows(), in_row = d.w_at(0).size * kL, out_row = d.out_w * kL;
  const auto item = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t all = d.h_at(0).size * in_row + rows * out_row;
  l.strips = min_i(rows, ceil_div(all * item, kBandBytes));
  std::int64_t most = 0;
  for (std::int64_t i = 0; i < l.strips; ++i) {
    const Range source = band_source(d, split_range(rows, l.strips, i));
    most = max_i(most, source.end - source.begin);
  }
  l.source = most * in_row;
  l.result = ceil_div(rows, l.strips) * out_row;
  const std::int64_t taps = d.kernel_h * d.kernel_w + packed_taps(d, d.h_count) + 1;
  l.bytes = (l.source + l.result + taps * kL) * item;
  return l;
}

// Rows `rows` of the result of a block of planes of one sample, through this member's scratch.
template <class T>
void run_band(const DepthwiseResidues<T>& d, const BandLayout<T>& l, std::int64_t sample,
              Range planes, Range rows, const T* packed, const T* bias, T* staged) {
  constexpr int kL = kLanes<T>;
  const std::int64_t width = d.w_at(0).size, in = d.h_at(0).size * width;
  const std::int64_t out = d.out_h * d.out_w, count = planes.end - planes.begin;
  const std::int64_t first = sample * d.channels + planes.begin;
  const Range source = band_source(d, rows);
  transpose_copy(d.src + first * in + source.begin * width, in, staged, kL, count,
                 (source.end - source.begin) * width);
  T* result = staged + l.source;
  const std::int64_t at = first * out + rows.begin * d.out_w;
  const std::int64_t pixels = (rows.end - rows.begin) * d.out_w;
  if (d.residual != nullptr) transpose_copy(d.residual + at, out, result, kL, count, pixels);
  run_rows(d,
           {kL, packed, bias, staged, source.begin, result,
            d.residual != nullptr ? result : nullptr, rows.begin},
           rows);
  transpose_copy(result, kL, d.out + at, out, pixels, count);
}

template <class T>
void run_bands(const DepthwiseResidues<T>& d, int threads, void* scratch) {
  constexpr int kL = kLanes<T>;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const BandLayout<T> l = make_band_layout(d);
    const std::int64_t kernel = d.kernel_h * d.kernel_w;
    T* raw = reinterpret_cast<T*>(static_cast<char*>(scratch) + tid * l.bytes);
    T* bias = raw + kernel * kL;
    T* packed = bias + kL;
    T* staged = packed + packed_taps(d, d.h_count) * kL;
    std::int64_t known = -1;
    const std::int64_t bands = d.n * l.strips;  // of a block, one after the other for its weights
    const Range units = split_range(bands * l.blocks, nthreads, tid);
    for (std::int64_t u = units.begin; u < units.end; ++u) {
      const std::int64_t block = u / bands, sample = u % bands / l.strips;
      const Range planes{block * kL, min_i(d.channels, (block + 1) * kL)};
      const std::int64_t count = planes.end - planes.begin;
      if (block != known) {
        known = block;
        transpose_copy(d.weight + planes.begin * kernel, kernel, raw, kL, count, kernel);
        T* next = packed;
        for_packed_taps(d, [&](std::int64_t tap) {
          Vec<T>::load(raw + tap * kL).store(next);
          next += kL;
        });
        if (d.bias != nullptr) load_n(d.bias + planes.begin, count).store(bias);
      }
      run_band(d, l, sample, planes, split_range(d.rows(), l.strips, u % l.strips), packed,
               d.bias != nullptr ? bias : nullptr, staged);
    }
  });
}

// Planes as lanes: enough of them to fill a vector by half.
template <class T>
bool is_banded(const DepthwiseResidues<T>& d) {
  return d.multiplier == 1 && d.channels >= kLanes<T> / 2;
}

// One residue of the stride, as a convolution of its own.
template <class T>
DepthwiseConv<T> residue_of(const DepthwiseResidues<T>& d, std::int64_t p, std::int64_t q) {
  DepthwiseConv<T> one = d;
  one.h = d.h_at(p);
  one.w = d.w_at(q);
  return one;
}

template <class T, class F>
void for_residues(const DepthwiseResidues<T>& d, const F& f) {
  for (std::int64_t p = 0; p < d.h_count; ++p) {
    for (std::int64_t q = 0; q < d.w_count; ++q) {
      const DepthwiseConv<T> one = residue_of(d, p, q);
      if (one.h.taps > 0 && one.w.taps > 0) f(one);
    }
  }
}

template <class T>
std::int64_t scratch_of(const DepthwiseResidues<T>& d, int threads) {
  if (d.channels_last) {
    return threads * packed_taps(d, d.h_count) * round_up(d.channels, kLanes<T>) *
           static_cast<std::int64_t>(sizeof(T));
  }
  if (is_banded(d)) return threads * make_band_layout(d).bytes;
  std::int64_t bytes = 0;
  for_residues(d, [&](const DepthwiseConv<T>& one) {
    bytes = max_i(bytes, line_scratch_bytes<T>(make_line_layout<T>(one.h, one.w), one.h, one.w));
  });
  return threads * bytes;
}

template <class T>
void run(const DepthwiseResidues<T>& d, int threads, void* scratch) {
  if (d.channels_last) return run_channels_last(d, threads, scratch);
  if (is_banded(d)) return run_bands(d, threads, scratch);
  for_residues(d, [&](const DepthwiseConv<T>& one) { run_lines(one, threads, scratch); });
}

}  // namespace

extern const FloatKernels<DepthwiseTable> depthwise_kernels = {{&scratch_of<float>, &run<float>},
                                                               {&scratch_of<double>, &run<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
