#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/packed_weight.hpp"
#include "bind/rows.hpp"
#include "bind/wide.hpp"
#include "gemm/batch.hpp"

#include <algorithm>
#include <utility>

namespace arraynn {
namespace {

// An operand as gemm reads it.
Array as_factor(const char* op, const char* arg, Array a) {
  return has_gemm(a->dtype) ? std::move(a) : widened(op, arg, std::move(a));
}

// The dtype of operands that are as_factor().
template <class F>
void dispatch_factors(Dtype t, const F& f) {
#if !defined(ARRAYNN_CUDA)
  if (t == Dtype::kBF16) return f(Bfloat16{});
#endif
  dispatch_wide(t, f);
}

bool is_widened(const Array& x) { return x.stored() != x->dtype; }

// What is added to products of `x`.
Array take_addend(const char* op, const char* arg, py::handle h, const Array& x) {
  Array a = take_optional(op, arg, h);
  return is_widened(x) ? widened(op, arg, std::move(a)) : a;
}

WideResults results_of(const char* op, const Array& x, std::initializer_list<TensorView*> results) {
  return is_widened(x) ? WideResults(op, results) : WideResults();
}

// A weight that was packed at a lower level may be wide where `x` is not.
void widen_with(const char* op, const char* arg, const Array& weight, Array* x) {
  if (is_widened(weight)) *x = widened(op, arg, std::move(*x));
}

// Any array of at least two dimensions whose last two have a unit stride among them; others are
// copied. A dimension of one element takes the stride that suits.
struct Matrix {
  Array array;
  std::int64_t rows, cols, rs, cs;
};

Matrix as_matrix(const char* op, const char* arg, Array array) {
  Matrix m{std::move(array), 0, 0, 0, 0};
  require_storage(op, arg, m.array);
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
    Array copy = as_factor(op, arg, contiguous_copy(op, arg, m.array));
    copy.low = m.array.low;
    copy.high = m.array.high;
    m.array = std::move(copy);
  }
}

Matrix take_matrix(const char* op, const char* arg, py::handle h) {
  return as_matrix(op, arg, as_factor(op, arg, take(op, arg, h, Layout::kAny)));
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

std::int64_t rows_of(const Array& x) {
  std::int64_t m = 1;
  for (int i = 0; i + 1 < x->ndim; ++i) m *= x->shape[i];
  return m;
}

// The product of linear. On a CPU few rows read a weight of 16 bits as it is.
template <class T>
void multiply(const GemmProblem<T>& g, [[maybe_unused]] Dtype weight) {
#if !defined(ARRAYNN_CUDA)
  if constexpr (sizeof(T) == 4) {
    if (compute_dtype(weight) != weight) return gemm_few_rows(g, weight);
  }
#endif
  gemm("linear", g);
}

py::object linear(py::handle x_in, py::handle weight_in, py::handle bias_in,
                  py::handle activation_in, py::handle residual_in, py::handle out_in) {
  constexpr const char* kOp = "linear";
  Array x = as_factor(kOp, "x", take(kOp, "x", x_in));
  require_storage(kOp, "x", x);
  if (x->ndim < 1) fail<ValueError>(kOp, "x", "expected at least 1 dimension, got 0");
  const std::int64_t m = rows_of(x);
  Weight weight = take_weight(kOp, "weight", weight_in, Layout::kAny);
  if (m > kFewRows || weight.forms != nullptr) {
    weight.array = as_factor(kOp, "weight", std::move(weight.array));
  }
  const Matrix w = as_matrix(kOp, "weight", std::move(weight.array));
  require_ndim(kOp, "weight", w.array, 2);
  require_same_dtype(kOp, "weight", w.array, "x", x);
  widen_with(kOp, "x", w.array, &x);
  const int ndim = x->ndim;
  const std::int64_t k = x->shape[ndim - 1], n = w.rows;
  if (w.cols != k) {
    fail<ValueError>(kOp, "weight", "expected ", k, " input features (x has shape ",
                     shape_str(x->shape, ndim), "), got ", w.cols);
  }
  const Array bias = take_addend(kOp, "bias", bias_in, x);
  if (bias) {
    require_same_dtype(kOp, "bias", bias, "x", x);
    require_shape(kOp, "bias", bias, {n});
  }
  std::int64_t shape[kMaxDims];
  std::copy_n(x->shape, ndim - 1, shape);
  shape[ndim - 1] = n;
  const Array residual = take_addend(kOp, "residual", residual_in, x);
  if (residual) {
    require_same_dtype(kOp, "residual", residual, "x", x);
    if (residual->ndim != ndim || !std::equal(shape, shape + ndim, residual->shape)) {
      fail<ValueError>(kOp, "residual", "expected shape ", shape_str(shape, ndim), ", got ",
                       shape_str(residual->shape, residual->ndim));
    }
  }
  const Activation activation = activation_argument(kOp, activation_in);
  Output out(kOp, out_in, x.stored(), shape, ndim, {&x, &w.array, &bias, &residual});
  const WideResults results = results_of(kOp, x, {&out.view});
  dispatch_factors(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *rows = x->as<const T>(), *from = w.array->as<const T>();
    GemmProblem<T> g{m, n, k, rows, k, 1, from, w.cs, w.rs, out.data<T>(), n, {}};
    set_epilogue(bias, BiasAxis::kColumn, residual, n, activation, &g.epilogue);
    const py::gil_scoped_release nogil;
    if (weight.forms != nullptr) use_packed(kOp, weight.forms, Operand::kB, &g);
    multiply(g, w.array->dtype);
    results.narrow();
  });
  return out.finish(x);
}

py::tuple linear_backward(py::handle grad_in, py::handle x_in, py::handle weight_in,
                          py::handle needs_in) {
  constexpr const char* kOp = "linear_backward";
  const Array dy = as_factor(kOp, "grad_out", take(kOp, "grad_out", grad_in));
  require_storage(kOp, "grad_out", dy);
  const Array x = as_factor(kOp, "x", take(kOp, "x", x_in));
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
  const std::int64_t m = rows_of(x);
  const std::int64_t weight_shape[2] = {n, k};
  py::object grads[3] = {py::none(), py::none(), py::none()};
  TensorView dx, dw, db;
  if (needs.x) grads[0] = new_array(kOp, x.stored(), x->shape, ndim, &dx);
  if (needs.weight) grads[1] = new_array(kOp, x.stored(), weight_shape, 2, &dw);
  if (needs.bias) grads[2] = new_array(kOp, x.stored(), &n, 1, &db);
  const WideResults results = results_of(kOp, x, {&dx, &dw, &db});
  dispatch_factors(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    const T* grad = dy->as<const T>();
    if (needs.x) {
      GemmProblem<T> g{m, k, n, grad, n, 1, w.array->as<const T>(), w.rs, w.cs, dx.as<T>(), k, {}};
      gemm(kOp, g);
    }
    if (needs.weight) {
      GemmProblem<T> g{n, k, m, grad, 1, n, x->as<const T>(), k, 1, dw.as<T>(), k, {}};
      g.over_samples = true;
      gemm(kOp, g);
    }
    if (needs.bias) column_sums(grad, m, n, db.as<T>());
    results.narrow();
  });
  return py::make_tuple(grads[0], grads[1], grads[2]);
}

// A 1-d operand becomes a row (axis 0) or a column (axis 1), as in np.matmul.
Array two_axes(Array array, int axis) {
  TensorView& v = array.view;
  if (v.ndim != 1) return array;
  v.shape[1 - axis] = v.shape[0];
  v.strides[1 - axis] = v.strides[0];
  v.shape[axis] = v.strides[axis] = 1;
  v.ndim = 2;
  return array;
}

// The batch of a product, broadcast like np.matmul; its shape goes to `shape`.
GemmBatch broadcast(const char* op, const TensorView& a, const TensorView& b, std::int64_t* shape) {
  GemmBatch batch;
  const int own_a = a.ndim - 2, own_b = b.ndim - 2;
  batch.ndim = std::max(own_a, own_b);
  std::int64_t count = 1;
  for (int d = 0; d < batch.ndim; ++d) {
    const int da = d - (batch.ndim - own_a), db = d - (batch.ndim - own_b);
    const std::int64_t na = da >= 0 ? a.shape[da] : 1, nb = db >= 0 ? b.shape[db] : 1;
    if (na != nb && na != 1 && nb != 1) {
      fail<ValueError>(op, "b", "expected batch dimensions that broadcast with ",
                       shape_str(a.shape, own_a), ", got ", shape_str(b.shape, own_b));
    }
    batch.shape[d] = shape[d] = na == 1 ? nb : na;
    batch.stride_a[d] = na == 1 ? 0 : a.strides[da];
    batch.stride_b[d] = nb == 1 ? 0 : b.strides[db];
    count = checked_mul(op, "output", count, shape[d]);
  }
  return batch;
}

py::object matmul(py::handle a_in, py::handle b_in, py::handle out_in) {
  constexpr const char* kOp = "matmul";
  Array first = as_factor(kOp, "a", take(kOp, "a", a_in, Layout::kAny));
  const Weight weight = take_weight(kOp, "b", b_in, Layout::kAny);
  const Array second = as_factor(kOp, "b", weight.array);
  widen_with(kOp, "a", second, &first);
  if (first->ndim == 0) fail<ValueError>(kOp, "a", "expected at least 1 dimension, got 0");
  if (second->ndim == 0) fail<ValueError>(kOp, "b", "expected at least 1 dimension, got 0");
  const Matrix a = as_matrix(kOp, "a", two_axes(first, 0));
  const Matrix b = as_matrix(kOp, "b", two_axes(second, 1));
  require_same_dtype(kOp, "b", b.array, "a", a.array);
  if (b.rows != a.cols) {
    fail<ValueError>(kOp, "b", "expected ", a.cols, " rows (a has shape ",
                     shape_str(first->shape, first->ndim), "), got ", b.rows);
  }
  std::int64_t shape[kMaxDims];
  const GemmBatch batch = broadcast(kOp, a.array.view, b.array.view, shape);
  int ndim = batch.ndim;
  if (first->ndim > 1) shape[ndim++] = a.rows;
  if (second->ndim > 1) shape[ndim++] = b.cols;
  Output out(kOp, out_in, first.stored(), shape, ndim, {&a.array, &b.array});
  const WideResults results = results_of(kOp, first, {&out.view});
  dispatch_factors(a.array->dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *from_a = a.array->as<const T>(), *from_b = b.array->as<const T>();
    GemmProblem<T> g{a.rows, b.cols, a.cols, from_a,        a.rs,   a.cs,
                     from_b, b.rs,   b.cs,   out.data<T>(), b.cols, {}};
    const py::gil_scoped_release nogil;
    if (weight.forms != nullptr) use_packed(kOp, weight.forms, Operand::kB, &g);
    gemm_batch(kOp, g, batch);
    results.narrow();
  });
  return out.finish(first);
}

}  // namespace

void bind_gemm(py::module_& m) {
  def(m, "linear", &linear);
  def(m, "linear_backward", &linear_backward);
  def(m, "matmul", &matmul);
}

}  // namespace arraynn
