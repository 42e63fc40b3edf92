// Gradient by x of a depthwise 3x3 of stride 2, with the columns of a row as lanes: of two neighbouring
// results along an axis one sees a single position of the source and the other two, so that two rows of
// the source give two rows of results. Both kinds of columns are computed apart and stored by turns. Taps
// are added in ascending order from 0.
#pragma once
#include "conv/depthwise_planes.hpp"
#include "conv/lanes.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// The residues of an axis by the positions that they see.
struct SpreadAxis {
  DirectAxis one, two;
  std::int64_t count;  // of pairs of results

  std::int64_t first() const { return two.offset[0]; }  // position that the first pair sees
  // Whether `two` comes first, and `one` sees its second position.
  bool is_turned() const { return two.out_begin == 0; }
};

// False of other axes.
static inline bool make_spread(const DirectAxis* residues, std::int64_t count, SpreadAxis* s) {
  if (count != 2 || residues[0].out_step != 2) return false;
  const int two = residues[0].taps == 2 ? 0 : 1;
  *s = {residues[1 - two], residues[two], residues[0].count};
  return s->one.taps == 1 && neighbours(s->two, 2) &&
         s->one.offset[0] == s->two.offset[two == 0 ? 1 : 0];
}

// Pairs of rows and a vector of pairs of columns of a tile.
inline constexpr std::int64_t kSpreadRows = 4;

// Results of one row from pair `b` of columns on.
template <class T, bool kTurned>
ARRAYNN_INLINE void finish_pair(const DepthwiseConv<T>& d, const Plane<T>& plane, std::int64_t row,
                                std::int64_t b, Vec<T> one, Vec<T> two) {
  if (row >= d.out_h) return;
  Vec<T> sum[2];
  merge_pair(kTurned ? two : one, kTurned ? one : two, &sum[0], &sum[1]);
  finish_tile<T, 1, 2>(d, plane, 0, row, d.out_h, 2 * b, sum);
}

// weights[i][j]: of a tap along the height and one along the width, the single one and then the two.
// kTurned: SpreadAxis::is_turned of the columns.
template <class T, bool kTurned>
static void spread_tile(const DepthwiseConv<T>& d, const SpreadAxis& h, const SpreadAxis& w,
                        const Plane<T>& plane, const T (&weights)[3][3], const T* source_end,
                        Range rows, std::int64_t b) {
  const std::int64_t column = b + w.first(), width = d.w.size;
  const InsideLanes<T> lanes[2] = {{column, width}, {column + 1, width}};
  Vec<T> weight[9];  // results may lie anywhere, for all that the compiler knows
  ARRAYNN_UNROLL for (int t = 0; t < 9; ++t) weight[t] = Vec<T>::set1(weights[t / 3][t % 3]);
  const auto add = [&](int i, int j, const Vec<T>& x, const Vec<T>& sum) {
    return fma(weight[3 * i + j], x, sum);
  };
  constexpr int kSingle = kTurned ? 1 : 0;  // of the vectors at `column` and behind it
  for (std::int64_t a = rows.begin; a < rows.end; ++a) {
    Vec<T> x[3][2];
    ARRAYNN_UNROLL for (int i = 0; i < 3; ++i) {
      const std::int64_t row = a + (i == 0 ? h.one.offset[0] : h.two.offset[i - 1]);
      const T* p = plane.src + row * width + column;
      [[maybe_unused]] T copy[kMaskedMemory ? 1 : kLineVectors * kLanes<T>];
      if (row < 0 || row >= d.h.size) {
        p = kZeroLine<T>;
      } else if constexpr (!kMaskedMemory) {
        if (p < d.src || p + kLineVectors * kLanes<T> > source_end) {
          copy_line(p - column, column, width, copy);
          p = copy;
        }
      }
      x[i][0] = lanes[0].load(p);
      x[i][1] = lanes[1].load(p + 1);
    }
    const Vec<T> zero = Vec<T>::zero();
    finish_pair<T, kTurned>(d, plane, 2 * a + h.one.out_begin, b, add(0, 0, x[0][kSingle], zero),
                            add(0, 2, x[0][1], add(0, 1, x[0][0], zero)));
    finish_pair<T, kTurned>(
        d, plane, 2 * a + h.two.out_begin, b,
        add(2, 0, x[2][kSingle], add(1, 0, x[1][kSingle], zero)),
        add(2, 2, x[2][1], add(2, 1, x[2][0], add(1, 2, x[1][1], add(1, 1, x[1][0], zero)))));
  }
}

// Results of the second tile below: too many rows for the hardware to follow.
template <class T>
ARRAYNN_INLINE void prefetch_results(const DepthwiseConv<T>& d, const Plane<T>& plane,
                                     std::int64_t r, std::int64_t b) {
  constexpr int kLine = 64 / static_cast<int>(sizeof(T));
  const T* row = plane.out + 2 * r * d.out_w + 2 * b;
  for (int i = 0; i < 2 * kSpreadRows; ++i, row += d.out_w) {
    ARRAYNN_UNROLL for (int v = 0; v < 2 * kLanes<T>; v += kLine) __builtin_prefetch(row + v, 1);
  }
}

template <class T>
static void run_spread(const DepthwiseResidues<T>& residues, const SpreadAxis& h,
                       const SpreadAxis& w, int threads) {
  DepthwiseConv<T> d = residues;
  d.w.count = d.out_w;
  d.h.out_step = d.w.out_step = 1;
  d.h.out_begin = d.w.out_begin = 0;
  const T* source_end = d.src + d.n * d.channels * d.h.size * d.w.size;
  for_strips(d, h.count, threads, [&](std::int64_t p, std::int64_t channel, Range rows) {
    T weights[3][3];
    const T* kernel = d.weight + channel * d.kernel_h * d.kernel_w;
    for (int i = 0; i < 3; ++i) {
      const std::int64_t row = i == 0 ? h.one.kernel[0] : h.two.kernel[i - 1];
      for (int j = 0; j < 3; ++j) {
        const std::int64_t tap = j == 0 ? w.one.kernel[0] : w.two.kernel[j - 1];
        weights[i][j] = kernel[row * d.kernel_w + tap];
      }
    }
    const Plane<T> plane = plane_of(d, p, channel);
    for (std::int64_t r = rows.begin; r < rows.end; r += kSpreadRows) {
      const Range tile{r, min_i(rows.end, r + kSpreadRows)};
      for (std::int64_t b = 0; b < w.count; b += kLanes<T>) {
        if (w.count > kLanes<T>) prefetch_results(d, plane, r + 2 * kSpreadRows, b);
        if (w.is_turned()) {
          spread_tile<T, true>(d, h, w, plane, weights, source_end, tile, b);
        } else {
          spread_tile<T, false>(d, h, w, plane, weights, source_end, tile, b);
        }
      }
    }
  });
}

}  // namespace ARRAYNN_ISA_NAMESPACE
