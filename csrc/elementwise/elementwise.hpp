// Elementwise family: activations, their gradients, and dropout.
//
//   activation           y[i]  = f(x[i])
//   activation_backward  dx[i] = dy[i] f'(x[i])
//   dropout              y[i]  = keep(i) ? x[i] scale : 0
//
// Plan: one pass over contiguous arrays, cut among threads at whole vectors. Every lane does the
// same arithmetic in full vectors and in the remainder, so results do not depend on the cut.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/philox.hpp"
#include "elementwise/activation.hpp"

namespace arraynn {

// Elements that one thread should have at least: about 10 us of memory traffic, the order of waking
// a team.
inline constexpr double kElementwiseGrain = 32768;
// Threads are cut at multiples of this: whole vectors and whole Philox blocks at every ISA.
inline constexpr std::int64_t kElementwiseBlock = 64;

// keep(i): word i % 4 of Philox block i / 4 is at least `threshold` = floor(p 2^32).
struct Dropout {
  std::uint64_t threshold;  // 2^32 drops everything
  double scale;             // 1 / (1 - p)
  PhiloxKey key;
};

// The functions of simd/math.hpp by themselves, for the tests of their errors.
enum class MathFunction : std::uint8_t { kExp, kExpm1, kLog, kLog1pUnit, kErf, kNormalCdf };

template <class T>
struct ElementwiseTable {
  void (*activation)(const Activation& f, const T* x, T* y, std::int64_t n);
  void (*activation_backward)(const Activation& f, const T* dy, const T* x, T* dx, std::int64_t n);
  // Elements [begin, end); begin is a multiple of kElementwiseBlock.
  void (*dropout)(const Dropout& d, const T* x, T* y, std::int64_t begin, std::int64_t end);
};
using ElementwiseKernels = StorageKernels<ElementwiseTable>;

template <class T>
struct MathTable {
  void (*run)(MathFunction f, const T* x, T* y, std::int64_t n);
};
using MathKernels = FloatKernels<MathTable>;

ARRAYNN_KERNEL_TABLE(ElementwiseKernels, elementwise_kernels)
ARRAYNN_KERNEL_TABLE(MathKernels, math_kernels)

template <class T>
void run_activation(const Activation& f, const T* x, T* y, std::int64_t n);
template <class T>
void run_activation_backward(const Activation& f, const T* dy, const T* x, T* dx, std::int64_t n);
template <class T>
void run_dropout(const Dropout& d, const T* x, T* y, std::int64_t n);
template <class T>
void run_math(MathFunction f, const T* x, T* y, std::int64_t n);

}  // namespace arraynn
