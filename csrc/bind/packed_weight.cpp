#include "bind/packed_weight.hpp"

#include <memory>
#include <utility>

#include "bind/binders.hpp"
#include "bind/call.hpp"

namespace arraynn {
namespace {

PyTypeObject* packed_type = nullptr;  // set once, when the module is made

// Dimensions of the weight of `op`, 0 when it takes no packed one.
int weight_ndim(const std::string& op) {
  if (op == "linear" || op == "matmul") return 2;
  for (const char* family : {"conv", "conv_transpose"}) {
    for (int axes = 1; axes <= 3; ++axes) {
      if (op == family + std::to_string(axes) + "d") return axes + 2;
    }
  }
  return 0;
}

py::object pack(py::handle weight_in, py::handle op_in) {
  constexpr const char* kOp = "pack";
  std::string op = take_str(kOp, "op", op_in);
  const int ndim = weight_ndim(op);
  if (ndim == 0) {
    fail<ValueError>(kOp, "op",
                     "expected linear, matmul, conv1d, conv2d, conv3d or conv_transpose1d, "
                     "conv_transpose2d, conv_transpose3d, got '",
                     op, "'");
  }
  const Array weight = take(kOp, "weight", weight_in);
  require_float(kOp, "weight", weight);
  require_ndim(kOp, "weight", weight, ndim);
  auto packed = std::make_unique<PackedWeight>();
  packed->op = std::move(op);
  packed->weight = take(kOp, "weight", weight.owner.attr("copy")());
  return py::cast(std::move(packed));
}

}  // namespace

Weight take_weight(const char* op, const char* arg, py::handle h, Layout layout,
                   const char* packed_for) {
  if (Py_TYPE(h.ptr()) != packed_type) return {take(op, arg, h, layout)};
  auto* packed = h.cast<PackedWeight*>();
  const char* wanted = packed_for != nullptr ? packed_for : op;
  if (packed->op != wanted) {
    fail<ValueError>(op, arg, "expected an array or one packed for ", wanted,
                     ", got one packed for ", packed->op);
  }
  return {packed->weight, &packed->forms};
}

void bind_packed_weight(py::module_& m) {
  const auto type =
      py::class_<PackedWeight>(m, "PackedWeight", py::module_local(),
                               py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)))
          .def_readonly("op", &PackedWeight::op)
          .def_property_readonly("shape",
                                 [](const PackedWeight& p) { return p.weight.owner.attr("shape"); })
          .def_property_readonly("dtype",
                                 [](const PackedWeight& p) { return p.weight.owner.attr("dtype"); })
          .def_property_readonly("nbytes", [](const PackedWeight& p) {
            return p.weight.owner.attr("nbytes").cast<std::int64_t>() + p.forms.bytes();
          });
  packed_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  def(m, "pack", &pack);
}

}  // namespace arraynn
