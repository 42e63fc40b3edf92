#include <cstring>
#include <memory>

#include "bind/binders.hpp"
#include "rnn/arguments.hpp"

namespace arraynn {
namespace {

template <class T>
struct Saved {
  explicit Saved(const RnnArguments& a) : stack(a.stack<T>()), saved(a.op) {}
  RnnStack<T> stack;
  RnnSaved<T> saved;
};

// What a forward call keeps for its backward call: opaque to Python but for its size.
struct Workspace {
  explicit Workspace(RnnArguments arguments) : a(std::move(arguments)) {
    dispatch_float(a.dtype, [&](auto tag) {
      using T = decltype(tag);
      of<T>() = std::make_unique<Saved<T>>(a);
    });
  }
  template <class T>
  std::unique_ptr<Saved<T>>& of() {
    if constexpr (sizeof(T) == 4) {
      return f32;
    } else {
      return f64;
    }
  }
  std::int64_t nbytes() const {
    return f32 != nullptr ? f32->saved.memory.bytes() : f64->saved.memory.bytes();
  }

  RnnArguments a;
  py::object y;  // backward reads it
  std::unique_ptr<Saved<float>> f32;
  std::unique_ptr<Saved<double>> f64;
};

struct Results {
  py::object y, h_n, c_n, cells, workspace;
};

Results forward(const RnnCall& call, bool wants_cells, bool wants_workspace) {
  auto work = std::make_shared<Workspace>(take_rnn(call));
  const RnnArguments& a = work->a;
  const RnnShape& s = a.shape;
  const bool lstm = a.cell.kind == RnnKind::kLstm;
  Results r;
  TensorView y, h_n, c_n, cells;
  r.y = rnn_array(a.op, a.dtype, a.y_shape(s.out), &y);
  r.h_n = rnn_array(a.op, a.dtype, a.state_shape(s.out), &h_n);
  if (lstm) r.c_n = rnn_array(a.op, a.dtype, a.state_shape(s.hidden), &c_n);
  if (wants_cells) r.cells = rnn_array(a.op, a.dtype, a.y_shape(s.hidden), &cells);
  dispatch_float(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    Saved<T>& saved = *work->of<T>();
    const py::gil_scoped_release nogil;
    run_rnn(saved.stack, RnnOutputs<T>{y.as<T>(), h_n.as<T>(), c_n.as<T>(), cells.as<T>()},
            wants_workspace ? &saved.saved : nullptr);
  });
  if (wants_workspace) {
    work->y = r.y;
    r.workspace = py::cast(work);
  }
  return r;
}

py::object sequence_results(const RnnCall& call, bool wants_cells, py::handle return_workspace) {
  const bool wants_workspace = take_bool(call.op, "return_workspace", return_workspace);
  Results r = forward(call, wants_cells, wants_workspace);
  py::list results;
  results.append(r.y);
  if (call.kind == RnnKind::kLstm) {
    results.append(py::make_tuple(r.h_n, r.c_n));
  } else {
    results.append(r.h_n);
  }
  if (wants_cells) results.append(r.cells);
  if (wants_workspace) results.append(r.workspace);
  return py::tuple(results);
}

py::object step_results(const RnnCall& call, py::handle return_workspace) {
  const bool wants_workspace = take_bool(call.op, "return_workspace", return_workspace);
  Results r = forward(call, false, wants_workspace);
  py::object state = r.h_n;
  if (call.kind == RnnKind::kLstm) state = py::make_tuple(r.h_n, r.c_n);
  return wants_workspace ? py::object(py::make_tuple(state, r.workspace)) : state;
}

py::object rnn(py::handle x, py::handle weights, py::handle h0, py::handle nonlinearity,
               py::handle num_layers, py::handle bidirectional, py::handle batch_first,
               py::handle lengths, py::handle reverse, py::handle dropout, py::handle seed,
               py::handle clip, py::handle return_workspace) {
  const py::none no;
  return sequence_results({"rnn",        RnnKind::kRnn,
                           false,        x,
                           weights,      h0,
                           nonlinearity, no,
                           no,           no,
                           no,           no,
                           clip,         no,
                           num_layers,   bidirectional,
                           batch_first,  lengths,
                           reverse,      dropout,
                           seed},
                          false, return_workspace);
}

py::object lstm(py::handle x, py::handle weights, py::handle state, py::handle activation,
                py::handle recurrent_activation, py::handle output_activation, py::handle peepholes,
                py::handle input_forget, py::handle num_layers, py::handle bidirectional,
                py::handle batch_first, py::handle lengths, py::handle reverse, py::handle dropout,
                py::handle seed, py::handle clip, py::handle cell_clip, py::handle return_cells,
                py::handle return_workspace) {
  const py::none no;
  return sequence_results({"lstm",
                           RnnKind::kLstm,
                           false,
                           x,
                           weights,
                           state,
                           activation,
                           recurrent_activation,
                           output_activation,
                           peepholes,
                           input_forget,
                           no,
                           clip,
                           cell_clip,
                           num_layers,
                           bidirectional,
                           batch_first,
                           lengths,
                           reverse,
                           dropout,
                           seed},
                          take_bool("lstm", "return_cells", return_cells), return_workspace);
}

py::object gru(py::handle x, py::handle weights, py::handle h0, py::handle activation,
               py::handle recurrent_activation, py::handle reset_after, py::handle num_layers,
               py::handle bidirectional, py::handle batch_first, py::handle lengths,
               py::handle reverse, py::handle dropout, py::handle seed, py::handle clip,
               py::handle return_workspace) {
  const py::none no;
  return sequence_results({"gru",       RnnKind::kGru,
                           false,       x,
                           weights,     h0,
                           activation,  recurrent_activation,
                           no,          no,
                           no,          reset_after,
                           clip,        no,
                           num_layers,  bidirectional,
                           batch_first, lengths,
                           reverse,     dropout,
                           seed},
                          false, return_workspace);
}

py::object rnn_cell(py::handle x, py::handle weights, py::handle h0, py::handle nonlinearity,
                    py::handle clip, py::handle return_workspace) {
  const py::none no;
  return step_results(
      {"rnn_cell", RnnKind::kRnn, true, x,  weights, h0, nonlinearity, no, no, no, no,
       no,         clip,          no,   no, no,      no, no,           no, no, no},
      return_workspace);
}

py::object lstm_cell(py::handle x, py::handle weights, py::handle state, py::handle activation,
                     py::handle recurrent_activation, py::handle output_activation,
                     py::handle peepholes, py::handle input_forget, py::handle clip,
                     py::handle cell_clip, py::handle return_workspace) {
  const py::none no;
  return step_results({"lstm_cell",
                       RnnKind::kLstm,
                       true,
                       x,
                       weights,
                       state,
                       activation,
                       recurrent_activation,
                       output_activation,
                       peepholes,
                       input_forget,
                       no,
                       clip,
                       cell_clip,
                       no,
                       no,
                       no,
                       no,
                       no,
                       no,
                       no},
                      return_workspace);
}

py::object gru_cell(py::handle x, py::handle weights, py::handle h0, py::handle activation,
                    py::handle recurrent_activation, py::handle reset_after, py::handle clip,
                    py::handle return_workspace) {
  const py::none no;
  return step_results({"gru_cell", RnnKind::kGru,
                       true,       x,
                       weights,    h0,
                       activation, recurrent_activation,
                       no,         no,
                       no,         reset_after,
                       clip,       no,
                       no,         no,
                       no,         no,
                       no,         no,
                       no},
                      return_workspace);
}

// A copy of a gradient of the state, which becomes that of the first state; None is zeros.
py::object start_gradient(const RnnArguments& a, const char* op, const char* arg, py::handle h,
                          std::int64_t size, TensorView* view) {
  const std::vector<std::int64_t> shape = a.state_shape(size);
  Array given = take_optional(op, arg, h);
  if (given) {
    require_same_dtype(op, arg, given, "x", a.x);
    require_shape_of(op, arg, given, shape);
  }
  py::object result = rnn_array(op, a.dtype, shape, view);
  const auto bytes = static_cast<std::size_t>(view->size()) * dtype_size(a.dtype);
  if (bytes == 0) return result;
  if (given) {
    std::memcpy(view->data, given->data, bytes);
  } else {
    std::memset(view->data, 0, bytes);
  }
  return result;
}

template <RnnKind kKind, bool kOneStep>
py::tuple backward(py::handle grad_y, py::handle grad_state, py::handle workspace) {
  constexpr const char* kNames[] = {"rnn_backward",      "lstm_backward",      "gru_backward",
                                    "rnn_cell_backward", "lstm_cell_backward", "gru_cell_backward"};
  const char* op = kNames[static_cast<int>(kKind) + (kOneStep ? 3 : 0)];
  if (!py::isinstance<Workspace>(workspace)) {
    fail<TypeError>(op, "workspace", "expected what the forward call returned, got ",
                    Py_TYPE(workspace.ptr())->tp_name);
  }
  auto& work = workspace.cast<Workspace&>();
  const RnnArguments& a = work.a;
  if (a.cell.kind != kKind || a.one_step != kOneStep) {
    fail<ValueError>(op, "workspace", "expected that of the same operation, got that of ", a.op);
  }
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
  const Array dy = take_optional(op, "grad_y", grad_y);
  if (dy) {
    require_same_dtype(op, "grad_y", dy, "x", a.x);
    require_shape_of(op, "grad_y", dy, a.y_shape(s.out));
  }
  const char* h_name = kOneStep && !kLstm ? "grad_h" : "grad_state";
  TensorView dx, dh, dc;
  const py::object grad_h = start_gradient(a, op, h_name, parts[0], s.out, &dh);
  py::object grad_c;
  if (kLstm) grad_c = start_gradient(a, op, h_name, parts[1], s.hidden, &dc);
  const py::object grad_x = new_array(op, a.dtype, a.x->shape, a.x->ndim, &dx);
  const auto like = [&](const std::vector<Array>& arrays, std::vector<TensorView>* views) {
    py::list list;
    for (const Array& w : arrays) {
      views->emplace_back();
      list.append(new_array(op, a.dtype, w->shape, w->ndim, &views->back()));
    }
    return list;
  };
  std::vector<TensorView> dw, dp;
  const py::list grad_weights = like(a.weights, &dw), grad_peepholes = like(a.peepholes, &dp);
  dispatch_float(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    Saved<T>& saved = *work.of<T>();
    RnnGradients<T> grads{dy ? dy->as<const T>() : nullptr, dx.as<T>(), dh.as<T>(), dc.as<T>(), {}};
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
      grads.groups.push_back(to);
    }
    const py::gil_scoped_release nogil;
    run_rnn_backward(saved.stack, saved.saved, grads);
  });
  const py::object state = kLstm ? py::object(py::make_tuple(grad_h, grad_c)) : grad_h;
  if (a.peepholes.empty()) return py::make_tuple(grad_x, state, grad_weights);
  const py::object last = kOneStep ? py::object(grad_peepholes[0]) : py::object(grad_peepholes);
  return py::make_tuple(grad_x, state, grad_weights, last);
}

template <RnnKind kKind>
py::tuple cell_backward(py::handle grad, py::handle workspace) {
  return backward<kKind, true>(py::none(), grad, workspace);
}

}  // namespace

void bind_rnn(py::module_& m) {
  // Of no module: only the kernels make one.
  py::class_<Workspace, std::shared_ptr<Workspace>>(py::handle(), "RnnWorkspace")
      .def_property_readonly("nbytes", &Workspace::nbytes);
  m.def("rnn", &rnn);
  m.def("lstm", &lstm);
  m.def("gru", &gru);
  m.def("rnn_backward", &backward<RnnKind::kRnn, false>);
  m.def("lstm_backward", &backward<RnnKind::kLstm, false>);
  m.def("gru_backward", &backward<RnnKind::kGru, false>);
  m.def("rnn_cell", &rnn_cell);
  m.def("lstm_cell", &lstm_cell);
  m.def("gru_cell", &gru_cell);
  m.def("rnn_cell_backward", &cell_backward<RnnKind::kRnn>);
  m.def("lstm_cell_backward", &cell_backward<RnnKind::kLstm>);
  m.def("gru_cell_backward", &cell_backward<RnnKind::kGru>);
}

}  // namespace arraynn
