#include <cstring>

#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/check.hpp"
#include "elementwise/elementwise.hpp"

namespace arraynn {
namespace {

using Kind = ActivationKind;

py::object forward(const char* op, const Activation& f, py::handle x_, py::handle out_) {
  const Array x = take(op, "x", x_);
  require_storage(op, "x", x);
  Output out(op, out_, x->dtype, x->shape, x->ndim, {&x});
  dispatch_storage(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_activation(f, x->as<const T>(), out.data<T>(), x->size());
  });
  return out.finish(x);
}

py::object backward(const char* op, const Activation& f, py::handle grad_out_, py::handle x_,
                    py::handle out_) {
  const Array grad_out = take(op, "grad_out", grad_out_);
  require_storage(op, "grad_out", grad_out);
  const Array x = take(op, "x", x_);
  require_like(op, "x", x, "grad_out", grad_out);
  Output out(op, out_, x->dtype, x->shape, x->ndim, {&grad_out, &x});
  dispatch_storage(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_activation_backward(f, grad_out->as<const T>(), x->as<const T>(), out.data<T>(), x->size());
  });
  return out.finish(grad_out);
}

// <name>(x, out) and <name>_backward(grad_out, x, out) of an activation without parameters.
// The lambdas are stateless but for `kind`, which pybind11 keeps beside the function.
template <Kind kind>
void bind_plain(py::module_& m, const char* name, const char* backward_name) {
  static const char* forward_op = name;
  static const char* backward_op = backward_name;
  def(
      m, name, [](py::handle x, py::handle out) { return forward(forward_op, {kind}, x, out); },
      py::arg("x"), py::arg("out"));
  def(
      m, backward_name,
      [](py::handle grad_out, py::handle x, py::handle out) {
        return backward(backward_op, {kind}, grad_out, x, out);
      },
      py::arg("grad_out"), py::arg("x"), py::arg("out"));
}

Activation leaky_relu(const char* op, py::handle slope) {
  return {Kind::kLeakyRelu, take_finite(op, "negative_slope", slope)};
}
Activation elu(const char* op, py::handle alpha) {
  return {Kind::kElu, take_finite(op, "alpha", alpha)};
}
Activation gelu(const char* op, py::handle approximate) {
  const std::string name = take_str(op, "approximate", approximate);
  if (name == "none") return {Kind::kGelu};
  if (name == "tanh") return {Kind::kGeluTanh};
  fail<ValueError>(op, "approximate", "expected 'none' or 'tanh', got '", name, "'");
}
Activation softplus(const char* op, py::handle beta_, py::handle threshold) {
  const double beta = take_finite(op, "beta", beta_);
  if (beta <= 0) fail<ValueError>(op, "beta", "expected a value > 0, got ", beta);
  return {Kind::kSoftplus, beta, take_finite(op, "threshold", threshold)};
}

py::object dropout(const char* op, const char* arg, py::handle x_, py::handle p_, py::handle seed,
                   py::handle out_) {
  const Array x = take(op, arg, x_);
  require_storage(op, arg, x);
  const double p = take_double(op, "p", p_);
  if (!(p >= 0 && p <= 1)) fail<ValueError>(op, "p", "expected a probability in [0, 1], got ", p);
  const Dropout d{static_cast<std::uint64_t>(p * 4294967296.0), p < 1 ? 1 / (1 - p) : 0.0,
                  philox_key(take_seed(op, seed))};
  Output out(op, out_, x->dtype, x->shape, x->ndim, {&x});
  dispatch_storage(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_dropout(d, x->as<const T>(), out.data<T>(), x->size());
  });
  return out.finish(x);
}

}  // namespace

void bind_elementwise(py::module_& m) {
  using py::arg;
  using H = py::handle;
  bind_plain<Kind::kRelu>(m, "relu", "relu_backward");
  bind_plain<Kind::kSelu>(m, "selu", "selu_backward");
  bind_plain<Kind::kSigmoid>(m, "sigmoid", "sigmoid_backward");
  bind_plain<Kind::kTanh>(m, "tanh", "tanh_backward");
  bind_plain<Kind::kHardsigmoid>(m, "hardsigmoid", "hardsigmoid_backward");
  bind_plain<Kind::kHardswish>(m, "hardswish", "hardswish_backward");
  bind_plain<Kind::kSilu>(m, "silu", "silu_backward");
  bind_plain<Kind::kMish>(m, "mish", "mish_backward");

  def(
      m, "leaky_relu",
      [](H x, H slope, H out) {
        return forward("leaky_relu", leaky_relu("leaky_relu", slope), x, out);
      },
      arg("x"), arg("negative_slope"), arg("out"));
  def(
      m, "leaky_relu_backward",
      [](H grad_out, H x, H slope, H out) {
        const char* op = "leaky_relu_backward";
        return backward(op, leaky_relu(op, slope), grad_out, x, out);
      },
      arg("grad_out"), arg("x"), arg("negative_slope"), arg("out"));
  def(
      m, "elu", [](H x, H alpha, H out) { return forward("elu", elu("elu", alpha), x, out); },
      arg("x"), arg("alpha"), arg("out"));
  def(
      m, "elu_backward",
      [](H grad_out, H x, H alpha, H out) {
        return backward("elu_backward", elu("elu_backward", alpha), grad_out, x, out);
      },
      arg("grad_out"), arg("x"), arg("alpha"), arg("out"));
  def(
      m, "gelu",
      [](H x, H approximate, H out) { return forward("gelu", gelu("gelu", approximate), x, out); },
      arg("x"), arg("approximate"), arg("out"));
  def(
      m, "gelu_backward",
      [](H grad_out, H x, H approximate, H out) {
        return backward("gelu_backward", gelu("gelu_backward", approximate), grad_out, x, out);
      },
      arg("grad_out"), arg("x"), arg("approximate"), arg("out"));
  def(
      m, "softplus",
      [](H x, H beta, H threshold, H out) {
        return forward("softplus", softplus("softplus", beta, threshold), x, out);
      },
      arg("x"), arg("beta"), arg("threshold"), arg("out"));
  def(
      m, "softplus_backward",
      [](H grad_out, H x, H beta, H threshold, H out) {
        const char* op = "softplus_backward";
        return backward(op, softplus(op, beta, threshold), grad_out, x, out);
      },
      arg("grad_out"), arg("x"), arg("beta"), arg("threshold"), arg("out"));
  def(
      m, "dropout",
      [](H x, H p, H seed, H out) { return dropout("dropout", "x", x, p, seed, out); }, arg("x"),
      arg("p"), arg("seed"), arg("out"));
  def(
      m, "dropout_backward",
      [](H grad_out, H p, H seed, H out) {
        return dropout("dropout_backward", "grad_out", grad_out, p, seed, out);
      },
      arg("grad_out"), arg("p"), arg("seed"), arg("out"));
}

}  // namespace arraynn
