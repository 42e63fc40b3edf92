// Scratch of one kernel call: a 64-byte aligned block from the block cache.
#pragma once
#include <cstddef>

namespace arraynn {

class Scratch {
 public:
  // Throws OutOfMemory naming `op` when the block cannot be had.
  Scratch(const char* op, std::size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace arraynn
