// Checks that several bindings share, beyond those of array.hpp.
#pragma once
#include <algorithm>
#include <cmath>

#include "bind/array.hpp"

namespace arraynn {

// The dtype and the shape of `first`, else TypeError or ValueError.
inline void require_like(const char* op, const char* arg, const Array& a, const char* first_arg,
                         const Array& first) {
  require_same_dtype(op, arg, a, first_arg, first);
  if (a->ndim != first->ndim || !std::equal(a->shape, a->shape + a->ndim, first->shape)) {
    fail<ValueError>(op, arg, "expected shape ", shape_str(first->shape, first->ndim),
                     " (the shape of ", first_arg, "), got ", shape_str(a->shape, a->ndim));
  }
}

inline double take_finite(const char* op, const char* arg, py::handle h) {
  const double value = take_double(op, arg, h);
  if (!std::isfinite(value)) fail<ValueError>(op, arg, "expected a finite value, got ", value);
  return value;
}

// Finite, and at least `low`.
inline double take_at_least(const char* op, const char* arg, py::handle h, double low) {
  const double value = take_finite(op, arg, h);
  if (value < low) fail<ValueError>(op, arg, "expected a value >= ", low, ", got ", value);
  return value;
}

// The seed's 64 bits: any int of 64 bits, signed or not.
inline std::uint64_t take_seed(const char* op, py::handle h) {
  if (!PyLong_Check(h.ptr())) return static_cast<std::uint64_t>(take_int(op, "seed", h));
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(h.ptr(), &overflow);
  if (overflow == 0) return static_cast<std::uint64_t>(value);
  const unsigned long long wide = overflow > 0 ? PyLong_AsUnsignedLongLong(h.ptr()) : 0;
  if (overflow < 0 || PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    fail<ValueError>(op, "seed", "expected an int of 64 bits, got a larger one");
  }
  return wide;
}

}  // namespace arraynn
