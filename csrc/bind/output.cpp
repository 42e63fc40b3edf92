// The array that a call writes: the same checks for every device.
#include <algorithm>

#include "bind/dtypes.hpp"
#include "bind/extent.hpp"

namespace arraynn {

Output::Output(const char* op, py::handle out, Dtype dtype, const std::int64_t* shape, int ndim,
               std::initializer_list<const Array*> inputs) {
  if (out.is_none()) {
    array_ = new_array(op, dtype, shape, ndim, &view);
    return;
  }
  const Array given = take_out(op, out);
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
    if (*input && low < input->high && input->low < high) {
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

}  // namespace arraynn
