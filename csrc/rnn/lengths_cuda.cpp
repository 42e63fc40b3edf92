#include <vector>

#include "rnn/arguments.hpp"
#include "rnn/cuda.hpp"

namespace arraynn {
namespace {

// A list is known here, and travels with the launch.
std::vector<std::int64_t> list_of(const char* op, py::handle given, const RnnShape& s) {
  std::vector<std::int64_t> values;
  for (const py::handle item : py::reinterpret_borrow<py::sequence>(given)) {
    values.push_back(take_int(op, "lengths", item));
    if (values.back() < 0 || values.back() > s.steps) {
      fail<ValueError>(op, "lengths", "expected values in [0, ", s.steps, "], got ", values.back());
    }
  }
  const auto count = static_cast<std::int64_t>(values.size());
  if (count != s.batch) {
    fail<ValueError>(op, "lengths", "expected shape (", s.batch, ",), got (", count, ",)");
  }
  return values;
}

}  // namespace

void set_lengths(const char* op, py::handle given, RnnArguments* a) {
  RnnShape& s = a->shape;
  const bool known = PyList_Check(given.ptr()) || PyTuple_Check(given.ptr());
  const Array lengths = known ? Array{} : take(op, "lengths", given);
  if (!known) require_lengths(op, lengths, s.batch);
  const std::vector<std::int64_t> values =
      known ? list_of(op, given, s) : std::vector<std::int64_t>{};
  a->lengths.owner = rnn_array(op, Dtype::kI64, {s.batch}, &a->lengths.view);
  auto* to = a->lengths->as<std::int64_t>();
  if (known) {
    cuda::put_lengths(values.data(), s.batch, to);
  } else {
    cuda::hold_lengths(lengths->data, lengths->dtype == Dtype::kI64, s.batch, s.steps, to);
  }
  s.active.lengths = to;
  s.padded = true;
}

bool hides_steps(const std::uint8_t*, std::int64_t) { return true; }

}  // namespace arraynn
