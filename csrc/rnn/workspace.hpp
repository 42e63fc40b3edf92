// What a forward call keeps for its backward call.
#pragma once
#include <memory>
#include <utility>

#include "bind/wide.hpp"
#include "rnn/arguments.hpp"

namespace arraynn {

template <class T>
struct RnnKept {
  explicit RnnKept(const RnnArguments& a) : stack(a.stack<T>()), saved(a.op) {}
  RnnStack<T> stack;
  RnnSaved<T> saved;
};

// What a forward call keeps for its backward call: opaque to Python but for its size.
struct RnnWorkspace {
  explicit RnnWorkspace(RnnArguments arguments) : a(std::move(arguments)) {
    dispatch_float(a.dtype, [&](auto tag) {
      using T = decltype(tag);
      of<T>() = std::make_unique<RnnKept<T>>(a);
    });
  }
  template <class T>
  std::unique_ptr<RnnKept<T>>& of() {
    if constexpr (sizeof(T) == 4) {
      return f32;
    } else {
      return f64;
    }
  }
  std::int64_t nbytes() const {
    return results.bytes() +
           (f32 != nullptr ? f32->saved.memory.bytes() : f64->saved.memory.bytes());
  }

  RnnArguments a;
  py::object y;         // backward reads it
  WideResults results;  // or this, of 16 bits
  std::unique_ptr<RnnKept<float>> f32;
  std::unique_ptr<RnnKept<double>> f64;
};

void bind_rnn_backward(py::module_& m);

}  // namespace arraynn
