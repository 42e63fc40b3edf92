#include "bind/array.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#include "core/block_cache.hpp"

namespace arraynn {
namespace {

using py::detail::npy_api;

const npy_api& api() {
  static const npy_api& instance = npy_api::get();
  return instance;
}

// The descriptors that exact arrays of native floats share; compared by pointer first.
struct Descriptors {
  py::object f32 = py::dtype::of<float>(), f64 = py::dtype::of<double>();
  py::object i32 = py::dtype::of<std::int32_t>(), i64 = py::dtype::of<std::int64_t>();
  py::object u8 = py::dtype::of<std::uint8_t>(), boolean = py::dtype::of<bool>();

  PyObject* get(Dtype t) const {
    switch (t) {
      case Dtype::kF32:
        return f32.ptr();
      case Dtype::kF64:
        return f64.ptr();
      case Dtype::kI32:
        return i32.ptr();
      case Dtype::kI64:
        return i64.ptr();
      case Dtype::kU8:
        return u8.ptr();
      case Dtype::kBool:
        return boolean.ptr();
      case Dtype::kOther:
        break;
    }
    return nullptr;
  }
};

// Leaked on purpose: destroying Python objects after the interpreter is gone would crash.
const Descriptors& descriptors() {
  static const Descriptors* instance = new Descriptors;
  return *instance;
}

Dtype dtype_of(PyObject* descr) {
  const Descriptors& d = descriptors();
  if (descr == d.f32.ptr()) return Dtype::kF32;
  if (descr == d.f64.ptr()) return Dtype::kF64;
  for (const Dtype t :
       {Dtype::kI64, Dtype::kI32, Dtype::kU8, Dtype::kBool, Dtype::kF32, Dtype::kF64}) {
    // Equivalent descriptors (long and long long, "<f4") share a layout; swapped bytes do not.
    if (api().PyArray_EquivTypes_(descr, d.get(t))) return t;
  }
  return Dtype::kOther;
}

std::string dtype_text(const Array& a) {
  if (a.view.dtype != Dtype::kOther) return dtype_name(a.view.dtype);
  return py::str(py::detail::array_proxy(a.owner.ptr())->descr).cast<std::string>();
}

std::string type_text(py::handle h) { return py::str(py::type::of(h).attr("__name__")); }

void fill_view(const char* op, const char* arg, py::handle array, TensorView* view) {
  const auto* proxy = py::detail::array_proxy(array.ptr());
  view->data = proxy->data;
  view->ndim = proxy->nd;
  if (proxy->nd > kMaxDims) {
    fail<ValueError>(op, arg, "expected at most ", kMaxDims, " dimensions, got ", proxy->nd);
  }
  view->dtype = dtype_of(proxy->descr);
  view->writeable = (proxy->flags & npy_api::NPY_ARRAY_WRITEABLE_) != 0;
  view->contiguous = (proxy->flags & npy_api::NPY_ARRAY_C_CONTIGUOUS_) != 0;
  const auto item = static_cast<std::int64_t>(dtype_size(view->dtype));
  for (int i = 0; i < proxy->nd; ++i) {
    view->shape[i] = proxy->dimensions[i];
    view->strides[i] = 0;
    if (item == 0) continue;
    // Strides that are no whole number of elements (a field of a record array) need the copy.
    if (proxy->strides[i] % item != 0) view->contiguous = false;
    view->strides[i] = proxy->strides[i] / item;
  }
  if ((proxy->flags & npy_api::NPY_ARRAY_ALIGNED_) == 0) view->contiguous = false;
}

bool splits_elements(py::handle array, const TensorView& view) {
  const auto* proxy = py::detail::array_proxy(array.ptr());
  if ((proxy->flags & npy_api::NPY_ARRAY_ALIGNED_) == 0) return true;
  const auto item = static_cast<std::int64_t>(dtype_size(view.dtype));
  if (item == 0) return false;  // refused later, with its name
  return std::any_of(proxy->strides, proxy->strides + view.ndim,
                     [item](std::int64_t s) { return s % item != 0; });
}

// Lowest and one-past-highest byte that an array can touch.
std::pair<const char*, const char*> extent(const TensorView& v) {
  const auto item = static_cast<std::int64_t>(dtype_size(v.dtype));
  const char* low = static_cast<const char*>(v.data);
  const char* high = low + item;
  for (int i = 0; i < v.ndim; ++i) {
    if (v.shape[i] == 0) return {low, low};
    const std::int64_t span = (v.shape[i] - 1) * v.strides[i] * item;
    (span < 0 ? low : high) += span;
  }
  return {low, high};
}

struct BlockOwner {
  void* block;
  std::size_t bytes;
};

void free_block(PyObject* capsule) {
  auto* owner = static_cast<BlockOwner*>(PyCapsule_GetPointer(capsule, nullptr));
  block_free(owner->block, owner->bytes);
  delete owner;
}

}  // namespace

Array take(const char* op, const char* arg, py::handle h, Layout layout) {
  Array a;
  if (Py_TYPE(h.ptr()) == reinterpret_cast<PyTypeObject*>(api().PyArray_Type_)) {
    a.owner = py::reinterpret_borrow<py::object>(h);
  } else {
    a.owner = py::module_::import("arraynn._array").attr("as_numpy")(op, arg, h);
    if (!api().PyArray_Check_(h.ptr())) a.foreign = py::reinterpret_borrow<py::object>(h);
  }
  fill_view(op, arg, a.owner, &a.view);
  std::tie(a.low, a.high) = extent(a.view);
  const bool must_copy = layout == Layout::kContiguous
                             ? !a.view.contiguous
                             : !a.view.contiguous && splits_elements(a.owner, a.view);
  if (must_copy && a.view.dtype != Dtype::kOther) {
    auto copy = py::reinterpret_steal<py::object>(api().PyArray_NewCopy_(a.owner.ptr(), 0));
    if (!copy) {
      if (!PyErr_ExceptionMatches(PyExc_MemoryError)) throw py::error_already_set();
      PyErr_Clear();
      fail<OutOfMemory>(op, arg, "expected room for a contiguous copy of shape ",
                        shape_str(a.view.shape, a.view.ndim), ", got none");
    }
    a.owner = std::move(copy);
    fill_view(op, arg, a.owner, &a.view);
  }
  return a;
}

Array take_optional(const char* op, const char* arg, py::handle h, Layout layout) {
  return h.is_none() ? Array{} : take(op, arg, h, layout);
}

Array take_inout(const char* op, const char* arg, py::handle h) {
  Array a = take(op, arg, h, Layout::kAny);
  require_float(op, arg, a);
  if (!a.view.writeable)
    fail<ValueError>(op, arg, "expected a writeable array, got a read-only one");
  return a;
}

bool take_plain(py::handle h, bool inout, Plain* plain) {
  if (Py_TYPE(h.ptr()) != reinterpret_cast<PyTypeObject*>(api().PyArray_Type_)) return false;
  const auto* proxy = py::detail::array_proxy(h.ptr());
  const int needed = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_ |
                     (inout ? npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  const Descriptors& d = descriptors();
  if ((proxy->flags & needed) != needed || proxy->nd > kMaxDims) return false;
  if (proxy->descr != d.f32.ptr() && proxy->descr != d.f64.ptr()) return false;
  plain->data = proxy->data;
  plain->dtype = proxy->descr == d.f32.ptr() ? Dtype::kF32 : Dtype::kF64;
  plain->size = 1;
  for (int i = 0; i < proxy->nd; ++i) plain->size *= proxy->dimensions[i];
  return true;
}

bool same_shape(py::handle a, py::handle b) {
  const auto *x = py::detail::array_proxy(a.ptr()), *y = py::detail::array_proxy(b.ptr());
  return x->nd == y->nd && std::equal(x->dimensions, x->dimensions + x->nd, y->dimensions);
}

void require_float(const char* op, const char* arg, const Array& a) {
  if (a.view.dtype != Dtype::kF32 && a.view.dtype != Dtype::kF64) {
    fail<TypeError>(op, arg, "expected float32 or float64, got ", dtype_text(a));
  }
}

void require_same_dtype(const char* op, const char* arg, const Array& a, const char* first_arg,
                        const Array& first) {
  if (a.view.dtype != first.view.dtype) {
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

py::object new_array(const char* op, Dtype dtype, const std::int64_t* shape, int ndim,
                     TensorView* view) {
  const std::int64_t count =
      checked_size(op, "output", shape, ndim, static_cast<std::int64_t>(dtype_size(dtype)));
  const std::size_t bytes = static_cast<std::size_t>(count) * dtype_size(dtype);
  PyObject* descr = descriptors().get(dtype);
  py::object capsule;
  void* block = nullptr;
  if (bytes >= kCachedBlockMin) {
    block = block_alloc(bytes);
    if (block == nullptr) fail<OutOfMemory>(op, "output", "could not allocate ", bytes, " bytes");
    auto* owner = new BlockOwner{block, bytes};
    capsule = py::reinterpret_steal<py::object>(PyCapsule_New(owner, nullptr, free_block));
  }
  static_assert(sizeof(Py_intptr_t) == sizeof(std::int64_t));
  Py_INCREF(descr);  // stolen by the call
  auto array = py::reinterpret_steal<py::object>(api().PyArray_NewFromDescr_(
      api().PyArray_Type_, descr, ndim, reinterpret_cast<const Py_intptr_t*>(shape), nullptr, block,
      block != nullptr ? npy_api::NPY_ARRAY_WRITEABLE_ : 0, nullptr));
  if (!array) throw py::error_already_set();
  if (capsule && api().PyArray_SetBaseObject_(array.ptr(), capsule.release().ptr()) < 0) {
    throw py::error_already_set();
  }
  view->data = py::detail::array_proxy(array.ptr())->data;
  view->ndim = ndim;
  view->dtype = dtype;
  view->writeable = view->contiguous = true;
  std::int64_t stride = 1;
  for (int i = ndim - 1; i >= 0; --i) {
    view->shape[i] = shape[i];
    view->strides[i] = stride;
    stride *= shape[i];
  }
  return array;
}

Output::Output(const char* op, py::handle out, Dtype dtype, const std::int64_t* shape, int ndim,
               std::initializer_list<const Array*> inputs) {
  if (out.is_none()) {
    array_ = new_array(op, dtype, shape, ndim, &view);
    return;
  }
  if (!api().PyArray_Check_(out.ptr())) {
    fail<TypeError>(op, "out", "expected a numpy.ndarray, got ", type_text(out));
  }
  Array given;
  given.owner = py::reinterpret_borrow<py::object>(out);
  fill_view(op, "out", out, &given.view);
  if (given.view.dtype != dtype) {
    fail<TypeError>(op, "out", "expected ", dtype_name(dtype), ", got ", dtype_text(given));
  }
  if (given.view.ndim != ndim || !std::equal(shape, shape + ndim, given.view.shape)) {
    fail<ValueError>(op, "out", "expected shape ", shape_str(shape, ndim), ", got ",
                     shape_str(given.view.shape, given.view.ndim));
  }
  if (!given.view.writeable) {
    fail<ValueError>(op, "out", "expected a writeable array, got a read-only one");
  }
  const auto [low, high] = extent(given.view);
  for (const Array* input : inputs) {
    if (!*input) continue;
    if (low < input->high && input->low < high) {
      fail<ValueError>(op, "out", "expected memory of its own, got an array overlapping an input");
    }
  }
  if (given.view.contiguous) {
    array_ = given.owner;
    view = given.view;
  } else {
    target_ = given.owner;
    array_ = new_array(op, dtype, shape, ndim, &view);
  }
}

py::object Output::finish(const Array& like) {
  if (target_) {
    if (api().PyArray_CopyInto_(target_.ptr(), array_.ptr()) < 0) throw py::error_already_set();
    return std::move(target_);
  }
  if (like.foreign) {
    return py::module_::import("arraynn._array").attr("wrap_like")(array_, like.foreign);
  }
  return std::move(array_);
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
