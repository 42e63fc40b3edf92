#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "conv/conv.hpp"

#include <algorithm>

namespace arraynn {
namespace {

struct AxisArguments {
  std::int64_t begin, end;  // padding
};

// Output size and padding of one axis.
std::int64_t output_size(const char* op, const char* axis, std::int64_t in, std::int64_t kernel,
                         std::int64_t stride, std::int64_t dilation, PadMode mode,
                         AxisArguments* pad) {
  const std::int64_t reach =
      checked_mul(op, "dilation", dilation, kernel - 1) + 1;  // of the dilated kernel
  if (mode != PadMode::kExplicit) {
    const std::int64_t out = (in + stride - 1) / stride;
    const std::int64_t total = std::max<std::int64_t>((out - 1) * stride + reach - in, 0);
    pad->begin = mode == PadMode::kSame ? total / 2 : total - total / 2;
    pad->end = total - pad->begin;
    return out;
  }
  if (pad->begin > kMaxBytes || pad->end > kMaxBytes) {
    fail<OutOfMemory>(op, "padding", "expected at most 2**46, got ",
                      std::max(pad->begin, pad->end));
  }
  const std::int64_t padded = in + pad->begin + pad->end;
  if (padded < reach) {
    fail<ValueError>(op, "weight", "expected a kernel that fits the padded input of ", axis, " ",
                     padded, ", got a reach of ", reach);
  }
  return (padded - reach) / stride + 1;
}

struct ConvArguments {
  Conv2dProblem problem;
  std::int64_t y_shape[4];
};

ConvArguments take_problem(const char* op, const Array& x, const Array& weight, py::handle stride,
                           py::handle padding, py::handle dilation, py::handle groups,
                           py::handle layout, py::handle flip_kernel) {
  require_float(op, "x", x);
  require_ndim(op, "x", x, 4);
  require_same_dtype(op, "weight", weight, "x", x);
  require_ndim(op, "weight", weight, 4);
  ConvArguments a{};
  Conv2dProblem& p = a.problem;
  p.channels_last = take_channels_last(op, layout);
  p.flip_kernel = take_bool(op, "flip_kernel", flip_kernel);
  p.n = x->shape[0];
  p.ic = x->shape[p.channels_last ? 3 : 1];
  p.ih = x->shape[p.channels_last ? 1 : 2];
  p.iw = x->shape[p.channels_last ? 2 : 3];
  p.oc = weight->shape[0];
  p.kh = weight->shape[2];
  p.kw = weight->shape[3];
  std::int64_t strides[2], dilations[2], begin[2], end[2];
  take_ints(op, "stride", stride, 2, strides);
  take_ints(op, "dilation", dilation, 2, dilations);
  PadMode mode{};
  take_padding(op, padding, 2, begin, end, &mode);
  p.groups = take_int(op, "groups", groups);
  for (int i = 0; i < 2; ++i) {
    if (strides[i] < 1) fail<ValueError>(op, "stride", "expected values >= 1, got ", strides[i]);
    if (dilations[i] < 1) {
      fail<ValueError>(op, "dilation", "expected values >= 1, got ", dilations[i]);
    }
  }
  if (p.groups < 1) fail<ValueError>(op, "groups", "expected a value >= 1, got ", p.groups);
  if (p.ic % p.groups != 0) {
    fail<ValueError>(op, "groups", "expected a divisor of x's ", p.ic, " channels, got ", p.groups);
  }
  if (p.oc % p.groups != 0) {
    fail<ValueError>(op, "groups", "expected a divisor of weight's ", p.oc,
                     " output channels, got ", p.groups);
  }
  if (weight->shape[1] != p.ic / p.groups) {
    fail<ValueError>(op, "weight", "expected ", p.ic / p.groups, " input channels (x has ", p.ic,
                     " in ", p.groups, p.groups == 1 ? " group" : " groups", "), got ",
                     weight->shape[1]);
  }
  if (p.kh < 1 || p.kw < 1) {
    fail<ValueError>(op, "weight", "expected a kernel of at least 1 x 1, got ", p.kh, " x ", p.kw);
  }
  AxisArguments pad_h{begin[0], end[0]}, pad_w{begin[1], end[1]};
  p.oh = output_size(op, "height", p.ih, p.kh, strides[0], dilations[0], mode, &pad_h);
  p.ow = output_size(op, "width", p.iw, p.kw, strides[1], dilations[1], mode, &pad_w);
  p.stride_h = strides[0];
  p.stride_w = strides[1];
  p.dilation_h = dilations[0];
  p.dilation_w = dilations[1];
  p.pad_h = pad_h.begin;
  p.pad_w = pad_w.begin;
  const std::int64_t first[4] = {p.n, p.oc, p.oh, p.ow}, last[4] = {p.n, p.oh, p.ow, p.oc};
  std::copy_n(p.channels_last ? last : first, 4, a.y_shape);
  checked_size(op, "output", a.y_shape, 4, 8);
  return a;
}

py::object conv2d_forward(py::handle x_in, py::handle weight_in, py::handle bias_in,
                          py::handle stride, py::handle padding, py::handle dilation,
                          py::handle groups, py::handle activation_in, py::handle residual_in,
                          py::handle layout, py::handle flip_kernel, py::handle out_in) {
  constexpr const char* kOp = "conv2d";
  const Array x = take(kOp, "x", x_in), weight = take(kOp, "weight", weight_in);
  const ConvArguments a =
      take_problem(kOp, x, weight, stride, padding, dilation, groups, layout, flip_kernel);
  const Conv2dProblem& p = a.problem;
  const Array bias = take_optional(kOp, "bias", bias_in);
  if (bias) {
    require_same_dtype(kOp, "bias", bias, "x", x);
    require_shape(kOp, "bias", bias, {p.oc});
  }
  const Array residual = take_optional(kOp, "residual", residual_in);
  if (residual) {
    require_same_dtype(kOp, "residual", residual, "x", x);
    require_shape(kOp, "residual", residual,
                  {a.y_shape[0], a.y_shape[1], a.y_shape[2], a.y_shape[3]});
  }
  Activation activation;
  if (!activation_in.is_none()) {
    activation = activation_from_name(kOp, take_str(kOp, "activation", activation_in));
  }
  Output out(kOp, out_in, x->dtype, a.y_shape, 4, {&x, &weight, &bias, &residual});
  dispatch_float(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const ConvEpilogue<T> e{bias ? bias->as<const T>() : nullptr,
                            residual ? residual->as<const T>() : nullptr, activation};
    const py::gil_scoped_release nogil;
    conv2d(p, x->as<const T>(), weight->as<const T>(), e, out.data<T>());
  });
  return out.finish(x);
}

py::tuple conv2d_gradients(py::handle grad_in, py::handle x_in, py::handle weight_in,
                           py::handle stride, py::handle padding, py::handle dilation,
                           py::handle groups, py::handle layout, py::handle flip_kernel,
                           py::handle needs_in) {
  constexpr const char* kOp = "conv2d_backward";
  const Array dy = take(kOp, "grad_out", grad_in), x = take(kOp, "x", x_in);
  const Array weight = take(kOp, "weight", weight_in);
  const ConvArguments a =
      take_problem(kOp, x, weight, stride, padding, dilation, groups, layout, flip_kernel);
  require_same_dtype(kOp, "grad_out", dy, "x", x);
  require_shape(kOp, "grad_out", dy, {a.y_shape[0], a.y_shape[1], a.y_shape[2], a.y_shape[3]});
  const Needs needs = take_needs(kOp, needs_in);
  py::object grads[3] = {py::none(), py::none(), py::none()};
  TensorView dx, dw, db;
  if (needs.x) grads[0] = new_array(kOp, x->dtype, x->shape, 4, &dx);
  if (needs.weight) grads[1] = new_array(kOp, x->dtype, weight->shape, 4, &dw);
  if (needs.bias) grads[2] = new_array(kOp, x->dtype, &a.problem.oc, 1, &db);
  dispatch_float(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    conv2d_backward(a.problem, dy->as<const T>(), x->as<const T>(), weight->as<const T>(),
                    ConvGradients<T>{dx.as<T>(), dw.as<T>(), db.as<T>()});
  });
  return py::make_tuple(grads[0], grads[1], grads[2]);
}

}  // namespace

void bind_conv(py::module_& m) {
  m.def("conv2d", &conv2d_forward);
  m.def("conv2d_backward", &conv2d_gradients);
}

}  // namespace arraynn
