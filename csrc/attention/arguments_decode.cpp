// The arguments of attention against a cache.
#include <algorithm>

#include "attention/arguments.hpp"
#include "attention/cache.hpp"
#include "attention/values.hpp"
#include "bind/check.hpp"
#include "bind/wide.hpp"
#include "rope/rope.hpp"

namespace arraynn {

AttentionArgs::AttentionArgs(const char* op, py::handle q_in, py::handle k_cache,
                             py::handle v_cache, py::handle lengths, py::handle block_table,
                             py::handle new_k, py::handle new_v, const DecodeAngles& angles,
                             const AttentionOptions& options, py::handle layout) {
  const std::string name = take_str(op, "layout", layout);
  if (name != "bhld" && name != "blhd") {
    fail<ValueError>(op, "layout", "expected 'bhld' or 'blhd', got '", name, "'");
  }
  heads_first_ = name == "bhld";
  q = take_rows(op, "q", q_in, 4);
  const bool writes = given(new_k) || given(new_v);
  // A copy of the cache would take what is appended to it.
  const auto cache = [&](const char* arg, py::handle h) {
    Array a = take(op, arg, h, Layout::kAny);
    require_rows(op, arg, a, 4);
    if (a->size() > 0 && a->shape[3] > 1 && a->strides[3] != 1) {
      fail<ValueError>(op, arg, "expected a contiguous last dimension, got a stride of ",
                       a->strides[3], " elements");
    }
    if (writes && !a->writeable) {
      fail<ValueError>(op, arg, "expected a writeable array, got a read-only one");
    }
    return a;
  };
  k = cache("k_cache", k_cache);
  v = cache("v_cache", v_cache);
  check_heads(op, "k_cache", "v_cache");
  AttentionProblem<float>& s = sizes_;
  if (given(block_table)) {
    pages_ = take_integers(op, "block_table", block_table, 2);
    if (pages_->shape[0] != s.batch) {
      fail<ValueError>(op, "block_table", "expected ", s.batch, " rows (the batch of q), got ",
                       pages_->shape[0]);
    }
    s.pages = integers(pages_);
    s.pages_per_sequence = pages_->shape[1];
    s.page_size = s.seqlen_k;
    s.page_count = k->shape[0];
    s.seqlen_k = checked_mul(op, "block_table", s.page_size, s.pages_per_sequence);
  } else if (k->shape[0] != s.batch) {
    fail<ValueError>(op, "k_cache", "expected a batch of ", s.batch, " (that of q), got ",
                     k->shape[0]);
  }
  take_new_rows(op, new_k, new_v, lengths);
  take_options(op, options);
  s.alignment = Alignment::kLengthEnd;
  s.right = std::min<std::int64_t>(s.right, 0);
  turn(op, angles);
  widen_queries(op);
}

// Queries and new keys become copies of themselves, turned by the angles of their positions.
void AttentionArgs::turn(const char* op, const DecodeAngles& angles) {
  const bool interleaved = take_bool(op, "interleaved", angles.interleaved);
  if (given(angles.cos) != given(angles.sin)) {
    fail<ValueError>(op, given(angles.cos) ? "sin" : "cos",
                     "expected an array (the other one is given), got ", "None");
  }
  if (!given(angles.cos)) return;
  const Array cos = take_wide(op, "cos", angles.cos), sin = take_wide(op, "sin", angles.sin);
  require_same_dtype(op, "cos", cos, "q", q);
  require_ndim(op, "cos", cos, 2);
  require_like(op, "sin", sin, "cos", cos);
  const AttentionProblem<float>& s = sizes_;
  if (cos->shape[1] > s.head_dim / 2) {
    fail<ValueError>(op, "cos", "expected at most ", s.head_dim / 2, " columns (q has ", s.head_dim,
                     " elements in a vector), got ", cos->shape[1]);
  }
  check_angles(op, s, cos->shape[0]);
  if (cos->shape[0] == 0) return;  // and nothing to turn
  for (Array* a : {&q, &new_k_}) {
    if (!*a) continue;
    const Array wide = widened(op, "q", *a);  // lives as long as it is read
    const TensorView& from = wide.view;
    RopeShape p;
    std::copy_n(from.shape, 3, p.size);
    std::copy_n(from.strides, 3, p.strides);
    p.along = heads_first_ ? 2 : 1;
    p.dim = s.head_dim;
    p.half = cos->shape[1];
    p.rows = cos->shape[0];
    p.interleaved = interleaved;
    const std::int64_t rows = p.size[p.along];
    const std::int64_t count = s.batch * rows;
    TensorView positions;
    const py::object owner = new_array(op, Dtype::kI64, &count, 1, &positions);
    last_positions(s, rows, positions.as<std::int64_t>());
    p.positions = positions.as<const std::int64_t>();
    p.positions_b = rows;
    py::object turned = new_array(op, a->stored(), from.shape, 4, &a->view);
    TensorView to = a->view;
    const WideResults results(op, {&to});
    dispatch_wide(from.dtype, [&](auto tag) {
      using T = decltype(tag);
      run_rope(p, from.as<const T>(), cos->as<const T>(), sin->as<const T>(), false, to.as<T>());
    });
    results.narrow();
    a->owner = std::move(turned);
  }
}

void AttentionArgs::take_new_rows(const char* op, py::handle new_k, py::handle new_v,
                                  py::handle lengths) {
  AttentionProblem<float>& s = sizes_;
  const int l = heads_first_ ? 2 : 1, h = heads_first_ ? 1 : 2;
  std::int64_t more = 0;
  if (given(new_k) != given(new_v)) {
    fail<ValueError>(op, given(new_k) ? "v" : "k",
                     "expected an array (the other one is given), got ", "None");
  }
  if (given(new_k)) {
    new_k_ = take_rows(op, "k", new_k, 4);
    new_v_ = take_rows(op, "v", new_v, 4);
    require_same_dtype(op, "k", new_k_, "q", q);
    require_same_dtype(op, "v", new_v_, "q", q);
    more = new_k_->shape[l];
    std::int64_t shape[4] = {s.batch, s.kv_heads, s.kv_heads, s.head_dim};
    shape[l] = more;
    shape[h] = s.kv_heads;
    require_shape(op, "k", new_k_, {shape[0], shape[1], shape[2], shape[3]});
    require_shape(op, "v", new_v_, {shape[0], shape[1], shape[2], s.head_dim_v});
  }
  const Array before = take_integers(op, "lengths", lengths, 1);
  if (before->shape[0] != s.batch) {
    fail<ValueError>(op, "lengths", "expected ", s.batch, " elements (the batch of q), got ",
                     before->shape[0]);
  }
  lengths_.owner = new_array(op, Dtype::kI64, &s.batch, 1, &lengths_.view);
  s.kv_lengths = integers(lengths_);
  extend_lengths(op, s, integers(before), more, lengths_->as<std::int64_t>());
}

void AttentionArgs::append() const {
  if (!new_k_) return;
  const auto item = static_cast<std::int64_t>(dtype_size(k->dtype));
  const std::int64_t more = new_k_->shape[heads_first_ ? 2 : 1];
  const auto to = [&](const Array& cache, const Array& from, std::int64_t dim) {
    append_rows(sizes_, {from->data, cache->data, strides_of(from.view), strides_of(cache.view),
                         more, dim, item});
  };
  to(k, new_k_, sizes_.head_dim);
  to(v, new_v_, sizes_.head_dim_v);
}

}  // namespace arraynn
