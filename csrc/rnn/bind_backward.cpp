#include "bind/call.hpp"
#include "rnn/workspace.hpp"

namespace arraynn {
namespace {

// A copy of a gradient of the state, which becomes that of the first state; None is zeros.
py::object start_gradient(const RnnArguments& a, const char* op, const char* arg, py::handle h,
                          std::int64_t size, TensorView* view, WideResults* results) {
  const std::vector<std::int64_t> shape = a.state_shape(size);
  const Array given = take_optional_wide(op, arg, h);
  if (given) {
    require_same_dtype(op, arg, given, "x", a.x);
    require_shape_of(op, arg, given, shape);
  }
  py::object result = rnn_array(op, a.x.stored(), shape, view);
  results->add(op, view);
  if (view->size() == 0) return result;
  dispatch_wide(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    if (given) {
      copy(given->as<const T>(), view->as<T>(), view->size());
    } else {
      fill(view->as<T>(), view->size(), 0);
    }
  });
  return result;
}

template <RnnKind kKind, bool kOneStep>
py::tuple backward(py::handle grad_y, py::handle grad_state, py::handle workspace,
                   py::handle grad_cells) {
  constexpr const char* kNames[] = {"rnn_backward",      "lstm_backward",      "gru_backward",
                                    "rnn_cell_backward", "lstm_cell_backward", "gru_cell_backward"};
  const char* op = kNames[static_cast<int>(kKind) + (kOneStep ? 3 : 0)];
  if (!py::isinstance<RnnWorkspace>(workspace)) {
    fail<TypeError>(op, "workspace", "expected what the forward call returned, got ",
                    Py_TYPE(workspace.ptr())->tp_name);
  }
  auto& work = workspace.cast<RnnWorkspace&>();
  const RnnArguments& a = work.a;
  if (a.cell.kind != kKind || a.one_step != kOneStep) {
    fail<ValueError>(op, "workspace", "expected that of the same operation, got that of ", a.op);
  }
  take(op, "workspace", a.x.owner);  // the device of the call is its
  constexpr bool kLstm = kKind == RnnKind::kLstm;
  const RnnShape& s = a.shape;
  py::object parts[2] = {py::reinterpret_borrow<py::object>(grad_state), py::none()};
  if (kLstm && !grad_state.is_none()) {
    if (!PyTuple_Check(grad_state.ptr()) && !PyList_Check(grad_state.ptr())) {
      fail<TypeError>(op, "grad_state", "expected a pair of arrays");
    }
    const auto pair = py::reinterpret_borrow<py::sequence>(grad_state);
    if (pair.size() != 2) {
      fail<ValueError>(op, "grad_state", "expected two arrays, got ", pair.size());
    }
    for (std::size_t i = 0; i < 2; ++i) parts[i] = pair[i];
  }
  const Array dy = take_optional_wide(op, "grad_y", grad_y);
  if (dy) {
    require_same_dtype(op, "grad_y", dy, "x", a.x);
    require_shape_of(op, "grad_y", dy, a.y_shape(s.out));
  }
  const Array dcells = take_optional_wide(op, "grad_cells", grad_cells);
  if (dcells) {
    require_same_dtype(op, "grad_cells", dcells, "x", a.x);
    require_shape_of(op, "grad_cells", dcells, a.y_shape(s.hidden));
  }
  const char* h_name = kOneStep && !kLstm ? "grad_h" : "grad_state";
  TensorView dx, dh, dc;
  WideResults results;
  const py::object grad_h = start_gradient(a, op, h_name, parts[0], s.out, &dh, &results);
  py::object grad_c;
  if (kLstm) grad_c = start_gradient(a, op, h_name, parts[1], s.hidden, &dc, &results);
  const py::object grad_x = new_array(op, a.x.stored(), a.x->shape, a.x->ndim, &dx);
  results.add(op, &dx);
  const auto like = [&](const std::vector<Array>& arrays, std::vector<TensorView>* views) {
    py::list list;
    for (const Array& w : arrays) {
      views->emplace_back();
      list.append(new_array(op, a.x.stored(), w->shape, w->ndim, &views->back()));
      results.add(op, &views->back());
    }
    return list;
  };
  std::vector<TensorView> dw, dp, dn;
  const py::list grad_weights = like(a.weights, &dw), grad_peepholes = like(a.peepholes, &dp);
  const py::list grad_norms = like(a.norms, &dn);
  dispatch_wide(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    RnnKept<T>& saved = work.of<T>();
    RnnGradients<T> grads;
    if (dy) grads.dy = dy->as<const T>();
    if (dcells) grads.dcells = dcells->as<const T>();
    grads.dx = dx.as<T>();
    grads.dh = dh.as<T>();
    grads.dc = dc.as<T>();
    for (std::size_t g = 0; g < a.groups.size(); ++g) {
      const auto& from = a.groups[g];
      std::size_t next = g * static_cast<std::size_t>(a.weights_per_group);
      const auto at = [&](const void* has) {
        return has != nullptr ? dw[next++].template as<T>() : nullptr;
      };
      RnnGroup<T> to;
      to.w_ih = dw[next++].as<T>();
      to.w_hh = dw[next++].as<T>();
      to.b_ih = at(from.b_ih);
      to.b_hh = at(from.b_hh);
      to.w_hr = at(from.w_hr);
      if (!dp.empty()) to.peephole = dp[g].as<T>();
      if (!dn.empty()) {
        const TensorView* norm = &dn[g * static_cast<std::size_t>(a.norms_per_group())];
        to.norm_ih = norm[0].as<T>();
        to.norm_hh = norm[1].as<T>();
        if (from.norm_cell != nullptr) to.norm_cell = norm[2].as<T>();
        if (from.norm_cell != nullptr) to.norm_cell_bias = norm[3].as<T>();
      }
      grads.groups.push_back(to);
    }
    const py::gil_scoped_release nogil;
    run_rnn_backward(saved.stack, saved.saved, grads);
    results.narrow();
  });
  const py::object state = kLstm ? py::object(py::make_tuple(grad_h, grad_c)) : grad_h;
  py::list all;
  all.append(grad_x);
  all.append(state);
  all.append(grad_weights);
  if (!a.peepholes.empty()) {
    all.append(kOneStep ? py::object(grad_peepholes[0]) : py::object(grad_peepholes));
  }
  if (!a.norms.empty()) all.append(grad_norms);
  return py::tuple(all);
}

template <RnnKind kKind>
py::tuple cell_backward(py::handle grad, py::handle workspace) {
  return backward<kKind, true>(py::none(), grad, workspace, py::none());
}

// Only an LSTM has cells.
template <RnnKind kKind>
py::tuple sequence_backward(py::handle grad_y, py::handle grad_state, py::handle workspace) {
  return backward<kKind, false>(grad_y, grad_state, workspace, py::none());
}

}  // namespace

void bind_rnn_backward(py::module_& m) {
  def(m, "rnn_backward", &sequence_backward<RnnKind::kRnn>);
  def(m, "lstm_backward", &backward<RnnKind::kLstm, false>);
  def(m, "gru_backward", &sequence_backward<RnnKind::kGru>);
  def(m, "rnn_cell_backward", &cell_backward<RnnKind::kRnn>);
  def(m, "lstm_cell_backward", &cell_backward<RnnKind::kLstm>);
  def(m, "gru_cell_backward", &cell_backward<RnnKind::kGru>);
}

}  // namespace arraynn
