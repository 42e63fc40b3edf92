// Bindings of the plans: the calls of bind.cpp, which describe themselves and compute nothing.
#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/packed_weight.hpp"
#include "bind/wide.hpp"
#include "conv/arguments.hpp"
#include "conv/storage.hpp"

namespace arraynn {
namespace {

constexpr const char* kPlan[] = {nullptr, "conv1d_plan", "conv2d_plan", "conv3d_plan"};
constexpr const char* kBackwardPlan[] = {nullptr, "conv1d_backward_plan", "conv2d_backward_plan",
                                         "conv3d_backward_plan"};
constexpr const char* kTransposePlan[] = {nullptr, "conv_transpose1d_plan", "conv_transpose2d_plan",
                                          "conv_transpose3d_plan"};
constexpr const char* kTransposeBackwardPlan[] = {nullptr, "conv_transpose1d_backward_plan",
                                                  "conv_transpose2d_backward_plan",
                                                  "conv_transpose3d_backward_plan"};

// (algorithm or None, reason, scratch bytes, threads) of what `run` describes; the bytes are more by
// those of `wide` arrays.
template <class F>
py::tuple plan_of(const ConvArguments& a, std::int64_t wide, const F& run) {
  ConvPlan plan;
  Conv2dProblem p = a.problem;
  p.plan = &plan;
  run(p);
  return py::make_tuple(plan.algorithm, plan.reason, plan.scratch + wide, plan.threads);
}

std::int64_t result_size(const ConvArguments& a) {
  return checked_size(a.problem.op, "output", a.out_shape, a.ndim, 8);
}

// Of a forward call with so many results.
template <class F>
py::tuple plan_of_result(const ConvArguments& a, const Array& x, const Weight& weight,
                         std::int64_t results, const F& run) {
  std::int64_t wide = 0;
  if (x.stored() != x->dtype) {
    wide = results;
    if (!x.wide.is(x.owner)) wide += x->size();  // else it is read in pairs where it lies
    if (weight.forms == nullptr) wide += weight.array->size();
  }
  return plan_of(a, wide_bytes(x.stored(), wide), [&](const Conv2dProblem& p) {
    dispatch_operands(x->dtype, [&](auto tag) { run(p, static_cast<decltype(tag)*>(nullptr)); });
  });
}

// conv2d, or by_x conv_transpose2d, describes itself.
constexpr auto kDescribe = [](bool by_x) {
  return [by_x]<class T>(const Conv2dProblem& p, T* none) {
    by_x ? conv_transpose2d(p, none, none, ConvEpilogue<T>{}, none)
         : conv2d(p, none, none, ConvEpilogue<T>{}, none);
  };
};

// Of every gradient asked for; `run` describes that whose pointer is not null.
template <class F>
py::tuple plans_of_gradients(const ConvArguments& a, bool by_x, const Array& x, const Array& weight,
                             const Array& dy, const Needs& needs, const F& run) {
  const std::int64_t operands = dy->size() + x->size() + weight->size();
  const auto plan = [&](bool needed, bool of_x) -> py::object {
    if (!needed) return py::none();
    if (of_x && multiplies_16_bits(a, by_x, x)) {
      ConvArguments own = a;
      Array source = dy;
      Weight w{weight};
      take_as_read(&own, by_x, &source, &w);
      return plan_of_result(own, source, w, x->size(), kDescribe(by_x));
    }
    const Array first = widened(a.problem.op, "x", x);
    const std::int64_t wide = wide_bytes(x.stored(), operands + (of_x ? x : weight)->size());
    return plan_of(a, wide, [&](const Conv2dProblem& p) {
      dispatch_wide(first->dtype, [&](auto tag) {
        using T = decltype(tag);
        T asked{}, *const none = nullptr;
        run(p, none, none, none,
            ConvGradients<T>{of_x ? &asked : none, of_x ? none : &asked, none});
      });
    });
  };
  return py::make_tuple(plan(needs.x, true), plan(needs.weight, false), py::none());
}

template <int kAxes>
py::tuple conv_plan(py::handle x_in, py::handle weight_in, py::handle stride, py::handle padding,
                    py::handle dilation, py::handle groups, py::handle layout,
                    py::handle flip_kernel, py::handle algorithm) {
  const ConvCall call{kConv[kAxes], kAxes, stride, padding, dilation, groups, layout, algorithm};
  Array x = take(call.op, "x", x_in);
  Weight weight = take_weight(call.op, "weight", weight_in);
  ConvArguments a = take_conv(call, x, weight.array, flip_kernel);
  take_as_read(&a, false, &x, &weight);
  return plan_of_result(a, x, weight, result_size(a), kDescribe(false));
}

template <int kAxes>
py::tuple conv_backward_plan(py::handle grad_in, py::handle x_in, py::handle weight_in,
                             py::handle stride, py::handle padding, py::handle dilation,
                             py::handle groups, py::handle layout, py::handle flip_kernel,
                             py::handle algorithm, py::handle needs) {
  const ConvCall call{
      kConvBackward[kAxes], kAxes, stride, padding, dilation, groups, layout, algorithm};
  const Array x = take(call.op, "x", x_in), weight = take(call.op, "weight", weight_in);
  const ConvArguments a = take_conv(call, x, weight, flip_kernel);
  const Array dy = take_grad_out(call, a, x, grad_in);
  return plans_of_gradients(a, true, x, weight, dy, take_needs(call.op, needs),
                            [](const auto&... arguments) { conv2d_backward(arguments...); });
}

template <int kAxes>
py::tuple conv_transpose_plan(py::handle x_in, py::handle weight_in, py::handle stride,
                              py::handle padding, py::handle output_padding, py::handle groups,
                              py::handle dilation, py::handle layout, py::handle algorithm) {
  const ConvCall call{kTranspose[kAxes], kAxes,  stride, padding,
                      dilation,          groups, layout, algorithm};
  Array x = take(call.op, "x", x_in);
  Weight weight = take_weight(call.op, "weight", weight_in);
  ConvArguments a = take_conv_transpose(call, x, weight.array, output_padding);
  take_as_read(&a, true, &x, &weight);
  return plan_of_result(a, x, weight, result_size(a), kDescribe(true));
}

template <int kAxes>
py::tuple conv_transpose_backward_plan(py::handle grad_in, py::handle x_in, py::handle weight_in,
                                       py::handle stride, py::handle padding,
                                       py::handle output_padding, py::handle groups,
                                       py::handle dilation, py::handle layout, py::handle algorithm,
                                       py::handle needs) {
  const ConvCall call{
      kTransposeBackward[kAxes], kAxes, stride, padding, dilation, groups, layout, algorithm};
  const Array x = take(call.op, "x", x_in), weight = take(call.op, "weight", weight_in);
  const ConvArguments a = take_conv_transpose(call, x, weight, output_padding);
  const Array dy = take_grad_out(call, a, x, grad_in);
  return plans_of_gradients(
      a, false, x, weight, dy, take_needs(call.op, needs),
      [](const auto&... arguments) { conv_transpose2d_backward(arguments...); });
}

template <int kAxes>
void bind_axes(py::module_& m) {
  def(m, kPlan[kAxes], &conv_plan<kAxes>);
  def(m, kBackwardPlan[kAxes], &conv_backward_plan<kAxes>);
  def(m, kTransposePlan[kAxes], &conv_transpose_plan<kAxes>);
  def(m, kTransposeBackwardPlan[kAxes], &conv_transpose_backward_plan<kAxes>);
}

}  // namespace

void bind_conv_plans(py::module_& m) {
  bind_axes<1>(m);
  bind_axes<2>(m);
  bind_axes<3>(m);
}

}  // namespace arraynn
