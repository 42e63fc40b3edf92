// kernels.pack(weight, op): a copy of a weight that keeps what the kernels of `op` make of it. Taken
// in the place of the weight by the forward functions.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bind/array.hpp"
#include "core/prepared.hpp"

namespace arraynn {

struct PackedWeight {
  std::string op;
  Array weight;  // contiguous, shared with nobody
  PreparedWeight forms;
};

// The same of all weights of a recurrent network, in the order of their list. Taken by its cell, too.
struct PackedWeights {
  std::string op;
  std::vector<Array> weights;
  std::vector<std::unique_ptr<PreparedWeight>> forms;  // one a weight
};

// A weight argument, packed or not.
struct Weight {
  Array array;
  PreparedWeight* forms = nullptr;  // of a packed one; lives while the caller's object does
};

Weight take_weight(const char* op, const char* arg, py::handle h,
                   Layout layout = Layout::kContiguous, const char* packed_for = nullptr);
// widened(), for the families that do not multiply 16 bits.
Weight take_wide_weight(const char* op, const char* arg, py::handle h,
                        const char* packed_for = nullptr);

// Null unless the argument is packed weights; they must be those of `packed_for`.
PackedWeights* take_packed_weights(const char* op, const char* arg, py::handle h,
                                   const char* packed_for);

}  // namespace arraynn
