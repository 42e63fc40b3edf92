#include "bind/rows.hpp"

#include <algorithm>

#include "bind/dtypes.hpp"
#if defined(ARRAYNN_CUDA)
#include "core/cuda_call.hpp"
#endif

namespace arraynn {

Array contiguous_copy(const char* op, const char* arg, const Array& a) {
  py::object copy;
  try {
    copy = a.owner.attr("copy")();
  } catch (const py::error_already_set& e) {
    if (!e.matches(PyExc_MemoryError)) throw;
    fail<OutOfMemory>(op, arg, "expected room for a contiguous copy of shape ",
                      shape_str(a->shape, a->ndim), ", got none");
  }
  return take(op, arg, copy);
}

Array take_indices(const char* op, const char* arg, py::handle h) {
  Array a = take(op, arg, h);
  if (a->dtype == Dtype::kI64) return a;
  if (a->dtype != Dtype::kI32) {
    fail<TypeError>(op, arg, "expected int64 or int32, got ", dtype_text(a));
  }
  Array wide = take(op, arg, a.owner.attr("astype")("int64"));
  wide.low = a.low;
  wide.high = a.high;
  return wide;
}

void require_inside(const char* op, const char* arg, const Array& indices, const char* what,
                    std::int64_t rows) {
#if defined(ARRAYNN_CUDA)
  if (!cuda::synchronous_launches()) return;
  const auto host = indices.owner.attr("get")().cast<py::array_t<std::int64_t>>();
  const std::int64_t* begin = host.data();
#else
  const auto* begin = indices->as<const std::int64_t>();
#endif
  const std::int64_t* end = begin + indices->size();
  const std::int64_t* bad =
      std::find_if(begin, end, [rows](std::int64_t i) { return i < 0 || i >= rows; });
  if (bad != end) fail<ValueError>(op, arg, "expected ", what, " in [0, ", rows, "), got ", *bad);
}

Array with_contiguous_rows(const char* op, const char* arg, Array a, bool broadcast) {
  const int last = a->ndim - 1;
  if (a->size() == 0 || a->shape[last] <= 1 || a->strides[last] == 1) return a;
  if (broadcast && a->strides[last] == 0) return a;
  Array copy = contiguous_copy(op, arg, a);
  copy.low = a.low;
  copy.high = a.high;
  copy.foreign = a.foreign;
  return copy;
}

}  // namespace arraynn
