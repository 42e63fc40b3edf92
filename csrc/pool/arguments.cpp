#include "pool/arguments.hpp"

#include <algorithm>
#include <limits>
#include <optional>

#include "bind/wide.hpp"

namespace arraynn {
namespace {

// Output size and padding of one axis whose size, kernel, stride, dilation and explicit padding
// are set. ceil_mode rounds up, then drops a last window that would start in the padding at the
// end: PyTorch's rule.
void finish_axis(const char* op, const char* axis, const WindowNames& names, PadMode mode,
                 bool ceil_mode, PoolAxis* a) {
  const std::int64_t span = checked_mul(op, names.kernel_size, a->kernel - 1, a->dilation) + 1;
  if (mode != PadMode::kExplicit) {
    const std::int64_t out = a->size / a->stride + (a->size % a->stride != 0);
    const std::int64_t total =
        out > 0 ? std::max<std::int64_t>((out - 1) * a->stride + span - a->size, 0) : 0;
    a->begin = mode == PadMode::kSame ? total / 2 : total - total / 2;
    a->end = total - a->begin;
  } else if (std::max(a->begin, a->end) >= span) {
    fail<ValueError>(op, names.padding, "expected less than the window's ", axis, " of ", span,
                     ", got ", std::max(a->begin, a->end));
  }
  const std::int64_t padded = a->size + a->begin + a->end;
  if (padded < span) {
    fail<ValueError>(op, names.kernel_size, "expected a window that fits the padded input of ",
                     axis, " ", padded, ", got a reach of ", span);
  }
  const std::int64_t room = padded - span;
  a->out = room / a->stride + 1;
  if (ceil_mode && room % a->stride != 0 && a->out * a->stride < a->size + a->begin) ++a->out;
}

// The axis that one spatial axis leaves unused.

const char* axis_name(int axes, int i) {
  constexpr const char* kNames[] = {"depth", "height", "width"};
  return axes == 1 ? "length" : kNames[3 - axes + i];
}

PoolArguments begin_arguments(const char* op, int axes, const std::int64_t* x_shape,
                              py::handle layout) {
  PoolArguments a{};
  a.axes = axes;
  PoolProblem& p = a.problem;
  p.channels_last = take_channels_last(op, layout);
  p.n = x_shape[0];
  p.c = x_shape[p.channels_last ? axes + 1 : 1];
  checked_mul(op, "x", p.n, p.c);
  return a;
}

// One window over the whole axis.
bool is_whole(const PoolAxis& a) {
  return a.out == 1 && a.kernel == a.size && a.dilation == 1 && a.begin == 0 && a.end == 0;
}

// Puts the axes in place: a single one is the width, whose rows are pooled where they lie, but the
// height of a band where its windows are adaptive.
void finish_arguments(const char* op, const PoolAxis* axis, PoolArguments* a) {
  PoolProblem& p = a->problem;
  const int first = p.channels_last ? 1 : 2;
  a->y_shape[0] = p.n;
  a->y_shape[p.channels_last ? a->axes + 1 : 1] = p.c;
  for (int i = 0; i < a->axes; ++i) a->y_shape[first + i] = axis[i].out;
  checked_size(op, "output", a->y_shape, a->axes + 2, 8);
  if (a->axes == 3) {
    a->volume = !(is_whole(axis[0]) && is_whole(axis[1]) && is_whole(axis[2]));
    a->depth = axis[0];
    p.h = axis[1];
    p.w = axis[2];
    if (a->volume) return;
    const std::int64_t all = axis[0].size * axis[1].size * axis[2].size;
    p.h = kUnitAxis;
    p.w = {all, all, all, 1, 0, 0, 1};
    return;
  }
  const bool down = a->axes == 2 || axis[0].to > 0;
  p.h = down ? axis[0] : kUnitAxis;
  p.w = a->axes == 2 ? axis[1] : down ? kUnitAxis : axis[0];
}

// Offsets inside a window are kept in integers of the element's width.
void require_narrow_window(const char* op, const PoolArguments& a, Dtype dtype) {
  constexpr std::int64_t kLimit = std::numeric_limits<std::int32_t>::max();
  if (dtype == Dtype::kF64) return;
  const PoolProblem& p = a.problem;
  std::int64_t rows = std::min(window_span(p.h), p.h.size + p.h.begin), offsets = 0;
  if (a.volume) rows += std::min(window_span(a.depth), a.depth.size + a.depth.begin) * p.h.size;
  if (__builtin_mul_overflow(rows, p.w.size, &offsets) || offsets > kLimit - window_span(p.w)) {
    fail<NotImplemented>(op, "kernel_size",
                         "supported are float32 windows over fewer than 2**31 elements, got ", rows,
                         " rows of ", p.w.size);
  }
}

// Windows [floor(o size / out), ceil((o + 1) size / out)): ordinary ones where out divides size.
PoolAxis adaptive_axis(const char* op, std::int64_t size, std::int64_t out) {
  if (out < 0) fail<ValueError>(op, "output_size", "expected values >= 0, got ", out);
  if (out == 0) return {size, 1, 1, 1, 0, 0, 0};
  if (size % out == 0) return {size, size / out, size / out, 1, 0, 0, out};
  checked_mul(op, "output_size", size, out + 1);
  PoolAxis a{size, std::min(size, size / out + 2), size / out + 1, 1, 0, 0, out};
  a.from = size;
  a.to = out;
  return a;
}

}  // namespace

PoolArguments take_windows(const char* op, int axes, const std::int64_t* x_shape,
                           py::handle kernel_size, py::handle stride, py::handle padding,
                           py::handle dilation, py::handle ceil_mode, py::handle layout,
                           const WindowNames& names) {
  PoolArguments a = begin_arguments(op, axes, x_shape, layout);
  std::int64_t kernels[kMaxPoolAxes], strides[kMaxPoolAxes], dilations[kMaxPoolAxes];
  std::int64_t begin[kMaxPoolAxes], end[kMaxPoolAxes];
  take_ints(op, names.kernel_size, kernel_size, axes, kernels);
  take_ints(op, names.stride, stride.is_none() ? kernel_size : stride, axes, strides);
  take_ints(op, names.dilation, dilation, axes, dilations);
  const bool round_up_size = take_bool(op, "ceil_mode", ceil_mode);
  PadMode mode{};
  take_padding(op, padding, axes, begin, end, &mode, names.padding);
  PoolAxis axis[kMaxPoolAxes];
  for (int i = 0; i < axes; ++i) {
    if (kernels[i] < 1) fail<ValueError>(op, names.kernel_size, "expected >= 1, got ", kernels[i]);
    if (strides[i] < 1)
      fail<ValueError>(op, names.stride, "expected values >= 1, got ", strides[i]);
    if (dilations[i] < 1) {
      fail<ValueError>(op, names.dilation, "expected values >= 1, got ", dilations[i]);
    }
    const std::int64_t size = x_shape[(a.problem.channels_last ? 1 : 2) + i];
    axis[i] = {size, kernels[i], strides[i], dilations[i], begin[i], end[i], 0};
    finish_axis(op, axis_name(axes, i), names, mode, round_up_size, &axis[i]);
  }
  finish_arguments(op, axis, &a);
  return a;
}

AverageDivisor take_divisor(const char* op, py::handle count_include_pad, py::handle fixed) {
  AverageDivisor d{take_bool(op, "count_include_pad", count_include_pad), 0};
  if (!fixed.is_none()) {
    d.fixed = take_int(op, "divisor_override", fixed);
    if (d.fixed == 0) fail<ValueError>(op, "divisor_override", "expected a non-zero int, got 0");
  }
  return d;
}

PoolArguments take_adaptive(const char* op, int axes, const std::int64_t* x_shape,
                            py::handle output_size, py::handle layout) {
  PoolArguments a = begin_arguments(op, axes, x_shape, layout);
  PoolAxis axis[kMaxPoolAxes];
  const bool each = PyTuple_Check(output_size.ptr()) || PyList_Check(output_size.ptr());
  if (each && py::len(output_size) != static_cast<std::size_t>(axes)) {
    fail<ValueError>(op, "output_size", "expected an int or None, or ", axes, " of them, got ",
                     py::len(output_size), " values");
  }
  for (int i = 0; i < axes; ++i) {
    const std::int64_t size = x_shape[(a.problem.channels_last ? 1 : 2) + i];
    if (size == 0) fail<ValueError>(op, "x", "expected a ", axis_name(axes, i), " >= 1, got 0");
    const auto wanted = each ? py::object(py::reinterpret_borrow<py::sequence>(
                                   output_size)[static_cast<std::size_t>(i)])
                             : py::reinterpret_borrow<py::object>(output_size);
    axis[i] =
        adaptive_axis(op, size, wanted.is_none() ? size : take_int(op, "output_size", wanted));
  }
  finish_arguments(op, axis, &a);
  return a;
}

PoolArguments take_global(const char* op, int axes, const std::int64_t* x_shape,
                          py::handle layout) {
  return take_adaptive(op, axes, x_shape, py::int_(1), layout);
}

int require_planes(const char* op, const Array& x, int axes) {
  if (axes > 0) {
    require_ndim(op, "x", x, axes + 2);
    return axes;
  }
  if (x->ndim < 3 || x->ndim > kMaxPoolAxes + 2) {
    fail<ValueError>(op, "x", "expected 3, 4 or 5 dimensions, got ", x->ndim, " with shape ",
                     shape_str(x->shape, x->ndim));
  }
  return x->ndim - 2;
}

Array take_x(const char* op, py::handle x_in, int* axes) {
  Array x = take_wide(op, "x", x_in);
  require_storage(op, "x", x);
  *axes = require_planes(op, x, *axes);
  return x;
}

Array take_x_like(const char* op, py::handle x_in, const Array& dy, int* axes) {
  Array x = take_wide(op, "x", x_in);
  require_same_dtype(op, "x", x, "grad_out", dy);
  *axes = require_planes(op, x, *axes);
  return x;
}

Array take_grad(const char* op, py::handle grad_in) {
  Array dy = take_wide(op, "grad_out", grad_in);
  require_storage(op, "grad_out", dy);
  return dy;
}

int take_x_shape(const char* op, py::handle h, int axes, std::int64_t* x_shape) {
  if (!PyTuple_Check(h.ptr()) && !PyList_Check(h.ptr())) {
    fail<TypeError>(op, "x_shape", "expected a tuple of ints");
  }
  if (axes == 0) axes = std::clamp(static_cast<int>(py::len(h)) - 2, 1, kMaxPoolAxes);
  take_ints(op, "x_shape", h, axes + 2, x_shape);
  for (int i = 0; i < axes + 2; ++i) {
    if (x_shape[i] < 0) fail<ValueError>(op, "x_shape", "expected sizes >= 0, got ", x_shape[i]);
    if (x_shape[i] > kMaxBytes) {
      fail<OutOfMemory>(op, "x_shape", "expected at most 2**46, got ", x_shape[i]);
    }
  }
  checked_size(op, "x_shape", x_shape, axes + 2, 8);
  return axes;
}

void require_y_shape(const char* op, const char* arg, const Array& array, const PoolArguments& a) {
  if (array->ndim != a.axes + 2 || !std::equal(a.y_shape, a.y_shape + a.axes + 2, array->shape)) {
    fail<ValueError>(op, arg, "expected shape ", shape_str(a.y_shape, a.axes + 2), ", got ",
                     shape_str(array->shape, array->ndim));
  }
}

#if defined(ARRAYNN_CUDA)

// To tell would have to wait.
bool are_inside(const Array&, std::int64_t, const PoolArguments*) { return true; }

#else

static bool has_empty_windows(const PoolArguments& a) {
  return (a.volume && has_empty_windows(a.depth)) || has_empty_windows(a.problem.h) ||
         has_empty_windows(a.problem.w);
}

bool are_inside(const Array& indices, std::int64_t size, const PoolArguments* windows) {
  const std::int64_t first = windows != nullptr && has_empty_windows(*windows) ? -1 : 0;
  const auto* begin = indices->as<const std::int64_t>();
  return std::all_of(begin, begin + indices->size(),
                     [=](std::int64_t i) { return i >= first && i < size; });
}

#endif

[[noreturn]] static void fail_outside(const char* op) {
  fail<ValueError>(op, "indices",
                   "expected positions in the planes of x, as the forward call returns them, "
                   "got one outside");
}

static void run_integers(const PoolArguments& a, const Array& x, const Output& out,
                         std::int64_t* indices) {
  const VolumeProblem v{a.problem, a.volume ? a.depth : kUnitAxis};
  const py::gil_scoped_release nogil;
  const auto run = [&]<class T>(T) {
    max_pool_integer(v, x->as<const T>(), out.data<T>(), indices);
  };
  switch (x->dtype) {
    case Dtype::kU8:
      return run(std::uint8_t{});
    case Dtype::kI8:
      return run(std::int8_t{});
    case Dtype::kI16:
      return run(std::int16_t{});
    case Dtype::kI32:
      return run(std::int32_t{});
    default:
      return run(std::int64_t{});
  }
}

py::object run_max(const char* op, const PoolArguments& a, const Array& x,
                   py::handle return_indices, py::handle out_in) {
  const bool with_indices = take_bool(op, "return_indices", return_indices);
  Output out(op, out_in, x.stored(), a.y_shape, a.axes + 2, {&x});
  const WideResults results(op, {&out.view});
  const bool integers = !is_storage(x->dtype);
  const auto run = [&](std::int64_t* indices) {
    if (integers) return run_integers(a, x, out, indices);
    dispatch_wide(x->dtype, [&](auto tag) {
      using T = decltype(tag);
      const py::gil_scoped_release nogil;
      a.visit([&](const auto& p) { max_pool(op, p, x->as<const T>(), out.data<T>(), indices); });
      results.narrow();
    });
  };
  if (!with_indices) {
    run(nullptr);
    return out.finish(x);
  }
  if (!integers) require_narrow_window(op, a, x->dtype);
  Output indices(op, py::none(), Dtype::kI64, a.y_shape, a.axes + 2);
  run(indices.data<std::int64_t>());
  return py::make_tuple(out.finish(x), indices.finish(x));
}

py::object run_max_backward(const char* op, const PoolArguments& a, const Array& dy, const Array& x,
                            py::handle indices_in, py::handle out) {
  require_y_shape(op, "grad_out", dy, a);
  const Array indices = take_optional(op, "indices", indices_in);
  if (indices) {
    if (indices->dtype != Dtype::kI64) {
      fail<TypeError>(op, "indices", "expected int64, got ", dtype_name(indices->dtype));
    }
    require_y_shape(op, "indices", indices, a);
  }
  require_narrow_window(op, a, x->dtype);
  Output dx(op, out, x.stored(), x->shape, x->ndim, {&dy, &x, &indices});
  const WideResults results(op, {&dx.view});
  if (indices && !out.is_none() && !are_inside(indices, a.positions(), &a)) fail_outside(op);
  const std::int64_t* winners = indices ? indices->as<const std::int64_t>() : nullptr;
#if defined(ARRAYNN_CUDA)
  // A device finds the maxima once for all the elements of their windows.
  std::optional<Output> found;
  if (!indices) {
    found.emplace(op, py::none(), Dtype::kI64, a.y_shape, a.axes + 2);
    winners = found->data<std::int64_t>();
    dispatch_wide(x->dtype, [&](auto tag) {
      using T = decltype(tag);
      a.visit([&](const auto& p) {
        max_pool(op, p, x->as<const T>(), static_cast<T*>(nullptr), found->data<std::int64_t>());
      });
    });
  }
#endif
  const bool good = dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    const bool inside = a.visit([&](const auto& p) {
      return max_pool_backward(op, p, dy->as<const T>(), x->as<const T>(), winners, dx.data<T>());
    });
    if (inside) results.narrow();
    return inside;
  });
  if (!good) fail_outside(op);
  return dx.finish(dy);
}

py::object run_average(const char* op, const PoolArguments& a, const AverageDivisor& d,
                       const Array& x, py::handle out_in) {
  Output out(op, out_in, x.stored(), a.y_shape, a.axes + 2, {&x});
  const WideResults results(op, {&out.view});
  dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    a.visit([&](const auto& p) { avg_pool(op, p, d, x->as<const T>(), out.data<T>()); });
    results.narrow();
  });
  return out.finish(x);
}

py::object run_average_backward(const char* op, const PoolArguments& a, const AverageDivisor& d,
                                const Array& dy, const std::int64_t* x_shape, py::handle out) {
  require_y_shape(op, "grad_out", dy, a);
  Output dx(op, out, dy.stored(), x_shape, a.axes + 2, {&dy});
  const WideResults results(op, {&dx.view});
  dispatch_wide(dy->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    a.visit([&](const auto& p) { avg_pool_backward(op, p, d, dy->as<const T>(), dx.data<T>()); });
    results.narrow();
  });
  return dx.finish(dy);
}

}  // namespace arraynn
