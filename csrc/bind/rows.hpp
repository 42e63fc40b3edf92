// Contiguous copies, arrays of row numbers, and arrays of contiguous rows: what lookups take.
#pragma once
#include "bind/array.hpp"

namespace arraynn {

// A contiguous copy by the array's own library. OutOfMemory, which names the argument, without room for it.
Array contiguous_copy(const char* op, const char* arg, const Array& a);
// Row numbers of any shape: an int64 array as it is, an int32 one widened into a copy.
Array take_indices(const char* op, const char* arg, py::handle h);
// All of them in [0, rows), else ValueError with the first that is not; `what` are the rows. On a GPU they
// are read only under debug(True): kernels give NaN for a row that is not there.
void require_inside(const char* op, const char* arg, const Array& indices, const char* what,
                    std::int64_t rows);
// A copy of an array whose last dimension is neither contiguous nor, where allowed, of stride 0; any other
// as it is.
Array with_contiguous_rows(const char* op, const char* arg, Array a, bool broadcast = false);

}  // namespace arraynn
