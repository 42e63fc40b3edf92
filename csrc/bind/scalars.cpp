// Arguments that are no arrays, and the checks of arrays that need only their views: the same for every
// device.
#include <algorithm>

#include "bind/dtypes.hpp"

namespace arraynn {
namespace {

std::string type_text(py::handle h) { return py::str(py::type::of(h).attr("__name__")); }

}  // namespace

void require_float(const char* op, const char* arg, const Array& a) {
  if (a.view.dtype != Dtype::kF32 && a.view.dtype != Dtype::kF64) {
    fail<TypeError>(op, arg, "expected float32 or float64, got ", dtype_text(a));
  }
}

bool is_storage(Dtype t) {
  return t == Dtype::kF32 || t == Dtype::kF64 || t == Dtype::kF16 || t == Dtype::kBF16;
}

void require_storage(const char* op, const char* arg, const Array& a) {
  if (!is_storage(a.view.dtype)) {
    fail<TypeError>(op, arg, "expected float16, bfloat16, float32 or float64, got ", dtype_text(a));
  }
}

void require_same_dtype(const char* op, const char* arg, const Array& a, const char* first_arg,
                        const Array& first) {
  if (a.stored() != first.stored()) {
    fail<TypeError>(op, arg, "expected ", dtype_text(first), " (the dtype of ", first_arg,
                    "), got ", dtype_text(a));
  }
}

void require_ndim(const char* op, const char* arg, const Array& a, int ndim) {
  if (a.view.ndim != ndim) {
    fail<ValueError>(op, arg, "expected ", ndim, " dimensions, got ", a.view.ndim, " with shape ",
                     shape_str(a.view.shape, a.view.ndim));
  }
}

void require_shape(const char* op, const char* arg, const Array& a,
                   std::initializer_list<std::int64_t> shape) {
  if (a.view.ndim != static_cast<int>(shape.size()) ||
      !std::equal(shape.begin(), shape.end(), a.view.shape)) {
    fail<ValueError>(op, arg, "expected shape ",
                     shape_str(shape.begin(), static_cast<int>(shape.size())), ", got ",
                     shape_str(a.view.shape, a.view.ndim));
  }
}

std::int64_t take_int(const char* op, const char* arg, py::handle h) {
  PyObject* index = PyBool_Check(h.ptr()) ? nullptr : PyNumber_Index(h.ptr());
  if (index == nullptr) {
    PyErr_Clear();
    fail<TypeError>(op, arg, "expected an int, got ", type_text(h));
  }
  int overflow = 0;
  const std::int64_t value = PyLong_AsLongLongAndOverflow(index, &overflow);
  Py_DECREF(index);
  if (overflow != 0) fail<ValueError>(op, arg, "expected an int of 64 bits, got a larger one");
  return value;
}

void take_ints(const char* op, const char* arg, py::handle h, int n, std::int64_t* out) {
  if (PyLong_CheckExact(h.ptr())) {
    std::fill_n(out, n, take_int(op, arg, h));
    return;
  }
  if (!PyTuple_Check(h.ptr()) && !PyList_Check(h.ptr())) {
    if (PyIndex_Check(h.ptr())) {
      std::fill_n(out, n, take_int(op, arg, h));
      return;
    }
    fail<TypeError>(op, arg, "expected an int or ", n, n == 1 ? " int" : " ints", ", got ",
                    type_text(h));
  }
  const auto sequence = py::reinterpret_borrow<py::sequence>(h);
  if (py::len(sequence) != static_cast<std::size_t>(n)) {
    fail<ValueError>(op, arg, "expected an int or ", n, n == 1 ? " int" : " ints", ", got ",
                     py::len(sequence), " values");
  }
  for (int i = 0; i < n; ++i) {
    out[i] = take_int(op, arg, py::object(sequence[static_cast<std::size_t>(i)]));
  }
}

double take_double(const char* op, const char* arg, py::handle h) {
  if (PyFloat_CheckExact(h.ptr())) return PyFloat_AS_DOUBLE(h.ptr());
  const double value = PyFloat_AsDouble(h.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    fail<TypeError>(op, arg, "expected a float, got ", type_text(h));
  }
  return value;
}

bool take_bool(const char* op, const char* arg, py::handle h) {
  if (h.ptr() == Py_True) return true;
  if (h.ptr() == Py_False) return false;
  fail<TypeError>(op, arg, "expected a bool, got ", type_text(h));
}

std::string take_str(const char* op, const char* arg, py::handle h) {
  if (!PyUnicode_Check(h.ptr())) fail<TypeError>(op, arg, "expected a str, got ", type_text(h));
  return h.cast<std::string>();
}

void take_padding(const char* op, py::handle h, int axes, std::int64_t* begin, std::int64_t* end,
                  PadMode* mode, const char* arg) {
  *mode = PadMode::kExplicit;
  if (PyUnicode_Check(h.ptr())) {
    const std::string name = take_str(op, arg, h);
    std::fill_n(begin, axes, 0);
    std::fill_n(end, axes, 0);
    if (name == "same") {
      *mode = PadMode::kSame;
    } else if (name == "same_lower") {
      *mode = PadMode::kSameLower;
    } else if (name != "valid") {
      fail<ValueError>(op, arg, "expected ints, pairs, 'valid', 'same' or 'same_lower', got '",
                       name, "'");
    }
    return;
  }
  const bool is_sequence = PyTuple_Check(h.ptr()) || PyList_Check(h.ptr());
  const bool pairs = is_sequence && py::len(h) == static_cast<std::size_t>(axes) && axes > 0 &&
                     !PyIndex_Check(py::object(py::reinterpret_borrow<py::sequence>(h)[0]).ptr());
  if (pairs) {
    const auto sequence = py::reinterpret_borrow<py::sequence>(h);
    for (int i = 0; i < axes; ++i) {
      std::int64_t pair[2];
      take_ints(op, arg, py::object(sequence[static_cast<std::size_t>(i)]), 2, pair);
      begin[i] = pair[0];
      end[i] = pair[1];
    }
  } else {
    take_ints(op, arg, h, axes, begin);
    std::copy_n(begin, axes, end);
  }
  for (int i = 0; i < axes; ++i) {
    if (begin[i] < 0 || end[i] < 0) {
      fail<ValueError>(op, arg, "expected values >= 0, got ", std::min(begin[i], end[i]));
    }
  }
}

bool take_channels_last(const char* op, py::handle h) {
  const std::string name = take_str(op, "layout", h);
  if (name == "channels_first") return false;
  if (name == "channels_last") return true;
  fail<ValueError>(op, "layout", "expected 'channels_first' or 'channels_last', got '", name, "'");
}

Needs take_needs(const char* op, py::handle h) {
  if (!PyTuple_Check(h.ptr()) && !PyList_Check(h.ptr())) {
    fail<TypeError>(op, "needs", "expected a tuple of names");
  }
  Needs needs;
  for (const py::handle item : py::reinterpret_borrow<py::sequence>(h)) {
    const std::string name = take_str(op, "needs", item);
    if (name == "x") {
      needs.x = true;
    } else if (name == "weight") {
      needs.weight = true;
    } else if (name == "bias") {
      needs.bias = true;
    } else {
      fail<ValueError>(op, "needs", "expected names out of x, weight, bias, got '", name, "'");
    }
  }
  return needs;
}

}  // namespace arraynn
