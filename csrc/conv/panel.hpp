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

// dst[t * step] lane i = element i * kCount + t of the vectors v laid end to end; kCount a power of two.
template <int kCount, class T>
ARRAYNN_INLINE void deal(const Vec<T>* v, Vec<T>* dst, int step) {
  if constexpr (kCount == 1) {
    dst[0] = v[0];
  } else {
    Vec<T> even[kCount / 2], odd[kCount / 2];
    ARRAYNN_UNROLL for (int i = 0; i < kCount / 2; ++i) {
      split_pair(v[2 * i], v[2 * i + 1], &even[i], &odd[i]);
    }
    deal<kCount / 2>(even, dst, 2 * step);
    deal<kCount / 2>(odd, dst + step, 2 * step);
  }
}

// Whole vectors of columns whose taps are neighbours, by x: a row of kTaps, or of squares of a vector's, is
// dealt to its taps. Rows a power of two apart share sets of L1, so those on their way wait in L2.
template <int kTaps, class T>
static void deal_weights(std::int64_t taps, const T* w, std::int64_t weight_c, std::int64_t unit,
                         const std::int64_t* tap_row, std::int64_t tap_step, T* dst) {
  constexpr int kL = kLanes<T>;
  for (std::int64_t c = 0; c < unit; ++c) {
    const T* row = w + c * weight_c;
    for (std::int64_t i = 0; i < taps; ++i) {
      __builtin_prefetch(row + kPrefetchRows * weight_c + i * kL, 0, 2);
    }
    for (std::int64_t first = 0; first < taps; first += kTaps) {
      Vec<T> dealt[kTaps];
      if constexpr (kTaps == kL) {
        ARRAYNN_UNROLL for (int i = 0; i < kL; ++i) {
          dealt[i] = Vec<T>::load(row + first + i * taps);
        }
        transpose(dealt);
      } else {
        Vec<T> v[kTaps];
        ARRAYNN_UNROLL for (int i = 0; i < kTaps; ++i) v[i] = Vec<T>::load(row + i * kL);
        deal<kTaps>(v, dealt, 1);
      }
      ARRAYNN_UNROLL for (int i = 0; i < kTaps; ++i) {
        const std::int64_t at = tap_row[first + i];
        if (at >= 0) dealt[i].store(dst + (at * tap_step + c) * kNR<T>);
      }
    }
  }
}
// False of other numbers of taps.
template <class T>
static bool deal_weights(std::int64_t taps, const T* w, std::int64_t weight_c, std::int64_t unit,
                         const std::int64_t* tap_row, std::int64_t tap_step, T* dst) {
  const auto run = [&]<int kTaps>() {
    if constexpr (kTaps <= kLanes<T>) {
      if (taps == kTaps || (kTaps == kLanes<T> && taps % kTaps == 0)) {
        deal_weights<kTaps>(taps, w, weight_c, unit, tap_row, tap_step, dst);
        return true;
      }
    }
    return false;
  };
  return run.template operator()<2>() || run.template operator()<4>() ||
         run.template operator()<8>() || run.template operator()<16>();
}

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
    const bool together = d.weight_c == taps;
    if (d.weight_j == taps && count == kL &&
        deal_weights(taps, w, d.weight_c, unit, tap_row, tap_step, out)) {
      continue;
    }
    // A few taps: one by one, and long before the far rows arrive.
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
      if (!together) {
        for (std::int64_t r = 0; r < count; r += line) {
          __builtin_prefetch(w + (c0 + kPrefetchRows) * d.weight_c + r * d.weight_j);
        }
      }
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

// How results lie in a panel: rows of `residues` by turns, `pitch` pixels each from result `column` on.
struct PanelRows {
  std::int64_t residues, pitch, column;
};

// channels_first: a finished panel [pixel][kOutputStep] of output rows [g0, g1) goes to its planes.
template <class T>
static void store_planes(const DirectConv<T>& d, T* panel, const PanelRows& lie, std::int64_t g0,
                         std::int64_t g1, std::int64_t j0, std::int64_t columns) {
  const std::int64_t plane = d.depth.out_size * d.out_h * d.out_w;
  // Rows of one sample are contiguous in the plane when every position is written.
  const bool dense = lie.pitch == d.out_w && lie.residues == min_i(d.h.out_step, d.out_h);
  for (std::int64_t g = g0; g < g1;) {
    const std::int64_t a = g % d.h.count, count = dense ? min_i(g1 - g, d.h.count - a) : 1;
    const std::int64_t first = a * d.h.out_step + d.h.out_begin;
    const std::int64_t end = min_i(d.out_h, first + (count - 1) * d.h.out_step + lie.residues);
    const std::int64_t rows = dense ? end - first : 1, pixels = rows * lie.pitch;
    std::int64_t offset = out_offset(d, g, 0) + lie.column + j0 * plane;
    T* src = panel + (g - g0) * lie.residues * lie.pitch * kOutputStep<T>;
    for (std::int64_t row = first; row < end; row += rows) {
      T* out = d.out + offset;
      // Plane after plane: all at once they may share cache sets, which evict what is written half.
      for (std::int64_t j = 0; j < columns; j += kLanes<T>) {
        transpose_copy(src + j, kOutputStep<T>, out + j * plane, plane, pixels,
                       min_i(kLanes<T>, columns - j));
      }
      if (d.residual != nullptr) {
        for (std::int64_t j = 0; j < columns; ++j) {
          T* line = out + j * plane;
          const T* residual = d.residual + offset + j * plane;
          for (std::int64_t i = 0; i < pixels; ++i) line[i] += residual[i];
          if (d.activation.kind != ActivationKind::kNone) {
            activate_rows(d.activation, &line, 1, pixels);
          }
        }
      }
      src += pixels * kOutputStep<T>;
      offset += rows * d.out_w;
    }
    g += count;
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
