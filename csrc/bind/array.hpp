// Array intake and output of the bindings: Python objects in, TensorViews out.
//
// Exact numpy.ndarray takes a fast path that reads the array's fields. Anything else goes through
// arraynn._array.as_numpy (DLPack, then the buffer and array interfaces), without a copy.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <initializer_list>
#include <string>

#include "core/error.hpp"
#include "core/shape.hpp"
#include "core/tensor_view.hpp"

namespace arraynn {

namespace py = pybind11;

// An array argument: the view, and whatever keeps its memory alive during the call.
struct Array {
  TensorView view;
  py::object owner;           // the numpy array behind the view
  py::object foreign;         // the caller's object when it was not a numpy array
  const char* low = nullptr;  // bytes of the caller's array: [low, high), also when it was copied
  const char* high = nullptr;
  py::object wide;               // the memory of the view where it was widened (bind/wide.hpp)
  Dtype narrow = Dtype::kOther;  // and the dtype of the caller's array

  // The dtype of the caller's array.
  Dtype stored() const { return wide ? narrow : view.dtype; }
  const TensorView* operator->() const { return &view; }
  explicit operator bool() const { return view.dtype != Dtype::kOther || owner; }
};

enum class Layout : bool { kAny, kContiguous };

// Any array. kContiguous copies a strided one (C order) into a temporary.
Array take(const char* op, const char* arg, py::handle h, Layout layout = Layout::kContiguous);
// None gives an Array that tests false.
Array take_optional(const char* op, const char* arg, py::handle h,
                    Layout layout = Layout::kContiguous);
// An array that the call updates in place: writeable, float.
Array take_inout(const char* op, const char* arg, py::handle h);

// An ndarray of a storage dtype with contiguous, aligned elements, seen without a TensorView: for lists
// of hundreds of them. False for everything else, which goes through take() or take_inout().
struct Plain {
  char* data;
  std::int64_t size;
  Dtype dtype;
};
bool take_plain(py::handle h, bool inout, Plain* plain);
bool same_shape(py::handle a, py::handle b);  // of two ndarrays

// float32 or float64, else TypeError.
void require_float(const char* op, const char* arg, const Array& a);
// float16, bfloat16, float32 or float64: what dispatch_storage knows.
bool is_storage(Dtype t);
void require_storage(const char* op, const char* arg, const Array& a);
// Same dtype as `first`, else TypeError naming both.
void require_same_dtype(const char* op, const char* arg, const Array& a, const char* first_arg,
                        const Array& first);
void require_shape(const char* op, const char* arg, const Array& a,
                   std::initializer_list<std::int64_t> shape);
void require_ndim(const char* op, const char* arg, const Array& a, int ndim);

// The caller's `out`, of the library of this module; the view is what Output checks.
Array take_out(const char* op, py::handle out);

// The result of a call: a fresh array (large ones from the block cache), or the caller's `out`
// after its dtype, shape, writeability and overlap with `inputs` were checked.
class Output {
 public:
  Output(const char* op, py::handle out, Dtype dtype, const std::int64_t* shape, int ndim,
         std::initializer_list<const Array*> inputs = {});
  template <class T>
  T* data() const {
    return view.as<T>();
  }
  // Hands the result over; `like` decides the library it is returned in.
  py::object finish(const Array& like);

  TensorView view;  // always C-contiguous

 private:
  py::object target_;  // the caller's strided `out`, filled at the end
  py::object array_;
};

py::object new_array(const char* op, Dtype dtype, const std::int64_t* shape, int ndim,
                     TensorView* view);

// One int, or a sequence of n ints.
void take_ints(const char* op, const char* arg, py::handle h, int n, std::int64_t* out);
std::int64_t take_int(const char* op, const char* arg, py::handle h);
double take_double(const char* op, const char* arg, py::handle h);  // finite or not, no NaN check
bool take_bool(const char* op, const char* arg, py::handle h);
std::string take_str(const char* op, const char* arg, py::handle h);

// Fills (begin, end) padding per axis from an int, ints, pairs or a string; a string leaves
// *mode set and the pads at 0 ("valid") or to be computed by the problem ("same", "same_lower").
enum class PadMode : std::uint8_t { kExplicit, kSame, kSameLower };
void take_padding(const char* op, py::handle h, int axes, std::int64_t* begin, std::int64_t* end,
                  PadMode* mode, const char* arg = "padding");
// true for "channels_last".
bool take_channels_last(const char* op, py::handle h);

// Which gradients a backward call computes, from a tuple of their arguments' names.
struct Needs {
  bool x = false, weight = false, bias = false;
};
Needs take_needs(const char* op, py::handle h);

template <class F>
decltype(auto) dispatch_float(Dtype t, const F& f) {
  return t == Dtype::kF32 ? f(float{}) : f(double{});
}

// What kernels store and load; they compute in float32 where it has 16 bits.
template <class F>
decltype(auto) dispatch_storage(Dtype t, const F& f) {
  if (t == Dtype::kF16) return f(Half{});
  if (t == Dtype::kBF16) return f(Bfloat16{});
  return dispatch_float(t, f);
}

}  // namespace arraynn
