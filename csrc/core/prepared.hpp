// What kernels make of a weight before they read it - panels of a matrix, tiles of a transform -
// kept from call to call. A form is made at the first call that asks for it; which forms there are
// follows from shapes and options, so a weight has few.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/arena.hpp"

namespace arraynn {

using FormKey = std::vector<std::int64_t>;

class PreparedWeight {
 public:
  // The form of `key`, of `bytes`, filled by fill(void*) when it is new. It lives as long as this
  // object. Safe from several threads: others wait while one fills. Throws OutOfMemory naming `op`.
  template <class F>
  const void* form(const char* op, FormKey key, std::int64_t bytes, const F& fill) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Form& form : forms_) {
      if (form.key == key) return form.memory->data();
    }
    auto memory = std::make_unique<const Scratch>(op, static_cast<std::size_t>(bytes));
    fill(memory->data());
    bytes_ += bytes;
    forms_.push_back({std::move(key), std::move(memory)});
    return forms_.back().memory->data();
  }

  std::int64_t bytes() const {  // of all forms
    const std::lock_guard<std::mutex> lock(mutex_);
    return bytes_;
  }

 private:
  struct Form {
    FormKey key;
    std::unique_ptr<const Scratch> memory;
  };
  mutable std::mutex mutex_;
  std::vector<Form> forms_;
  std::int64_t bytes_ = 0;
};

}  // namespace arraynn
