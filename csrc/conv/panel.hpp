// Panels of NR output columns: weights packed for the microkernel, and finished sums on their way to
// the planes of channels_first.
#pragma once
#include "conv/conv.hpp"
#include "gemm/ukernel.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Taps up to which single elements cost less than a transpose of all, and rows from one such read to the
// one that is on its way meanwhile.
inline constexpr std::int64_t kFewTaps = 4, kPrefetchRows = 8;

// One unit of a panel of weights, rows of NR columns in the order in which the runs meet them:
//   dst[(tap_row * tap_step + c) * NR + j] = weight[j * weight_j + (begin + c) * weight_c + tap]
template <class T>
static void pack_weights(const DirectConv<T>& d, const std::int64_t* tap_row, std::int64_t panel,
                         Range channels, std::int64_t tap_step, T* dst) {
  constexpr int kL = kLanes<T>;
  const std::int64_t taps = d.kernel_h * d.kernel_w, unit = channels.end - channels.begin;
  const std::int64_t line = max_i(1, 64 / (d.weight_j * static_cast<std::int64_t>(sizeof(T))));
  std::int64_t used = 0;
  for (std::int64_t tap = 0; tap < taps; ++tap) used += tap_row[tap] >= 0 ? 1 : 0;
  for (int v = 0; v < kNV; ++v) {
    const std::int64_t j0 = panel * kNR<T> + v * kL;
    const std::int64_t count = max_i(0, min_i(kL, d.columns - j0));
    const T* w = d.weight + j0 * d.weight_j + channels.begin * d.weight_c;
    T* out = dst + v * kL;
    if (d.weight_j == 1) {
      for (std::int64_t c = 0; c < unit; ++c) {
        if (tap_row[0] >= 0) load_n(w + c * d.weight_c, count).store(out + c * kNR<T>);
      }
      continue;
    }
    // A few taps of many, as by x with a stride: one by one, and long before the far rows arrive.
    const bool together = d.weight_c == taps;
    if (!together && used <= kFewTaps) {
      for (std::int64_t c = 0; c < unit; ++c) {
        const T* row = w + c * d.weight_c;
        for (std::int64_t r = 0; r < count; r += line) {
          __builtin_prefetch(row + kPrefetchRows * d.weight_c + r * d.weight_j);
        }
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          if (tap_row[tap] < 0) continue;
          T* to = out + (tap_row[tap] * tap_step + c) * kNR<T>;
          for (std::int64_t r = 0; r < count; ++r) to[r] = row[r * d.weight_j + tap];
          for (std::int64_t r = count; r < kL; ++r) to[r] = T(0);
        }
      }
      continue;
    }
    // Elements f = c * taps + tap lie together when c moves by `taps`: one long row, else one a c.
    const std::int64_t length = together ? unit * taps : taps;
    for (std::int64_t c0 = 0; c0 < (together ? 1 : unit); ++c0) {
      std::int64_t c = c0, tap = 0;
      for (std::int64_t f0 = 0; f0 < length; f0 += kL) {
        const std::int64_t depth = min_i(kL, length - f0);
        Vec<T> rows[kL];
        for (int r = 0; r < kL; ++r) {
          rows[r] =
              r < count ? load_n(w + r * d.weight_j + c0 * d.weight_c + f0, depth) : Vec<T>::zero();
        }
        transpose(rows);
        for (int q = 0; q < kL; ++q) {
          if (q >= depth) break;
          if (tap_row[tap] >= 0) {
            rows[q].store(out + (tap_row[tap] * tap_step + c) * kNR<T>);
          }
          if (++tap == taps) {
            tap = 0;
            ++c;
          }
        }
      }
    }
  }
}

// Elements between the pixels of a panel that waits for its transpose. Pixels of one class may be a
// power of two apart, and NR more would put them into few cache sets.
template <class T>
inline constexpr std::int64_t kOutputStep = kNR<T> + kLanes<T>;

// Elements between the pixels of the panel that results wait in, to be pooled or transposed; 0 where
// they go straight to their pixels.
template <class T>
ARRAYNN_INLINE std::int64_t panel_step(const DirectConv<T>& d, std::int64_t columns) {
  if (d.pool != nullptr) return round_up(columns, kLanes<T>);
  return d.channels_last ? 0 : kOutputStep<T>;
}

// Element offset in `out` of column 0 of the group at output row g (of the batch), column b.
template <class T>
ARRAYNN_INLINE std::int64_t out_offset(const DirectConv<T>& d, std::int64_t g, std::int64_t b) {
  const std::int64_t image = d.depth.target(g / d.h.count), a = g % d.h.count;
  const std::int64_t row = a * d.h.out_step + d.h.out_begin;
  const std::int64_t column = b * d.w.out_step + d.w.out_begin;
  if (d.channels_last) {
    return ((image * d.out_h + row) * d.out_w + column) * d.out_channels + d.out_channel;
  }
  const std::int64_t sample = image / d.depth.out_size, depth = image % d.depth.out_size;
  const std::int64_t plane = (sample * d.out_channels + d.out_channel) * d.depth.out_size + depth;
  return (plane * d.out_h + row) * d.out_w + column;
}

// Adds the residual of one output row to its pixels in the panel and activates them, where the
// positions are not neighbours in memory.
template <class T>
static void finish_strided_row(const DirectConv<T>& d, T* panel, std::int64_t offset,
                               std::int64_t plane, std::int64_t columns) {
  for (std::int64_t b = 0; b < d.w.count; ++b) {
    T* pixel = panel + b * kOutputStep<T>;
    const T* residual = d.residual + offset + b * d.w.out_step;
    for (std::int64_t j = 0; j < columns; ++j) pixel[j] += residual[j * plane];
    if (d.activation.kind != ActivationKind::kNone) activate_rows(d.activation, &pixel, 1, columns);
  }
}

// channels_first: a finished panel [pixel][kOutputStep] of output rows [g0, g1) goes to its planes.
template <class T>
static void store_planes(const DirectConv<T>& d, T* panel, std::int64_t g0, std::int64_t g1,
                         std::int64_t j0, std::int64_t columns) {
  const std::int64_t plane = d.depth.out_size * d.out_h * d.out_w, width = d.w.count;
  const bool neighbours = d.w.out_step == 1;
  const bool dense = neighbours && width == d.out_w && d.h.out_step == 1;
  for (std::int64_t g = g0; g < g1;) {
    // Rows of one sample are contiguous in the plane when every position is written.
    const std::int64_t rows = dense ? min_i(g1 - g, d.h.count - g % d.h.count) : 1;
    T* src = panel + (g - g0) * width * kOutputStep<T>;
    const std::int64_t offset = out_offset(d, g, 0) + j0 * plane;
    T* out = d.out + offset;
    if (d.residual != nullptr && !neighbours) finish_strided_row(d, src, offset, plane, columns);
    if (d.w.out_step == 1) {
      transpose_copy(src, kOutputStep<T>, out, plane, rows * width, columns);
    } else if (d.w.out_step == 2) {
      transpose_to_even(src, kOutputStep<T>, out, plane, width, columns);
    } else {
      for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t b = 0; b < width; ++b) {
          out[j * plane + b * d.w.out_step] = src[b * kOutputStep<T> + j];
        }
      }
    }
    if (d.residual != nullptr && neighbours) {
      for (std::int64_t j = 0; j < columns; ++j) {
        T* row = out + j * plane;
        const T* residual = d.residual + offset + j * plane;
        for (std::int64_t i = 0; i < rows * width; ++i) row[i] += residual[i];
        if (d.activation.kind != ActivationKind::kNone) {
          activate_rows(d.activation, &row, 1, rows * width);
        }
      }
    }
    g += rows;
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
