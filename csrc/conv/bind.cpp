// Bindings of the convolutions and their gradients; their plans are bind_plan.cpp's.
#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/packed_weight.hpp"
#include "bind/wide.hpp"
#include "conv/arguments.hpp"
#include "conv/storage.hpp"

namespace arraynn {
namespace {

// The result of a call; `run` computes it.
template <class F>
py::object result(const ConvCall& call, const ConvArguments& a, const Array& x, const Array& weight,
                  py::handle bias, py::handle residual, py::handle activation, py::handle out_in,
                  const F& run) {
  const EpilogueArguments e(call, a, x, bias, residual, activation);
  Output out(call.op, out_in, x.stored(), a.out_shape, a.ndim, {&x, &weight, &e.bias, &e.residual});
  WideResults results;
  if (x.stored() != x->dtype) results.add(call.op, &out.view);
  dispatch_operands(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run(x->as<const T>(), weight->as<const T>(), e.view<T>(), out.data<T>());
    results.narrow();
  });
  return out.finish(x);
}

// The gradients of a call on arrays as they were taken; `run` computes those whose pointer is not null.
template <class F>
py::tuple gradients(const ConvCall& call, const ConvArguments& a, bool by_x, Array x, Array weight,
                    py::handle grad_in, py::handle needs_in, const F& run) {
  const char* const op = call.op;
  Array dy = take_grad_out(call, a, x, grad_in);
  const Needs needs = take_needs(op, needs_in);
  py::object grads[3] = {py::none(), py::none(), py::none()};
  TensorView dx, dw, db;
  if (needs.x) grads[0] = new_array(op, x.stored(), x->shape, a.ndim, &dx);
  if (needs.weight) grads[1] = new_array(op, x.stored(), weight->shape, a.ndim, &dw);
  if (needs.bias) grads[2] = new_array(op, x.stored(), &a.out_channels, 1, &db);
  if (gradient_of_16_bits(a, by_x, dy, weight, dx)) dx = {};
  const Dtype none = Dtype::kOther;
  if (dx.dtype == none && dw.dtype == none && db.dtype == none) {
    return py::make_tuple(grads[0], grads[1], grads[2]);
  }
  x = widened(op, "x", std::move(x));
  dy = widened(op, "grad_out", std::move(dy));
  if (dx.dtype != none) weight = widened(op, "weight", std::move(weight));
  const WideResults results(op, {&dx, &dw, &db});
  dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run(dy->as<const T>(), x->as<const T>(), weight->as<const T>(),
        ConvGradients<T>{dx.as<T>(), dw.as<T>(), db.as<T>()});
    results.narrow();
  });
  return py::make_tuple(grads[0], grads[1], grads[2]);
}

template <int kAxes>
py::object conv(py::handle x_in, py::handle weight_in, py::handle bias, py::handle stride,
                py::handle padding, py::handle dilation, py::handle groups, py::handle activation,
                py::handle residual, py::handle layout, py::handle flip_kernel,
                py::handle algorithm, py::handle out_in) {
  const ConvCall call{kConv[kAxes], kAxes, stride, padding, dilation, groups, layout, algorithm};
  Array x = take(call.op, "x", x_in);
  Weight weight = take_weight(call.op, "weight", weight_in);
  ConvArguments a = take_conv(call, x, weight.array, flip_kernel);
  take_as_read(&a, false, &x, &weight);
  return result(call, a, x, weight.array, bias, residual, activation, out_in,
                [&](const auto&... arguments) { conv2d(a.problem, arguments...); });
}

template <int kAxes>
py::tuple conv_backward(py::handle grad_in, py::handle x_in, py::handle weight_in,
                        py::handle stride, py::handle padding, py::handle dilation,
                        py::handle groups, py::handle layout, py::handle flip_kernel,
                        py::handle algorithm, py::handle needs) {
  const ConvCall call{
      kConvBackward[kAxes], kAxes, stride, padding, dilation, groups, layout, algorithm};
  const Array x = take(call.op, "x", x_in), weight = take(call.op, "weight", weight_in);
  const ConvArguments a = take_conv(call, x, weight, flip_kernel);
  return gradients(call, a, true, x, weight, grad_in, needs,
                   [&](const auto&... arguments) { conv2d_backward(a.problem, arguments...); });
}

template <int kAxes>
py::object conv_transpose(py::handle x_in, py::handle weight_in, py::handle bias, py::handle stride,
                          py::handle padding, py::handle output_padding, py::handle groups,
                          py::handle dilation, py::handle activation, py::handle residual,
                          py::handle layout, py::handle algorithm, py::handle out_in) {
  const ConvCall call{kTranspose[kAxes], kAxes,  stride, padding,
                      dilation,          groups, layout, algorithm};
  Array x = take(call.op, "x", x_in);
  Weight weight = take_weight(call.op, "weight", weight_in);
  ConvArguments a = take_conv_transpose(call, x, weight.array, output_padding);
  take_as_read(&a, true, &x, &weight);
  return result(call, a, x, weight.array, bias, residual, activation, out_in,
                [&](const auto&... arguments) { conv_transpose2d(a.problem, arguments...); });
}

template <int kAxes>
py::tuple conv_transpose_backward(py::handle grad_in, py::handle x_in, py::handle weight_in,
                                  py::handle stride, py::handle padding, py::handle output_padding,
                                  py::handle groups, py::handle dilation, py::handle layout,
                                  py::handle algorithm, py::handle needs) {
  const ConvCall call{
      kTransposeBackward[kAxes], kAxes, stride, padding, dilation, groups, layout, algorithm};
  const Array x = take(call.op, "x", x_in), weight = take(call.op, "weight", weight_in);
  const ConvArguments a = take_conv_transpose(call, x, weight, output_padding);
  return gradients(call, a, false, x, weight, grad_in, needs, [&](const auto&... arguments) {
    conv_transpose2d_backward(a.problem, arguments...);
  });
}

template <int kAxes>
void bind_axes(py::module_& m) {
  def(m, kConv[kAxes], &conv<kAxes>);
  def(m, kConvBackward[kAxes], &conv_backward<kAxes>);
  def(m, kTranspose[kAxes], &conv_transpose<kAxes>);
  def(m, kTransposeBackward[kAxes], &conv_transpose_backward<kAxes>);
}

}  // namespace

void bind_conv(py::module_& m) {
  bind_axes<1>(m);
  bind_axes<2>(m);
  bind_axes<3>(m);
}

}  // namespace arraynn
