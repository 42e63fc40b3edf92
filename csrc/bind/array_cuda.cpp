// Array intake and output in the module of the GPU. Arrays are those of one library, CuPy in the wheel;
// it owns memory, streams and devices, and is told by set_library(). Arrays of other libraries on the
// GPU come through arraynn._array, without a copy.
#include <algorithm>
#include <tuple>

#include "bind/array.hpp"
#include "bind/call.hpp"
#include "bind/cuda_library.hpp"
#include "bind/dtypes.hpp"
#include "bind/extent.hpp"
#include "core/cuda_call.hpp"
#include "core/cuda_scratch.hpp"

namespace arraynn {
namespace {

// Attributes of an array, interned once.
struct Names {
  py::str data{intern("data")}, ptr{intern("ptr")}, shape{intern("shape")};
  py::str strides{intern("strides")}, dtype{intern("dtype")};
  py::str device{intern("device")}, id{intern("id")}, copy{intern("copy")};

  static py::str intern(const char* name) {
    return py::reinterpret_steal<py::str>(PyUnicode_InternFromString(name));
  }
};
const Names& names() {
  static const auto* instance = new Names;
  return *instance;
}

py::object attribute(py::handle h, const py::str& name) {
  PyObject* value = PyObject_GetAttr(h.ptr(), name.ptr());
  if (value == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(value);
}

std::int64_t integer(py::handle h) {
  const std::int64_t value = PyLong_AsLongLong(h.ptr());
  if (value == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return value;
}

std::string type_text(py::handle h) {
  const py::object type = py::type::of(h);
  const std::string name = py::str(type.attr("__name__")), home = py::str(type.attr("__module__"));
  return home == "builtins" ? name : home + "." + name;
}

const CudaLibrary& library() { return cuda_library(); }

bool is_library_array(py::handle h) {
  return reinterpret_cast<PyObject*>(Py_TYPE(h.ptr())) == library().ndarray.ptr();
}

// Makes a device the library's for the rest of the call, whose end goes back (DeviceCall).
void enter_device(int device) {
  const auto before = static_cast<int>(integer(library().current_device()));
  if (before != device) {
    library().set_device(device);
    library_call().before = before;
  }
  int current = 0;
  // The library's choice holds for its own copy of the CUDA runtime; ours follows it.
  if (cudaGetDevice(&current) == cudaSuccess && current != device) cudaSetDevice(device);
}

// The first array of a call decides its device, where all arrays must be, and with it the stream.
void join_call(const char* op, const char* arg, py::handle array) {
  cuda::CallState& call = cuda::call_state();
  const bool first = !library_call().joined;
  if (library().device_count > 1) {
    const auto device =
        static_cast<int>(integer(attribute(attribute(array, names().device), names().id)));
    if (first) {
      enter_device(device);
      call.device = device;
    } else if (device != call.device) {
      fail<TypeError>(op, arg, "expected an array on device ", call.device,
                      ", as the first one is, got one on device ", device);
    }
  }
  if (first) {
    call.stream = reinterpret_cast<cudaStream_t>(integer(library().current_stream()));
    library_call().joined = true;
  }
}

void fill_view(const char* op, const char* arg, py::handle array, TensorView* view) {
  const Names& n = names();
  view->data = reinterpret_cast<void*>(integer(attribute(attribute(array, n.data), n.ptr)));
  const py::object shape = attribute(array, n.shape), strides = attribute(array, n.strides);
  view->dtype = dtype_of(attribute(array, n.dtype).ptr());
  view->ndim = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
  if (view->ndim > kMaxDims) {
    fail<ValueError>(op, arg, "expected at most ", kMaxDims, " dimensions, got ", view->ndim);
  }
  view->writeable = view->contiguous = true;
  const auto item = static_cast<std::int64_t>(dtype_size(view->dtype));
  bool empty = false, split = false;
  for (int i = 0; i < view->ndim; ++i) {
    view->shape[i] = integer(PyTuple_GET_ITEM(shape.ptr(), i));
    empty = empty || view->shape[i] == 0;
    if (item == 0) continue;  // refused later, with its name
    const std::int64_t bytes = integer(PyTuple_GET_ITEM(strides.ptr(), i));
    split = split || (view->shape[i] > 1 && bytes % item != 0);
    view->strides[i] = bytes / item;
  }
  if (empty || item == 0) return;
  if (split || reinterpret_cast<std::uintptr_t>(view->data) % static_cast<std::uintptr_t>(item)) {
    fail<ValueError>(op, arg, "expected elements at multiples of their ", item,
                     " bytes, got an array beside them");
  }
  std::int64_t expected = 1;
  for (int i = view->ndim - 1; i >= 0; --i) {
    if (view->shape[i] != 1 && view->strides[i] != expected) view->contiguous = false;
    expected *= view->shape[i];
  }
}

}  // namespace

LibraryCall& library_call() {
  static thread_local LibraryCall call;
  return call;
}

std::string dtype_text(const Array& a) {
  if (a.view.dtype != Dtype::kOther) return dtype_name(a.view.dtype);
  return py::str(attribute(a.owner, names().dtype)).cast<std::string>();
}

Array take(const char* op, const char* arg, py::handle h, Layout layout) {
  Array a;
  bool writeable = true;
  if (is_library_array(h)) {
    a.owner = py::reinterpret_borrow<py::object>(h);
  } else {
    const auto taken = library().wrap(op, arg, h).cast<py::tuple>();
    a.owner = taken[0];
    a.foreign = py::reinterpret_borrow<py::object>(h);
    writeable = taken[1].cast<bool>();
  }
  join_call(op, arg, a.owner);
  fill_view(op, arg, a.owner, &a.view);
  std::tie(a.low, a.high) = extent(a.view);
  if (layout == Layout::kContiguous && !a.view.contiguous && a.view.dtype != Dtype::kOther) {
    a.owner = attribute(a.owner, names().copy)();
    fill_view(op, arg, a.owner, &a.view);
  }
  a.view.writeable = writeable;
  return a;
}

Array take_optional(const char* op, const char* arg, py::handle h, Layout layout) {
  return h.is_none() ? Array{} : take(op, arg, h, layout);
}

Array take_inout(const char* op, const char* arg, py::handle h) {
  Array a = take(op, arg, h, Layout::kAny);
  require_storage(op, arg, a);
  if (!a.view.writeable) {
    fail<ValueError>(op, arg, "expected a writeable array, got a read-only one");
  }
  return a;
}

bool take_plain(py::handle h, bool, Plain* plain) {
  if (!is_library_array(h)) return false;
  // The checks of take() as well; what they refuse is refused there again, with its name.
  TensorView view;
  try {
    join_call("", "", h);
    fill_view("", "", h, &view);
  } catch (const std::runtime_error&) {
    return false;
  }
  if (!view.contiguous || !is_storage(view.dtype)) return false;
  *plain = {view.as<char>(), view.size(), view.dtype};
  return true;
}

bool same_shape(py::handle a, py::handle b) {
  return attribute(a, names().shape).equal(attribute(b, names().shape));
}

py::object new_array(const char* op, Dtype dtype, const std::int64_t* shape, int ndim,
                     TensorView* view) {
  checked_size(op, "output", shape, ndim, static_cast<std::int64_t>(dtype_size(dtype)));
  py::tuple sizes(ndim);
  for (int i = 0; i < ndim; ++i) sizes[static_cast<std::size_t>(i)] = py::int_(shape[i]);
  py::object array = library().ndarray(sizes, py::handle(descriptor_of(dtype)));
  fill_view(op, "output", array, view);
  return array;
}

Array take_out(const char* op, py::handle out) {
  if (!is_library_array(out)) {
    fail<TypeError>(op, "out", "expected a ", library().name, ", got ", type_text(out));
  }
  Array given;
  given.owner = py::reinterpret_borrow<py::object>(out);
  join_call(op, "out", out);
  fill_view(op, "out", out, &given.view);
  return given;
}

py::object Output::finish(const Array& like) {
  if (target_) {
    target_[py::ellipsis()] = array_;
    return std::move(target_);
  }
  if (like.foreign) {
    return py::module_::import("arraynn._array").attr("wrap_like")(array_, like.foreign);
  }
  return std::move(array_);
}

cuda::Scratch::Scratch(const char* op, std::int64_t bytes) {
  if (bytes == 0) return;
  if (Describing* describing = Describing::current()) {
    described_ = bytes;
    describing->count(bytes);
    data_ = Describing::memory<void>();
    return;
  }
  const py::gil_scoped_acquire gil;
  TensorView view;
  owner_ = new_array(op, Dtype::kU8, &bytes, 1, &view).release().ptr();
  data_ = view.data;
}

cuda::Scratch::~Scratch() {
  if (Describing* describing = Describing::current()) describing->count(-described_);
  if (owner_ == nullptr) return;
  const py::gil_scoped_acquire gil;
  Py_DECREF(static_cast<PyObject*>(owner_));
}

}  // namespace arraynn
