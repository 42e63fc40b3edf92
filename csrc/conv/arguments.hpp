// The checked arguments of the convolutions and of their gradients, over one to three spatial axes.
// A convolution over a length is one over images of height 1, and one over a volume whose kernel has
// no height and width one over an image of depth x (height width): the arrays stay as they are.
#pragma once
#include "bind/array.hpp"
#include "conv/conv.hpp"

namespace arraynn {

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

// A gradient by the result.
Array take_grad_out(const ConvCall& call, const ConvArguments& a, const Array& x, py::handle h);

// Bias, residual and activation.
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
