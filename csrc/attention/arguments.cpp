#include "attention/arguments.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "attention/values.hpp"
#include "bind/check.hpp"
#include "bind/rows.hpp"
#include "bind/wide.hpp"

namespace arraynn {

void require_rows(const char* op, const char* arg, const Array& a, int ndim) {
  require_storage(op, arg, a);
  require_ndim(op, arg, a, ndim);
}

Array take_rows(const char* op, const char* arg, py::handle h, int ndim) {
  Array a = take(op, arg, h, Layout::kAny);
  require_rows(op, arg, a, ndim);
  return with_contiguous_rows(op, arg, std::move(a));
}

Array take_integers(const char* op, const char* arg, py::handle h, int ndim) {
  Array a = take(op, arg, h);
  if (a->dtype != Dtype::kI64 && a->dtype != Dtype::kI32) {
    const bool known = a->dtype != Dtype::kOther;
    fail<TypeError>(
        op, arg, "expected int64 or int32, got ",
        known ? dtype_name(a->dtype) : py::str(a.owner.attr("dtype")).cast<std::string>());
  }
  require_ndim(op, arg, a, ndim);
  if (a->dtype == Dtype::kI64) return a;
  return take(op, arg, a.owner.attr("astype")("int64"));
}

RowStrides AttentionArgs::strides_of(const TensorView& view) const {
  if (view.ndim == 3) return {0, view.strides[1], view.strides[0]};
  const int h = heads_first_ ? 1 : 2, l = heads_first_ ? 2 : 1;
  return {view.strides[0], view.strides[h], view.strides[l]};
}

AttentionArgs::AttentionArgs(const char* op, py::handle q_in, py::handle k_in, py::handle v_in,
                             const AttentionOptions& options, py::handle layout) {
  const std::string name = take_str(op, "layout", layout);
  if (name != "bhld" && name != "blhd") {
    fail<ValueError>(op, "layout", "expected 'bhld' or 'blhd', got '", name, "'");
  }
  heads_first_ = name == "bhld";
  q = take_rows(op, "q", q_in, 4);
  k = take_rows(op, "k", k_in, 4);
  v = take_rows(op, "v", v_in, 4);
  check_heads(op, "k", "v");
  if (k->shape[0] != q->shape[0]) {
    fail<ValueError>(op, "k", "expected a batch of ", q->shape[0], " (that of q), got ",
                     k->shape[0]);
  }
  take_options(op, options);
  widen_queries(op);
}

AttentionArgs::AttentionArgs(const char* op, py::handle q_in, py::handle k_in, py::handle v_in,
                             py::handle cu_seqlens_q, py::handle cu_seqlens_k,
                             const AttentionOptions& options) {
  heads_first_ = false;
  ndim = 3;
  q = take_rows(op, "q", q_in, 3);
  k = take_rows(op, "k", k_in, 3);
  v = take_rows(op, "v", v_in, 3);
  check_heads(op, "k", "v");
  cu_q_ = take_integers(op, "cu_seqlens_q", cu_seqlens_q, 1);
  cu_k_ = take_integers(op, "cu_seqlens_k", cu_seqlens_k, 1);
  check_cumulative(op, "cu_seqlens_q", cu_q_, q->shape[0]);
  check_cumulative(op, "cu_seqlens_k", cu_k_, k->shape[0]);
  if (cu_q_->shape[0] != cu_k_->shape[0]) {
    fail<ValueError>(op, "cu_seqlens_k", "expected ", cu_q_->shape[0],
                     " elements (as cu_seqlens_q), got ", cu_k_->shape[0]);
  }
  sizes_.batch = cu_q_->shape[0] - 1;
  sizes_.q_begin = integers(cu_q_);
  sizes_.k_begin = integers(cu_k_);
  take_options(op, options);
  widen_queries(op);
}

void AttentionArgs::check_heads(const char* op, const char* k_arg, const char* v_arg) {
  require_same_dtype(op, k_arg, k, "q", q);
  require_same_dtype(op, v_arg, v, "q", q);
  const int d = ndim - 1, h = heads_first_ ? 1 : ndim - 2, l = heads_first_ ? 2 : ndim - 3;
  AttentionProblem<float>& s = sizes_;
  s.batch = ndim == 4 ? q->shape[0] : 0;
  s.heads = q->shape[h];
  s.kv_heads = k->shape[h];
  s.seqlen_q = q->shape[l];
  s.seqlen_k = k->shape[l];
  s.head_dim = q->shape[d];
  s.head_dim_v = v->shape[d];
  if (s.heads < 1) fail<ValueError>(op, "q", "expected at least 1 head, got 0");
  if (s.head_dim < 1) fail<ValueError>(op, "q", "expected a head dimension of at least 1, got 0");
  if (k->shape[d] != s.head_dim) {
    fail<ValueError>(op, k_arg, "expected a head dimension of ", s.head_dim, " (that of q), got ",
                     k->shape[d]);
  }
  if (s.kv_heads < 1 || s.heads % s.kv_heads != 0) {
    fail<ValueError>(op, k_arg, "expected a number of heads that divides ", s.heads,
                     " (the heads of q), got ", s.kv_heads);
  }
  for (int i = 0; i + 1 < ndim; ++i) {
    if (v->shape[i] != k->shape[i]) {
      fail<ValueError>(op, v_arg, "expected shape ", shape_str(k->shape, ndim - 1),
                       " before the head dimension (that of ", k_arg, "), got ",
                       shape_str(v->shape, ndim - 1));
    }
  }
  std::copy_n(q->shape, ndim, out_shape);
  out_shape[d] = s.head_dim_v;
  const std::int64_t shapes[2][3] = {{s.heads, s.seqlen_q, 0}, {s.batch, s.heads, s.seqlen_q}};
  std::copy_n(shapes[ndim - 3], ndim - 1, lse_shape);
}

// Strides that broadcast `a` to (batch, heads, seqlen_q, seqlen_k), or for packed sequences to (heads,
// seqlen_q, longest sequence of keys).
void AttentionArgs::take_scores(const char* op, const char* arg, const Array& a,
                                ScoreStrides* strides) {
  AttentionProblem<float>& s = sizes_;
  const std::int64_t last = a->ndim > 0 ? a->shape[a->ndim - 1] : 1;
  const std::int64_t columns = s.q_begin == nullptr ? s.seqlen_k : packed_columns(s, last);
  if (last != 1) s.score_columns = columns;
  const std::int64_t full[4] = {s.batch, s.heads, s.seqlen_q, columns};
  std::int64_t out[4] = {0, 0, 0, 0};
  bool fits = a->ndim >= 1 && a->ndim <= ndim;
  for (int i = 0; fits && i < a->ndim; ++i) {
    const int axis = 4 - a->ndim + i;
    fits = a->shape[i] == full[axis] || a->shape[i] == 1;
    out[axis] = a->shape[i] == 1 ? 0 : a->strides[i];
  }
  if (!fits) {
    fail<ValueError>(op, arg, "expected a shape that broadcasts to ",
                     shape_str(full + 4 - ndim, ndim), ", got ", shape_str(a->shape, a->ndim));
  }
  *strides = {out[0], out[1], out[2], out[3]};
}

void AttentionArgs::take_causal(const char* op, const AttentionOptions& o) {
  AttentionProblem<float>& s = sizes_;
  s.alignment = Alignment::kArrayEnd;
  if (given(o.window)) {
    if (!PyTuple_Check(o.window.ptr()) && !PyList_Check(o.window.ptr())) {
      fail<TypeError>(op, "window", "expected a pair of ints, got ",
                      py::str(py::type::of(o.window).attr("__name__")).cast<std::string>());
    }
    std::int64_t ends[2];
    take_ints(op, "window", o.window, 2, ends);
    for (int i = 0; i < 2; ++i) {
      if (ends[i] < -1) {
        fail<ValueError>(op, "window", "expected values >= 0, or -1 for no limit, got ", ends[i]);
      }
      const std::int64_t reach = ends[i] < 0 ? kUnlimited : std::min(ends[i], kUnlimited);
      (i == 0 ? s.left : s.right) = reach;
    }
  }
  if (o.causal.ptr() == nullptr) return;
  if (PyUnicode_Check(o.causal.ptr())) {
    const std::string name = take_str(op, "causal", o.causal);
    if (name != "top_left" && name != "bottom_right") {
      fail<ValueError>(op, "causal", "expected a bool, 'top_left' or 'bottom_right', got '", name,
                       "'");
    }
    s.alignment = name == "top_left" ? Alignment::kTopLeft : Alignment::kLengthEnd;
  } else if (PyBool_Check(o.causal.ptr())) {
    if (o.causal.ptr() == Py_False) return;
    s.alignment = Alignment::kTopLeft;
    if (s.q_begin != nullptr) {
      check_square(op, s);
    } else {
      require_square(op, s.seqlen_q, s.seqlen_k);
    }
  } else {
    fail<TypeError>(op, "causal", "expected a bool, 'top_left' or 'bottom_right', got ",
                    py::str(py::type::of(o.causal).attr("__name__")).cast<std::string>());
  }
  s.right = 0;
}

void AttentionArgs::take_dropout(const char* op, const AttentionOptions& o) {
  if (o.dropout.ptr() == nullptr) return;
  const double rate = take_double(op, "dropout", o.dropout);
  if (!(rate >= 0 && rate <= 1)) {
    fail<ValueError>(op, "dropout", "expected a probability in [0, 1], got ", rate);
  }
  if (rate == 0) {
    if (given(o.seed)) take_seed(op, o.seed);
    return;
  }
  if (!given(o.seed)) {
    fail<ValueError>(op, "seed", "expected an int where dropout is not 0, got None");
  }
  AttentionDropout& d = sizes_.dropout;
  d.on = true;
  d.threshold = static_cast<std::uint64_t>(rate * 4294967296.0);
  d.scale = rate < 1 ? 1 / (1 - rate) : 0.0;
  d.key = philox_key(take_seed(op, o.seed));
  d.row = sizes_.seqlen_k;
  if (sizes_.q_begin != nullptr) number_by_longest(sizes_, &d);
  d.h = sizes_.seqlen_q;
  d.b = ndim == 4 ? sizes_.heads * sizes_.seqlen_q : 0;
}

void AttentionArgs::take_options(const char* op, const AttentionOptions& o) {
  AttentionProblem<float>& s = sizes_;
  s.scale = given(o.scale) ? take_finite(op, "scale", o.scale)
                           : 1 / std::sqrt(static_cast<double>(s.head_dim));
  if (given(o.softcap)) {
    s.softcap = take_finite(op, "softcap", o.softcap);
    if (s.softcap <= 0) fail<ValueError>(op, "softcap", "expected a value > 0, got ", s.softcap);
  }
  if (given(o.mask)) {
    mask = take(op, "mask", o.mask, Layout::kAny);
    if (mask->dtype != Dtype::kBool) {
      fail<TypeError>(op, "mask", "expected bool (additive values go to bias), got ",
                      py::str(mask.owner.attr("dtype")).cast<std::string>());
    }
    if (mask->ndim > 0) mask = with_contiguous_rows(op, "mask", std::move(mask), true);
    take_scores(op, "mask", mask, &s.mask_strides);
  }
  if (given(o.bias)) {
    bias = take(op, "bias", o.bias, Layout::kAny);
    require_same_dtype(op, "bias", bias, "q", q);
    if (bias->ndim > 0) bias = with_contiguous_rows(op, "bias", std::move(bias), true);
    bias = widened(op, "bias", std::move(bias));
    take_scores(op, "bias", bias, &s.bias_strides);
  }
  if (given(o.alibi_slopes)) {
    slopes = take_wide(op, "alibi_slopes", o.alibi_slopes);
    require_same_dtype(op, "alibi_slopes", slopes, "q", q);
    const TensorView& a = slopes.view;
    const bool shared = a.ndim == 1 && a.shape[0] == s.heads;
    const bool own = a.ndim == 2 && a.shape[0] == s.batch && a.shape[1] == s.heads;
    if (!shared && !own) {
      fail<ValueError>(op, "alibi_slopes", "expected shape (", s.heads, ",) or (", s.batch, ", ",
                       s.heads, "), got ", shape_str(a.shape, a.ndim));
    }
    s.slopes_b = own ? s.heads : 0;
  }
  if (given(o.sinks)) {
    sinks = take_wide(op, "sinks", o.sinks);
    require_same_dtype(op, "sinks", sinks, "q", q);
    require_shape(op, "sinks", sinks, {s.heads});
  }
  if (given(o.kv_lengths)) {
    lengths_ = take_integers(op, "kv_lengths", o.kv_lengths, 1);
    require_shape(op, "kv_lengths", lengths_, {s.batch});
    s.kv_lengths = integers(lengths_);
    check_lengths(op, s);
  }
  take_causal(op, o);
  take_dropout(op, o);
}

void AttentionArgs::widen_queries(const char* op) { q = widened(op, "q", std::move(q)); }

void AttentionArgs::widen(const char* op) {
  widen_queries(op);
  k = widened(op, "k", std::move(k));
  v = widened(op, "v", std::move(v));
}

template <class T>
AttentionProblem<T> AttentionArgs::problem() const {
  AttentionProblem<T> p;
  const AttentionProblem<float>& s = sizes_;
  p.batch = s.batch;
  p.heads = s.heads;
  p.kv_heads = s.kv_heads;
  p.seqlen_q = s.seqlen_q;
  p.seqlen_k = s.seqlen_k;
  p.head_dim = s.head_dim;
  p.head_dim_v = s.head_dim_v;
  p.q = q->as<const T>();
  p.k = k->as<const T>();
  p.v = v->as<const T>();
  if (compute_dtype(k->dtype) != k->dtype) p.kv_half = k->dtype;
  p.q_strides = strides_of(q.view);
  p.k_strides = strides_of(k.view);
  p.v_strides = strides_of(v.view);
  if (ndim == 4) {
    p.lse_strides = {s.heads * s.seqlen_q, s.seqlen_q, 1};
  } else {
    p.lse_strides = {0, s.seqlen_q, 1};
  }
  p.scale = s.scale;
  p.softcap = s.softcap;
  if (mask) p.mask = mask->as<const std::uint8_t>();
  p.mask_strides = s.mask_strides;
  if (bias) p.bias = bias->as<const T>();
  p.bias_strides = s.bias_strides;
  p.score_columns = s.score_columns;
  if (slopes) p.slopes = slopes->as<const T>();
  p.slopes_b = s.slopes_b;
  if (sinks) p.sinks = sinks->as<const T>();
  p.left = s.left;
  p.right = s.right;
  p.alignment = s.alignment;
  p.kv_lengths = s.kv_lengths;
  p.q_begin = s.q_begin;
  p.k_begin = s.k_begin;
  p.pages = s.pages;
  p.pages_per_sequence = s.pages_per_sequence;
  p.page_size = s.page_size;
  p.page_count = s.page_count;
  p.dropout = s.dropout;
  return p;
}
#define ARRAYNN_INSTANTIATE(T) template AttentionProblem<T> AttentionArgs::problem<T>() const;
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
