#include <algorithm>
#include <utility>

#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/check.hpp"
#include "bind/rows.hpp"
#include "rope/rope.hpp"

namespace arraynn {
namespace {

// The checked arguments: what is turned, the tables of angles and the rows of them.
struct RopeArgs {
  RopeArgs(const char* op, const char* arg, py::handle x_in, py::handle cos_in, py::handle sin_in,
           py::handle positions_in, py::handle interleaved, py::handle layout) {
    const std::string name = take_str(op, "layout", layout);
    if (name != "bhld" && name != "blhd") {
      fail<ValueError>(op, "layout", "expected 'bhld' or 'blhd', got '", name, "'");
    }
    p.along = name == "bhld" ? 2 : 1;
    p.interleaved = take_bool(op, "interleaved", interleaved);
    take_x(op, arg, x_in);
    take_angles(op, arg, cos_in, sin_in);
    take_positions(op, positions_in);
  }

  RopeShape p;
  Array x, cos, sin, positions;

 private:
  void take_x(const char* op, const char* arg, py::handle h) {
    x = take(op, arg, h, Layout::kAny);
    require_storage(op, arg, x);
    const int ndim = x->ndim;
    if (ndim != 3 && ndim != 4) {
      fail<ValueError>(op, arg, "expected 4 dimensions, or 3 of one sample, got ", ndim);
    }
    x = with_contiguous_rows(op, arg, std::move(x));
    p.dim = x->shape[ndim - 1];
    for (int i = 0; i < ndim - 1; ++i) {
      p.size[4 - ndim + i] = x->shape[i];
      p.strides[4 - ndim + i] = x->strides[i];
    }
  }

  void take_angles(const char* op, const char* arg, py::handle cos_in, py::handle sin_in) {
    cos = take(op, "cos", cos_in);
    require_same_dtype(op, "cos", cos, arg, x);
    if (cos->ndim != 2 && cos->ndim != 3) {
      fail<ValueError>(op, "cos",
                       "expected 2 dimensions, or 3 with one table for every sample, got ",
                       cos->ndim);
    }
    p.half = cos->shape[cos->ndim - 1];
    if (p.half > p.dim / 2) {
      fail<ValueError>(op, "cos", "expected at most ", p.dim / 2, " columns (", arg, " has ", p.dim,
                       " elements in a vector), got ", p.half);
    }
    if (cos->ndim == 3) {
      const std::int64_t wanted[3] = {p.size[0], p.size[p.along], p.half};
      if (!std::equal(wanted, wanted + 3, cos->shape)) {
        fail<ValueError>(op, "cos", "expected shape ", shape_str(wanted, 3), ", got ",
                         shape_str(cos->shape, 3));
      }
      p.table_b = wanted[1] * wanted[2];
    }
    sin = take(op, "sin", sin_in);
    require_like(op, "sin", sin, "cos", cos);
  }

  void take_positions(const char* op, py::handle h) {
    const std::int64_t batch = p.size[0], length = p.size[p.along];
    const std::int64_t rows = cos->shape[cos->ndim - 2];
    const auto inside = [&](std::int64_t position) {
      if (position >= 0 && position < rows) return;
      fail<ValueError>(op, "positions", "expected rows of cos in [0, ", rows, "), got ", position);
    };
    p.rows = rows;
    if (cos->ndim == 3 && !h.is_none()) {
      fail<ValueError>(op, "positions",
                       "expected None where every sample has a table of its own, got an argument");
    }
    if (h.is_none() || PyLong_Check(h.ptr())) {
      p.first = h.is_none() ? 0 : take_int(op, "positions", h);
      if (length == 0) return;
      inside(p.first);
      inside(p.first + (length - 1));
      return;
    }
    positions = take_indices(op, "positions", h);
    const int ndim = positions->ndim;
    const bool own = ndim == 2 && positions->shape[0] == batch;
    if ((ndim != 1 && !own) || positions->shape[ndim - 1] != length) {
      fail<ValueError>(op, "positions", "expected an int, or shape (", length, ",) or (", batch,
                       ", ", length, "), got ", shape_str(positions->shape, ndim));
    }
    p.positions = positions->as<const std::int64_t>();
    p.positions_b = own ? length : 0;
    require_inside(op, "positions", positions, "rows of cos", rows);
  }
};

py::object turn(const char* op, const char* arg, bool back, py::handle x, py::handle cos,
                py::handle sin, py::handle positions, py::handle interleaved, py::handle layout,
                py::handle out_in) {
  const RopeArgs args(op, arg, x, cos, sin, positions, interleaved, layout);
  Output out(op, out_in, args.x->dtype, args.x->shape, args.x->ndim,
             {&args.x, &args.cos, &args.sin, &args.positions});
  dispatch_storage(args.x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_rope(args.p, args.x->as<const T>(), args.cos->as<const T>(), args.sin->as<const T>(), back,
             out.data<T>());
  });
  return out.finish(args.x);
}

py::object forward(py::handle x, py::handle cos, py::handle sin, py::handle positions,
                   py::handle interleaved, py::handle layout, py::handle out) {
  return turn("rope", "x", false, x, cos, sin, positions, interleaved, layout, out);
}

py::object backward(py::handle grad_out, py::handle cos, py::handle sin, py::handle positions,
                    py::handle interleaved, py::handle layout, py::handle out) {
  return turn("rope_backward", "grad_out", true, grad_out, cos, sin, positions, interleaved, layout,
              out);
}

}  // namespace

void bind_rope(py::module_& m) {
  def(m, "rope", &forward);
  def(m, "rope_backward", &backward);
}

}  // namespace arraynn
