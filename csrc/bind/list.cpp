#include "bind/list.hpp"

#include "bind/check.hpp"

namespace arraynn {
namespace {

// Any array that is not plain, or does not fit and raises.
Item take_item(const char* op, const char* arg, py::handle h, bool inout, const List* like,
               std::size_t index, List* list) {
  Array a = inout ? take_inout(op, arg, h) : take(op, arg, h);
  require_storage(op, arg, a);
  if (like != nullptr) {
    require_like(op, arg, a, "params", take(op, "params", like->items[index].owner));
  } else if (index > 0) {
    require_same_dtype(op, arg, a, "params[0]", take(op, arg, list->items[0].owner));
  }
  const char* data = a->as<const char>();
  if (inout && a->size() > 0 && (data < a.low || data >= a.high)) {
    // The intake had to copy (unaligned elements): the caller's array gets the result back.
    list->copies.emplace_back(py::reinterpret_borrow<py::object>(h), a.owner);
  } else if (!a->contiguous) {
    Array copy = take(op, arg, a.owner);
    copy.low = a.low;
    copy.high = a.high;
    list->copies.emplace_back(a.owner, copy.owner);
    a = std::move(copy);
  }
  if (index == 0) list->dtype = a->dtype;
  return {a.owner, a->as<char>(), a->size(), a.low, a.high};
}

}  // namespace

List take_list(const char* op, const char* arg, py::handle h, bool inout, const List* like) {
  if (!PyList_Check(h.ptr()) && !PyTuple_Check(h.ptr())) {
    fail<TypeError>(op, arg, "expected a list of arrays, got ", Py_TYPE(h.ptr())->tp_name);
  }
  const auto count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(h.ptr()));
  if (like != nullptr && count != like->items.size()) {
    fail<ValueError>(op, arg, "expected ", like->items.size(), " arrays (as many as params), got ",
                     count);
  }
  List list;
  if (like != nullptr) list.dtype = like->dtype;
  list.items.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const py::handle item = PySequence_Fast_GET_ITEM(h.ptr(), static_cast<Py_ssize_t>(i));
    Plain p;
    const bool plain = take_plain(item, inout, &p) &&
                       (p.dtype == list.dtype || (like == nullptr && i == 0)) &&
                       (like == nullptr || same_shape(item, like->items[i].owner));
    if (!plain) {
      list.items.push_back(take_item(op, arg, item, inout, like, i, &list));
      continue;
    }
    list.dtype = p.dtype;
    const std::int64_t bytes = p.size * static_cast<std::int64_t>(dtype_size(p.dtype));
    list.items.push_back(
        {py::reinterpret_borrow<py::object>(item), p.data, p.size, p.data, p.data + bytes});
  }
  return list;
}

void require_apart(const char* op, const char* arg, const List& list, const char* other_arg,
                   const List& other) {
  for (std::size_t i = 0; i < list.items.size(); ++i) {
    const Item &a = list.items[i], &b = other.items[i];
    if (a.size > 0 && a.low < b.high && b.low < a.high) {
      fail<ValueError>(op, arg, "expected memory of its own, got an array overlapping ", other_arg,
                       " at index ", i);
    }
  }
}

}  // namespace arraynn
