// Softmax family: softmax, log_softmax, cross_entropy and nll_loss, forward and backward.
//
//   softmax        y_c = e_c / s,   e_c = exp(z_c - m), m = max z, s = sum e
//   log_softmax    y_c = (z_c - m) - log s
//   cross_entropy  loss = sum_c T_c (log s - (z_c - m)),   dz = g (e / s sum T - T)
//   nll_loss       loss = -w_y z_y,                        dz_c = -g w_y [c == y]
//
// T is the smoothed and weighted target: (1 - eps) w_y [c == y] + eps w_c / C for a class index y,
// w_c ((1 - eps) t_c + eps / C) for probabilities t; all 0 for an ignored sample.
//
// Plan. An array is (outer, n, inner) around the axis. inner == 1: one row at a time. Rows up to
// kShortRow stay in L2 for three sweeps (maximum; exponentials and their sum, stored; scaling); in 16
// bits those up to kRowBlock, whose exponentials stay in float32.
// Longer ones are read twice: blocks of kRowBlock give (m, s) pairs, merged in order, then the
// exponentials are taken again; few long rows are shared among threads by blocks. inner > 1: strips
// of kStrip columns, vectors across the columns, (m, s) merged every kColumnBlock rows; nothing is
// transposed. All cuts are fixed by the shape, so bits do not depend on the number of threads.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"

namespace arraynn {

inline constexpr std::int64_t kRowBlock = 4096;
// 256 KiB: with its output half of an L2.
template <class T>
inline constexpr std::int64_t kShortRow = (std::int64_t{256} << 10) / sizeof(T);
inline constexpr std::int64_t kStrip = 256;
inline constexpr std::int64_t kColumnBlock = 16;
// Elements that one thread should have at least; an exponential each.
inline constexpr double kSoftmaxGrain = 16384;

enum class SoftmaxKind : bool { kSoftmax, kLogSoftmax };
enum class Reduction : std::uint8_t { kNone, kSum, kMean };

// Sizes around the axis.
struct SoftmaxShape {
  std::int64_t outer, n, inner;
};

// The maximum (at least the lowest finite number) and the sum of exp(z - max) of some elements.
template <class T>
struct SoftmaxStats {
  T max, sum;
};

// Of nll_loss as well: its logits are log-probabilities, its targets class indices, not smoothed.
template <class T>
struct CrossEntropy {
  using C = Compute<T>;

  SoftmaxShape shape;  // (N, C, d1 d2 ...)
  const T* logits;
  const std::int64_t* target;  // class indices, or
  const T* probabilities;      // of logits' shape
  const C* weight;             // (C,) or nullptr
  std::int64_t ignore_index;
  double smoothing;
  double weight_sum;  // of all classes
};

template <class T>
struct SoftmaxTable {
  // Whole rows. `stream`: the result goes past the caches, where it is not read again.
  void (*rows)(SoftmaxKind kind, const T* x, T* y, std::int64_t rows, std::int64_t n, bool stream);
  void (*rows_backward)(SoftmaxKind kind, const T* dy, const T* y, T* dx, std::int64_t rows,
                        std::int64_t n, bool stream);
  // Parts of a long row.
  SoftmaxStats<Compute<T>> (*block_stats)(const T* x, std::int64_t n);
  SoftmaxStats<Compute<T>> (*merge)(const SoftmaxStats<Compute<T>>* stats, std::int64_t count);
  void (*block_finish)(SoftmaxKind kind, SoftmaxStats<Compute<T>> stats, const T* x, T* y,
                       std::int64_t n, bool stream);
  // Columns [0, width) of an (n, inner) matrix, width <= kStrip.
  void (*strip)(SoftmaxKind kind, const T* x, T* y, std::int64_t n, std::int64_t inner,
                std::int64_t width);
  void (*strip_backward)(SoftmaxKind kind, const T* dy, const T* y, T* dx, std::int64_t n,
                         std::int64_t inner, std::int64_t width);
};
using SoftmaxKernels = StorageKernels<SoftmaxTable>;

// Units [begin, end) are rows, or strips when inner > 1: see cross_entropy_units.
template <class T>
struct CrossEntropyTable {
  void (*forward)(const CrossEntropy<T>& p, Compute<T>* losses, std::int64_t begin,
                  std::int64_t end);
  // g: one gradient per sample, or nullptr for `scale` alone.
  void (*backward)(const CrossEntropy<T>& p, const Compute<T>* g, Compute<T> scale, T* dx,
                   std::int64_t begin, std::int64_t end);
};
using CrossEntropyKernels = StorageKernels<CrossEntropyTable>;
using NllLossKernels = StorageKernels<CrossEntropyTable>;

ARRAYNN_KERNEL_TABLE(SoftmaxKernels, softmax_kernels)
ARRAYNN_KERNEL_TABLE(CrossEntropyKernels, cross_entropy_kernels)
ARRAYNN_KERNEL_TABLE(NllLossKernels, nll_loss_kernels)

enum class Loss : bool { kCrossEntropy, kNll };

template <class T>
void run_softmax(SoftmaxKind kind, const SoftmaxShape& shape, const T* x, T* y);
template <class T>
void run_softmax_backward(SoftmaxKind kind, const SoftmaxShape& shape, const T* dy, const T* y,
                          T* dx);
// losses: one per sample.
template <class T>
void run_loss(Loss loss, const CrossEntropy<T>& p, Compute<T>* losses);
template <class T>
void run_loss_backward(Loss loss, const CrossEntropy<T>& p, const Compute<T>* g, Compute<T> scale,
                       T* dx);

}  // namespace arraynn
