// The array library whose arrays the module of the GPU takes and gives.
#pragma once
#include <pybind11/pybind11.h>

#include <memory>
#include <string>
#include <vector>

#include "core/cuda_scratch.hpp"

namespace arraynn {

namespace py = pybind11;

// Arrays have what CuPy's have: shape, strides, dtype, data.ptr, device.id, copy(), a[...] = b, and
// ndarray(shape, dtype) takes memory from the library's pool.
struct CudaLibrary {
  std::string name;  // of the type, for messages
  py::object ndarray;
  py::object current_stream;  // () -> int, a cudaStream_t
  py::object current_device;  // () -> int
  py::object set_device;      // (int)
  py::object wrap;            // (op, arg, x) -> (array, writeable), or TypeError
  int device_count = 1;
};
const CudaLibrary& cuda_library();  // RuntimeError when there is none yet

// What the intake knows of the call that is running on this thread.
struct LibraryCall {
  bool joined = false;  // an array has been taken: stream and device are set
  std::vector<std::unique_ptr<cuda::Scratch>> scratch;  // until the call returns
  int before = -1;  // the library's device when the call began, if the call changed it
};
LibraryCall& library_call();

}  // namespace arraynn
