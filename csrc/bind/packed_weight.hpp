// kernels.pack(weight, op): a copy of a weight that keeps what the kernels of `op` make of it. Taken
// in the place of the weight by the forward functions.
#pragma once
#include <string>

#include "bind/array.hpp"
#include "core/prepared.hpp"

namespace arraynn {

struct PackedWeight {
  std::string op;
  Array weight;  // contiguous, shared with nobody
  PreparedWeight forms;
};

// A weight argument, packed or not.
struct Weight {
  Array array;
  PreparedWeight* forms = nullptr;  // of a packed one; lives while the caller's object does
};

Weight take_weight(const char* op, const char* arg, py::handle h,
                   Layout layout = Layout::kContiguous, const char* packed_for = nullptr);

}  // namespace arraynn
