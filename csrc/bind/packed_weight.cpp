#include "bind/packed_weight.hpp"

#include <memory>
#include <utility>

#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/dtypes.hpp"
#include "bind/rows.hpp"
#include "bind/wide.hpp"
#include "gemm/gemm.hpp"

namespace arraynn {
namespace {

// Set once, when the module is made.
PyTypeObject *packed_type = nullptr, *packed_list_type = nullptr;

constexpr int kMatrix = 2;

// Dimensions of the weight of `op`, 0 when it takes no packed one.
int weight_ndim(const std::string& op) {
  if (op == "linear" || op == "matmul") return kMatrix;
  for (const char* family : {"conv", "conv_transpose"}) {
    for (int axes = 1; axes <= 3; ++axes) {
      if (op == family + std::to_string(axes) + "d") return axes + 2;
    }
  }
  return 0;
}

constexpr const char* kOp = "pack";

// A copy shared with nobody, of what the kernels read.
Array own_copy(const char* arg, Array weight) {
  if (!weight.wide) return contiguous_copy(kOp, arg, weight);
  weight.owner = weight.wide.attr("reshape")(weight.owner.attr("shape"));
  weight.foreign = {};
  weight.low = weight.high = nullptr;
  return weight;
}

py::object dtype_of_copy(const Array& weight) {
  return py::reinterpret_borrow<py::object>(descriptor_of(weight.stored()));
}

// Their shapes are for the call to judge, which knows the other sizes.
std::unique_ptr<PackedWeights> pack_list(py::handle weights, std::string op) {
  if (!PyList_Check(weights.ptr()) && !PyTuple_Check(weights.ptr())) {
    fail<TypeError>(kOp, "weight", "expected a list of arrays for ", op, ", got ",
                    Py_TYPE(weights.ptr())->tp_name);
  }
  auto packed = std::make_unique<PackedWeights>();
  packed->op = std::move(op);
  const auto list = py::reinterpret_borrow<py::sequence>(weights);
  if (list.size() == 0) fail<ValueError>(kOp, "weight", "expected arrays, got none");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string name = concat("weight[", i, "]");
    const Array weight = take_wide(kOp, name.c_str(), py::object(list[i]));
    require_storage(kOp, name.c_str(), weight);
    if (i > 0) require_same_dtype(kOp, name.c_str(), weight, "weight[0]", packed->weights[0]);
    if (weight->ndim != 1 && weight->ndim != 2) {
      fail<ValueError>(kOp, name.c_str(), "expected 1 or 2 dimensions, got ", weight->ndim);
    }
    packed->weights.push_back(own_copy(name.c_str(), weight));
    packed->forms.push_back(std::make_unique<PreparedWeight>());
  }
  return packed;
}

std::unique_ptr<PackedWeight> pack_one(py::handle weight_in, std::string op) {
  const int ndim = weight_ndim(op);
  if (ndim == 0) {
    fail<ValueError>(kOp, "op",
                     "expected linear, matmul, conv1d, conv2d, conv3d, conv_transpose1d, "
                     "conv_transpose2d, conv_transpose3d, rnn, lstm or gru, got '",
                     op, "'");
  }
  Array weight = take(kOp, "weight", weight_in);
  if (ndim != kMatrix || !has_gemm(weight->dtype)) {
    weight = widened(kOp, "weight", std::move(weight));
  }
  require_storage(kOp, "weight", weight);
  require_ndim(kOp, "weight", weight, ndim);
  auto packed = std::make_unique<PackedWeight>();
  packed->op = std::move(op);
  packed->weight = own_copy("weight", weight);
  return packed;
}

py::object pack(py::handle weight, py::handle op_in) {
  std::string op = take_str(kOp, "op", op_in);
  if (op == "rnn" || op == "lstm" || op == "gru") return py::cast(pack_list(weight, std::move(op)));
  return py::cast(pack_one(weight, std::move(op)));
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

Weight take_wide_weight(const char* op, const char* arg, py::handle h, const char* packed_for) {
  Weight weight = take_weight(op, arg, h, Layout::kContiguous, packed_for);
  weight.array = widened(op, arg, std::move(weight.array));
  return weight;
}

PackedWeights* take_packed_weights(const char* op, const char* arg, py::handle h,
                                   const char* packed_for) {
  if (Py_TYPE(h.ptr()) != packed_list_type) return nullptr;
  auto* packed = h.cast<PackedWeights*>();
  if (packed->op != packed_for) {
    fail<ValueError>(op, arg, "expected a list or one packed for ", packed_for,
                     ", got one packed for ", packed->op);
  }
  return packed;
}

void bind_packed_weight(py::module_& m) {
  const auto type =
      py::class_<PackedWeight>(m, "PackedWeight", py::module_local(),
                               py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)))
          .def_readonly("op", &PackedWeight::op)
          .def_property_readonly("shape",
                                 [](const PackedWeight& p) { return p.weight.owner.attr("shape"); })
          .def_property_readonly("dtype",
                                 [](const PackedWeight& p) { return dtype_of_copy(p.weight); })
          .def_property_readonly("nbytes", [](const PackedWeight& p) {
            return p.weight.owner.attr("nbytes").cast<std::int64_t>() + p.forms.bytes();
          });
  packed_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  const auto list_type =
      py::class_<PackedWeights>(m, "PackedWeights", py::module_local(),
                                py::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)))
          .def_readonly("op", &PackedWeights::op)
          .def_property_readonly("shapes",
                                 [](const PackedWeights& p) {
                                   py::list shapes;
                                   for (const Array& w : p.weights) {
                                     shapes.append(w.owner.attr("shape"));
                                   }
                                   return shapes;
                                 })
          .def_property_readonly("dtype",
                                 [](const PackedWeights& p) { return dtype_of_copy(p.weights[0]); })
          .def_property_readonly("nbytes", [](const PackedWeights& p) {
            std::int64_t bytes = 0;
            for (std::size_t i = 0; i < p.weights.size(); ++i) {
              bytes += p.weights[i].owner.attr("nbytes").cast<std::int64_t>() + p.forms[i]->bytes();
            }
            return bytes;
          });
  packed_list_type = reinterpret_cast<PyTypeObject*>(list_type.ptr());
  def(m, "pack", &pack);
}

}  // namespace arraynn
