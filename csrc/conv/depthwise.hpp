// What the depthwise convolution and its gradient by the weights share: staged lines of a plane, and
// weights by channel.
#pragma once
#include "conv/border.hpp"
#include "conv/conv.hpp"
#include "conv/strip.hpp"
#include "simd/activation.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// The source rows of a strip of `rows` output rows, each a line of whole vectors with its border of
// zeros: output position (r, b) meets tap (i, j) at line r step_h + offset_h[i] - offset_h[0], column
// b step_w + offset_w[j] - offset_w[0].
struct LineLayout {
  std::int64_t pitch, rows, lines;
  std::int64_t begin, end;  // columns of a line that come from the source
};

// Rows and vectors of a tile of lines: enough sums to hide the latency of FMA on two units.
inline constexpr int kTileSums = 8;

// Staged lines stay in an L1 of 32 KiB.
template <class T>
inline constexpr std::int64_t kLineElements = 20480 / static_cast<std::int64_t>(sizeof(T));

template <class T>
static LineLayout make_line_layout(const DirectAxis& h, const DirectAxis& w) {
  LineLayout l{};
  const std::int64_t first = w.offset[0], width = (w.count - 1) * w.step + tap_span(w);
  l.pitch = round_up(width, kLanes<T>);
  l.begin = min_i(width, max_i(0, -first));
  l.end = max_i(l.begin, min_i(width, w.size - first));
  l.rows = min_i(h.count, max_i(1, (kLineElements<T> / l.pitch - tap_span(h)) / h.step));
  l.lines = (l.rows - 1) * h.step + tap_span(h);
  return l;
}

template <class T>
struct LineScratch {
  std::int64_t *tap_at, *kernel_at;  // [taps]
  T *weights, *staged;
};

// A tile reads whole vectors and rows beyond the last.
template <class T>
static std::int64_t staged_elements(const LineLayout& l, const DirectAxis& h, const DirectAxis& w) {
  return round_up((l.lines + kTileSums * h.step) * l.pitch + 4 * kLanes<T> * w.step, 16);
}

template <class T>
static std::int64_t line_scratch_bytes(const LineLayout& l, const DirectAxis& h,
                                       const DirectAxis& w) {
  const std::int64_t taps = round_up(h.taps * w.taps, 16);
  return taps * 16 + (taps + staged_elements<T>(l, h, w)) * static_cast<std::int64_t>(sizeof(T));
}

// This member's scratch, its tap tables filled and everything beyond the lines cleared.
template <class T>
static LineScratch<T> line_scratch(const LineLayout& l, const DirectAxis& h, const DirectAxis& w,
                                   std::int64_t kernel_w, int tid, void* scratch) {
  const std::int64_t taps = round_up(h.taps * w.taps, 16);
  char* base = static_cast<char*>(scratch) + tid * line_scratch_bytes<T>(l, h, w);
  LineScratch<T> s{};
  s.tap_at = reinterpret_cast<std::int64_t*>(base);
  s.kernel_at = s.tap_at + taps;
  s.weights = reinterpret_cast<T*>(base + taps * 16);
  s.staged = s.weights + taps;
  const std::int64_t elements = staged_elements<T>(l, h, w);
  for (std::int64_t i = l.lines * l.pitch; i < elements; ++i) s.staged[i] = T(0);
  for (std::int64_t i = 0; i < h.taps; ++i) {
    for (std::int64_t j = 0; j < w.taps; ++j) {
      s.tap_at[i * w.taps + j] = (h.offset[i] - h.offset[0]) * l.pitch + w.offset[j] - w.offset[0];
      s.kernel_at[i * w.taps + j] = h.kernel[i] * kernel_w + w.kernel[j];
    }
  }
  return s;
}

// The lines that output rows [rows.begin, rows.end) read.
template <class T>
static void stage_lines(const LineLayout& l, const DirectAxis& h, const DirectAxis& w,
                        const T* plane, Range rows, T* staged) {
  constexpr int kL = kLanes<T>;
  const std::int64_t first = rows.begin * h.step + h.offset[0];
  const std::int64_t used = (rows.end - rows.begin - 1) * h.step + tap_span(h);
  for (std::int64_t r = 0; r < used; ++r) {
    T* dst = staged + r * l.pitch;
    const std::int64_t row = first + r;
    const bool inside = row >= 0 && row < h.size;
    const T* src = plane + (inside ? row * w.size : 0) + w.offset[0];
    const std::int64_t end = inside ? l.end : 0;
    for (std::int64_t q = 0; q < l.pitch; q += kL) {
      if (q >= l.begin && q + kL <= end) {
        Vec<T>::load(src + q).store(dst + q);
      } else {
        const std::int64_t from = max_i(0, min_i(kL, l.begin - q));
        load_between(src + q, from, max_i(from, min_i(kL, end - q))).store(dst + q);
      }
    }
  }
}

// Values p[0], p[kStep], ... of a line; kStep 0 is any step.
template <class T, int kStep>
ARRAYNN_INLINE Vec<T> load_line(const T* p, std::int64_t step) {
  constexpr int kL = kLanes<T>;
  if constexpr (kStep == 1) {
    return in_register(Vec<T>::load(p));
  } else if constexpr (kStep == 2) {
    return shuffle<EverySecond<T, false>>(Vec<T>::load(p), Vec<T>::load(p + kL));
  } else {
    T values[kL];
    for (int i = 0; i < kL; ++i) values[i] = p[i * step];
    return Vec<T>::load(values);
  }
}

// The first n of them.
template <class T, int kStep>
ARRAYNN_INLINE Vec<T> load_line_n(const T* p, std::int64_t step, std::int64_t n) {
  if constexpr (kStep == 1) {
    return load_n(p, n);
  } else if constexpr (kStep == 2) {
    return load_even(p, n);
  } else {
    T values[kLanes<T>];
    for (std::int64_t i = 0; i < n; ++i) values[i] = p[i * step];
    return load_n(values, n);
  }
}

// Read in place of pixels beside the source.
template <class T>
alignas(kVecBytes) inline constexpr T kZeros[kLanes<T>] = {};

// `pixels` pixels of `count` lanes to and from bands of pixels of one vector. `step`: elements between
// channels, or between the pixels of channels_last. Whole vectors where what they touch beyond a pixel is the
// next one.
template <class T>
static void to_band(bool channels_last, const T* src, std::int64_t step, std::int64_t count,
                    std::int64_t pixels, T* band) {
  constexpr int kL = kLanes<T>;
  if (!channels_last) return transpose_copy(src, step, band, kL, count, pixels);
  for (std::int64_t i = 0; i < pixels; ++i) {
    const std::int64_t n = step == count ? (pixels - i) * count : count;
    load_lanes(src + i * step, n).store(band + i * kL);
  }
}
template <class T>
static void from_band(bool channels_last, const T* band, std::int64_t step, std::int64_t count,
                      std::int64_t pixels, T* out) {
  constexpr int kL = kLanes<T>;
  if (!channels_last) return transpose_copy(band, kL, out, step, pixels, count);
  for (std::int64_t i = 0; i < pixels; ++i) {
    const std::int64_t n = step == count ? (pixels - i) * count : count;
    store_lanes(Vec<T>::load(band + i * kL), out + i * step, n);
  }
}

// Every pixel's lanes from those of the sources, each once, to those of its results from `first` on.
template <class T>
static void repeat_lanes(std::int64_t multiplier, std::int64_t first, std::int64_t pixels,
                         T* band) {
  constexpr int kL = kLanes<T>;
  typename Vec<T>::RawInt from{};
  for (int i = 0; i < kL; ++i) {
    from[i] = static_cast<typename Vec<T>::Int>((first + i) / multiplier - first / multiplier);
  }
  for (std::int64_t i = 0; i < pixels; ++i) {
    Vec<T>{__builtin_shuffle(Vec<T>::load(band + i * kL).v, from)}.store(band + i * kL);
  }
}

// Whether the taps are `count` neighbours.
ARRAYNN_INLINE bool neighbours(const DirectAxis& axis, std::int64_t count) {
  return axis.taps == count && tap_span(axis) == count;
}

}  // namespace ARRAYNN_ISA_NAMESPACE
