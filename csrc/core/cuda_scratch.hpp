// Scratch of one call on a GPU: an array of the library that owns the memory there.
#pragma once
#include <cstdint>

namespace arraynn::cuda {

// Taken and given back in the order of the stream: kernels that were launched may still use it.
class Scratch {
 public:
  // Throws what the library throws when there is no memory left.
  Scratch(const char* op, std::int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  void* owner_ = nullptr;  // the array, a PyObject
};

}  // namespace arraynn::cuda
