#include <algorithm>

#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "elementwise/glu.hpp"

namespace arraynn {
namespace {

Activation take_activation(const char* op, py::handle h) {
  return h.is_none() ? Activation{} : activation_from_name(op, take_str(op, "activation", h));
}

// x, cut in halves along an axis, and the shape of one of them.
struct GluArgs {
  GluArgs(const char* op, py::handle x_in, py::handle axis_in) : x(take(op, "x", x_in)) {
    require_storage(op, "x", x);
    const int ndim = x->ndim;
    const std::int64_t given = take_int(op, "axis", axis_in);
    const std::int64_t axis = given < 0 ? given + ndim : given;
    if (axis < 0 || axis >= ndim) {
      fail<ValueError>(op, "axis", "expected an axis of an array of ", ndim, " dimensions, got ",
                       given);
    }
    if (x->shape[axis] % 2 != 0) {
      fail<ValueError>(op, "x", "expected an even length along axis ", given, ", got ",
                       x->shape[axis]);
    }
    std::copy_n(x->shape, ndim, half);
    half[axis] /= 2;
    for (int i = 0; i < ndim; ++i) (i < axis ? p.outer : p.inner) *= half[i];
  }

  Array x;
  GluShape p{1, 1};
  std::int64_t half[kMaxDims];
};

py::object forward(py::handle x, py::handle axis, py::handle activation, py::handle out_in) {
  const char* op = "glu";
  const GluArgs args(op, x, axis);
  const Activation f = take_activation(op, activation);
  Output out(op, out_in, args.x->dtype, args.half, args.x->ndim, {&args.x});
  dispatch_storage(args.x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_glu(f, args.p, args.x->as<const T>(), out.data<T>());
  });
  return out.finish(args.x);
}

py::object backward(py::handle grad_in, py::handle x, py::handle axis, py::handle activation,
                    py::handle out_in) {
  const char* op = "glu_backward";
  const Array grad = take(op, "grad_out", grad_in);
  require_storage(op, "grad_out", grad);
  const GluArgs args(op, x, axis);
  require_same_dtype(op, "x", args.x, "grad_out", grad);
  const int ndim = args.x->ndim;
  if (grad->ndim != ndim || !std::equal(grad->shape, grad->shape + ndim, args.half)) {
    fail<ValueError>(op, "grad_out", "expected shape ", shape_str(args.half, ndim),
                     " (half of x), got ", shape_str(grad->shape, grad->ndim));
  }
  const Activation f = take_activation(op, activation);
  Output out(op, out_in, args.x->dtype, args.x->shape, ndim, {&grad, &args.x});
  dispatch_storage(args.x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_glu_backward(f, args.p, grad->as<const T>(), args.x->as<const T>(), out.data<T>());
  });
  return out.finish(grad);
}

}  // namespace

void bind_glu(py::module_& m) {
  def(m, "glu", &forward);
  def(m, "glu_backward", &backward);
}

}  // namespace arraynn
