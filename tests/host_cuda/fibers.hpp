// Stacks and switches, with the annotations that sanitizers need to follow them.
#pragma once
#include <cstddef>

namespace host_cuda {

// One stack and what runs on it. A fiber that is abandoned in the middle is simply started anew.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void start(void (*entry)());
  void resume();          // from the host, until the fiber calls suspend()
  static void suspend();  // from the running fiber, back to resume()

 private:
  friend struct FiberSwitch;
  void* stack_ = nullptr;
  void* stack_pointer_ = nullptr;
  void* tsan_ = nullptr;
  void* fake_stack_ = nullptr;
};

// Edges that ThreadSanitizer takes as happens-before; nothing without it.
void acquire(void* edge);
void release(void* edge);

}  // namespace host_cuda
