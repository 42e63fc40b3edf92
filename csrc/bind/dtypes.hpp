// NumPy's descriptors of the dtypes that kernels know; arrays on a GPU have the same.
#pragma once
#include <pybind11/numpy.h>

#include <string>

#include "bind/array.hpp"

namespace arraynn {

// Borrowed; nullptr for kOther.
PyObject* descriptor_of(Dtype t);
Dtype dtype_of(PyObject* descriptor);
// The name of an array's dtype, also of one that no kernel knows.
std::string dtype_text(const Array& a);

}  // namespace arraynn
