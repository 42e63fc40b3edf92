// Strips: the input of a run of output rows, staged as [row][column][channel] with its zero border.
#pragma once
#include "conv/border.hpp"
#include "conv/conv.hpp"
#include "gemm/pack.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// The source of a convolution as its strips see it.
template <class T>
struct StripSource {
  const T* src;
  std::int64_t channels_all, channel, channels;
  const DirectAxis *h, *w;
  bool channels_last;
  DirectDepth depth = {};
  std::int64_t column = 0;  // of the result, that staged rows begin with
};

// Geometry shared by all strips of a convolution. Output rows are counted over the whole batch:
// row g is row g % h.count of sample g / h.count, so small samples share a strip.
struct StripLayout {
  bool in_place;                // the source serves as it is: channels_last, no border, no aliasing
  std::int64_t step_h, step_w;  // staged rows and columns from one output pixel to the next
  std::int64_t span_h, span_w;  // staged rows and columns that the taps of one pixel cover
  std::int64_t columns;         // staged columns
  std::int64_t pixel;           // elements between staged pixels
  std::int64_t rows;            // output rows of a strip, at most
  std::int64_t cuts, width;  // parts of an output row, each with strips of its own; their columns
  std::int64_t plane_elements;  // from one plane of the kernel's depth to the next
  std::int64_t staged_elements;
};

ARRAYNN_INLINE std::int64_t tap_span(const DirectAxis& axis) {
  return axis.taps == 0 ? 0 : axis.offset[axis.taps - 1] - axis.offset[0] + 1;
}

ARRAYNN_INLINE bool reads_inside(const DirectAxis& axis) {
  return axis.taps > 0 && axis.offset[0] >= 0 &&
         (axis.count - 1) * axis.step + axis.offset[axis.taps - 1] < axis.size;
}

// Strips of about kStripPixels output pixels whose staged input fits half of an L2 of 512 KiB and
// more: long enough to pay for reading the packed weights once per strip.
struct StripLimits {
  std::int64_t pixels, bytes;
};
inline constexpr StripLimits kStripLimits{448, std::int64_t{256} << 10};
// Of a strip that is read by units of channels, one at a time.
inline constexpr StripLimits kUnitStripLimits{448, std::int64_t{2} << 20};

// Few pixels under many weights: reading the weights is the work. The sum over k is then cut into
// units of channels, all taps of each: in a weight's own memory a unit is one piece of every row,
// so one unit of a panel can be packed, used while it is in cache, and forgotten. A unit is KC long.
// The choice and the units depend on the sample's shape alone.
struct Units {
  std::int64_t count;  // 1: not cut
  std::int64_t taps;
  std::int64_t channels;
};
inline constexpr std::int64_t kFewPixels = 256;

// `taps`: those whose weights are in use together.
template <class T>
static Units make_units(std::int64_t pixels, std::int64_t taps, std::int64_t channels) {
  Units u{1, taps, channels};
  if (pixels <= kFewPixels && taps * channels > kKC<T> && taps * 16 <= kKC<T>) {
    u.count = ceil_div(channels, kKC<T> / taps);
  }
  return u;
}
template <class T>
static Units make_units(const DirectAxis& h, const DirectAxis& w, std::int64_t channels) {
  return make_units<T>(h.count * w.count, h.taps * w.taps, channels);
}
ARRAYNN_INLINE Range unit_range(const Units& u, std::int64_t i) {
  return split_range(u.channels, u.count, i);
}

// Whether output planes are read from the source planes of the same numbers.
ARRAYNN_INLINE bool is_one_image(const DirectDepth& d) {
  return d.taps == 1 && d.count == d.size && d.step == 1 &&
         (d.offset == nullptr || d.offset[0] == 0);
}

template <class T>
static StripLayout make_strip_layout(const StripSource<T>& s, std::int64_t n,
                                     const StripLimits& limits, std::int64_t cuts = 1) {
  const DirectAxis &h = *s.h, &w = *s.w;
  StripLayout l{};
  l.cuts = cuts;
  l.width = ceil_div(w.count, cuts);
  // A single tap needs only the rows and columns that it hits.
  l.step_h = h.taps == 1 ? 1 : h.step;
  l.step_w = w.taps == 1 ? 1 : w.step;
  l.span_h = tap_span(h);
  l.span_w = tap_span(w);
  l.in_place = s.channels_last && reads_inside(h) && reads_inside(w) &&
               !rows_alias<T>(w.step * s.channels_all) && is_one_image(s.depth);
  if (l.in_place) {
    l.step_h = h.step;
    l.step_w = w.step;
    l.columns = w.size;
    l.pixel = s.channels_all;
  } else {
    l.columns = (l.width - 1) * l.step_w + l.span_w;
    l.pixel = s.channels;
    if (rows_alias<T>(l.step_w * l.pixel)) l.pixel += kLanes<T>;
  }
  const std::int64_t pixel_bytes = l.pixel * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t row_bytes = max_i(1, s.depth.taps * l.step_h * l.columns * pixel_bytes);
  // Samples in one strip have borders of their own.
  const std::int64_t border = max_i(0, l.span_h - l.step_h);
  const std::int64_t image_bytes =
      h.count * row_bytes + ceil_div(border * row_bytes, max_i(1, l.step_h));
  const std::int64_t room =
      limits.bytes / image_bytes * h.count + min_i(h.count, limits.bytes % image_bytes / row_bytes);
  const std::int64_t fitting = min_i(ceil_div(limits.pixels, w.count), room);
  l.rows = cuts > 1 ? 1 : min_i(n * h.count, max_i(1, fitting));
  // The samples that a strip can touch, each with rows of its own at the border.
  const std::int64_t samples = min_i(n, (l.rows + h.count - 2) / h.count + 1);
  const std::int64_t staged = l.rows * l.step_h + samples * border;
  l.plane_elements = l.in_place ? 0 : staged * l.columns * l.pixel;
  l.staged_elements = s.depth.taps * l.plane_elements;
  return l;
}

// Parts that output rows are cut into: as many as make strips of one row about what the limits say, and
// fewer rows than members serve them all. Narrow rows stay whole, with their border (border.hpp).
template <class T>
static std::int64_t column_cuts(const StripSource<T>& s, std::int64_t n, const StripLimits& limits,
                                std::int64_t members) {
  if (s.w->count <= kNarrow) return 1;
  const StripLayout l = make_strip_layout(s, n, limits);
  const std::int64_t columns = l.width * l.step_w, rows = s.depth.taps * l.step_h;
  const std::int64_t bytes = rows * columns * l.pixel * static_cast<std::int64_t>(sizeof(T));
  const auto rounded = [](std::int64_t a, std::int64_t b) { return (a + b / 2) / b; };
  const std::int64_t cuts = max_i(rounded(bytes, limits.bytes), rounded(s.w->count, limits.pixels));
  return min_i(max_i(cuts, ceil_div(members, n * s.h->count)), ceil_div(s.w->count, kNarrow));
}

// One staged row: source row `row` of plane `image`, from source column `first` on, every `step`-th
// column.
template <class T>
static void stage_row(const StripSource<T>& s, const StripLayout& l, std::int64_t image,
                      std::int64_t row, std::int64_t first, std::int64_t step, T* dst) {
  const std::int64_t height = s.h->size, width = s.w->size;
  const auto item = static_cast<std::size_t>(sizeof(T));
  // Columns [begin, end) of the staged row lie inside the source.
  const std::int64_t begin = min_i(l.columns, first < 0 ? ceil_div(-first, step) : 0);
  const std::int64_t end = row < 0 || row >= height || first >= width
                               ? begin
                               : max_i(begin, min_i(l.columns, ceil_div(width - first, step)));
  __builtin_memset(dst, 0, static_cast<std::size_t>(begin * l.pixel) * item);
  __builtin_memset(dst + end * l.pixel, 0,
                   static_cast<std::size_t>((l.columns - end) * l.pixel) * item);
  const std::int64_t count = end - begin;
  if (count == 0) return;
  T* d = dst + begin * l.pixel;
  const std::int64_t column = first + begin * step;
  if (s.channels_last) {
    const T* p = s.src + ((image * height + row) * width + column) * s.channels_all + s.channel;
    if (step == 1 && s.channels == s.channels_all && l.pixel == s.channels) {
      __builtin_memcpy(d, p, static_cast<std::size_t>(count * l.pixel) * item);
      return;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      __builtin_memcpy(d + i * l.pixel, p + i * step * s.channels_all,
                       static_cast<std::size_t>(s.channels) * item);
    }
    return;
  }
  const std::int64_t plane = s.depth.size * height * width;
  const std::int64_t sample = image / s.depth.size, in_plane = image % s.depth.size * height + row;
  const T* p = s.src + (sample * s.channels_all + s.channel) * plane + in_plane * width + column;
  if (step == 1 && l.pixel == 1) {
    __builtin_memcpy(d, p, static_cast<std::size_t>(count) * item);
  } else if (step == 1) {
    transpose_copy(p, plane, d, l.pixel, s.channels, count);
  } else if (step == 2) {
    transpose_even(p, plane, d, l.pixel, s.channels, count);
  } else {
    for (std::int64_t c = 0; c < s.channels; ++c) {
      for (std::int64_t i = 0; i < count; ++i) d[i * l.pixel + c] = p[c * plane + i * step];
    }
  }
}

// Stages output rows [g0, g1) (this member's share of the staged rows) and fills row_offset[g - g0]
// with where the first tap of the first column of each output row lies.
template <class T>
static const T* stage_strip(const StripSource<T>& s, const StripLayout& l, std::int64_t g0,
                            std::int64_t g1, T* staged, std::int64_t* row_offset, int part,
                            int parts) {
  const DirectAxis &h = *s.h, &w = *s.w;
  const std::int64_t staged_row = l.columns * l.pixel;
  const std::int64_t left = w.taps == 0 ? 0 : w.offset[0] + s.column * w.step;
  std::int64_t used = 0;  // staged rows of the samples before
  for (std::int64_t g = g0; g < g1;) {
    const std::int64_t sample = g / h.count, a0 = g % h.count;
    const std::int64_t rows = min_i(g1 - g, h.count - a0);
    if (l.in_place) {
      const std::int64_t top = sample * h.size + a0 * h.step + h.offset[0];
      const std::int64_t first = (top * w.size + left) * s.channels_all + s.channel;
      for (std::int64_t r = 0; r < rows; ++r) {
        row_offset[g - g0 + r] = first + r * l.step_h * staged_row;
      }
      g += rows;
      continue;
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      row_offset[g - g0 + r] = (used + r * l.step_h) * staged_row;
    }
    if (l.span_h > 0 && l.span_w > 0) {
      const std::int64_t count = (rows - 1) * l.step_h + l.span_h;
      const std::int64_t row_step = h.taps == 1 ? h.step : 1;
      const std::int64_t column_step = w.taps == 1 ? w.step : 1;
      const Range mine = split_range(count, parts, part);
      for (std::int64_t k = 0; k < s.depth.taps; ++k) {
        const std::int64_t image = s.depth.source(sample, k);
        T* plane = staged + k * l.plane_elements;
        for (std::int64_t r = mine.begin; r < mine.end; ++r) {
          const std::int64_t row = image < 0 ? -1 : a0 * h.step + h.offset[0] + r * row_step;
          stage_row(s, l, image, row, left, column_step, plane + (used + r) * staged_row);
        }
      }
      used += count;
    }
    g += rows;
  }
  return l.in_place ? s.src : staged;
}

// How k runs over a staged pixel: `taps` runs of `run` contiguous elements. Neighbouring columns of
// the kernel whose pixels touch make one run.
struct Runs {
  std::int64_t taps, run;
  bool fused;
};

template <class T>
static Runs make_runs(const DirectAxis& h, const DirectAxis& w, const Units& u,
                      std::int64_t pixel) {
  const std::int64_t row = w.taps * u.channels;
  // A fused run stays whole: long ones are left to units and to blocks of taps.
  const bool fused = u.count == 1 && w.taps > 1 && pixel == u.channels && tap_span(w) == w.taps &&
                     (h.taps * row <= kKC<T> || (u.channels < 64 && row < kKC<T>));
  return fused ? Runs{h.taps, row, true} : Runs{h.taps * w.taps, u.channels, false};
}

ARRAYNN_INLINE std::int64_t tap_offset(const DirectAxis& h, const DirectAxis& w,
                                       const StripLayout& l, std::int64_t i, std::int64_t j) {
  const std::int64_t plane = h.plane == nullptr ? 0 : h.plane[i] * l.plane_elements;
  return plane + ((h.offset[i] - h.offset[0]) * l.columns + w.offset[j] - w.offset[0]) * l.pixel;
}

ARRAYNN_INLINE void fill_tap_offsets(const DirectAxis& h, const DirectAxis& w, const Runs& runs,
                                     const StripLayout& l, std::int64_t* offsets) {
  const std::int64_t per_row = runs.fused ? 1 : w.taps;
  for (std::int64_t t = 0; t < runs.taps; ++t) {
    offsets[t] = tap_offset(h, w, l, t / per_row, runs.fused ? 0 : t % per_row);
  }
}

// tap_row[i * kernel_w + j] = position of kernel element (i, j) among the taps, of which `first` are
// others; without it -1 for those that are none.
ARRAYNN_INLINE void add_tap_rows(const DirectAxis& h, const DirectAxis& w, std::int64_t kernel_w,
                                 std::int64_t first, std::int64_t* tap_row) {
  for (std::int64_t i = 0; i < h.taps; ++i) {
    for (std::int64_t j = 0; j < w.taps; ++j) {
      tap_row[h.kernel[i] * kernel_w + w.kernel[j]] = first + i * w.taps + j;
    }
  }
}
ARRAYNN_INLINE void fill_tap_rows(const DirectAxis& h, const DirectAxis& w, std::int64_t kernel_h,
                                  std::int64_t kernel_w, std::int64_t* tap_row) {
  for (std::int64_t i = 0; i < kernel_h * kernel_w; ++i) tap_row[i] = -1;
  add_tap_rows(h, w, kernel_w, 0, tap_row);
}

}  // namespace ARRAYNN_ISA_NAMESPACE
