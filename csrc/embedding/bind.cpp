#include "embedding/embedding.hpp"

#include <algorithm>
#include <vector>

#include "bind/array.hpp"
#include "bind/binders.hpp"

namespace arraynn {
namespace {

// int64 as they are, int32 widened.
class Indices {
 public:
  Indices(const char* op, py::handle h) : array(take(op, "indices", h)) {
    if (array->dtype == Dtype::kI32) {
      const auto* given = array->as<const std::int32_t>();
      wide_.assign(given, given + array->size());
    } else if (array->dtype != Dtype::kI64) {
      fail<TypeError>(op, "indices", "expected int64 or int32, got ", dtype_name(array->dtype));
    }
  }
  const std::int64_t* data() const {
    return array->dtype == Dtype::kI32 ? wide_.data() : array->as<const std::int64_t>();
  }

  Array array;

 private:
  std::vector<std::int64_t> wide_;
};

void require_inside(const char* op, const Indices& indices, std::int64_t rows) {
  const std::int64_t* end = indices.data() + indices.array->size();
  const std::int64_t* bad =
      std::find_if(indices.data(), end, [rows](std::int64_t i) { return i < 0 || i >= rows; });
  if (bad != end) {
    fail<ValueError>(op, "indices", "expected rows in [0, ", rows, "), got ", *bad);
  }
}

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
  const Indices indices(op, indices_in);
  const Array weight = take(op, "weight", weight_in);
  require_float(op, "weight", weight);
  require_ndim(op, "weight", weight, 2);
  take_padding(op, padding, weight->shape[0]);
  std::int64_t shape[kMaxDims];
  const int ndim = indices.array->ndim + 1;
  if (ndim > kMaxDims) {
    fail<ValueError>(op, "indices", "expected at most ", kMaxDims - 1, " dimensions, got ",
                     indices.array->ndim);
  }
  std::copy_n(indices.array->shape, ndim - 1, shape);
  shape[ndim - 1] = weight->shape[1];
  const EmbeddingShape p{indices.array->size(), weight->shape[0], weight->shape[1], -1};
  require_inside(op, indices, p.rows);
  Output out(op, out_in, weight->dtype, shape, ndim, {&weight, &indices.array});
  dispatch_float(weight->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    embedding(p, indices.data(), weight->as<const T>(), out.data<T>());
  });
  return out.finish(weight);
}

py::object backward(py::handle grad_in, py::handle indices_in, py::handle rows_in,
                    py::handle padding) {
  const char* op = "embedding_backward";
  const Array dy = take(op, "grad_out", grad_in);
  require_float(op, "grad_out", dy);
  const Indices indices(op, indices_in);
  const Array& at = indices.array;
  if (dy->ndim != at->ndim + 1 || !std::equal(at->shape, at->shape + at->ndim, dy->shape)) {
    fail<ValueError>(op, "grad_out", "expected the shape of indices, ",
                     shape_str(at->shape, at->ndim), ", and one size more, got ",
                     shape_str(dy->shape, dy->ndim));
  }
  const std::int64_t rows = take_int(op, "num_embeddings", rows_in);
  if (rows < 0) fail<ValueError>(op, "num_embeddings", "expected >= 0, got ", rows);
  const std::int64_t shape[2] = {rows, dy->shape[dy->ndim - 1]};
  const EmbeddingShape p{at->size(), rows, shape[1], take_padding(op, padding, rows)};
  require_inside(op, indices, p.rows);
  Output dw(op, py::none(), dy->dtype, shape, 2);
  dispatch_float(dy->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    embedding_backward(p, indices.data(), dy->as<const T>(), dw.data<T>());
  });
  return dw.finish(dy);
}

}  // namespace

void bind_embedding(py::module_& m) {
  m.def("embedding", &forward);
  m.def("embedding_backward", &backward);
}

}  // namespace arraynn
