// Bindings of batch_norm, group_norm and instance_norm.
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/check.hpp"
#include "norm/arguments.hpp"
#include "norm/fixed.hpp"

namespace arraynn {
namespace {

// Both or none, (c,) of x's dtype.
struct RunningArrays {
  Array mean, var;

  // inout: they are updated, so nothing may be copied.
  RunningArrays(const char* op, py::handle mean_in, py::handle var_in, bool inout,
                std::int64_t channels, const Array& x) {
    if (mean_in.is_none() != var_in.is_none()) {
      fail<ValueError>(op, mean_in.is_none() ? "running_mean" : "running_var",
                       "expected both running statistics or none of them, got None");
    }
    if (mean_in.is_none()) return;
    mean = one(op, "running_mean", mean_in, inout, channels, x);
    var = one(op, "running_var", var_in, inout, channels, x);
  }

  template <class T>
  Running<T> view(double momentum) const {
    if (!mean) return {nullptr, nullptr, 0, 0, 0.0};
    return {mean->as<T>(), var->as<T>(), mean->strides[0], var->strides[0], momentum};
  }
  // The fixed statistics of inference.
  template <class T>
  void fill(const Statistics& stats, const ChannelArguments& a) const {
    const std::int64_t samples = a.stats_ndim == 2 ? a.samples : 1;
    fixed_statistics(view<T>(0.0), samples, a.channels, a.norm.eps, stats.mean(), stats.rstd());
  }

 private:
  static Array one(const char* op, const char* arg, py::handle h, bool inout, std::int64_t channels,
                   const Array& x) {
    Array a = inout ? take_inout(op, arg, h) : take(op, arg, h);
    require_same_dtype(op, arg, a, "x", x);
    require_shape(op, arg, a, {channels});
    return a;
  }
};

// More than one value behind every statistic, unless there is none at all.
void require_values(const char* op, const ChannelNorm& p) {
  if (p.count() == 1 && p.n * p.c != 0) {
    fail<ValueError>(op, "x", "expected more than 1 value per channel, got 1");
  }
}

struct Call {
  const char* op;
  ChannelKind kind;
};

py::object forward(const Call& call, py::handle x_in, py::handle running_mean,
                   py::handle running_var, py::handle groups, py::handle weight_in,
                   py::handle bias_in, py::handle own, py::handle momentum_in, py::handle eps,
                   py::handle activation, py::handle layout, py::handle return_stats_in,
                   py::handle out_in) {
  const char* op = call.op;
  const Array x = take(op, "x", x_in);
  require_storage(op, "x", x);
  const ChannelArguments a = take_channels(op, call.kind, x, groups, eps, layout, activation);
  const Array weight = take_channel_vector(op, "weight", weight_in, a.channels, x);
  const Array bias = take_channel_vector(op, "bias", bias_in, a.channels, x);
  const bool grouped = call.kind == ChannelKind::kGroup;
  const char* flag = call.kind == ChannelKind::kBatch ? "training" : "use_input_stats";
  const bool fixed = !grouped && !take_bool(op, flag, own);
  const double momentum = grouped ? 0.0 : take_finite(op, "momentum", momentum_in);
  const RunningArrays running(op, running_mean, running_var, !fixed, a.channels, x);
  if (fixed && !running.mean) {
    fail<ValueError>(op, "running_mean", "expected running statistics (", flag,
                     " is False), got None");
  }
  if (!fixed && !grouped) require_values(op, a.norm);
  const bool return_stats = take_bool(op, "return_stats", return_stats_in);
  Output out(op, out_in, x->dtype, x->shape, x->ndim,
             {&x, &weight, &bias, &running.mean, &running.var});
  const Statistics stats(op, a.stats_shape, a.stats_ndim, true);
  dispatch_storage(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    if (fixed) running.fill<T>(stats, a);
    channel_norm<T>(op, a.norm, x->as<const T>(), weight->as<const T>(), bias->as<const T>(),
                    out.data<T>(), stats.mean(), stats.rstd(), fixed, running.view<T>(momentum));
  });
  if (!return_stats) return out.finish(x);
  return stats.hand_over(x, out.finish(x));
}

py::tuple backward(const Call& call, py::handle grad_in, py::handle x_in, py::handle running_mean,
                   py::handle running_var, py::handle groups, py::handle weight_in, py::handle own,
                   py::handle eps, py::handle layout, py::handle stats_in, py::handle needs) {
  const char* op = call.op;
  const Array dy = take(op, "grad_out", grad_in);
  require_storage(op, "grad_out", dy);
  const Array x = take(op, "x", x_in);
  require_like(op, "x", x, "grad_out", dy);
  const ChannelArguments a = take_channels(op, call.kind, x, groups, eps, layout, py::none());
  const Array weight = take_channel_vector(op, "weight", weight_in, a.channels, x);
  const bool grouped = call.kind == ChannelKind::kGroup;
  const char* flag = call.kind == ChannelKind::kBatch ? "training" : "use_input_stats";
  const bool fixed = !grouped && !take_bool(op, flag, own);
  const RunningArrays running(op, running_mean, running_var, false, a.channels, x);
  Statistics stats(op, a.stats_shape, a.stats_ndim, true);
  const bool given = stats.take(op, stats_in);
  if (fixed && !given && !running.mean) {
    fail<ValueError>(op, "running_mean", "expected running statistics (", flag,
                     " is False), got None");
  }
  if (!fixed && !grouped) require_values(op, a.norm);
  const NormGradients grads(op, x, needs, &a.channels, 1, true);
  dispatch_storage(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    if (!given && fixed) running.fill<T>(stats, a);
    if (!given && !fixed) {
      channel_norm<T>(op, a.norm, x->as<const T>(), nullptr, nullptr, nullptr, stats.mean(),
                      stats.rstd(), false, {nullptr, nullptr, 0, 0, 0.0});
    }
    channel_norm_backward<T>(op, a.norm, dy->as<const T>(), x->as<const T>(), weight->as<const T>(),
                             stats.mean(), stats.rstd(), fixed, grads.x<T>(), grads.weight<T>(),
                             grads.bias<T>());
  });
  return grads.hand_over(dy);
}

// batch_norm and instance_norm differ in name and statistics alone.
template <ChannelKind kKind>
void bind_running(py::module_& m) {
  using H = py::handle;
  constexpr bool kBatch = kKind == ChannelKind::kBatch;
  static constexpr const char* kName = kBatch ? "batch_norm" : "instance_norm";
  static constexpr const char* kBackward =
      kBatch ? "batch_norm_backward" : "instance_norm_backward";
  def(m, kName,
      [](H x, H mean, H var, H weight, H bias, H own, H momentum, H eps, H activation, H layout,
         H stats, H out) {
        return forward({kName, kKind}, x, mean, var, H(), weight, bias, own, momentum, eps,
                       activation, layout, stats, out);
      });
  def(m, kBackward,
      [](H grad, H x, H mean, H var, H weight, H own, H eps, H layout, H stats, H needs) {
        return backward({kBackward, kKind}, grad, x, mean, var, H(), weight, own, eps, layout,
                        stats, needs);
      });
}

}  // namespace

void bind_channel_norms(py::module_& m) {
  using H = py::handle;
  bind_running<ChannelKind::kBatch>(m);
  bind_running<ChannelKind::kInstance>(m);
  def(m, "group_norm",
      [](H x, H groups, H weight, H bias, H eps, H activation, H layout, H stats, H out) {
        const py::none none;
        return forward({"group_norm", ChannelKind::kGroup}, x, none, none, groups, weight, bias,
                       none, none, eps, activation, layout, stats, out);
      });
  def(m, "group_norm_backward",
      [](H grad, H x, H groups, H weight, H eps, H layout, H stats, H needs) {
        const py::none none;
        return backward({"group_norm_backward", ChannelKind::kGroup}, grad, x, none, none, groups,
                        weight, none, eps, layout, stats, needs);
      });
}

}  // namespace arraynn
