// The checked arguments of the convolutions and of their gradients, over one to three spatial axes.
// A convolution over a length is one over images of height 1, and one over a volume whose kernel has
// no height and width one over an image of depth x (height width): the arrays stay as they are.
#pragma once
#include "bind/packed_weight.hpp"
#include "bind/wide.hpp"
#include "conv/conv.hpp"

namespace arraynn {

// Names by the number of spatial axes.
inline constexpr const char* kConv[] = {nullptr, "conv1d", "conv2d", "conv3d"};
inline constexpr const char* kConvBackward[] = {nullptr, "conv1d_backward", "conv2d_backward",
                                                "conv3d_backward"};
inline constexpr const char* kTranspose[] = {nullptr, "conv_transpose1d", "conv_transpose2d",
                                             "conv_transpose3d"};
inline constexpr const char* kTransposeBackward[] = {
    nullptr, "conv_transpose1d_backward", "conv_transpose2d_backward", "conv_transpose3d_backward"};

inline constexpr int kMostAxes = 3;

// Arguments that all of them have, as they come from Python.
struct ConvCall {
  const char* op;
  int axes;  // 1 to 3
  py::handle stride, padding, dilation, groups, layout, algorithm;
};

struct ConvArguments {
  Conv2dProblem problem;  // of a transposed convolution: the one whose gradient by x it is
  int ndim;               // of x and of the result
  std::int64_t out_channels;
  std::int64_t out_shape[kMostAxes + 2];
};

ConvArguments take_conv(const ConvCall& call, const Array& x, const Array& weight,
                        py::handle flip_kernel);
ConvArguments take_conv_transpose(const ConvCall& call, const Array& x, const Array& weight,
                                  py::handle output_padding);

// Makes of x and the weight, as they were taken, what the kernel of the problem reads: float32, or 16 bits
// (pairs.hpp). `by_x`: x is the result of the convolution of the problem.
#if defined(ARRAYNN_CUDA)
inline void take_as_read(ConvArguments* a, bool, Array*, Weight* weight) {
  a->problem.forms = weight->forms;
}
inline bool multiplies_16_bits(const ConvArguments&, bool, const Array&) { return false; }
inline bool gradient_of_16_bits(const ConvArguments&, bool, const Array&, const Array&,
                                const TensorView&) {
  return false;
}
#else
void take_as_read(ConvArguments* a, bool by_x, Array* x, Weight* weight);
// Whether that is 16 bits.
bool multiplies_16_bits(const ConvArguments& a, bool by_x, const Array& x);
// The gradient by x, of arrays as they were taken, if it is formed of 16 bits; else false. `by_x`: it is
// that of the convolution of the problem, not of the transposed one.
bool gradient_of_16_bits(const ConvArguments& a, bool by_x, const Array& grad_out,
                         const Array& weight, const TensorView& dx);
#endif

// f of the dtype of operands that are take_as_read().
template <class F>
void dispatch_operands(Dtype t, const F& f) {
#if !defined(ARRAYNN_CUDA)
  if (t == Dtype::kBF16) return f(Bfloat16{});
#endif
  dispatch_wide(t, f);
}

// A gradient by the result.
Array take_grad_out(const ConvCall& call, const ConvArguments& a, const Array& x, py::handle h);

// Bias, residual and activation, of the dtype of x.
struct EpilogueArguments {
  EpilogueArguments(const ConvCall& call, const ConvArguments& a, const Array& x,
                    py::handle bias_in, py::handle residual_in, py::handle activation_in);

  template <class T>
  ConvEpilogue<T> view() const {
    return {bias ? bias->as<const T>() : nullptr, residual ? residual->as<const T>() : nullptr,
            activation};
  }

  Array bias, residual;
  Activation activation;
};

}  // namespace arraynn
