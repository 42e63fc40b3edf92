#include "bind/array.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#include "bind/call.hpp"
#include "bind/dtypes.hpp"
#include "bind/extent.hpp"
#include "core/block_cache.hpp"

namespace arraynn {
namespace {

using py::detail::npy_api;

const npy_api& api() {
  static const npy_api& instance = npy_api::get();
  return instance;
}

}  // namespace

std::string dtype_text(const Array& a) {
  if (a.stored() != Dtype::kOther) return dtype_name(a.stored());
  return py::str(py::detail::array_proxy(a.owner.ptr())->descr).cast<std::string>();
}

namespace {

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
  require_storage(op, arg, a);
  if (!a.view.writeable)
    fail<ValueError>(op, arg, "expected a writeable array, got a read-only one");
  return a;
}

namespace {

// What plain arrays have, held here to be compared without a call: lists are long and arrays small.
struct PlainDescriptors {
  PyObject *f32 = descriptor_of(Dtype::kF32), *f64 = descriptor_of(Dtype::kF64);
};

}  // namespace

bool take_plain(py::handle h, bool inout, Plain* plain) {
  static const PlainDescriptors descriptors;
  if (Py_TYPE(h.ptr()) != ndarray_type) return false;
  const auto* proxy = py::detail::array_proxy(h.ptr());
  const int needed = npy_api::NPY_ARRAY_C_CONTIGUOUS_ | npy_api::NPY_ARRAY_ALIGNED_ |
                     (inout ? npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  if ((proxy->flags & needed) != needed || proxy->nd > kMaxDims) return false;
  plain->dtype = proxy->descr == descriptors.f32   ? Dtype::kF32
                 : proxy->descr == descriptors.f64 ? Dtype::kF64
                                                   : dtype_of(proxy->descr);
  if (!is_storage(plain->dtype)) return false;
  plain->data = proxy->data;
  plain->size = 1;
  for (int i = 0; i < proxy->nd; ++i) plain->size *= proxy->dimensions[i];
  return true;
}

bool same_shape(py::handle a, py::handle b) {
  const auto *x = py::detail::array_proxy(a.ptr()), *y = py::detail::array_proxy(b.ptr());
  return x->nd == y->nd && std::equal(x->dimensions, x->dimensions + x->nd, y->dimensions);
}

py::object new_array(const char* op, Dtype dtype, const std::int64_t* shape, int ndim,
                     TensorView* view) {
  const std::int64_t count =
      checked_size(op, "output", shape, ndim, static_cast<std::int64_t>(dtype_size(dtype)));
  const std::size_t bytes = static_cast<std::size_t>(count) * dtype_size(dtype);
  PyObject* descr = descriptor_of(dtype);
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

Array take_out(const char* op, py::handle out) {
  if (!api().PyArray_Check_(out.ptr())) {
    fail<TypeError>(op, "out", "expected a numpy.ndarray, got ", type_text(out));
  }
  Array given;
  given.owner = py::reinterpret_borrow<py::object>(out);
  fill_view(op, "out", out, &given.view);
  return given;
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

}  // namespace arraynn
