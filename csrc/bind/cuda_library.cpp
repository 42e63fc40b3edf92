// The library, the surroundings of a call, and what Python asks of the GPU's module.
#include "bind/cuda_library.hpp"

#include <sstream>

#include "bind/call.hpp"
#include "bind/module_parts.hpp"
#include "core/cuda_call.hpp"
#include "core/cuda_precision.hpp"
#include "core/cuda_scratch.hpp"

namespace arraynn {
namespace {

CudaLibrary& slot() {
  static auto* instance = new CudaLibrary;  // never destroyed: the interpreter may be gone by then
  return *instance;
}

std::string describe(std::initializer_list<py::handle> arguments) {
  std::ostringstream s;
  const char* separator = "";
  for (const py::handle h : arguments) {
    if (!py::hasattr(h, "shape") || !py::hasattr(h, "dtype")) continue;
    s << separator << py::str(h.attr("dtype")).cast<std::string>() << " "
      << py::str(h.attr("shape")).cast<std::string>();
    separator = ", ";
  }
  return s.str();
}

void* allocate(std::size_t bytes) {
  auto& held = library_call().scratch;
  held.push_back(std::make_unique<cuda::Scratch>("scratch", static_cast<std::int64_t>(bytes)));
  return held.back()->as<void>();
}

}  // namespace

const CudaLibrary& cuda_library() {
  if (!slot().ndarray)
    throw std::runtime_error("no array library; import arraynn and use CuPy arrays");
  return slot();
}

DeviceCall::DeviceCall() {
  cuda::call_state() = {};
  cuda::call_state().allocate = &allocate;
  library_call() = {};
}

DeviceCall::~DeviceCall() {
  const int before = library_call().before;
  library_call() = {};
  if (before < 0) return;
  try {
    cuda_library().set_device(before);
  } catch (py::error_already_set& error) {  // nothing to raise from here
    error.discard_as_unraisable("arraynn: the device before the call");
  }
}

void DeviceCall::check(const char* op, std::initializer_list<py::handle> arguments) const {
  const cuda::CallState& call = cuda::call_state();
  if (call.error == cudaSuccess) return;
  std::string kernel = call.kernel;
  if (kernel.starts_with('('))
    kernel = kernel.substr(1, kernel.size() - 2);  // as a macro's argument
  std::ostringstream s;
  s << "[" << op << "] " << cudaGetErrorName(call.error) << " (" << cudaGetErrorString(call.error)
    << ") from " << kernel << " with " << call.blocks << " blocks of " << call.threads
    << " threads and " << call.shared_bytes << " bytes of shared memory; arguments "
    << describe(arguments);
  throw std::runtime_error(s.str());
}

void bind_cuda_library(py::module_& m) {
  m.def(
      "set_library",
      [](const std::string& name, py::object ndarray, py::object current_stream,
         py::object current_device, py::object set_device, py::object wrap) {
        slot() = {name,
                  std::move(ndarray),
                  std::move(current_stream),
                  std::move(current_device),
                  std::move(set_device),
                  std::move(wrap),
                  cuda::device_count()};
      },
      py::arg("name"), py::arg("ndarray"), py::arg("current_stream"), py::arg("current_device"),
      py::arg("set_device"), py::arg("wrap"));
  m.def("device_count", &cuda::device_count);
  m.def("set_debug", &cuda::set_synchronous_launches, py::arg("on"));
  m.def("debug", &cuda::synchronous_launches);
  m.def("set_tf32_products", &cuda::set_tf32_products, py::arg("on"));
  m.def("versions", [] {
    int runtime = 0, driver = 0;
    cudaRuntimeGetVersion(&runtime);
    if (cudaDriverGetVersion(&driver) != cudaSuccess) cudaGetLastError();
    return std::make_pair(runtime, driver);
  });
}

}  // namespace arraynn
