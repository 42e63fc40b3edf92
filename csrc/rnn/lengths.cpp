#include <algorithm>

#include "rnn/arguments.hpp"

namespace arraynn {

void set_lengths(const char* op, py::handle given, RnnArguments* a) {
  RnnShape& s = a->shape;
  const py::object array = PyList_Check(given.ptr()) || PyTuple_Check(given.ptr())
                               ? py::module_::import("numpy").attr("asarray")(given)
                               : py::reinterpret_borrow<py::object>(given);
  const Array lengths = take(op, "lengths", array);
  require_lengths(op, lengths, s.batch);
  const bool wide = lengths->dtype == Dtype::kI64;
  a->lengths.owner = rnn_array(op, Dtype::kI64, {s.batch}, &a->lengths.view);
  auto* to = a->lengths->as<std::int64_t>();
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const std::int64_t n =
        wide ? lengths->as<const std::int64_t>()[b] : lengths->as<const std::int32_t>()[b];
    if (n < 0 || n > s.steps) {
      fail<ValueError>(op, "lengths", "expected values in [0, ", s.steps, "], got ", n);
    }
    to[b] = n;
    if (n < s.steps) s.padded = true;
  }
  s.active.lengths = to;
}

bool hides_steps(const std::uint8_t* mask, std::int64_t n) {
  return std::find(mask, mask + n, 0) != mask + n;
}

}  // namespace arraynn
