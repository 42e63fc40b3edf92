// Bindings of Lp pooling.
#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/check.hpp"
#include "bind/wide.hpp"
#include "pool/arguments.hpp"

namespace arraynn {
namespace {

// Names by the number of spatial axes; 0 is a function that takes any.
constexpr const char* kLp[] = {"global_lp_pool", "lp_pool1d", "lp_pool2d", "lp_pool3d"};
constexpr const char* kLpBackward[] = {"global_lp_pool_backward", "lp_pool1d_backward",
                                       "lp_pool2d_backward", "lp_pool3d_backward"};

double take_norm(const char* op, py::handle h) {
  const double norm = take_finite(op, "norm_type", h);
  if (norm <= 0) fail<ValueError>(op, "norm_type", "expected a value > 0, got ", norm);
  return norm;
}

py::object run_lp(const char* op, const PoolArguments& a, double norm, const Array& x,
                  py::handle out_in) {
  Output out(op, out_in, x.stored(), a.y_shape, a.axes + 2, {&x});
  const WideResults results(op, {&out.view});
  dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    a.visit([&](const auto& p) { lp_pool(op, p, norm, x->as<const T>(), out.data<T>()); });
    results.narrow();
  });
  return out.finish(x);
}

// The arrays of a gradient.
struct LpArrays {
  Array dy, x, y;

  LpArrays(const char* op, py::handle grad_in, py::handle x_in, py::handle y_in, int* axes)
      : dy(take_grad(op, grad_in)),
        x(take_x_like(op, x_in, dy, axes)),
        y(take_wide(op, "y", y_in)) {
    require_same_dtype(op, "y", y, "grad_out", dy);
  }
};

py::object run_lp_backward(const char* op, const PoolArguments& a, double norm, const LpArrays& in,
                           py::handle out) {
  require_y_shape(op, "grad_out", in.dy, a);
  require_y_shape(op, "y", in.y, a);
  Output dx(op, out, in.dy.stored(), in.x->shape, in.x->ndim, {&in.dy, &in.x, &in.y});
  const WideResults results(op, {&dx.view});
  dispatch_wide(in.dy->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    a.visit([&](const auto& p) {
      lp_pool_backward(op, p, norm, in.dy->as<const T>(), in.x->as<const T>(), in.y->as<const T>(),
                       dx.data<T>());
    });
    results.narrow();
  });
  return dx.finish(in.dy);
}

template <int kAxes>
py::object lp_forward(py::handle x_in, py::handle norm_type, py::handle kernel_size,
                      py::handle stride, py::handle ceil_mode, py::handle padding,
                      py::handle dilation, py::handle layout, py::handle out) {
  constexpr const char* kOp = kLp[kAxes];
  int axes = kAxes;
  const Array x = take_x(kOp, x_in, &axes);
  const double norm = take_norm(kOp, norm_type);
  const PoolArguments a =
      take_windows(kOp, axes, x->shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  return run_lp(kOp, a, norm, x, out);
}

template <int kAxes>
py::object lp_backward(py::handle grad_in, py::handle x_in, py::handle y_in, py::handle norm_type,
                       py::handle kernel_size, py::handle stride, py::handle ceil_mode,
                       py::handle padding, py::handle dilation, py::handle layout, py::handle out) {
  constexpr const char* kOp = kLpBackward[kAxes];
  int axes = kAxes;
  const LpArrays in(kOp, grad_in, x_in, y_in, &axes);
  const double norm = take_norm(kOp, norm_type);
  const PoolArguments a = take_windows(kOp, axes, in.x->shape, kernel_size, stride, padding,
                                       dilation, ceil_mode, layout);
  return run_lp_backward(kOp, a, norm, in, out);
}

py::object global_lp(py::handle x_in, py::handle norm_type, py::handle layout, py::handle out) {
  int axes = 0;
  const Array x = take_x(kLp[0], x_in, &axes);
  const double norm = take_norm(kLp[0], norm_type);
  return run_lp(kLp[0], take_global(kLp[0], axes, x->shape, layout), norm, x, out);
}

py::object global_lp_backward(py::handle grad_in, py::handle x_in, py::handle y_in,
                              py::handle norm_type, py::handle layout, py::handle out) {
  constexpr const char* kOp = kLpBackward[0];
  int axes = 0;
  const LpArrays in(kOp, grad_in, x_in, y_in, &axes);
  const double norm = take_norm(kOp, norm_type);
  return run_lp_backward(kOp, take_global(kOp, axes, in.x->shape, layout), norm, in, out);
}

template <int kAxes>
void bind_axes(py::module_& m) {
  def(m, kLp[kAxes], &lp_forward<kAxes>);
  def(m, kLpBackward[kAxes], &lp_backward<kAxes>);
}

}  // namespace

void bind_lp_pool(py::module_& m) {
  bind_axes<1>(m);
  bind_axes<2>(m);
  bind_axes<3>(m);
  def(m, kLp[0], &global_lp);
  def(m, kLpBackward[0], &global_lp_backward);
}

}  // namespace arraynn
