// What the modules are made of beside the families of binders.hpp.
#pragma once
#include <pybind11/pybind11.h>

namespace arraynn {

namespace py = pybind11;

void bind_cuda_library(py::module_& m);
void bind_devices(py::module_& m);
void bind_elementwise_math(py::module_& m);
void bind_errors(py::module_& m);
void bind_host_cuda(py::module_& m);  // of tests/host_cuda

}  // namespace arraynn
