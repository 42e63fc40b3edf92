#include <memory>
#include <utility>
#include <vector>

#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/check.hpp"
#include "optim/run.hpp"

namespace arraynn {
namespace {

Gradient take_gradient(const char* op, py::handle maximize, py::handle grad_scale,
                       py::handle max_norm) {
  Gradient g;
  g.maximize = take_bool(op, "maximize", maximize);
  if (!grad_scale.is_none()) {
    g.scale = take_finite(op, "grad_scale", grad_scale);
    if (g.scale == 0.0) fail<ValueError>(op, "grad_scale", "expected a value other than 0, got 0");
  }
  if (!max_norm.is_none()) {
    g.clip = true;
    g.max_norm = take_double(op, "max_norm", max_norm);
    if (!(g.max_norm >= 0)) {
      fail<ValueError>(op, "max_norm", "expected a value >= 0, got ", g.max_norm);
    }
  }
  return g;
}

Number take_step(const char* op, py::handle h) {
  Array array = take_number_array(op, "step", h, true);
  if (array) return {0, std::move(array)};
  const std::int64_t step = take_int(op, "step", h);
  if (step < 1) fail<ValueError>(op, "step", "expected a value >= 1, got ", step);
  return {static_cast<double>(step), {}};
}

Number take_rate(const char* op, py::handle h) {
  Array array = take_number_array(op, "lr", h, false);
  if (array) return {0, std::move(array)};
  return {take_at_least(op, "lr", h, 0.0), {}};
}

// The lists of a step, each of params' shapes and apart from those before it.
class Lists {
 public:
  Lists(const char* op, py::handle params, py::handle grads)
      : op_(op),
        params_(take("params", params, true, nullptr)),
        grads_(take("grads", grads, false, params_)) {}

  // A list of the state, or null for None.
  const List* state(const char* arg, py::handle h) {
    return h.is_none() ? nullptr : take(arg, h, true, params_);
  }
  const List* needed_state(const char* arg, py::handle h) { return take(arg, h, true, params_); }

  StepLists step(const List* first = nullptr, const List* second = nullptr,
                 const List* largest = nullptr) const {
    return {params_, grads_, first, second, largest};
  }

 private:
  const List* take(const char* arg, py::handle h, bool inout, const List* like) {
    auto list = std::make_unique<List>(take_list(op_, arg, h, inout, like));
    for (const auto& [name, other] : taken_) require_apart(op_, arg, *list, name, *other);
    taken_.emplace_back(arg, std::move(list));
    return taken_.back().second.get();
  }

  const char* op_;
  std::vector<std::pair<const char*, std::unique_ptr<List>>> taken_;
  const List *params_, *grads_;
};

void require_buffers(const char* op, double momentum, const List* buffers) {
  if (momentum != 0.0 && buffers == nullptr) {
    fail<ValueError>(op, "momentum_buffers", "expected a list of arrays (momentum is ", momentum,
                     "), got None");
  }
}

py::object adam_step(py::handle params_, py::handle grads_, py::handle exp_avgs_,
                     py::handle exp_avg_sqs_, py::handle step_, py::handle lr_, py::handle betas_,
                     py::handle eps_, py::handle weight_decay_, py::handle decoupled_,
                     py::handle max_exp_avg_sqs_, py::handle maximize_, py::handle eps_mode_,
                     py::handle grad_scale_, py::handle max_norm_) {
  constexpr const char* kOp = "adam_step";
  Lists lists(kOp, params_, grads_);
  const List* exp_avgs = lists.needed_state("exp_avgs", exp_avgs_);
  const List* exp_avg_sqs = lists.needed_state("exp_avg_sqs", exp_avg_sqs_);
  const List* largest = lists.state("max_exp_avg_sqs", max_exp_avg_sqs_);
  const Number step = take_step(kOp, step_), lr = take_rate(kOp, lr_);
  if (!PyTuple_Check(betas_.ptr()) && !PyList_Check(betas_.ptr())) {
    fail<TypeError>(kOp, "betas", "expected two floats, got ", Py_TYPE(betas_.ptr())->tp_name);
  }
  const auto betas = py::reinterpret_borrow<py::sequence>(betas_);
  if (py::len(betas) != 2) {
    fail<ValueError>(kOp, "betas", "expected two floats, got ", py::len(betas));
  }
  double beta[2];
  for (std::size_t i = 0; i < 2; ++i) {
    beta[i] = take_at_least(kOp, "betas", py::object(betas[i]), 0.0);
    if (beta[i] >= 1.0) fail<ValueError>(kOp, "betas", "expected values < 1, got ", beta[i]);
  }
  const double eps = take_at_least(kOp, "eps", eps_, 0.0);
  const double weight_decay = take_at_least(kOp, "weight_decay", weight_decay_, 0.0);
  const bool decoupled = take_bool(kOp, "decoupled", decoupled_);
  const std::string eps_mode = take_str(kOp, "eps_mode", eps_mode_);
  if (eps_mode != "outside" && eps_mode != "hat") {
    fail<ValueError>(kOp, "eps_mode", "expected 'outside' or 'hat', got '", eps_mode, "'");
  }
  const Gradient gradient = take_gradient(kOp, maximize_, grad_scale_, max_norm_);
  const AdamOptions options{beta[0], beta[1], eps, weight_decay, decoupled, eps_mode == "hat"};
  return run_step(lists.step(exp_avgs, exp_avg_sqs, largest), gradient, options, step, lr);
}

py::object sgd_step(py::handle params_, py::handle grads_, py::handle momentum_buffers_,
                    py::handle step_, py::handle lr_, py::handle momentum_, py::handle dampening_,
                    py::handle weight_decay_, py::handle nesterov_, py::handle maximize_,
                    py::handle grad_scale_, py::handle max_norm_) {
  constexpr const char* kOp = "sgd_step";
  Lists lists(kOp, params_, grads_);
  const List* buffers = lists.state("momentum_buffers", momentum_buffers_);
  const Number step = take_step(kOp, step_), lr = take_rate(kOp, lr_);
  SgdOptions s{};
  s.momentum = take_at_least(kOp, "momentum", momentum_, 0.0);
  s.dampening = take_finite(kOp, "dampening", dampening_);
  s.weight_decay = take_at_least(kOp, "weight_decay", weight_decay_, 0.0);
  s.nesterov = take_bool(kOp, "nesterov", nesterov_);
  require_buffers(kOp, s.momentum, buffers);
  if (s.nesterov && (s.momentum <= 0 || s.dampening != 0)) {
    fail<ValueError>(kOp, "nesterov", "expected momentum > 0 and dampening 0, got ", s.momentum,
                     " and ", s.dampening);
  }
  const Gradient gradient = take_gradient(kOp, maximize_, grad_scale_, max_norm_);
  return run_step(lists.step(buffers), gradient, s, step, lr);
}

py::object adagrad_step(py::handle params_, py::handle grads_, py::handle state_sums_,
                        py::handle step_, py::handle lr_, py::handle lr_decay_, py::handle eps_,
                        py::handle weight_decay_, py::handle maximize_, py::handle grad_scale_,
                        py::handle max_norm_) {
  constexpr const char* kOp = "adagrad_step";
  Lists lists(kOp, params_, grads_);
  const List* sums = lists.needed_state("state_sums", state_sums_);
  const Number step = take_step(kOp, step_), lr = take_rate(kOp, lr_);
  const AdagradOptions options{take_at_least(kOp, "lr_decay", lr_decay_, 0.0),
                               take_at_least(kOp, "eps", eps_, 0.0),
                               take_at_least(kOp, "weight_decay", weight_decay_, 0.0)};
  const Gradient gradient = take_gradient(kOp, maximize_, grad_scale_, max_norm_);
  return run_step(lists.step(sums), gradient, options, step, lr);
}

py::object rmsprop_step(py::handle params_, py::handle grads_, py::handle square_avgs_,
                        py::handle lr_, py::handle alpha_, py::handle eps_,
                        py::handle weight_decay_, py::handle momentum_, py::handle grad_avgs_,
                        py::handle momentum_buffers_, py::handle maximize_, py::handle grad_scale_,
                        py::handle max_norm_) {
  constexpr const char* kOp = "rmsprop_step";
  Lists lists(kOp, params_, grads_);
  const List* squares = lists.needed_state("square_avgs", square_avgs_);
  const List* means = lists.state("grad_avgs", grad_avgs_);
  const List* buffers = lists.state("momentum_buffers", momentum_buffers_);
  const Number lr = take_rate(kOp, lr_);
  RmspropOptions o{};
  o.alpha = take_at_least(kOp, "alpha", alpha_, 0.0);
  if (o.alpha > 1) fail<ValueError>(kOp, "alpha", "expected a value <= 1, got ", o.alpha);
  o.eps = take_at_least(kOp, "eps", eps_, 0.0);
  o.weight_decay = take_at_least(kOp, "weight_decay", weight_decay_, 0.0);
  o.momentum = take_at_least(kOp, "momentum", momentum_, 0.0);
  require_buffers(kOp, o.momentum, buffers);
  const Gradient gradient = take_gradient(kOp, maximize_, grad_scale_, max_norm_);
  // Without momentum the buffers are left alone.
  const List* used = o.momentum != 0.0 ? buffers : nullptr;
  return run_step(lists.step(squares, means, used), gradient, o, Number{1, {}}, lr);
}

}  // namespace

void bind_optim(py::module_& m) {
  def(m, "adam_step", &adam_step, py::arg("params"), py::arg("grads"), py::arg("exp_avgs"),
      py::arg("exp_avg_sqs"), py::arg("step"), py::arg("lr"), py::arg("betas"), py::arg("eps"),
      py::arg("weight_decay"), py::arg("decoupled"), py::arg("max_exp_avg_sqs"),
      py::arg("maximize"), py::arg("eps_mode"), py::arg("grad_scale"), py::arg("max_norm"));
  def(m, "sgd_step", &sgd_step, py::arg("params"), py::arg("grads"), py::arg("momentum_buffers"),
      py::arg("step"), py::arg("lr"), py::arg("momentum"), py::arg("dampening"),
      py::arg("weight_decay"), py::arg("nesterov"), py::arg("maximize"), py::arg("grad_scale"),
      py::arg("max_norm"));
  def(m, "adagrad_step", &adagrad_step, py::arg("params"), py::arg("grads"), py::arg("state_sums"),
      py::arg("step"), py::arg("lr"), py::arg("lr_decay"), py::arg("eps"), py::arg("weight_decay"),
      py::arg("maximize"), py::arg("grad_scale"), py::arg("max_norm"));
  def(m, "rmsprop_step", &rmsprop_step, py::arg("params"), py::arg("grads"), py::arg("square_avgs"),
      py::arg("lr"), py::arg("alpha"), py::arg("eps"), py::arg("weight_decay"), py::arg("momentum"),
      py::arg("grad_avgs"), py::arg("momentum_buffers"), py::arg("maximize"), py::arg("grad_scale"),
      py::arg("max_norm"));
}

}  // namespace arraynn
