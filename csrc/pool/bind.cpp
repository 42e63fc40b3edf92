#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/dtypes.hpp"
#include "bind/wide.hpp"
#include "pool/arguments.hpp"

namespace arraynn {
namespace {

// Names by the number of spatial axes; 0 is a function that takes any.
constexpr const char* kMax[] = {"global_max_pool", "max_pool1d", "max_pool2d", "max_pool3d"};
constexpr const char* kMaxBackward[] = {"global_max_pool_backward", "max_pool1d_backward",
                                        "max_pool2d_backward", "max_pool3d_backward"};
constexpr const char* kAverage[] = {"global_avg_pool", "avg_pool1d", "avg_pool2d", "avg_pool3d"};
constexpr const char* kAverageBackward[] = {"global_avg_pool_backward", "avg_pool1d_backward",
                                            "avg_pool2d_backward", "avg_pool3d_backward"};
constexpr const char* kAdaptiveMax[] = {"", "adaptive_max_pool1d", "adaptive_max_pool2d",
                                        "adaptive_max_pool3d"};
constexpr const char* kAdaptiveMaxBackward[] = {"", "adaptive_max_pool1d_backward",
                                                "adaptive_max_pool2d_backward",
                                                "adaptive_max_pool3d_backward"};
constexpr const char* kAdaptiveAverage[] = {"", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
                                            "adaptive_avg_pool3d"};
constexpr const char* kAdaptiveAverageBackward[] = {"", "adaptive_avg_pool1d_backward",
                                                    "adaptive_avg_pool2d_backward",
                                                    "adaptive_avg_pool3d_backward"};

constexpr AverageDivisor kMean = {false, 0};

// Of a maximum, which integers have as well.
Array take_max_x(const char* op, py::handle x_in, int* axes) {
  Array x = take_wide(op, "x", x_in);
  const Dtype t = x->dtype;
  if (!is_storage(t) && !is_integer(t)) {
    fail<TypeError>(op, "x",
                    "expected float16, bfloat16, float32, float64, uint8, int8, int16, int32 or "
                    "int64, got ",
                    dtype_text(x));
  }
  *axes = require_planes(op, x, *axes);
  return x;
}

template <int kAxes>
py::object max_forward(py::handle x_in, py::handle kernel_size, py::handle stride,
                       py::handle padding, py::handle dilation, py::handle ceil_mode,
                       py::handle return_indices, py::handle layout, py::handle out) {
  constexpr const char* kOp = kMax[kAxes];
  int axes = kAxes;
  const Array x = take_max_x(kOp, x_in, &axes);
  const PoolArguments a =
      take_windows(kOp, axes, x->shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  return run_max(kOp, a, x, return_indices, out);
}

template <int kAxes>
py::object max_backward(py::handle grad_in, py::handle x_in, py::handle kernel_size,
                        py::handle stride, py::handle padding, py::handle dilation,
                        py::handle ceil_mode, py::handle layout, py::handle indices,
                        py::handle out) {
  constexpr const char* kOp = kMaxBackward[kAxes];
  int axes = kAxes;
  const Array dy = take_grad(kOp, grad_in);
  const Array x = take_x_like(kOp, x_in, dy, &axes);
  const PoolArguments a =
      take_windows(kOp, axes, x->shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  return run_max_backward(kOp, a, dy, x, indices, out);
}

template <int kAxes>
py::object average_forward(py::handle x_in, py::handle kernel_size, py::handle stride,
                           py::handle padding, py::handle ceil_mode, py::handle count_include_pad,
                           py::handle divisor_override, py::handle dilation, py::handle layout,
                           py::handle out) {
  constexpr const char* kOp = kAverage[kAxes];
  int axes = kAxes;
  const Array x = take_x(kOp, x_in, &axes);
  const PoolArguments a =
      take_windows(kOp, axes, x->shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  return run_average(kOp, a, take_divisor(kOp, count_include_pad, divisor_override), x, out);
}

template <int kAxes>
py::object average_backward(py::handle grad_in, py::handle x_shape_in, py::handle kernel_size,
                            py::handle stride, py::handle padding, py::handle ceil_mode,
                            py::handle count_include_pad, py::handle divisor_override,
                            py::handle dilation, py::handle layout, py::handle out) {
  constexpr const char* kOp = kAverageBackward[kAxes];
  const Array dy = take_grad(kOp, grad_in);
  std::int64_t x_shape[kMaxPoolAxes + 2];
  const int axes = take_x_shape(kOp, x_shape_in, kAxes, x_shape);
  const PoolArguments a =
      take_windows(kOp, axes, x_shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  const AverageDivisor d = take_divisor(kOp, count_include_pad, divisor_override);
  return run_average_backward(kOp, a, d, dy, x_shape, out);
}

template <int kAxes>
py::object adaptive_max(py::handle x_in, py::handle output_size, py::handle return_indices,
                        py::handle layout, py::handle out) {
  constexpr const char* kOp = kAdaptiveMax[kAxes];
  int axes = kAxes;
  const Array x = take_max_x(kOp, x_in, &axes);
  const PoolArguments a = take_adaptive(kOp, axes, x->shape, output_size, layout);
  return run_max(kOp, a, x, return_indices, out);
}

template <int kAxes>
py::object adaptive_max_backward(py::handle grad_in, py::handle x_in, py::handle output_size,
                                 py::handle layout, py::handle indices, py::handle out) {
  constexpr const char* kOp = kAdaptiveMaxBackward[kAxes];
  int axes = kAxes;
  const Array dy = take_grad(kOp, grad_in);
  const Array x = take_x_like(kOp, x_in, dy, &axes);
  const PoolArguments a = take_adaptive(kOp, axes, x->shape, output_size, layout);
  return run_max_backward(kOp, a, dy, x, indices, out);
}

template <int kAxes>
py::object adaptive_average(py::handle x_in, py::handle output_size, py::handle layout,
                            py::handle out) {
  constexpr const char* kOp = kAdaptiveAverage[kAxes];
  int axes = kAxes;
  const Array x = take_x(kOp, x_in, &axes);
  return run_average(kOp, take_adaptive(kOp, axes, x->shape, output_size, layout), kMean, x, out);
}

template <int kAxes>
py::object adaptive_average_backward(py::handle grad_in, py::handle x_shape_in,
                                     py::handle output_size, py::handle layout, py::handle out) {
  constexpr const char* kOp = kAdaptiveAverageBackward[kAxes];
  const Array dy = take_grad(kOp, grad_in);
  std::int64_t x_shape[kMaxPoolAxes + 2];
  const int axes = take_x_shape(kOp, x_shape_in, kAxes, x_shape);
  const PoolArguments a = take_adaptive(kOp, axes, x_shape, output_size, layout);
  return run_average_backward(kOp, a, kMean, dy, x_shape, out);
}

py::object global_max(py::handle x_in, py::handle return_indices, py::handle layout,
                      py::handle out) {
  int axes = 0;
  const Array x = take_max_x(kMax[0], x_in, &axes);
  return run_max(kMax[0], take_global(kMax[0], axes, x->shape, layout), x, return_indices, out);
}

py::object global_max_backward(py::handle grad_in, py::handle x_in, py::handle layout,
                               py::handle indices, py::handle out) {
  constexpr const char* kOp = kMaxBackward[0];
  int axes = 0;
  const Array dy = take_grad(kOp, grad_in);
  const Array x = take_x_like(kOp, x_in, dy, &axes);
  return run_max_backward(kOp, take_global(kOp, axes, x->shape, layout), dy, x, indices, out);
}

py::object global_average(py::handle x_in, py::handle layout, py::handle out) {
  int axes = 0;
  const Array x = take_x(kAverage[0], x_in, &axes);
  return run_average(kAverage[0], take_global(kAverage[0], axes, x->shape, layout), kMean, x, out);
}

py::object global_average_backward(py::handle grad_in, py::handle x_shape_in, py::handle layout,
                                   py::handle out) {
  constexpr const char* kOp = kAverageBackward[0];
  const Array dy = take_grad(kOp, grad_in);
  std::int64_t x_shape[kMaxPoolAxes + 2];
  const int axes = take_x_shape(kOp, x_shape_in, 0, x_shape);
  return run_average_backward(kOp, take_global(kOp, axes, x_shape, layout), kMean, dy, x_shape,
                              out);
}

template <int kAxes>
void bind_windows(py::module_& m) {
  def(m, kMax[kAxes], &max_forward<kAxes>);
  def(m, kMaxBackward[kAxes], &max_backward<kAxes>);
  def(m, kAverage[kAxes], &average_forward<kAxes>);
  def(m, kAverageBackward[kAxes], &average_backward<kAxes>);
  def(m, kAdaptiveMax[kAxes], &adaptive_max<kAxes>);
  def(m, kAdaptiveMaxBackward[kAxes], &adaptive_max_backward<kAxes>);
  def(m, kAdaptiveAverage[kAxes], &adaptive_average<kAxes>);
  def(m, kAdaptiveAverageBackward[kAxes], &adaptive_average_backward<kAxes>);
}

}  // namespace

void bind_pool(py::module_& m) {
  bind_windows<1>(m);
  bind_windows<2>(m);
  bind_windows<3>(m);
  def(m, kMax[0], &global_max);
  def(m, kMaxBackward[0], &global_max_backward);
  def(m, kAverage[0], &global_average);
  def(m, kAverageBackward[0], &global_average_backward);
}

}  // namespace arraynn
