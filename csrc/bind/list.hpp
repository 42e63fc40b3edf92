// Lists of arrays, as the optimizer steps take them.
#pragma once
#include <utility>
#include <vector>

#include "bind/array.hpp"

namespace arraynn {

struct Item {
  py::object owner;  // an ndarray
  char* data;
  std::int64_t size;
  const char *low, *high;  // bytes of the caller's array
};

// A list argument. Strided arrays are worked on in contiguous copies, written back at the end.
struct List {
  Dtype dtype = Dtype::kF32;
  std::vector<Item> items;
  std::vector<std::pair<py::object, py::object>> copies;  // caller's array, its copy

  void write_back() const {
    for (const auto& [target, copy] : copies) target[py::ellipsis()] = copy;
  }
};

// A list or tuple of float arrays of one dtype, and of the shapes of `like` where that is given.
List take_list(const char* op, const char* arg, py::handle h, bool inout, const List* like);

// No array overlaps that of the same index in `other`.
void require_apart(const char* op, const char* arg, const List& list, const char* other_arg,
                   const List& other);

}  // namespace arraynn
