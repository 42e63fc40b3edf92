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
    dispatch_wide(a.dtype, [&](auto tag) { kept = std::make_shared<RnnKept<decltype(tag)>>(a); });
  }
  // T is that of the dtype.
  template <class T>
  RnnKept<T>& of() const {
    return *static_cast<RnnKept<T>*>(kept.get());
  }
  std::int64_t nbytes() const {
    return results.bytes() + dispatch_wide(a.dtype, [&](auto tag) {
             return of<decltype(tag)>().saved.memory.bytes();
           });
  }

  RnnArguments a;
  py::object y;                // backward reads it
  WideResults results;         // or this, of 16 bits
  std::shared_ptr<void> kept;  // an RnnKept
};

void bind_rnn_backward(py::module_& m);

}  // namespace arraynn
