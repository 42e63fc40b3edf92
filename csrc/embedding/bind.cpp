#include "embedding/embedding.hpp"

#include <algorithm>

#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/rows.hpp"

namespace arraynn {
namespace {

// The row without a gradient; negative ones count from the end.
std::int64_t take_padding(const char* op, py::handle h, std::int64_t rows) {
  if (h.is_none()) return -1;
  const std::int64_t given = take_int(op, "padding_idx", h);
  if (given < -rows || given >= rows) {
    fail<ValueError>(op, "padding_idx", "expected a row of a table of ", rows, ", got ", given);
  }
  return given < 0 ? given + rows : given;
}

py::object forward(py::handle indices_in, py::handle weight_in, py::handle padding,
                   py::handle out_in) {
  const char* op = "embedding";
  const Array indices = take_indices(op, "indices", indices_in);
  const Array weight = take(op, "weight", weight_in);
  require_storage(op, "weight", weight);
  require_ndim(op, "weight", weight, 2);
  take_padding(op, padding, weight->shape[0]);
  std::int64_t shape[kMaxDims];
  const int ndim = indices->ndim + 1;
  if (ndim > kMaxDims) {
    fail<ValueError>(op, "indices", "expected at most ", kMaxDims - 1, " dimensions, got ",
                     indices->ndim);
  }
  std::copy_n(indices->shape, ndim - 1, shape);
  shape[ndim - 1] = weight->shape[1];
  const EmbeddingShape p{indices->size(), weight->shape[0], weight->shape[1], -1};
  require_inside(op, "indices", indices, "rows", p.rows);
  Output out(op, out_in, weight->dtype, shape, ndim, {&weight, &indices});
  dispatch_storage(weight->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    embedding(p, indices->as<const std::int64_t>(), weight->as<const T>(), out.data<T>());
  });
  return out.finish(weight);
}

py::object backward(py::handle grad_in, py::handle indices_in, py::handle rows_in,
                    py::handle padding, py::handle out_in) {
  const char* op = "embedding_backward";
  const Array dy = take(op, "grad_out", grad_in);
  require_storage(op, "grad_out", dy);
  const Array at = take_indices(op, "indices", indices_in);
  if (dy->ndim != at->ndim + 1 || !std::equal(at->shape, at->shape + at->ndim, dy->shape)) {
    fail<ValueError>(op, "grad_out", "expected the shape of indices, ",
                     shape_str(at->shape, at->ndim), ", and one size more, got ",
                     shape_str(dy->shape, dy->ndim));
  }
  const std::int64_t rows = take_int(op, "num_embeddings", rows_in);
  if (rows < 0) fail<ValueError>(op, "num_embeddings", "expected >= 0, got ", rows);
  const std::int64_t shape[2] = {rows, dy->shape[dy->ndim - 1]};
  const EmbeddingShape p{at->size(), rows, shape[1], take_padding(op, padding, rows)};
  require_inside(op, "indices", at, "rows", p.rows);
  Output dw(op, out_in, dy->dtype, shape, 2, {&dy, &at});
  dispatch_storage(dy->dtype, [&](auto tag) {
    using T = decltype(tag);
    TensorView scratch;
    py::object owner;
    if (const std::int64_t bytes = embedding_scratch<T>(p); bytes > 0) {
      owner = new_array(op, Dtype::kU8, &bytes, 1, &scratch);
    }
    const py::gil_scoped_release nogil;
    embedding_backward(p, at->as<const std::int64_t>(), dy->as<const T>(), scratch.data,
                       dw.data<T>());
  });
  return dw.finish(dy);
}

}  // namespace

void bind_embedding(py::module_& m) {
  def(m, "embedding", &forward);
  def(m, "embedding_backward", &backward);
}

}  // namespace arraynn
