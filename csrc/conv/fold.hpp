// unfold: y[n, (c kh + i) kw + j, oh ow + w] = x[n, c, h sh - ph + i dh, w sw - pw + j dw], 0 outside
// fold:   x[n, c, ...] = sum of the elements of y that unfold reads there
// Each is the gradient of the other. Bound by memory; rows of y are runs of rows of x. A thread owns
// rows of y (unfold) or planes of x (fold), whose sums have the order of the kernel's positions.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/index.hpp"

namespace arraynn {

struct FoldAxis {
  std::int64_t size, kernel, stride, dilation, begin, out;
};

struct FoldProblem {
  std::int64_t n, c;
  FoldAxis h, w;

  constexpr std::int64_t taps() const { return h.kernel * w.kernel; }
  constexpr std::int64_t windows() const { return h.out * w.out; }
  constexpr std::int64_t image() const { return h.size * w.size; }
};

template <class T>
struct FoldTable {
  // rows of y, over all samples; planes of x
  void (*unfold)(const FoldProblem& p, const T* x, T* y, Range rows);
  void (*fold)(const FoldProblem& p, const T* y, T* x, Range planes);
};
using FoldKernels = FloatKernels<FoldTable>;

ARRAYNN_KERNEL_TABLE(FoldKernels, fold_kernels)

template <class T>
void run_unfold(const FoldProblem& p, const T* x, T* y);
template <class T>
void run_fold(const FoldProblem& p, const T* y, T* x);

}  // namespace arraynn
