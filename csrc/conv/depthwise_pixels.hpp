// Depthwise convolution with channels as lanes: one row of results, some neighbouring pixels at a time,
// which share a tap's weights. Taps are added in ascending order from 0.
#pragma once
#include "conv/depthwise.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Pixels of a tile.
inline constexpr int kPixels = 8;

// What the pixels of an output row share.
template <class T>
struct PixelRow {
  const DirectAxis* w;
  Segment inside;         // its pixels that read nothing but the source
  std::int64_t channels;  // elements from pixel to pixel, in and out: a vector or more
  const T* bias;          // [channels] or null
  const Activation* activation;
  std::int64_t weight_step;               // from tap to tap along the width
  std::int64_t count;                     // rows of the kernel, at all depths, inside the source
  const T* lines[kMostDepthwiseLines];    // for each the source row, at its first column
  const T* weights[kMostDepthwiseLines];  // and its packed weights
  T* out;                                 // of the first pixel
  const T* residual;                      // likewise, or null
  // Lines that the next row of results is the first to read: `ahead` elements from the last `fetched`.
  std::int64_t fetched, ahead;
};

// kU neighbouring pixels from column b on, a vector of channels from c on. With kTaps the taps of a row
// are kTaps neighbours and the step is kStep, so that a pixel of the source is read once for all of
// them; a checked tile reads zeros beside the source.
template <class T, int kU, int kTaps, int kStep, bool kChecked>
ARRAYNN_INLINE void pixel_sums(const PixelRow<T>& r, std::int64_t b, std::int64_t c,
                               Vec<T> (&sum)[kU]) {
  const std::int64_t channels = r.channels, step = kTaps > 0 ? kStep : r.w->step;
  const auto load = [&](const T* p, std::int64_t column) {
    if (kChecked) p = column >= 0 && column < r.w->size ? p : kZeros<T>;
    return Vec<T>::load(p);
  };
  ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) sum[u] = Vec<T>::zero();
  const std::int64_t first = b * step;
  for (std::int64_t i = 0; i < r.count; ++i) {
    const T* line = r.lines[i] + first * channels + c;
    const T* w = r.weights[i] + c;
    if constexpr (kTaps > 0) {
      const std::int64_t column = first + r.w->offset[0];
      Vec<T> weight[kTaps];
      ARRAYNN_UNROLL for (int j = 0; j < kTaps; ++j) {
        weight[j] = Vec<T>::load(w + j * r.weight_step);
      }
      line += r.w->offset[0] * channels;
      if (i >= r.count - r.fetched) {
        ARRAYNN_UNROLL for (int q = 0; q < (kU - 1) * kStep + kTaps; ++q) {
          __builtin_prefetch(line + r.ahead + q * channels, 0, 3);
        }
      }
      ARRAYNN_UNROLL for (int q = 0; q < (kU - 1) * kStep + kTaps; ++q) {
        const Vec<T> x = in_register(load(line, column + q));
        line += channels;
        ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) {
          const int j = q - u * kStep;
          if (j >= 0 && j < kTaps) sum[u] = fma(weight[j], x, sum[u]);
        }
      }
    } else {
      for (std::int64_t j = 0; j < r.w->taps; ++j) {
        const Vec<T> weight = Vec<T>::load(w + j * r.weight_step);
        const std::int64_t column = first + r.w->offset[j];
        const T* p = line + r.w->offset[j] * channels;
        ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) {
          sum[u] = fma(weight, load(p + u * step * channels, column + u * step), sum[u]);
        }
      }
    }
  }
}

template <class T, int kU, int kTaps, int kStep>
ARRAYNN_INLINE void pixel_tile(const PixelRow<T>& r, std::int64_t b, std::int64_t c) {
  Vec<T> sum[kU];
  if (b >= r.inside.begin && b + kU <= r.inside.end) {
    pixel_sums<T, kU, kTaps, kStep, false>(r, b, c, sum);
  } else {
    pixel_sums<T, kU, kTaps, kStep, true>(r, b, c, sum);
  }
  const std::int64_t step = r.w->out_step * r.channels;
  const std::int64_t at = b * step + c;
  if (r.bias != nullptr) {
    const Vec<T> bias = Vec<T>::load(r.bias + c);
    ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) sum[u] = sum[u] + bias;
  }
  if (r.residual != nullptr) {
    ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) {
      sum[u] = sum[u] + Vec<T>::load(r.residual + at + u * step);
    }
  }
  activate_tile(*r.activation, sum);
  T* out = r.out + at;
  ARRAYNN_UNROLL for (int u = 0; u < kU; ++u) sum[u].store(out + u * step);
}

// A remainder of kN pixels or less: as one tile of taps that are neighbours, which share its loads, else
// in halves.
template <class T, int kN, int kTaps, int kStep>
ARRAYNN_INLINE void pixel_rest(const PixelRow<T>& r, std::int64_t b, std::int64_t c) {
  if constexpr (kN > 0) {
    constexpr int kNext = kTaps == 3 ? kN - 1 : kN / 2;
    if (b + kN <= r.w->count) {
      pixel_tile<T, kN, kTaps, kStep>(r, b, c);
      b += kN;
    }
    pixel_rest<T, kNext, kTaps, kStep>(r, b, c);
  }
}

// The last vector of a pixel shares channels with the one before it rather than being cut.
template <class T, int kTaps, int kStep>
static void pixel_row(const PixelRow<T>& r) {
  for (std::int64_t next = 0; next < r.channels; next += kLanes<T>) {
    const std::int64_t c = min_i(next, r.channels - kLanes<T>);
    std::int64_t b = 0;
    for (; b + kPixels <= r.w->count; b += kPixels) {
      pixel_tile<T, kPixels, kTaps, kStep>(r, b, c);
    }
    pixel_rest<T, kTaps == 3 ? kPixels - 1 : kPixels / 2, kTaps, kStep>(r, b, c);
  }
}

// Where the taps are neighbours, as they mostly are, a pixel of the source is read once for all of them.
template <class T>
static void pixel_row(const PixelRow<T>& r) {
  const std::int64_t step = r.w->step;
  if (neighbours(*r.w, 3) && step == 1) {
    pixel_row<T, 3, 1>(r);
  } else if (neighbours(*r.w, 3) && step == 2) {
    pixel_row<T, 3, 2>(r);
  } else if (neighbours(*r.w, 5) && step == 1) {
    pixel_row<T, 5, 1>(r);
  } else if (neighbours(*r.w, 7) && step == 1) {
    pixel_row<T, 7, 1>(r);
  } else {
    pixel_row<T, 0, 0>(r);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
