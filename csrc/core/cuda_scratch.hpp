// Scratch of one call on a GPU: an array of the library that owns the memory there.
#pragma once
#include <cstdint>

namespace arraynn::cuda {

// From here to its end the calls of this thread are described: their scratch is counted and not taken, and nothing is
// launched, as after an error.
class Describing {
 public:
  Describing();
  ~Describing();
  Describing(const Describing&) = delete;
  Describing& operator=(const Describing&) = delete;
  static Describing* current();
  void count(std::int64_t bytes) {
    now_ += bytes;
    most_ = now_ > most_ ? now_ : most_;
  }
  std::int64_t most_scratch() const { return most_; }  // bytes at one time
  // An address as good as any that memory is taken at.
  template <class T>
  static T* memory() {
    return reinterpret_cast<T*>(std::uintptr_t{1} << 12);
  }

 private:
  std::int64_t now_ = 0, most_ = 0;
};

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
  void* owner_ = nullptr;       // the array, a PyObject
  std::int64_t described_ = 0;  // bytes that were counted
};

}  // namespace arraynn::cuda
