// From the module of the CPU to those of other devices.
#include <cstring>
#include <vector>

#include "bind/call.hpp"
#include "bind/dtypes.hpp"
#include "bind/module_parts.hpp"
#include "core/error.hpp"

namespace arraynn {

PyTypeObject* ndarray_type = nullptr;

namespace {

// A type all of whose objects are a device's, arrays or what its kernels keep for backward, and that
// device's module. Held for good.
struct Device {
  PyTypeObject* type;
  PyObject* module;
};
std::vector<Device>& devices() {
  static auto* registered = new std::vector<Device>;
  return *registered;
}

// Neither an array nor a list of arrays: the next argument is to be looked at.
bool is_scalar(py::handle h) {
  return h.is_none() || PyFloat_Check(h.ptr()) || PyLong_Check(h.ptr()) || PyUnicode_Check(h.ptr());
}

}  // namespace

PyObject* find_device(std::initializer_list<py::handle> arguments) {
  for (py::handle h : arguments) {
    if (is_scalar(h)) continue;
    if (PyList_Check(h.ptr()) || PyTuple_Check(h.ptr())) {
      const Py_ssize_t size = PySequence_Fast_GET_SIZE(h.ptr());
      Py_ssize_t i = 0;
      while (i < size && is_scalar(PySequence_Fast_GET_ITEM(h.ptr(), i))) ++i;
      if (i == size) continue;
      h = PySequence_Fast_GET_ITEM(h.ptr(), i);
    }
    if (PyObject_TypeCheck(h.ptr(), ndarray_type)) return nullptr;
    for (const Device& device : devices()) {
      if (device.type == Py_TYPE(h.ptr())) return device.module;
    }
    const py::object module = py::module_::import("arraynn._array").attr("device_module")(h);
    return module.is_none() ? nullptr : module.ptr();  // a module lives in sys.modules
  }
  return nullptr;
}

py::object call_on_device(PyObject* module, const char* op,
                          std::initializer_list<py::handle> arguments) {
  const auto function = py::reinterpret_steal<py::object>(PyObject_GetAttrString(module, op));
  if (!function) {
    PyErr_Clear();
    throw NotImplemented(concat("[", op,
                                "] expected arrays in CPU memory: no CUDA kernel of that "
                                "name yet; those there are: arraynn.cuda.kernels()"));
  }
  PyObject* stack[32];
  std::size_t n = 0;
  for (const py::handle h : arguments) stack[n++] = h.ptr();
  auto result =
      py::reinterpret_steal<py::object>(PyObject_Vectorcall(function.ptr(), stack, n, nullptr));
  if (!result) throw py::error_already_set();
  return result;
}

void bind_devices(py::module_& m) {
  ndarray_type = reinterpret_cast<PyTypeObject*>(py::detail::npy_api::get().PyArray_Type_);
  m.def(
      "register_device",
      [](const py::type& type, const py::module_& module) {
        devices().push_back({reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr()),
                             py::object(module).inc_ref().ptr()});
      },
      py::arg("type"), py::arg("module"));
}

}  // namespace arraynn
