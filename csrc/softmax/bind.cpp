#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/check.hpp"
#include "softmax/cross_entropy_args.hpp"
#include "softmax/softmax.hpp"

namespace arraynn {
namespace {

SoftmaxShape shape_around(const char* op, const TensorView& v, py::handle axis_) {
  const std::int64_t given = take_int(op, "axis", axis_);
  const std::int64_t axis = given < 0 ? given + v.ndim : given;
  if (axis < 0 || axis >= v.ndim) {
    fail<ValueError>(op, "axis", "expected an axis of an array of ", v.ndim, " dimensions, got ",
                     given);
  }
  SoftmaxShape s{1, v.shape[axis], 1};
  for (int i = 0; i < axis; ++i) s.outer *= v.shape[i];
  for (int i = static_cast<int>(axis) + 1; i < v.ndim; ++i) s.inner *= v.shape[i];
  return s;
}

py::object forward(const char* op, SoftmaxKind kind, py::handle x_, py::handle axis,
                   py::handle out_) {
  const Array x = take(op, "x", x_);
  require_storage(op, "x", x);
  const SoftmaxShape shape = shape_around(op, x.view, axis);
  Output out(op, out_, x->dtype, x->shape, x->ndim, {&x});
  dispatch_storage(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_softmax(kind, shape, x->as<const T>(), out.data<T>());
  });
  return out.finish(x);
}

py::object backward(const char* op, SoftmaxKind kind, py::handle grad_out_, py::handle y_,
                    py::handle axis, py::handle out_) {
  const Array grad_out = take(op, "grad_out", grad_out_);
  require_storage(op, "grad_out", grad_out);
  const Array y = take(op, "y", y_);
  require_like(op, "y", y, "grad_out", grad_out);
  const SoftmaxShape shape = shape_around(op, y.view, axis);
  Output out(op, out_, y->dtype, y->shape, y->ndim, {&grad_out, &y});
  dispatch_storage(y->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_softmax_backward(kind, shape, grad_out->as<const T>(), y->as<const T>(), out.data<T>());
  });
  return out.finish(grad_out);
}

py::object loss(const char* op, Loss kind, const CrossEntropyArgs& args, py::handle out_) {
  const bool none = args.reduction == Reduction::kNone;
  const Dtype dtype = args.logits->dtype;
  Output out(op, out_, dtype, args.sample_shape, none ? args.sample_ndim : 0,
             {&args.logits, &args.target, &args.weight});
  dispatch_storage(dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    compute_loss(kind, args, out.data<T>());
  });
  return out.finish(args.logits);
}

py::object loss_backward(const char* op, Loss kind, py::handle grad_out_,
                         const CrossEntropyArgs& args, py::handle out_) {
  const bool none = args.reduction == Reduction::kNone;
  Array grad_out;
  double scale = 1;
  if (!none && (PyFloat_CheckExact(grad_out_.ptr()) || PyLong_CheckExact(grad_out_.ptr()))) {
    scale = take_double(op, "grad_out", grad_out_);
  } else {
    grad_out = take(op, "grad_out", grad_out_);
    require_same_dtype(op, "grad_out", grad_out, args.name, args.logits);
    const int ndim = none ? args.sample_ndim : 0;
    if (grad_out->ndim != ndim ||
        !std::equal(grad_out->shape, grad_out->shape + ndim, args.sample_shape)) {
      fail<ValueError>(op, "grad_out", "expected shape ", shape_str(args.sample_shape, ndim),
                       ", got ", shape_str(grad_out->shape, grad_out->ndim));
    }
  }
  const TensorView& z = args.logits.view;
  Output out(op, out_, z.dtype, z.shape, z.ndim,
             {&grad_out, &args.logits, &args.target, &args.weight});
  dispatch_storage(z.dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    compute_loss_gradient(kind, args, grad_out ? grad_out->as<const T>() : nullptr, scale,
                          out.data<T>());
  });
  return out.finish(args.logits);
}

}  // namespace

void bind_softmax(py::module_& m) {
  using py::arg;
  using H = py::handle;
  def(
      m, "softmax",
      [](H x, H axis, H out) { return forward("softmax", SoftmaxKind::kSoftmax, x, axis, out); },
      arg("x"), arg("axis"), arg("out"));
  def(
      m, "log_softmax",
      [](H x, H axis, H out) {
        return forward("log_softmax", SoftmaxKind::kLogSoftmax, x, axis, out);
      },
      arg("x"), arg("axis"), arg("out"));
  def(
      m, "softmax_backward",
      [](H grad_out, H y, H axis, H out) {
        return backward("softmax_backward", SoftmaxKind::kSoftmax, grad_out, y, axis, out);
      },
      arg("grad_out"), arg("y"), arg("axis"), arg("out"));
  def(
      m, "log_softmax_backward",
      [](H grad_out, H y, H axis, H out) {
        return backward("log_softmax_backward", SoftmaxKind::kLogSoftmax, grad_out, y, axis, out);
      },
      arg("grad_out"), arg("y"), arg("axis"), arg("out"));
  def(
      m, "cross_entropy",
      [](H logits, H target, H weight, H ignore_index, H smoothing, H reduction, H out) {
        const char* op = "cross_entropy";
        return loss(op, Loss::kCrossEntropy,
                    {op, {"logits", logits}, target, weight, ignore_index, &smoothing, reduction},
                    out);
      },
      arg("logits"), arg("target"), arg("weight"), arg("ignore_index"), arg("label_smoothing"),
      arg("reduction"), arg("out"));
  def(
      m, "cross_entropy_backward",
      [](H grad_out, H logits, H target, H weight, H ignore_index, H smoothing, H reduction,
         H out) {
        const char* op = "cross_entropy_backward";
        return loss_backward(
            op, Loss::kCrossEntropy, grad_out,
            {op, {"logits", logits}, target, weight, ignore_index, &smoothing, reduction}, out);
      },
      arg("grad_out"), arg("logits"), arg("target"), arg("weight"), arg("ignore_index"),
      arg("label_smoothing"), arg("reduction"), arg("out"));
  def(
      m, "nll_loss",
      [](H log_probs, H target, H weight, H ignore_index, H reduction, H out) {
        const char* op = "nll_loss";
        return loss(
            op, Loss::kNll,
            {op, {"log_probs", log_probs}, target, weight, ignore_index, nullptr, reduction}, out);
      },
      arg("log_probs"), arg("target"), arg("weight"), arg("ignore_index"), arg("reduction"),
      arg("out"));
  def(
      m, "nll_loss_backward",
      [](H grad_out, H log_probs, H target, H weight, H ignore_index, H reduction, H out) {
        const char* op = "nll_loss_backward";
        return loss_backward(
            op, Loss::kNll, grad_out,
            {op, {"log_probs", log_probs}, target, weight, ignore_index, nullptr, reduction}, out);
      },
      arg("grad_out"), arg("log_probs"), arg("target"), arg("weight"), arg("ignore_index"),
      arg("reduction"), arg("out"));
}

}  // namespace arraynn
