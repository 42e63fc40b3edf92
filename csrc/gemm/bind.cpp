#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/packed_weight.hpp"
#include "gemm/gemm.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace arraynn {
namespace {

// Any array of at least two dimensions whose last two have a unit stride among them; others are
// copied. A dimension of one element takes the stride that suits.
struct Matrix {
  Array array;
  std::int64_t rows, cols, rs, cs;
};

Matrix as_matrix(const char* op, const char* arg, Array array) {
  Matrix m{std::move(array), 0, 0, 0, 0};
  require_float(op, arg, m.array);
  for (int attempt = 0;; ++attempt) {
    const TensorView& v = m.array.view;
    if (v.ndim < 2) fail<ValueError>(op, arg, "expected at least 2 dimensions, got ", v.ndim);
    m.rows = v.shape[v.ndim - 2];
    m.cols = v.shape[v.ndim - 1];
    m.rs = v.strides[v.ndim - 2];
    m.cs = v.strides[v.ndim - 1];
    if (m.cols <= 1) m.cs = 1;
    if (m.cs == 1 || attempt == 1) return m;
    if (m.rows <= 1) m.rs = 1;
    if (m.rs == 1) return m;
    Array copy = take(op, arg, m.array.owner.attr("copy")());
    copy.low = m.array.low;
    copy.high = m.array.high;
    m.array = std::move(copy);
  }
}

Matrix take_matrix(const char* op, const char* arg, py::handle h) {
  return as_matrix(op, arg, take(op, arg, h, Layout::kAny));
}

Activation activation_argument(const char* op, py::handle name) {
  if (name.is_none()) return {};
  return activation_from_name(op, take_str(op, "activation", name).c_str());
}

template <class T>
void set_epilogue(const Array& bias, BiasAxis axis, const Array& residual, std::int64_t rs_residual,
                  Activation activation, Epilogue<T>* e) {
  if (bias) {
    e->bias = bias->as<const T>();
    e->bias_axis = axis;
  }
  if (residual) {
    e->residual = residual->as<const T>();
    e->rs_residual = rs_residual;
  }
  e->activation = activation;
}

py::object linear(py::handle x_in, py::handle weight_in, py::handle bias_in,
                  py::handle activation_in, py::handle residual_in, py::handle out_in) {
  constexpr const char* kOp = "linear";
  const Array x = take(kOp, "x", x_in);
  require_float(kOp, "x", x);
  if (x->ndim < 1) fail<ValueError>(kOp, "x", "expected at least 1 dimension, got 0");
  const Weight weight = take_weight(kOp, "weight", weight_in, Layout::kAny);
  const Matrix w = as_matrix(kOp, "weight", weight.array);
  require_ndim(kOp, "weight", w.array, 2);
  require_same_dtype(kOp, "weight", w.array, "x", x);
  const int ndim = x->ndim;
  const std::int64_t k = x->shape[ndim - 1], n = w.rows;
  if (w.cols != k) {
    fail<ValueError>(kOp, "weight", "expected ", k, " input features (x has shape ",
                     shape_str(x->shape, ndim), "), got ", w.cols);
  }
  const Array bias = take_optional(kOp, "bias", bias_in);
  if (bias) {
    require_same_dtype(kOp, "bias", bias, "x", x);
    require_shape(kOp, "bias", bias, {n});
  }
  std::int64_t shape[kMaxDims];
  std::copy_n(x->shape, ndim - 1, shape);
  shape[ndim - 1] = n;
  const Array residual = take_optional(kOp, "residual", residual_in);
  if (residual) {
    require_same_dtype(kOp, "residual", residual, "x", x);
    if (residual->ndim != ndim || !std::equal(shape, shape + ndim, residual->shape)) {
      fail<ValueError>(kOp, "residual", "expected shape ", shape_str(shape, ndim), ", got ",
                       shape_str(residual->shape, residual->ndim));
    }
  }
  const Activation activation = activation_argument(kOp, activation_in);
  Output out(kOp, out_in, x->dtype, shape, ndim, {&x, &w.array, &bias, &residual});
  dispatch_float(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    GemmProblem<T> g;
    g.m = 1;
    for (int i = 0; i + 1 < ndim; ++i) g.m *= x->shape[i];
    g.n = n;
    g.k = k;
    g.a = x->as<const T>();
    g.rs_a = k;
    g.cs_a = 1;
    g.b = w.array->as<const T>();
    g.rs_b = w.cs;
    g.cs_b = w.rs;
    g.c = out.data<T>();
    g.rs_c = n;
    set_epilogue(bias, BiasAxis::kColumn, residual, n, activation, &g.epilogue);
    const py::gil_scoped_release nogil;
    if (weight.forms != nullptr) use_packed(kOp, weight.forms, Operand::kB, &g);
    gemm(kOp, g);
  });
  return out.finish(x);
}

py::tuple linear_backward(py::handle grad_in, py::handle x_in, py::handle weight_in,
                          py::handle needs_in) {
  constexpr const char* kOp = "linear_backward";
  const Array dy = take(kOp, "grad_out", grad_in);
  require_float(kOp, "grad_out", dy);
  const Array x = take(kOp, "x", x_in);
  require_same_dtype(kOp, "x", x, "grad_out", dy);
  if (x->ndim < 1) fail<ValueError>(kOp, "x", "expected at least 1 dimension, got 0");
  const Matrix w = take_matrix(kOp, "weight", weight_in);
  require_ndim(kOp, "weight", w.array, 2);
  require_same_dtype(kOp, "weight", w.array, "grad_out", dy);
  const int ndim = x->ndim;
  const std::int64_t k = x->shape[ndim - 1], n = w.rows;
  if (w.cols != k) fail<ValueError>(kOp, "weight", "expected ", k, " input features, got ", w.cols);
  if (dy->ndim != ndim || !std::equal(x->shape, x->shape + ndim - 1, dy->shape) ||
      dy->shape[ndim - 1] != n) {
    fail<ValueError>(kOp, "grad_out", "expected the shape of x with ", n, " features, got ",
                     shape_str(dy->shape, dy->ndim));
  }
  const Needs needs = take_needs(kOp, needs_in);
  std::int64_t m = 1;
  for (int i = 0; i + 1 < ndim; ++i) m *= x->shape[i];
  const std::int64_t weight_shape[2] = {n, k};
  py::object grads[3] = {py::none(), py::none(), py::none()};
  TensorView dx, dw, db;
  if (needs.x) grads[0] = new_array(kOp, x->dtype, x->shape, ndim, &dx);
  if (needs.weight) grads[1] = new_array(kOp, x->dtype, weight_shape, 2, &dw);
  if (needs.bias) grads[2] = new_array(kOp, x->dtype, &n, 1, &db);
  dispatch_float(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    const T* grad = dy->as<const T>();
    if (needs.x) {
      GemmProblem<T> g{m, k, n, grad, n, 1, w.array->as<const T>(), w.rs, w.cs, dx.as<T>(), k, {}};
      gemm(kOp, g);
    }
    if (needs.weight) {
      GemmProblem<T> g{n, k, m, grad, 1, n, x->as<const T>(), k, 1, dw.as<T>(), k, {}};
      gemm(kOp, g);
    }
    if (needs.bias) column_sums(grad, m, n, db.as<T>());
  });
  return py::make_tuple(grads[0], grads[1], grads[2]);
}

// A 1-d operand becomes a row (a) or a column (b), as in np.matmul.
py::object two_axes(py::handle h, int axis) {
  if (!py::isinstance<py::array>(h)) return py::reinterpret_borrow<py::object>(h);
  const auto array = py::reinterpret_borrow<py::array>(h);
  return array.ndim() == 1
             ? array.attr("reshape")(axis == 0 ? py::make_tuple(1, -1) : py::make_tuple(-1, 1))
             : py::object(array);
}

// Element offset of every product of a batch, broadcast like np.matmul.
void add_batch_offsets(const TensorView& v, const std::int64_t* batch, int batch_ndim,
                       std::int64_t BatchItem::* member, std::vector<BatchItem>* items) {
  const int own = v.ndim - 2;
  const auto count = static_cast<std::int64_t>(items->size());
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t rest = i, offset = 0;
    for (int d = batch_ndim - 1; d >= 0; --d) {
      const std::int64_t index = rest % batch[d];
      rest /= batch[d];
      const int axis = d - (batch_ndim - own);
      if (axis >= 0 && v.shape[axis] != 1) offset += index * v.strides[axis];
    }
    (*items)[static_cast<std::size_t>(i)].*member = offset;
  }
}

py::object matmul(py::handle a_in, py::handle b_in, py::handle out_in) {
  constexpr const char* kOp = "matmul";
  const Array first = take(kOp, "a", a_in, Layout::kAny);
  const Weight weight = take_weight(kOp, "b", b_in, Layout::kAny);
  const Array& second = weight.array;
  if (first->ndim == 0) fail<ValueError>(kOp, "a", "expected at least 1 dimension, got 0");
  if (second->ndim == 0) fail<ValueError>(kOp, "b", "expected at least 1 dimension, got 0");
  const Matrix a = take_matrix(kOp, "a", two_axes(first.owner, 0));
  const Matrix b = take_matrix(kOp, "b", two_axes(second.owner, 1));
  require_same_dtype(kOp, "b", b.array, "a", a.array);
  if (b.rows != a.cols) {
    fail<ValueError>(kOp, "b", "expected ", a.cols, " rows (a has shape ",
                     shape_str(first->shape, first->ndim), "), got ", b.rows);
  }
  const int a_batch = a.array->ndim - 2, b_batch = b.array->ndim - 2;
  const int batch_ndim = std::max(a_batch, b_batch);
  std::int64_t shape[kMaxDims];
  std::int64_t count = 1;
  for (int d = 0; d < batch_ndim; ++d) {
    const int da = d - (batch_ndim - a_batch), db = d - (batch_ndim - b_batch);
    const std::int64_t na = da >= 0 ? a.array->shape[da] : 1, nb = db >= 0 ? b.array->shape[db] : 1;
    if (na != nb && na != 1 && nb != 1) {
      fail<ValueError>(kOp, "b", "expected batch dimensions that broadcast with ",
                       shape_str(a.array->shape, a_batch), ", got ",
                       shape_str(b.array->shape, b_batch));
    }
    shape[d] = na == 1 ? nb : na;
    count = checked_mul(kOp, "output", count, shape[d]);
  }
  int ndim = batch_ndim;
  if (first->ndim > 1) shape[ndim++] = a.rows;
  if (second->ndim > 1) shape[ndim++] = b.cols;
  Output out(kOp, out_in, a.array->dtype, shape, ndim, {&a.array, &b.array});
  // Offsets are made only for a batch that has work: an empty one may have any extent.
  std::vector<BatchItem> items(static_cast<std::size_t>(a.rows == 0 || b.cols == 0 ? 0 : count),
                               BatchItem{0, 0, 0});
  if (count > 1 && !items.empty()) {
    add_batch_offsets(a.array.view, shape, batch_ndim, &BatchItem::a, &items);
    add_batch_offsets(b.array.view, shape, batch_ndim, &BatchItem::b, &items);
    for (std::size_t i = 0; i < items.size(); ++i) {
      items[i].c = static_cast<std::int64_t>(i) * a.rows * b.cols;
    }
  }
  dispatch_float(a.array->dtype, [&](auto tag) {
    using T = decltype(tag);
    GemmProblem<T> g{a.rows,
                     b.cols,
                     a.cols,
                     a.array->as<const T>(),
                     a.rs,
                     a.cs,
                     b.array->as<const T>(),
                     b.rs,
                     b.cs,
                     out.data<T>(),
                     b.cols,
                     {}};
    const py::gil_scoped_release nogil;
    if (weight.forms != nullptr) use_packed(kOp, weight.forms, Operand::kB, &g);
    gemm_batch(kOp, g, items.data(), static_cast<std::int64_t>(items.size()));
  });
  return out.finish(first);
}

}  // namespace

void bind_gemm(py::module_& m) {
  m.def("linear", &linear);
  m.def("linear_backward", &linear_backward);
  m.def("matmul", &matmul);
}

}  // namespace arraynn
