#include <algorithm>
#include <string>
#include <utility>

#include "attention/arguments.hpp"
#include "attention/attention.hpp"
#include "attention/values.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/wide.hpp"

namespace arraynn {
namespace {

// Computes out, and lse where it is wanted.
py::object forward(const char* op, const AttentionArgs& args, py::handle return_lse_,
                   py::handle out_, std::initializer_list<const Array*> inputs) {
  const bool return_lse = take_bool(op, "return_lse", return_lse_);
  Output out(op, out_, args.q.stored(), args.out_shape, args.ndim, inputs);
  const WideResults results(op, {&out.view});
  Output lse(op, py::none(), compute_dtype(args.q->dtype), args.lse_shape,
             return_lse ? args.ndim - 1 : 0);
  args.append();
  dispatch_wide(args.q->dtype, [&](auto tag) {
    using T = decltype(tag);
    AttentionProblem<T> p = args.problem<T>();
    p.out = out.data<T>();
    p.out_strides = args.strides_of(out.view);
    p.lse = return_lse ? lse.data<Compute<T>>() : nullptr;
    const py::gil_scoped_release nogil;
    // Nothing to fill, though a batch that is broadcast may be endless.
    const bool nothing = args.empty() || (out.view.size() == 0 && !return_lse);
    if (!nothing) run_attention(op, p);
    results.narrow();
  });
  py::object result = out.finish(args.q);
  if (!return_lse) return result;
  return py::make_tuple(result, lse.finish(args.q));
}

py::object attention(py::handle q, py::handle k, py::handle v, py::handle mask, py::handle bias,
                     py::handle causal, py::handle scale, py::handle window, py::handle softcap,
                     py::handle alibi_slopes, py::handle sinks, py::handle kv_lengths,
                     py::handle dropout, py::handle seed, py::handle layout, py::handle return_lse,
                     py::handle out) {
  constexpr const char* kOp = "attention";
  const AttentionArgs args(
      kOp, q, k, v,
      {mask, bias, causal, scale, window, softcap, alibi_slopes, sinks, kv_lengths, dropout, seed},
      layout);
  return forward(kOp, args, return_lse, out,
                 {&args.q, &args.k, &args.v, &args.mask, &args.bias, &args.slopes, &args.sinks});
}

struct AttentionNeeds {
  bool q = false, k = false, v = false, bias = false, sinks = false;
};

AttentionNeeds take_attention_needs(const char* op, py::handle h) {
  if (!PyTuple_Check(h.ptr()) && !PyList_Check(h.ptr())) {
    fail<TypeError>(op, "needs", "expected a tuple of names");
  }
  AttentionNeeds needs;
  for (const py::handle item : py::reinterpret_borrow<py::sequence>(h)) {
    const std::string name = take_str(op, "needs", item);
    if (name == "q") {
      needs.q = true;
    } else if (name == "k") {
      needs.k = true;
    } else if (name == "v") {
      needs.v = true;
    } else if (name == "bias") {
      needs.bias = true;
    } else if (name == "sinks") {
      needs.sinks = true;
    } else {
      fail<ValueError>(op, "needs", "expected names out of q, k, v, bias, sinks, got '", name, "'");
    }
  }
  return needs;
}

py::tuple backward(const char* op, AttentionArgs args, py::handle grad_out_, py::handle out_,
                   py::handle lse_, const AttentionNeeds& needs) {
  const int ndim = args.ndim;
  args.widen(op);
  const auto like_out = [&](const char* arg, py::handle h) {
    const Array a = widened(op, arg, take_rows(op, arg, h, ndim));
    require_same_dtype(op, arg, a, "q", args.q);
    if (!std::equal(args.out_shape, args.out_shape + ndim, a->shape)) {
      fail<ValueError>(op, arg, "expected shape ", shape_str(args.out_shape, ndim), ", got ",
                       shape_str(a->shape, ndim));
    }
    return a;
  };
  const Array grad_out = like_out("grad_out", grad_out_), out = like_out("out", out_);
  const Array lse = take(op, "lse", lse_);
  const Dtype computed = compute_dtype(args.q->dtype);
  if (computed == args.q.stored()) {
    require_same_dtype(op, "lse", lse, "q", args.q);
  } else if (lse->dtype != computed) {
    fail<TypeError>(op, "lse", "expected ", dtype_name(computed), ", got ", dtype_name(lse->dtype));
  }
  if (lse->ndim != ndim - 1 || !std::equal(lse->shape, lse->shape + ndim - 1, args.lse_shape)) {
    fail<ValueError>(op, "lse", "expected shape ", shape_str(args.lse_shape, ndim - 1), ", got ",
                     shape_str(lse->shape, lse->ndim));
  }
  TensorView dq, dk, dv, dbias, dsinks;
  py::object grads[5] = {py::none(), py::none(), py::none(), py::none(), py::none()};
  const auto make = [&](const Array& like, TensorView* view) {
    return new_array(op, like.stored(), like->shape, like->ndim, view);
  };
  if (needs.q) grads[0] = make(args.q, &dq);
  if (needs.k) grads[1] = make(args.k, &dk);
  if (needs.v) grads[2] = make(args.v, &dv);
  const bool needs_bias = needs.bias && args.bias;
  if (needs_bias) grads[3] = make(args.bias, &dbias);
  const bool needs_sinks = needs.sinks && args.sinks;
  if (needs_sinks) grads[4] = make(args.sinks, &dsinks);
  const WideResults results(op, {&dq, &dk, &dv, &dbias, &dsinks});
  dispatch_wide(args.q->dtype, [&](auto tag) {
    using T = decltype(tag);
    AttentionProblem<T> p = args.problem<T>();
    p.out = out->as<T>();
    p.out_strides = args.strides_of(out.view);
    p.lse = lse->as<Compute<T>>();
    AttentionGradients<T> g;
    g.dout = grad_out->as<const T>();
    g.dout_strides = args.strides_of(grad_out.view);
    g.dq = dq.as<T>();
    g.dk = dk.as<T>();
    g.dv = dv.as<T>();
    if (needs.q) g.dq_strides = args.strides_of(dq);
    if (needs.k) g.dk_strides = args.strides_of(dk);
    if (needs.v) g.dv_strides = args.strides_of(dv);
    const py::gil_scoped_release nogil;
    if (needs_bias) {
      clear_gradient(dbias.as<T>(), dbias.size());
      g.dbias = dbias.as<T>();
      std::int64_t strides[4] = {0, 0, 0, 0};
      for (int i = 0; i < dbias.ndim; ++i) {
        if (dbias.shape[i] != 1) strides[4 - dbias.ndim + i] = dbias.strides[i];
      }
      g.dbias_strides = {strides[0], strides[1], strides[2], strides[3]};
    }
    std::int64_t size = 0;
    for (const auto& [wanted, view] : {std::pair{needs.q, &dq}, std::pair{needs.k, &dk},
                                       std::pair{needs.v, &dv}, std::pair{needs_bias, &dbias}}) {
      if (wanted) size += view->size();
    }
    if (size > 0) run_attention_backward(op, p, g);
    if (needs_sinks) {
      g.dsinks = dsinks.as<T>();
      clear_gradient(g.dsinks, dsinks.size());
      if (!args.empty()) run_attention_sinks(op, p, g);
    }
    results.narrow();
  });
  return py::make_tuple(grads[0], grads[1], grads[2], grads[3], grads[4]);
}

py::tuple attention_backward(py::handle grad_out, py::handle q, py::handle k, py::handle v,
                             py::handle out, py::handle lse, py::handle mask, py::handle bias,
                             py::handle causal, py::handle scale, py::handle window,
                             py::handle softcap, py::handle alibi_slopes, py::handle sinks,
                             py::handle kv_lengths, py::handle dropout, py::handle seed,
                             py::handle layout, py::handle needs) {
  constexpr const char* kOp = "attention_backward";
  const AttentionArgs args(
      kOp, q, k, v,
      {mask, bias, causal, scale, window, softcap, alibi_slopes, sinks, kv_lengths, dropout, seed},
      layout);
  return backward(kOp, args, grad_out, out, lse, take_attention_needs(kOp, needs));
}

py::object attention_varlen(py::handle q, py::handle k, py::handle v, py::handle cu_seqlens_q,
                            py::handle cu_seqlens_k, py::handle mask, py::handle bias,
                            py::handle causal, py::handle scale, py::handle window,
                            py::handle softcap, py::handle alibi_slopes, py::handle sinks,
                            py::handle dropout, py::handle seed, py::handle return_lse,
                            py::handle out) {
  constexpr const char* kOp = "attention_varlen";
  const AttentionArgs args(
      kOp, q, k, v, cu_seqlens_q, cu_seqlens_k,
      {mask, bias, causal, scale, window, softcap, alibi_slopes, sinks, {}, dropout, seed});
  return forward(kOp, args, return_lse, out,
                 {&args.q, &args.k, &args.v, &args.mask, &args.bias, &args.slopes, &args.sinks});
}

py::tuple attention_varlen_backward(py::handle grad_out, py::handle q, py::handle k, py::handle v,
                                    py::handle out, py::handle lse, py::handle cu_seqlens_q,
                                    py::handle cu_seqlens_k, py::handle mask, py::handle bias,
                                    py::handle causal, py::handle scale, py::handle window,
                                    py::handle softcap, py::handle alibi_slopes, py::handle sinks,
                                    py::handle dropout, py::handle seed, py::handle needs) {
  constexpr const char* kOp = "attention_varlen_backward";
  const AttentionArgs args(
      kOp, q, k, v, cu_seqlens_q, cu_seqlens_k,
      {mask, bias, causal, scale, window, softcap, alibi_slopes, sinks, {}, dropout, seed});
  return backward(kOp, args, grad_out, out, lse, take_attention_needs(kOp, needs));
}

py::object attention_decode(py::handle q, py::handle k_cache, py::handle v_cache,
                            py::handle lengths, py::handle block_table, py::handle k, py::handle v,
                            py::handle mask, py::handle bias, py::handle scale, py::handle window,
                            py::handle softcap, py::handle alibi_slopes, py::handle sinks,
                            py::handle cos, py::handle sin, py::handle interleaved,
                            py::handle layout, py::handle return_lse, py::handle out) {
  constexpr const char* kOp = "attention_decode";
  const AttentionArgs args(
      kOp, q, k_cache, v_cache, lengths, block_table, k, v, {cos, sin, interleaved},
      {mask, bias, {}, scale, window, softcap, alibi_slopes, sinks, {}, {}, {}}, layout);
  return forward(kOp, args, return_lse, out,
                 {&args.q, &args.k, &args.v, &args.mask, &args.bias, &args.slopes, &args.sinks});
}

}  // namespace

void bind_attention(py::module_& m) {
  def(m, "attention", &attention);
  def(m, "attention_backward", &attention_backward);
  def(m, "attention_varlen", &attention_varlen);
  def(m, "attention_varlen_backward", &attention_varlen_backward);
  def(m, "attention_decode", &attention_decode);
}

}  // namespace arraynn
