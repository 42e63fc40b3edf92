#include <algorithm>
#include <limits>

#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "pool/pool.hpp"

namespace arraynn {
namespace {

// Output size and padding of one axis whose size, kernel, stride, dilation and explicit padding
// are set. ceil_mode rounds up, then drops a last window that would start in the padding at the
// end: PyTorch's rule.
void finish_axis(const char* op, const char* axis, PadMode mode, bool ceil_mode, PoolAxis* a) {
  const std::int64_t span = checked_mul(op, "kernel_size", a->kernel - 1, a->dilation) + 1;
  if (mode != PadMode::kExplicit) {
    const std::int64_t out = a->size / a->stride + (a->size % a->stride != 0);
    const std::int64_t total =
        out > 0 ? std::max<std::int64_t>((out - 1) * a->stride + span - a->size, 0) : 0;
    a->begin = mode == PadMode::kSame ? total / 2 : total - total / 2;
    a->end = total - a->begin;
  } else if (std::max(a->begin, a->end) > span / 2) {
    fail<ValueError>(op, "padding", "expected at most ", span / 2, " (half of the window's ", axis,
                     " ", span, "), got ", std::max(a->begin, a->end));
  }
  const std::int64_t padded = a->size + a->begin + a->end;
  if (padded < span) {
    fail<ValueError>(op, "kernel_size", "expected a window that fits the padded input of ", axis,
                     " ", padded, ", got a reach of ", span);
  }
  const std::int64_t room = padded - span;
  a->out = room / a->stride + 1;
  if (ceil_mode && room % a->stride != 0 && a->out * a->stride < a->size + a->begin) ++a->out;
}

struct PoolArguments {
  PoolProblem problem;
  std::int64_t y_shape[4];
};

PoolArguments take_problem(const char* op, const std::int64_t* x_shape, py::handle kernel_size,
                           py::handle stride, py::handle padding, py::handle dilation,
                           py::handle ceil_mode, py::handle layout) {
  PoolArguments a{};
  PoolProblem& p = a.problem;
  p.channels_last = take_channels_last(op, layout);
  p.n = x_shape[0];
  p.c = x_shape[p.channels_last ? 3 : 1];
  checked_mul(op, "x", p.n, p.c);
  std::int64_t kernels[2], strides[2], dilations[2], begin[2], end[2];
  take_ints(op, "kernel_size", kernel_size, 2, kernels);
  take_ints(op, "stride", stride.is_none() ? kernel_size : stride, 2, strides);
  take_ints(op, "dilation", dilation, 2, dilations);
  const bool round_up_size = take_bool(op, "ceil_mode", ceil_mode);
  PadMode mode{};
  take_padding(op, padding, 2, begin, end, &mode);
  for (int i = 0; i < 2; ++i) {
    if (kernels[i] < 1) fail<ValueError>(op, "kernel_size", "expected >= 1, got ", kernels[i]);
    if (strides[i] < 1) fail<ValueError>(op, "stride", "expected values >= 1, got ", strides[i]);
    if (dilations[i] < 1) {
      fail<ValueError>(op, "dilation", "expected values >= 1, got ", dilations[i]);
    }
    PoolAxis& axis = i == 0 ? p.h : p.w;
    axis = {x_shape[(p.channels_last ? 1 : 2) + i],
            kernels[i],
            strides[i],
            dilations[i],
            begin[i],
            end[i],
            0};
    finish_axis(op, i == 0 ? "height" : "width", mode, round_up_size, &axis);
  }
  const std::int64_t first[4] = {p.n, p.c, p.h.out, p.w.out};
  const std::int64_t last[4] = {p.n, p.h.out, p.w.out, p.c};
  std::copy_n(p.channels_last ? last : first, 4, a.y_shape);
  checked_size(op, "output", a.y_shape, 4, 8);
  return a;
}

// Offsets inside a window are kept in integers of the element's width.
void require_narrow_window(const char* op, const PoolProblem& p, Dtype dtype) {
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  if (dtype == Dtype::kF64) return;
  const std::int64_t rows = std::min(window_span(p.h), p.h.size + p.h.begin);
  std::int64_t offsets = 0;
  if (__builtin_mul_overflow(rows, p.w.size, &offsets) || offsets > kLimit - window_span(p.w)) {
    fail<NotImplemented>(op, "kernel_size",
                         "supported are float32 windows over fewer than 2**31 elements, got ", rows,
                         " rows of ", p.w.size);
  }
}

AverageDivisor take_divisor(const char* op, py::handle count_include_pad, py::handle fixed) {
  AverageDivisor d{take_bool(op, "count_include_pad", count_include_pad), 0};
  if (!fixed.is_none()) {
    d.fixed = take_int(op, "divisor_override", fixed);
    if (d.fixed == 0) fail<ValueError>(op, "divisor_override", "expected a non-zero int, got 0");
  }
  return d;
}

void require_y_shape(const char* op, const char* arg, const Array& array, const PoolArguments& a) {
  require_shape(op, arg, array, {a.y_shape[0], a.y_shape[1], a.y_shape[2], a.y_shape[3]});
}

py::object max_forward(py::handle x_in, py::handle kernel_size, py::handle stride,
                       py::handle padding, py::handle dilation, py::handle ceil_mode,
                       py::handle return_indices, py::handle layout, py::handle out_in) {
  constexpr const char* kOp = "max_pool2d";
  const Array x = take(kOp, "x", x_in);
  require_float(kOp, "x", x);
  require_ndim(kOp, "x", x, 4);
  const PoolArguments a =
      take_problem(kOp, x->shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  const bool with_indices = take_bool(kOp, "return_indices", return_indices);
  Output out(kOp, out_in, x->dtype, a.y_shape, 4, {&x});
  const auto run = [&](std::int64_t* indices) {
    dispatch_float(x->dtype, [&](auto tag) {
      using T = decltype(tag);
      const py::gil_scoped_release nogil;
      max_pool2d(a.problem, x->as<const T>(), out.data<T>(), indices);
    });
  };
  if (!with_indices) {
    run(nullptr);
    return out.finish(x);
  }
  require_narrow_window(kOp, a.problem, x->dtype);
  Output indices(kOp, py::none(), Dtype::kI64, a.y_shape, 4);
  run(indices.data<std::int64_t>());
  return py::make_tuple(out.finish(x), indices.finish(x));
}

py::object max_backward(py::handle grad_in, py::handle x_in, py::handle kernel_size,
                        py::handle stride, py::handle padding, py::handle dilation,
                        py::handle ceil_mode, py::handle layout, py::handle indices_in) {
  constexpr const char* kOp = "max_pool2d_backward";
  const Array dy = take(kOp, "grad_out", grad_in);
  require_float(kOp, "grad_out", dy);
  const Array x = take(kOp, "x", x_in);
  require_same_dtype(kOp, "x", x, "grad_out", dy);
  require_ndim(kOp, "x", x, 4);
  const PoolArguments a =
      take_problem(kOp, x->shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  require_y_shape(kOp, "grad_out", dy, a);
  const Array indices = take_optional(kOp, "indices", indices_in);
  if (indices) {
    if (indices->dtype != Dtype::kI64) {
      fail<TypeError>(kOp, "indices", "expected int64, got ", dtype_name(indices->dtype));
    }
    require_y_shape(kOp, "indices", indices, a);
  }
  require_narrow_window(kOp, a.problem, x->dtype);
  Output dx(kOp, py::none(), x->dtype, x->shape, 4);
  const bool good = dispatch_float(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    return max_pool2d_backward(a.problem, dy->as<const T>(), x->as<const T>(),
                               indices ? indices->as<const std::int64_t>() : nullptr, dx.data<T>());
  });
  if (!good) {
    fail<ValueError>(kOp, "indices",
                     "expected positions h * W + w inside their windows, as max_pool2d returns "
                     "them, got one outside");
  }
  return dx.finish(dy);
}

py::object average_forward(py::handle x_in, py::handle kernel_size, py::handle stride,
                           py::handle padding, py::handle ceil_mode, py::handle count_include_pad,
                           py::handle divisor_override, py::handle dilation, py::handle layout,
                           py::handle out_in) {
  constexpr const char* kOp = "avg_pool2d";
  const Array x = take(kOp, "x", x_in);
  require_float(kOp, "x", x);
  require_ndim(kOp, "x", x, 4);
  const PoolArguments a =
      take_problem(kOp, x->shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  const AverageDivisor d = take_divisor(kOp, count_include_pad, divisor_override);
  Output out(kOp, out_in, x->dtype, a.y_shape, 4, {&x});
  dispatch_float(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    avg_pool2d(a.problem, d, x->as<const T>(), out.data<T>());
  });
  return out.finish(x);
}

py::object average_backward(py::handle grad_in, py::handle x_shape_in, py::handle kernel_size,
                            py::handle stride, py::handle padding, py::handle ceil_mode,
                            py::handle count_include_pad, py::handle divisor_override,
                            py::handle dilation, py::handle layout) {
  constexpr const char* kOp = "avg_pool2d_backward";
  const Array dy = take(kOp, "grad_out", grad_in);
  require_float(kOp, "grad_out", dy);
  if (!PyTuple_Check(x_shape_in.ptr()) && !PyList_Check(x_shape_in.ptr())) {
    fail<TypeError>(kOp, "x_shape", "expected a tuple of 4 ints");
  }
  std::int64_t x_shape[4];
  take_ints(kOp, "x_shape", x_shape_in, 4, x_shape);
  for (const std::int64_t size : x_shape) {
    if (size < 0) fail<ValueError>(kOp, "x_shape", "expected sizes >= 0, got ", size);
    if (size > kMaxBytes) fail<OutOfMemory>(kOp, "x_shape", "expected at most 2**46, got ", size);
  }
  checked_size(kOp, "x_shape", x_shape, 4, 8);
  const PoolArguments a =
      take_problem(kOp, x_shape, kernel_size, stride, padding, dilation, ceil_mode, layout);
  const AverageDivisor d = take_divisor(kOp, count_include_pad, divisor_override);
  require_y_shape(kOp, "grad_out", dy, a);
  Output dx(kOp, py::none(), dy->dtype, x_shape, 4);
  dispatch_float(dy->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    avg_pool2d_backward(a.problem, d, dy->as<const T>(), dx.data<T>());
  });
  return dx.finish(dy);
}

}  // namespace

void bind_pool(py::module_& m) {
  m.def("max_pool2d", &max_forward);
  m.def("max_pool2d_backward", &max_backward);
  m.def("avg_pool2d", &average_forward);
  m.def("avg_pool2d_backward", &average_backward);
}

}  // namespace arraynn
