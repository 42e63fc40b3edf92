// Bindings of layer_norm and rms_norm.
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/check.hpp"
#include "norm/arguments.hpp"

namespace arraynn {
namespace {

py::object forward(const char* op, bool centred, py::handle x_in, py::handle normalized_shape,
                   py::handle weight_in, py::handle bias_in, py::handle eps, py::handle activation,
                   py::handle return_stats_in, py::handle out_in) {
  const Array x = take(op, "x", x_in);
  require_storage(op, "x", x);
  const RowArguments a = take_rows(op, x, normalized_shape, eps, centred, activation);
  const Array weight = take_row_vector(op, "weight", weight_in, a, x);
  const Array bias = take_row_vector(op, "bias", bias_in, a, x);
  const bool return_stats = take_bool(op, "return_stats", return_stats_in);
  Output out(op, out_in, x->dtype, x->shape, x->ndim, {&x, &weight, &bias});
  // A row count of 0 statistics is one too many for an array of no use.
  const std::int64_t none[1] = {0};
  const Statistics stats(op, return_stats ? x->shape : none, return_stats ? a.leading : 1, centred);
  dispatch_storage(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    row_norm(a.norm, x->as<const T>(), weight->as<const T>(), bias->as<const T>(), out.data<T>(),
             return_stats ? stats.mean() : nullptr, return_stats ? stats.rstd() : nullptr);
  });
  if (!return_stats) return out.finish(x);
  return stats.hand_over(x, out.finish(x));
}

py::tuple backward(const char* op, bool centred, py::handle grad_in, py::handle x_in,
                   py::handle normalized_shape, py::handle weight_in, py::handle eps,
                   py::handle stats_in, py::handle needs) {
  const Array dy = take(op, "grad_out", grad_in);
  require_storage(op, "grad_out", dy);
  const Array x = take(op, "x", x_in);
  require_like(op, "x", x, "grad_out", dy);
  const RowArguments a = take_rows(op, x, normalized_shape, eps, centred, py::none());
  const Array weight = take_row_vector(op, "weight", weight_in, a, x);
  Statistics stats(op, x->shape, a.leading, centred);
  const bool given = stats.take(op, stats_in);
  const NormGradients grads(op, x, needs, x->shape + a.leading, a.trailing, centred);
  dispatch_storage(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    if (!given) {
      row_norm<T>(a.norm, x->as<const T>(), nullptr, nullptr, nullptr, stats.mean(), stats.rstd());
    }
    row_norm_backward<T>(op, a.norm, dy->as<const T>(), x->as<const T>(), weight->as<const T>(),
                         stats.mean(), stats.rstd(), grads.x<T>(), grads.weight<T>(),
                         grads.bias<T>());
  });
  return grads.hand_over(dy);
}

}  // namespace

void bind_row_norms(py::module_& m) {
  using H = py::handle;
  def(m, "layer_norm", [](H x, H shape, H weight, H bias, H eps, H activation, H stats, H out) {
    return forward("layer_norm", true, x, shape, weight, bias, eps, activation, stats, out);
  });
  def(m, "layer_norm_backward", [](H grad, H x, H shape, H weight, H eps, H stats, H needs) {
    return backward("layer_norm_backward", true, grad, x, shape, weight, eps, stats, needs);
  });
  def(m, "rms_norm", [](H x, H shape, H weight, H eps, H activation, H stats, H out) {
    return forward("rms_norm", false, x, shape, weight, py::none(), eps, activation, stats, out);
  });
  def(m, "rms_norm_backward", [](H grad, H x, H shape, H weight, H eps, H stats, H needs) {
    return backward("rms_norm_backward", false, grad, x, shape, weight, eps, stats, needs);
  });
}

}  // namespace arraynn
