// Binding of the convolution whose result is pooled.
#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/packed_weight.hpp"
#include "bind/wide.hpp"
#include "conv/arguments.hpp"
#include "conv/storage.hpp"
#include "core/cuda_scratch.hpp"
#include "pool/arguments.hpp"

namespace arraynn {
namespace {

constexpr const char* kOp = "conv2d_pool";
constexpr WindowNames kNames = {"pool_size", "pool_stride", "pool_padding", "pool_dilation"};

// Arguments of the pooling, as they come from Python.
struct PoolCall {
  py::handle pool, size, stride, padding, dilation, ceil_mode, count_include_pad, divisor_override;
};

struct PooledArguments {
  PooledArguments(const ConvCall& call, const Array& x, const Array& weight, py::handle flip_kernel,
                  const PoolCall& c)
      : conv(take_conv(call, x, weight, flip_kernel)) {
    const std::string name = take_str(kOp, "pool", c.pool);
    if (name != "max" && name != "avg") {
      fail<ValueError>(kOp, "pool", "expected 'max' or 'avg', got '", name, "'");
    }
    average = name == "avg";
    windows = take_windows(kOp, 2, conv.out_shape, c.size, c.stride, c.padding, c.dilation,
                           c.ceil_mode, call.layout, kNames);
    divisor = take_divisor(kOp, c.count_include_pad, c.divisor_override);
  }

  template <class T>
  void run(const T* x, const T* weight, ConvEpilogue<T> e, T* y) const {
    const Conv2dProblem& p = conv.problem;
#if defined(ARRAYNN_CUDA)
    // The convolution into scratch, then its pooling.
    const std::int64_t bytes = p.y_size() * static_cast<std::int64_t>(sizeof(T));
    if (p.plan != nullptr) {
      conv2d(p, x, weight, e, y);
      p.plan->scratch += bytes;
      return;
    }
    const cuda::Scratch scratch(kOp, bytes);
    T* result = scratch.as<T>();
    conv2d(p, x, weight, e, result);
    if (average) {
      avg_pool(kOp, windows.problem, divisor, result, y);
    } else {
      max_pool(kOp, windows.problem, result, y, nullptr);
    }
#else
    const ConvPool<T> pool{windows.problem, average, divisor, &pool_kernels().of<T>()};
    e.pool = &pool;
    conv2d(p, x, weight, e, y);
#endif
  }

  ConvArguments conv;
  PoolArguments windows{};
  AverageDivisor divisor{};
  bool average = false;
};

py::object conv2d_pool(py::handle x_in, py::handle weight_in, py::handle bias, py::handle stride,
                       py::handle padding, py::handle dilation, py::handle groups, py::handle pool,
                       py::handle pool_size, py::handle pool_stride, py::handle pool_padding,
                       py::handle pool_dilation, py::handle ceil_mode, py::handle count_include_pad,
                       py::handle divisor_override, py::handle activation, py::handle layout,
                       py::handle flip_kernel, py::handle algorithm, py::handle out_in) {
  const ConvCall call{kOp, 2, stride, padding, dilation, groups, layout, algorithm};
  const Array x = take_wide(kOp, "x", x_in);
  const auto [weight, forms] = take_wide_weight(kOp, "weight", weight_in, "conv2d");
  PooledArguments a(call, x, weight, flip_kernel,
                    {pool, pool_size, pool_stride, pool_padding, pool_dilation, ceil_mode,
                     count_include_pad, divisor_override});
  a.conv.problem.forms = forms;
  const EpilogueArguments e(call, a.conv, x, bias, py::none(), activation);
  Output out(kOp, out_in, x.stored(), a.windows.y_shape, 4, {&x, &weight, &e.bias});
  const WideResults results(kOp, {&out.view});
  dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    a.run(x->as<const T>(), weight->as<const T>(), e.view<T>(), out.data<T>());
    results.narrow();
  });
  return out.finish(x);
}

// (algorithm or None, reason, scratch bytes, threads)
py::tuple conv2d_pool_plan(py::handle x_in, py::handle weight_in, py::handle stride,
                           py::handle padding, py::handle dilation, py::handle groups,
                           py::handle pool, py::handle pool_size, py::handle pool_stride,
                           py::handle pool_padding, py::handle pool_dilation, py::handle ceil_mode,
                           py::handle layout, py::handle flip_kernel, py::handle algorithm) {
  const ConvCall call{kOp, 2, stride, padding, dilation, groups, layout, algorithm};
  const Array x = take_wide(kOp, "x", x_in);
  const auto [weight, forms] = take_wide_weight(kOp, "weight", weight_in, "conv2d");
  PooledArguments a(call, x, weight, flip_kernel,
                    {pool, pool_size, pool_stride, pool_padding, pool_dilation, ceil_mode,
                     py::bool_(true), py::none()});
  ConvPlan plan;
  a.conv.problem.plan = &plan;
  dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* none = nullptr;
    a.run(none, none, ConvEpilogue<T>{}, static_cast<T*>(nullptr));
  });
  std::int64_t wide = x->size() + checked_size(kOp, "output", a.windows.y_shape, 4, 8);
  if (forms == nullptr) wide += weight->size();
  plan.scratch += wide_bytes(x.stored(), wide);
  return py::make_tuple(plan.algorithm, plan.reason, plan.scratch, plan.threads);
}

}  // namespace

void bind_conv_pool(py::module_& m) {
  def(m, "conv2d_pool", &conv2d_pool);
  def(m, "conv2d_pool_plan", &conv2d_pool_plan);
}

}  // namespace arraynn
