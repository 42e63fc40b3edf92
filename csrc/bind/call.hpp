// Registration of the kernels that more than one device has. A family's bind.cpp is compiled into the
// module of the CPU and into that of the GPU; def(m, name, function, arguments...) is m.def with what
// surrounds a call there:
//
//   CPU   a call whose first array is a GPU's goes to the function of that name in the GPU's module,
//         with the same arguments. A NumPy array costs one comparison of types.
//   GPU   stream and device are those of the call's first array; a launch that failed is raised when
//         the function has returned.
#pragma once
#include <pybind11/pybind11.h>

#include <array>
#include <initializer_list>

namespace arraynn {

namespace py = pybind11;

#if defined(ARRAYNN_CUDA)

class DeviceCall {
 public:
  DeviceCall();
  ~DeviceCall();
  DeviceCall(const DeviceCall&) = delete;
  DeviceCall& operator=(const DeviceCall&) = delete;
  // Raises what a launch left behind, with the kernel's name and the shapes of the arguments.
  void check(const char* op, std::initializer_list<py::handle> arguments) const;
};

template <class F, class R, class... H, class... Extra>
void def_call(py::module_& m, const char* name, F function, R (*)(H...), const Extra&... extra) {
  m.def(
      name,
      [function, name](H... arguments) -> py::object {
        const DeviceCall call;
        py::object result = function(arguments...);
        call.check(name, {arguments...});
        return result;
      },
      extra...);
}

#else

extern PyTypeObject* ndarray_type;  // numpy.ndarray

// The module of the device that the first array among the arguments is on; null for the CPU.
PyObject* find_device(std::initializer_list<py::handle> arguments);
py::object call_on_device(PyObject* module, const char* op,
                          std::initializer_list<py::handle> arguments);

inline bool is_numpy(py::handle h) {
  if (Py_TYPE(h.ptr()) == ndarray_type) return true;
  return PyList_CheckExact(h.ptr()) && PyList_GET_SIZE(h.ptr()) > 0 &&
         Py_TYPE(PyList_GET_ITEM(h.ptr(), 0)) == ndarray_type;
}

template <class F, class R, class... H, class... Extra>
void def_call(py::module_& m, const char* name, F function, R (*)(H...), const Extra&... extra) {
  m.def(
      name,
      [function, name](H... arguments) -> py::object {
        const std::array<py::handle, sizeof...(H)> all{arguments...};
        if (!is_numpy(all[0])) [[unlikely]] {
          if (PyObject* module = find_device({arguments...})) {
            return call_on_device(module, name, {arguments...});
          }
        }
        return function(arguments...);
      },
      extra...);
}

#endif

// `function`: a function, or a lambda without captures, of handles.
template <class R, class... H, class... Extra>
void def(py::module_& m, const char* name, R (*function)(H...), const Extra&... extra) {
  def_call(m, name, function, function, extra...);
}
template <class F, class... Extra>
  requires requires { +F(*static_cast<const F*>(nullptr)); }
void def(py::module_& m, const char* name, const F& function, const Extra&... extra) {
  def_call(m, name, function, +function, extra...);
}

}  // namespace arraynn
