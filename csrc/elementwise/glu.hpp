// Gated linear units, of the elementwise family: half of an axis times an activation of the other.
//
//   y = a f(b)     da = dy f(b)     db = dy a f'(b)
//
// a and b are the first and the second half of x along one axis: a run of `inner` elements each, in
// turn. Plan: one pass over y (its gradient: over both halves), cut among threads at any element,
// for every lane does the same arithmetic in full vectors and in a remainder.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "elementwise/activation.hpp"

namespace arraynn {

struct GluShape {
  std::int64_t outer, inner;  // runs, and elements of a run of y
};

template <class T>
struct GluTable {
  // Elements [begin, end) of y.
  void (*forward)(const Activation& f, const GluShape& p, const T* x, T* y, std::int64_t begin,
                  std::int64_t end);
  void (*backward)(const Activation& f, const GluShape& p, const T* dy, const T* x, T* dx,
                   std::int64_t begin, std::int64_t end);
};
using GluKernels = StorageKernels<GluTable>;

ARRAYNN_KERNEL_TABLE(GluKernels, glu_kernels)

template <class T>
void run_glu(const Activation& f, const GluShape& p, const T* x, T* y);
template <class T>
void run_glu_backward(const Activation& f, const GluShape& p, const T* dy, const T* x, T* dx);

}  // namespace arraynn
