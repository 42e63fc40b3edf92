// 16-bit operands of products on the CPU: read once to be widened into float32, multiplied many times
// there, and rounded once, to nearest even, into the array of the result. Kernels of a GPU load and
// store 16 bits themselves: there all of this does nothing.
#pragma once
#include <memory>
#include <vector>

#include "bind/array.hpp"
#include "core/arena.hpp"

namespace arraynn {

// The array itself, or a float32 copy of one of 16 bits, whose axes lie in the same order in memory:
// what has a unit stride keeps it, what is broadcast stays so. stored() still tells 16 bits, owner is
// still the caller's array.
Array widened(const char* op, const char* arg, Array a);

inline Array take_wide(const char* op, const char* arg, py::handle h,
                       Layout layout = Layout::kContiguous) {
  return widened(op, arg, take(op, arg, h, layout));
}
inline Array take_optional_wide(const char* op, const char* arg, py::handle h,
                                Layout layout = Layout::kContiguous) {
  return widened(op, arg, take_optional(op, arg, h, layout));
}

// The dtype of arrays that are widened: float32 or float64 on the CPU, any on a GPU.
template <class F>
decltype(auto) dispatch_wide(Dtype t, const F& f) {
#if defined(ARRAYNN_CUDA)
  return dispatch_storage(t, f);
#else
  return dispatch_float(t, f);
#endif
}

// Bytes that widened() or WideResults take for an array of this dtype.
std::int64_t wide_bytes(Dtype stored, std::int64_t size);

// Contiguous results: the views of those with 16 bits become float32, for the kernels to write.
// Views without dtype are of results that nobody asked for.
class WideResults {
 public:
  WideResults() = default;
  WideResults(const char* op, std::initializer_list<TensorView*> results) {
    for (TensorView* result : results) add(op, result);
  }
  void add(const char* op, TensorView* result);
  void narrow() const;  // when the kernels are done; takes no GIL
  std::int64_t bytes() const {
    std::int64_t sum = 0;
    for (const Result& r : results_) sum += wide_bytes(r.narrow.dtype, r.narrow.size());
    return sum;
  }

 private:
  struct Result {
    TensorView narrow;
    std::unique_ptr<const Scratch> wide;
  };
  std::vector<Result> results_;
};

#if defined(ARRAYNN_CUDA)
inline Array widened(const char*, const char*, Array a) { return a; }
inline void WideResults::add(const char*, TensorView*) {}
inline void WideResults::narrow() const {}
inline std::int64_t wide_bytes(Dtype, std::int64_t) { return 0; }
#endif

}  // namespace arraynn
