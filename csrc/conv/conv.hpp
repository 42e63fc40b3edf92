// conv2d: y[n,o,h,w] = activation(b[o] + r[n,o,h,w]
//           + sum_{c,i,j} x[n, c, h sh - ph + i dh, w sw - pw + j dw] W[o, c, i, j])    per group
// a cross-correlation; flip_kernel reverses i and j. Gradients by x, W and b.
//
// Plan.
//   gemm      1x1, stride 1, no padding, one group: the layout's own matrix product. Not for small
//             planes in channels_first, whose columns fill vectors badly
//   direct    everything else, forward and by x: for a strip of output rows the input is staged as
//             [row][column][channel] with its zero border (this is also where channels_first is
//             transposed), and gemm's row microkernel walks it: the MR rows of a tile are MR output
//             pixels, k runs over (kernel row, kernel column, channel) of the staged strip in
//             place. No patch is ever materialised. Rows longer than a strip are cut. By x: one
//             such convolution of dy for every residue of the position modulo the stride, all from a
//             strip that is staged once, with weights that are packed together (residues.hpp).
//   direct    by W: sum over pixels of x (ic rows) times dy (oc columns), tile by tile over the
//             staged strips, strips in fixed order.
//   first     few source channels in channels_first: lanes are columns of a row (cpu_first.cpp), with the
//             bits of direct
//   depthwise every output channel reads one source channel: a stencil (cpu_depthwise.cpp)
//   winograd  3x3 of stride 1: F(4x4, 3x3) over the same strips, forward and by x (cpu_winograd.cpp),
//             F(3x3, 4x4) by W (cpu_winograd_weight.cpp)
//   borders   pixels of a strip are sorted by the taps that they see (border.hpp); products with
//             the padding are left out, in all three directions.
//   units     few pixels under many weights: k is cut into units of channels, each packed when a
//             panel comes to it, while it is in cache; by W each unit leaves the cache as dw.
//   transposed  the gradient by x with the epilogue of a forward call; a height of 1 is conv1d.
//   volumes   an output plane is a sample whose strip holds a strip of every plane that the kernel's
//             depth reaches; rows of the kernel at all depths are its taps, in one sum. Planes at
//             the front and back that see fewer have calls of their own. A kernel without height
//             and width is one over an image of depth x (height width).
//   pooled    a strip's rows stay in the panel that they were formed in, behind the rows before them
//             that its windows overlap, and are pooled there (pooled.hpp). 1x1 by gemm, and windows
//             too tall for a panel, go through scratch a few samples at a time.
// Algorithm and strips depend on the sample's shape alone and no sum is split between threads: the
// same bits for every team and every batch.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/prepared.hpp"
#include "elementwise/activation.hpp"
#include "pool/pool.hpp"

namespace arraynn {

enum class Algorithm : std::uint8_t { kAuto, kDirect, kWinograd };

// What a convolution or one of its gradients does, for who asks.
struct ConvPlan {
  const char* algorithm = nullptr;  // null: there is nothing to compute
  const char* reason = nullptr;
  std::int64_t scratch = 0;  // bytes, of the largest of its calls
  int threads = 0;

  void note(const char* name, const char* why, std::int64_t bytes, int team) {
    algorithm = name;
    reason = why;
    scratch = bytes > scratch ? bytes : scratch;
    threads = team > threads ? team : threads;
  }
};

struct Conv2dProblem {
  const char* op;  // named when memory runs out
  std::int64_t n, ic, ih, iw, oc, oh, ow, kh, kw;
  std::int64_t stride_h, stride_w, pad_h, pad_w;  // top and left; the far side follows from oh, ow
  std::int64_t dilation_h, dilation_w, groups;
  bool channels_last, flip_kernel;
  Algorithm algorithm;
  PreparedWeight* forms = nullptr;  // of a packed weight
  ConvPlan* plan = nullptr;         // if set, a call describes itself there and computes nothing
  // Of the channels that are summed two of bfloat16 are one element (pairs.hpp): the source is
  // channels_last, channels_last tells the order of the result.
  bool pairs = false;
  // Of volumes, which an image is one plane of.
  std::int64_t id = 1, od = 1, kd = 1, stride_d = 1, pad_d = 0, dilation_d = 1;

  std::int64_t in_size() const { return id * ih * iw; }  // of a channel
  std::int64_t out_size() const { return od * oh * ow; }
  std::int64_t taps() const { return kd * kh * kw; }
  std::int64_t x_size() const { return n * ic * in_size(); }
  std::int64_t y_size() const { return n * oc * out_size(); }
  bool is_volume() const { return id > 1 || od > 1 || kd > 1 || pad_d > 0; }
  double flop() const {
    return 2.0 * static_cast<double>(y_size()) * static_cast<double>(ic / groups * taps());
  }
};

// A pooling of the result, by the kernels of that family. `p` spans all channels of the result.
template <class T>
struct ConvPool {
  PoolProblem p;
  bool average;
  AverageDivisor divisor;
  const PoolTable<T>* table;

  PoolTask task() const { return average ? PoolTask::kSum : PoolTask::kMax; }
  [[gnu::always_inline]] void run(const PoolProblem& part, const T* x, T* y, Range shares,
                                  void* scratch) const {
    if (average) {
      table->average(part, divisor, x, y, shares, scratch);
    } else {
      table->max(part, x, y, shares, scratch);
    }
  }
  // A band that lies as channels_last.
  [[gnu::always_inline]] void run_band(const PoolProblem& band, const T* x, T* y) const {
    run(band, x, y, {0, band.h.out}, nullptr);
  }
};

// One axis of a direct convolution over a source axis of `size` positions: output position a reads
// source positions a * step + offset[t] and is written at a * out_step + out_begin.
struct DirectAxis {
  std::int64_t count;  // output positions
  std::int64_t step;
  std::int64_t size;  // source positions; others read as 0
  std::int64_t out_step, out_begin;
  std::int64_t taps;
  const std::int64_t* offset;  // [taps] ascending
  const std::int64_t* kernel;  // [taps] index into the kernel axis
  // Of the height of a volume: taps are those of all depths, row by row, and kernel_h counts them.
  const std::int64_t* plane = nullptr;  // [taps] index into DirectDepth::offset, or null: all 0
};

// The planes of a volume: output plane a of a sample reads source planes a * step + offset[k], 0 outside, and is written as plane a * out_step + out_begin. The default is an image.
struct DirectDepth {
  std::int64_t count = 1, step = 1, size = 1;
  std::int64_t out_size = 1, out_step = 1, out_begin = 0;
  std::int64_t taps = 1;
  const std::int64_t* offset = nullptr;  // [taps], or null: 0

  std::int64_t source(std::int64_t image, std::int64_t k) const {
    const std::int64_t at = image % count * step + (offset == nullptr ? 0 : offset[k]);
    return at < 0 || at >= size ? -1 : image / count * size + at;
  }
  std::int64_t target(std::int64_t image) const {
    if (count == out_size) return image;  // without a division
    return image / count * out_size + image % count * out_step + out_begin;
  }
};

// out[n, positions, j] (+ epilogue) = sum over taps and source channels c of one group:
//   src[n, h, w, src_channel + c] * weight[j * weight_j + c * weight_c + kernel tap]
template <class T>
struct DirectConv {
  std::int64_t n;
  DirectAxis h, w;
  const T* src;
  std::int64_t src_channels, src_channel, channels;  // all, first of this group, of this group
  T* out;
  std::int64_t out_h, out_w, out_channels, out_channel, columns;
  const T* weight;
  std::int64_t weight_j, weight_c, kernel_h, kernel_w;
  bool channels_last;
  const T* bias;      // [columns] or null
  const T* residual;  // like out, or null
  Activation activation;
  DirectDepth depth;      // n counts output planes
  T* prepared = nullptr;  // all weights as the algorithm packs them, kept by the caller, or null
  bool prepare = false;   // fill `prepared` first
  const ConvPool<T>* pool = nullptr;  // if set, `out` is the pooled array and residual is null
};

// out[n, o, positions] (+ epilogue) = sum over taps:
//   src[n, o / multiplier, depth, h, w] * weight[o, kernel tap]
// At most kMostDepthwiseTaps along an axis, and kMostDepthwiseLines rows of the kernel at all its depths.
inline constexpr std::int64_t kMostDepthwiseTaps = 16, kMostDepthwiseLines = 64;

template <class T>
struct DepthwiseConv {
  std::int64_t n, channels, multiplier;  // of the result
  DirectAxis depth, h, w;
  const T* src;
  T* out;
  std::int64_t out_d, out_h, out_w;
  const T* weight;
  std::int64_t kernel_d, kernel_h, kernel_w;
  bool channels_last;
  const T* bias;      // [channels] or null
  const T* residual;  // like out, or null
  Activation activation;

  bool is_image() const {
    return depth.size == 1 && depth.taps == 1 && out_d == 1 && kernel_d == 1;
  }
};

// dw[oc, c, kh, kw] of one group.
template <class T>
struct WeightGradient {
  std::int64_t n;
  DirectAxis h, w;  // of the forward convolution
  const T* x;
  std::int64_t x_channels, x_channel, channels;
  const T* dy;
  std::int64_t dy_channels, dy_channel, columns;
  T* dw;
  std::int64_t kernel_h, kernel_w;
  bool channels_last;
  DirectDepth depth;  // n counts planes of dy
};

// dw[o, tap] of a depthwise convolution.
template <class T>
struct DepthwiseGradient {
  std::int64_t n, channels, multiplier;  // of dy
  DirectAxis depth, h, w;                // of the forward convolution
  const T *x, *dy;
  T* dw;
  std::int64_t kernel_d, kernel_h, kernel_w;
  bool channels_last;

  bool is_image() const { return depth.size == 1 && depth.taps == 1 && depth.count == 1; }
};

// A kernel, and the bytes of scratch that a team takes.
template <class Problem>
struct ConvKernel {
  std::int64_t (*scratch)(const Problem& d, int threads);
  void (*run)(const Problem& d, int threads, void* scratch);
};
// `prepared`: elements of DirectConv::prepared.
template <class Problem>
struct PreparedConvKernel : ConvKernel<Problem> {
  std::int64_t (*prepared)(const Problem& d);
};

template <class T>
using WinogradTable = PreparedConvKernel<DirectConv<T>>;
template <class T>
using FirstTable = ConvKernel<DirectConv<T>>;
template <class T>
using WeightTable = ConvKernel<WeightGradient<T>>;
template <class T>
using DepthwiseGradientTable = ConvKernel<DepthwiseGradient<T>>;
// out[c] = sum of x[n, c, p] over n, then p: the bias gradient of channels_first.
template <class T>
struct PlaneTable {
  void (*sums)(const T* x, std::int64_t n, std::int64_t c, std::int64_t plane, int threads, T* out);
};

ARRAYNN_KERNEL_TABLE(FloatKernels<WinogradTable>, winograd_kernels)
ARRAYNN_KERNEL_TABLE(FloatKernels<FirstTable>, first_kernels)
ARRAYNN_KERNEL_TABLE(FloatKernels<WeightTable>, weight_kernels)
ARRAYNN_KERNEL_TABLE(FloatKernels<WeightTable>, winograd_weight_kernels)
ARRAYNN_KERNEL_TABLE(FloatKernels<DepthwiseGradientTable>, depthwise_gradient_kernels)
ARRAYNN_KERNEL_TABLE(FloatKernels<PlaneTable>, plane_kernels)

template <class T>
struct ConvEpilogue {
  const T* bias = nullptr;
  const T* residual = nullptr;
  Activation activation;
  const ConvPool<T>* pool = nullptr;  // if set, y is the pooled array; not with a residual
};

// Contiguous arrays in the problem's layout; weight and dw are (oc, ic / groups, kd, kh, kw).
void conv2d(const Conv2dProblem& p, const float* x, const float* weight,
            const ConvEpilogue<float>& e, float* y);
void conv2d(const Conv2dProblem& p, const double* x, const double* weight,
            const ConvEpilogue<double>& e, double* y);
// Of products of the layout (choice.hpp: is_gemm), at a level that has_gemm() of bfloat16. So is
// conv_transpose2d of bfloat16.
void conv2d(const Conv2dProblem& p, const Bfloat16* x, const Bfloat16* weight,
            const ConvEpilogue<Bfloat16>& e, Bfloat16* y);
// Gradients whose pointer is null are not computed, or described: that by the bias never is.
template <class T>
struct ConvGradients {
  T* dx;
  T* dw;
  T* db;
};
void conv2d_backward(const Conv2dProblem& p, const float* dy, const float* x, const float* weight,
                     const ConvGradients<float>& grads);
void conv2d_backward(const Conv2dProblem& p, const double* dy, const double* x,
                     const double* weight, const ConvGradients<double>& grads);

// conv_transpose2d: y[n,o,h,w] = activation(b[o] + r[n,o,h,w] + sum_{c,i,j}
//                     x[n, c, (h + ph - i dh) / sh, (w + pw - j dw) / sw] W[c, o, i, j])
// over the taps for which both divisions are exact: the gradient by x of the conv2d that `p`
// describes, so x is (n, oc, oh, ow) and y (n, ic, ih, iw) of p.
void conv_transpose2d(const Conv2dProblem& p, const float* x, const float* weight,
                      const ConvEpilogue<float>& e, float* y);
void conv_transpose2d(const Conv2dProblem& p, const double* x, const double* weight,
                      const ConvEpilogue<double>& e, double* y);
void conv_transpose2d(const Conv2dProblem& p, const Bfloat16* x, const Bfloat16* weight,
                      const ConvEpilogue<Bfloat16>& e, Bfloat16* y);
void conv_transpose2d_backward(const Conv2dProblem& p, const float* dy, const float* x,
                               const float* weight, const ConvGradients<float>& grads);
void conv_transpose2d_backward(const Conv2dProblem& p, const double* dy, const double* x,
                               const double* weight, const ConvGradients<double>& grads);

}  // namespace arraynn
