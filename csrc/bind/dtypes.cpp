#include "bind/dtypes.hpp"

#include <atomic>

namespace arraynn {

namespace {

// The descriptors that exact arrays of native floats share; compared by pointer first.
struct Descriptors {
  py::object f32 = py::dtype::of<float>(), f64 = py::dtype::of<double>();
  py::object i8 = py::dtype::of<std::int8_t>(), i16 = py::dtype::of<std::int16_t>();
  py::object i32 = py::dtype::of<std::int32_t>(), i64 = py::dtype::of<std::int64_t>();
  py::object u8 = py::dtype::of<std::uint8_t>(), boolean = py::dtype::of<bool>();
  py::object f16 = py::dtype("float16");

  PyObject* get(Dtype t) const {
    switch (t) {
      case Dtype::kF32:
        return f32.ptr();
      case Dtype::kF64:
        return f64.ptr();
      case Dtype::kI8:
        return i8.ptr();
      case Dtype::kI16:
        return i16.ptr();
      case Dtype::kI32:
        return i32.ptr();
      case Dtype::kI64:
        return i64.ptr();
      case Dtype::kU8:
        return u8.ptr();
      case Dtype::kBool:
        return boolean.ptr();
      case Dtype::kF16:
        return f16.ptr();
      case Dtype::kBF16:
        return bfloat16();
      case Dtype::kOther:
        break;
    }
    return nullptr;
  }

  // NumPy has bfloat16 as soon as ml_dtypes is imported, which an array of it has done; null before.
  static PyObject* bfloat16() {
    static std::atomic<PyObject*> known{nullptr};
    PyObject* descr = known.load(std::memory_order_relaxed);
    if (descr != nullptr) return descr;
    PyObject* module = PyDict_GetItemString(PyImport_GetModuleDict(), "ml_dtypes");
    if (module == nullptr || !py::hasattr(module, "bfloat16")) return nullptr;
    descr = py::dtype::from_args(py::handle(module).attr("bfloat16")).release().ptr();
    known.store(descr, std::memory_order_relaxed);
    return descr;
  }
};

// Leaked on purpose: destroying Python objects after the interpreter is gone would crash.
const Descriptors& descriptors() {
  static const Descriptors* instance = new Descriptors;
  return *instance;
}

}  // namespace

PyObject* descriptor_of(Dtype t) { return descriptors().get(t); }

Dtype dtype_of(PyObject* descr) {
  const Descriptors& d = descriptors();
  if (descr == d.f32.ptr()) return Dtype::kF32;
  if (descr == d.f64.ptr()) return Dtype::kF64;
  static const auto& api = py::detail::npy_api::get();
  if (descr == d.f16.ptr()) return Dtype::kF16;
  if (descr == d.bfloat16()) return Dtype::kBF16;
  for (const Dtype t : {Dtype::kI64, Dtype::kI32, Dtype::kU8, Dtype::kBool, Dtype::kF32,
                        Dtype::kF64, Dtype::kI8, Dtype::kI16, Dtype::kF16}) {
    // Equivalent descriptors (long and long long, "<f4") share a layout; swapped bytes do not.
    if (api.PyArray_EquivTypes_(descr, d.get(t))) return t;
  }
  PyObject* bfloat16 = d.bfloat16();
  if (bfloat16 != nullptr && api.PyArray_EquivTypes_(descr, bfloat16)) return Dtype::kBF16;
  return Dtype::kOther;
}

}  // namespace arraynn
