// Depthwise convolution: every output channel reads one source channel, so there is nothing to
// multiply as a matrix and memory sets the pace. Forward, and backward by x as for the direct kernel.
//
//   planes  channels_first, 3x3 of step 1 or 2: rows are read where they lie, their border masked
//   bands   other channels_first: planes as lanes, brought into a band of pixels and back; and pixels of
//           channels_last that a vector is too wide for, or with several results each. All volumes of these
//   lines   other channels_first with planes too few for that, or with several results each: rows of a
//           strip staged with their border as lines of one pitch, so that a tap is an offset
//   rows    other channels_last: lanes are channels; some neighbouring pixels share a tap's weights
// Rows of the kernel at all depths of a volume are one list of rows.
// Taps are added in ascending order from 0.
#include "conv/border.hpp"
#include "conv/depthwise_pixels.hpp"
#include "conv/depthwise_planes.hpp"
#include "conv/depthwise_spread.hpp"
#include "conv/lanes.hpp"
#include "core/parallel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Weights before those of residue (k, i) of the depth and h, with all residues of w, in taps.
template <class T>
std::int64_t packed_taps(const DepthwiseResidues<T>& d, std::int64_t k, std::int64_t i) {
  std::int64_t before = 0, rows = 0, all_rows = 0, columns = 0;
  for (std::int64_t r = 0; r < k; ++r) before += d.depth_at(r).taps;
  for (std::int64_t p = 0; p < d.h_count; ++p) {
    if (p < i) rows += d.h_at(p).taps;
    all_rows += d.h_at(p).taps;
  }
  for (std::int64_t q = 0; q < d.w_count; ++q) columns += d.w_at(q).taps;
  return (before * all_rows + (k < d.d_count ? d.depth_at(k).taps * rows : 0)) * columns;
}
template <class T>
std::int64_t packed_taps(const DepthwiseResidues<T>& d) {
  return packed_taps(d, d.d_count, 0);
}

// f(tap of the kernel) for every tap in the order in which the weights are packed: residue by residue.
template <class T, class F>
ARRAYNN_INLINE void for_packed_taps(const DepthwiseResidues<T>& d, const F& f) {
  for (std::int64_t r = 0; r < d.d_count * d.h_count * d.w_count; ++r) {
    const DirectAxis& depth = d.depth_at(r / d.w_count / d.h_count);
    const DirectAxis &h = d.h_at(r / d.w_count % d.h_count), &w = d.w_at(r % d.w_count);
    for (std::int64_t k = 0; k < depth.taps; ++k) {
      for (std::int64_t i = 0; i < h.taps; ++i) {
        const std::int64_t row = depth.kernel[k] * d.kernel_h + h.kernel[i];
        for (std::int64_t j = 0; j < w.taps; ++j) f(row * d.kernel_w + w.kernel[j]);
      }
    }
  }
}

// Rows of pixels with channels as lanes: where the source, the results and the residual of one sample
// lie from the row on that each begins with. Source plane z is plane z % ring, results are of one plane.
template <class T>
struct PixelRows {
  std::int64_t channels;
  const T *packed, *bias;
  const T* src;
  std::int64_t src_row, src_plane, ring;  // src_plane: elements
  T* out;
  const T* residual;  // or null
  std::int64_t out_row;
  bool far = false;  // nothing lies in a cache
};

// Bytes of source and results that no cache keeps. Rows of pixels are then fetched one ahead: 1.3 to 1.8
// times as fast from memory, up to a tenth slower where L2 or L3 has them.
constexpr std::int64_t kFarBytes = std::int64_t{16} << 20;

template <class T>
void run_rows(const DepthwiseResidues<T>& d, const PixelRows<T>& s, std::int64_t plane,
              Range rows) {
  PixelRow<T> r{};
  r.channels = s.channels;
  r.bias = s.bias;
  r.activation = &d.activation;
  r.weight_step = round_up(s.channels, kLanes<T>);
  const auto inside = [&](const DirectAxis& w) {
    return w.taps == 0 ? Segment{} : inside_positions(w);
  };
  r.inside = inside(d.w_at(0));
  const std::int64_t d_residue = plane % d.d_count, z = plane / d.d_count;
  const DirectAxis& depth = d.depth_at(d_residue);
  const Segment deep = taps_at(depth, z);
  for (std::int64_t row = rows.begin; row < rows.end; ++row) {
    const std::int64_t residue = row % d.h_count, a = row / d.h_count;
    const DirectAxis& h = d.h_at(residue);
    const Segment seen = taps_at(h, a);
    const T* packed = s.packed + packed_taps(d, d_residue, residue) * r.weight_step;
    for (std::int64_t i = 0; i < d.w_count; ++i) {
      const DirectAxis& w = d.w_at(i);
      r.w = &w;
      if (d.w_count > 1) r.inside = inside(w);
      r.count = 0;
      for (std::int64_t k = deep.tap_begin; k < deep.tap_end; ++k) {
        const T* source = s.src + (z * depth.step + depth.offset[k]) % s.ring * s.src_plane;
        for (std::int64_t tap = seen.tap_begin; tap < seen.tap_end; ++tap) {
          const std::int64_t line = a * h.step + h.offset[tap] - s.src_row;
          r.lines[r.count] = source + line * w.size * s.channels;
          r.weights[r.count++] = packed + (k * h.taps + tap) * w.taps * r.weight_step;
        }
      }
      packed += depth.taps * h.taps * w.taps * r.weight_step;
      const std::int64_t at =
          ((a * h.out_step + h.out_begin - s.out_row) * d.out_w + w.out_begin) * s.channels;
      r.fetched = s.far ? h.step : 0;
      r.ahead = h.step * w.size * s.channels;
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
    const std::int64_t kernel = d.kernel_d * d.kernel_h * d.kernel_w;
    T* packed = static_cast<T*>(scratch) + tid * packed_taps(d) * packed_row;
    T* at = packed;
    for_packed_taps(d, [&](std::int64_t tap) {
      for (std::int64_t c = 0; c < packed_row; ++c) {
        at[c] = c < d.channels ? d.weight[c * kernel + tap] : T(0);
      }
      at += packed_row;
    });
    const std::int64_t in = d.h_at(0).size * d.w_at(0).size * d.channels;
    const std::int64_t out = d.out_h * d.out_w * d.channels, depth = d.depth_at(0).size;
    const bool far = d.n * (depth * in + d.out_d * out) * std::int64_t{sizeof(T)} > kFarBytes;
    const Range rows = split_range(d.n * d.out_d * d.rows(), nthreads, tid);
    for (std::int64_t g = rows.begin; g < rows.end;) {
      const std::int64_t image = g / d.rows(), row = g % d.rows();
      const std::int64_t count = min_i(rows.end - g, d.rows() - row);
      const T* residual = d.residual != nullptr ? d.residual + image * out : nullptr;
      const T* src = d.src + image / d.out_d * depth * in;
      run_rows(
          d, {d.channels, packed, d.bias, src, 0, in, depth, d.out + image * out, residual, 0, far},
          image % d.out_d, {row, row + count});
      g += count;
    }
  });
}

// Bands of pixels of one vector, [row][column][lane]. channels_first: as many planes as a vector has
// lanes are brought into one, which goes its way as channels_last and back to the planes.
// channels_last: pixels of less than a vector, which are padded to one. Lanes are results: a source channel
// is repeated for those that read it. Of a volume a band holds the
// source planes that a result sees, and those that the next one sees as well stay.
template <class T>
struct BandLayout {
  std::int64_t blocks, strips;  // of channels of a sample, and of the rows of a plane of the result
  std::int64_t ring;            // source planes
  std::int64_t source, result;  // elements, of a plane
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

// Source positions from the first to the last that `positions` of every residue read, at most.
inline std::int64_t most_seen(const DirectAxis* axes, std::int64_t count, std::int64_t positions) {
  const std::int64_t size = axes[0].size;
  std::int64_t begin = size, end = -size;
  for (std::int64_t i = 0; i < count; ++i) {
    if (axes[i].taps == 0) continue;
    begin = min_i(begin, axes[i].offset[0]);
    end = max_i(end, axes[i].offset[axes[i].taps - 1] + 1);
  }
  return max_i(0, min_i(size, (positions - 1) * axes[0].step + end - begin));
}

// The bytes do not shrink as rows are added: who computes some rows at a time asks for those of all.
template <class T>
BandLayout<T> make_band_layout(const DepthwiseResidues<T>& d) {
  constexpr int kL = kLanes<T>;
  BandLayout<T> l{};
  l.blocks = ceil_div(d.channels, kL);
  l.ring = max_i(1, most_seen(&d.depth_at(0), d.d_count, 1));
  const std::int64_t in_row = d.w_at(0).size * kL, out_row = d.out_w * kL;
  const auto item = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t all = l.ring * d.h_at(0).size * in_row + d.out_h * out_row;
  const std::int64_t rows = max_i(1, d.out_h / ceil_div(all * item, kBandBytes));
  l.strips = ceil_div(d.rows(), rows);
  const std::int64_t most = min_i(rows, d.rows());
  const std::int64_t positions = (most - 1) / d.h_count + (d.h_count > 1 ? 2 : 1);
  l.source = most_seen(&d.h_at(0), d.h_count, positions) * in_row;
  l.result = most * out_row;
  const std::int64_t taps = d.kernel_d * d.kernel_h * d.kernel_w + packed_taps(d) + 1;
  l.bytes = (l.ring * l.source + l.result + taps * kL) * item;
  return l;
}

// What a band holds: some rows of a plane of the result of a block of channels of one sample.
struct BandPart {
  std::int64_t sample, plane;
  Range channels, rows;
};

// Of an array of planes of `size` pixels: `count` channels from `first` on as the lanes of a band, and the
// elements from one of them to the next, or from pixel to pixel.
struct BandArray {
  bool channels_last;
  std::int64_t channels, depth, size, first, count;

  std::int64_t at(std::int64_t sample, std::int64_t z, std::int64_t pixel) const {
    if (channels_last) return ((sample * depth + z) * size + pixel) * channels + first;
    return ((sample * channels + first) * depth + z) * size + pixel;
  }
  std::int64_t step() const { return channels_last ? channels : depth * size; }
};

// `held`: source planes that lie in the band already.
template <class T>
void run_band(const DepthwiseResidues<T>& d, const BandLayout<T>& l, const BandPart& part,
              const T* packed, const T* bias, T* staged, Range* held) {
  constexpr int kL = kLanes<T>;
  const std::int64_t width = d.w_at(0).size, first = part.channels.begin / d.multiplier;
  const std::int64_t sources = (part.channels.end - 1) / d.multiplier + 1 - first;
  const Range source = band_source(d, part.rows), rows = part.rows;
  const DirectAxis& depth = d.depth_at(part.plane % d.d_count);
  const BandArray in{d.channels_last, d.channels / d.multiplier,
                     depth.size,      d.h_at(0).size * width,
                     first,           sources};
  const BandArray out{
      d.channels_last,   d.channels,          d.out_d,
      d.out_h * d.out_w, part.channels.begin, part.channels.end - part.channels.begin};
  const std::int64_t z = part.plane / d.d_count * depth.step;
  const Segment deep = taps_at(depth, part.plane / d.d_count);
  if (deep.taps() > 0) {
    const Range planes{z + depth.offset[deep.tap_begin], z + depth.offset[deep.tap_end - 1] + 1};
    if (planes.begin < held->begin || planes.begin > held->end) {
      *held = {planes.begin, planes.begin};
    }
    for (; held->end < planes.end; ++held->end) {
      const T* src = d.src + in.at(part.sample, held->end, source.begin * width);
      const std::int64_t pixels = (source.end - source.begin) * width;
      T* plane = staged + held->end % l.ring * l.source;
      to_band(d.channels_last, src, in.step(), sources, pixels, plane);
      if (d.multiplier > 1) repeat_lanes(d.multiplier, part.channels.begin, pixels, plane);
    }
    held->begin = max_i(held->begin, held->end - l.ring);
  }
  T* result = staged + l.ring * l.source;
  const std::int64_t at = out.at(part.sample, part.plane, rows.begin * d.out_w);
  const std::int64_t pixels = (rows.end - rows.begin) * d.out_w;
  if (d.residual != nullptr) {
    to_band(d.channels_last, d.residual + at, out.step(), out.count, pixels, result);
  }
  run_rows(d,
           {kL, packed, bias, staged, source.begin, l.source, l.ring, result,
            d.residual != nullptr ? result : nullptr, rows.begin},
           part.plane, rows);
  from_band(d.channels_last, result, out.step(), out.count, pixels, d.out + at);
}

template <class T>
void run_bands(const DepthwiseResidues<T>& d, int threads, void* scratch) {
  constexpr int kL = kLanes<T>;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const BandLayout<T> l = make_band_layout(d);
    const std::int64_t kernel = d.kernel_d * d.kernel_h * d.kernel_w;
    T* raw = reinterpret_cast<T*>(static_cast<char*>(scratch) + tid * l.bytes);
    T* bias = raw + kernel * kL;
    T* packed = bias + kL;
    T* staged = packed + packed_taps(d) * kL;
    const std::int64_t bands = d.n * l.strips;  // of a block, one after the other for its weights
    const auto part_of = [&](std::int64_t u) {
      const std::int64_t band = u / d.out_d, block = band / bands;
      return BandPart{band % bands / l.strips,
                      u % d.out_d,
                      {block * kL, min_i(d.channels, (block + 1) * kL)},
                      split_range(d.rows(), l.strips, band % l.strips)};
    };
    std::int64_t known = -1;
    Range held{0, 0};
    const Range units = split_range(bands * l.blocks * d.out_d, nthreads, tid);
    for (std::int64_t u = units.begin; u < units.end; ++u) {
      const BandPart part = part_of(u);
      const std::int64_t first = part.channels.begin, count = part.channels.end - first;
      if (first != known) {
        known = first;
        transpose_copy(d.weight + first * kernel, kernel, raw, kL, count, kernel);
        T* next = packed;
        for_packed_taps(d, [&](std::int64_t tap) {
          Vec<T>::load(raw + tap * kL).store(next);
          next += kL;
        });
        if (d.bias != nullptr) load_n(d.bias + first, count).store(bias);
      }
      if (part.plane == 0) held = {0, 0};
      run_band(d, l, part, packed, d.bias != nullptr ? bias : nullptr, staged, &held);
    }
  });
}

// Pixels that a vector does not fill or that are read by several results each, planes that fill a vector by
// half, and volumes.
template <class T>
bool is_banded(const DepthwiseResidues<T>& d) {
  if (d.channels_last) return d.channels < kLanes<T> || d.multiplier > 1;
  return !d.is_image() || (d.multiplier == 1 && d.channels >= kLanes<T> / 2);
}

// One residue of the stride, as a convolution of its own.
template <class T>
DepthwiseConv<T> residue_of(const DepthwiseResidues<T>& d, std::int64_t p, std::int64_t q) {
  DepthwiseConv<T> one = d;
  one.h = d.h_at(p);
  one.w = d.w_at(q);
  return one;
}

template <class T>
bool is_planes(const DepthwiseResidues<T>& d) {
  if (d.channels_last || d.h_count > 1 || d.w_count > 1 || !d.is_image()) return false;
  return is_three(d.h_at(0), d.w_at(0));
}

template <class T>
bool is_spread(const DepthwiseResidues<T>& d, SpreadAxis* h, SpreadAxis* w) {
  return !d.channels_last && d.is_image() && make_spread(d.h_residues, d.h_count, h) &&
         make_spread(d.w_residues, d.w_count, w);
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
  SpreadAxis h, w;
  if (is_planes(d) || is_spread(d, &h, &w)) return 0;
  if (is_banded(d)) return threads * make_band_layout(d).bytes;
  if (d.channels_last) {
    return threads * packed_taps(d) * round_up(d.channels, kLanes<T>) *
           static_cast<std::int64_t>(sizeof(T));
  }
  std::int64_t bytes = 0;
  for_residues(d, [&](const DepthwiseConv<T>& one) {
    bytes = max_i(bytes, line_scratch_bytes<T>(make_line_layout<T>(one.h, one.w), one.h, one.w));
  });
  return threads * bytes;
}

template <class T>
void run(const DepthwiseResidues<T>& d, int threads, void* scratch) {
  SpreadAxis h, w;
  if (is_planes(d)) return run_planes(residue_of(d, 0, 0), threads);
  if (is_spread(d, &h, &w)) return run_spread(d, h, w, threads);
  if (is_banded(d)) return run_bands(d, threads, scratch);
  if (d.channels_last) return run_channels_last(d, threads, scratch);
  for_residues(d, [&](const DepthwiseConv<T>& one) { run_lines(one, threads, scratch); });
}

}  // namespace

extern const FloatKernels<DepthwiseTable> depthwise_kernels = {{&scratch_of<float>, &run<float>},
                                                               {&scratch_of<double>, &run<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
