// Norm family: layer_norm, rms_norm, batch_norm, group_norm, instance_norm, forward and backward.
//
//   y  = f((x - mean) rstd w + b),   rstd = 1 / sqrt(var + eps), var = mean of (x - mean)^2
//   dx = rstd (g - mean g - xhat mean(g xhat)),   g = dy w, xhat = (x - mean) rstd
//   dw = sum dy xhat,   db = sum dy
//
// rms_norm has mean = 0 and var = mean of x^2. Means are over what shares a statistic: a row, a channel
// of all samples, the channels of a group in one sample. Fixed statistics (inference) are constants:
// dx = dy rstd w.
//
// Statistics. A block of at most kNormBlock elements is swept twice while it is in L1: its mean, then
// the sums of d and d^2, d = x - mean. In float32 the sum of d puts right what the mean rounded off,
// and d is exact for data far from 0. Blocks are merged in float64 in an order fixed by the shape
// (Chan, Golub, LeVeque, 1983). The mean is applied in two parts, mean = m + rest: m is subtracted,
// the rest is in the shift, so y does not inherit the rounding of m to float32.
//
// Plan. Rows (layer, rms): a thread owns rows. Channels: arrays are (n, c, s) or, channels last,
// (n, s, c); a batch norm over one position each, or channels last, is one sample of n s positions.
// Three phases: moments of blocks, statistics and coefficients, application. Where what shares
// statistics fits kFusedBytes a thread runs all three on it while it is in L2, and x is read once;
// elsewhere the team goes through the phases together. Either way the same blocks are merged in the
// same order, so the plan and the number of threads cannot be seen in the bits. Vectors per channel or
// column are widened first in 16 bits: kernels have C = Compute<T> for them.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/index.hpp"
#include "core/stream.hpp"
#include "elementwise/activation.hpp"

namespace arraynn {

// Elements of a block: 16 or 32 KiB, in L1 for its second sweep.
inline constexpr std::int64_t kNormBlock = 4096;
// Positions of a block of columns: four vectors of them are 8 to 16 KiB.
inline constexpr std::int64_t kNormRows = 64;
// Half of a small L2: what is normalised while it stays there.
inline constexpr std::int64_t kFusedBytes = std::int64_t{512} << 10;
// Contiguous bytes that a box of channels should have in every sample, for whole cache lines.
inline constexpr std::int64_t kBoxBytes = 2048;
// At most so many partial sums of the gradients by weight and bias.
inline constexpr std::int64_t kRowParts = 64;
inline constexpr std::int64_t kRowsOfPart = 16;

// Mean and sum of squared differences from it.
struct Moments {
  double mean, m2;
};

// Of na and nb elements together. Units of different levels include this: forced inline.
ARRAYNN_INLINE constexpr Moments merge_moments(Moments a, double na, Moments b, double nb) {
  const double delta = b.mean - a.mean, share = nb / (na + nb);
  return {a.mean + delta * share, a.m2 + b.m2 + delta * delta * (na * share)};
}

// sum dy and sum dy (x - m).
struct GradientSums {
  double dy, product;
};

// y = f((x - m) scale + shift), per channel; `stream`: stored past the caches.
template <class T>
struct Affine {
  T *m, *scale, *shift;
  bool stream = false;
};
// dx = a dy + b (x - m) + c, per channel.
template <class T>
struct Slope {
  T *m, *a, *b, *c;
  bool stream = false;
};

struct RowNorm {
  std::int64_t rows, n;
  double eps;
  bool centred;  // layer_norm
  Activation activation;
  bool stream = false;  // y or dx past the caches
};

// Runs of a channel. For the sums `runs` of them, `stride` apart, at most kNormBlock elements;
// elsewhere one run each of `planes` channels, side by side.
template <class T>
struct NormBlockTable {
  using C = Compute<T>;
  Moments (*moments)(const T* x, std::int64_t runs, std::int64_t n, std::int64_t stride);
  void (*apply)(const T* x, T* y, std::int64_t planes, std::int64_t n, const Affine<C>& k,
                const Activation& activation);
  GradientSums (*sums)(const T* dy, const T* x, std::int64_t runs, std::int64_t n,
                       std::int64_t stride, C m);
  void (*gradient)(const T* dy, const T* x, T* dx, std::int64_t planes, std::int64_t n,
                   const Slope<C>& k);
  // All of a group: planes of n elements that share statistics, kNormBlock elements at most, backward
  // a plane. w, b and y or dx may be null; sums takes (sum dy, sum dy xhat) of each plane.
  Moments (*group)(const T* x, const C* w, const C* b, T* y, std::int64_t planes, std::int64_t n,
                   double eps, const Activation& activation, bool stream);
  void (*group_gradient)(const T* dy, const T* x, const C* w, T* dx, std::int64_t planes,
                         std::int64_t n, double mean, double rstd, GradientSums* sums, bool stream);
};
// `rows` positions of `c` channels; at most kNormRows for the sums.
template <class T>
struct NormColumnTable {
  using C = Compute<T>;
  void (*moments)(const T* x, std::int64_t rows, std::int64_t c, Moments* moments);
  void (*apply)(const T* x, T* y, std::int64_t rows, std::int64_t c, const Affine<C>& k,
                const Activation& activation);
  void (*sums)(const T* dy, const T* x, std::int64_t rows, std::int64_t c, const C* m,
               GradientSums* sums);
  void (*gradient)(const T* dy, const T* x, T* dx, std::int64_t rows, std::int64_t c,
                   const Slope<C>& k);
};
// Rows [begin, end).
template <class T>
struct NormRowTable {
  using C = Compute<T>;
  // Statistics are written where the pointers are not null; y may be null.
  void (*forward)(const RowNorm& p, const T* x, const C* w, const C* b, T* y, double* mean,
                  double* rstd, std::int64_t begin, std::int64_t end);
  // Statistics are read. dw and db, n each, are added to; either and dx may be null.
  void (*backward)(const RowNorm& p, const T* dy, const T* x, const C* w, const double* mean,
                   const double* rstd, T* dx, C* dw, C* db, std::int64_t begin, std::int64_t end);
};
ARRAYNN_KERNEL_TABLE(StorageKernels<NormBlockTable>, norm_block_kernels)
ARRAYNN_KERNEL_TABLE(StorageKernels<NormColumnTable>, norm_column_kernels)
ARRAYNN_KERNEL_TABLE(StorageKernels<NormRowTable>, norm_row_kernels)

// Whether a result goes past the caches. One that an activation passes over once more does not.
ARRAYNN_INLINE bool streams(std::int64_t elements, std::int64_t item, const Activation& f) {
  const bool one_pass = f.kind == ActivationKind::kNone || f.kind == ActivationKind::kRelu;
  return one_pass && streams(elements, item);
}

// Statistics over a channel of the batch (groups = 0) or over c / groups channels of a sample.
struct ChannelNorm {
  std::int64_t n, c, s;
  std::int64_t groups;
  bool channels_last;
  double eps;
  Activation activation;

  constexpr std::int64_t statistics() const { return groups == 0 ? c : n * groups; }
  // Elements behind one statistic.
  constexpr std::int64_t count() const { return groups == 0 ? n * s : c / groups * s; }
};

// Running statistics, `stride` elements apart; mean = nullptr for none.
template <class T>
struct Running {
  T *mean, *var;
  std::int64_t mean_stride, var_stride;
  double momentum;
};

// w and b may be null. Statistics are written, or read when `fixed`.
template <class T>
void channel_norm(const char* op, const ChannelNorm& p, const T* x, const T* w, const T* b, T* y,
                  double* mean, double* rstd, bool fixed, const Running<T>& running);
// dx, dw and db may be null. `fixed`: the statistics are constants.
template <class T>
void channel_norm_backward(const char* op, const ChannelNorm& p, const T* dy, const T* x,
                           const T* w, const double* mean, const double* rstd, bool fixed, T* dx,
                           T* dw, T* db);
// y may be null: statistics alone. mean and rstd may be null.
template <class T>
void row_norm(const RowNorm& p, const T* x, const T* w, const T* b, T* y, double* mean,
              double* rstd);
template <class T>
void row_norm_backward(const char* op, const RowNorm& p, const T* dy, const T* x, const T* w,
                       const double* mean, const double* rstd, T* dx, T* dw, T* db);

}  // namespace arraynn
