#include "fibers.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" {
// Present only in a process that runs under the sanitizer.
#define HOST_CUDA_WEAK __attribute__((weak))
HOST_CUDA_WEAK void* __tsan_get_current_fiber();
HOST_CUDA_WEAK void* __tsan_create_fiber(unsigned flags);
HOST_CUDA_WEAK void __tsan_destroy_fiber(void* fiber);
HOST_CUDA_WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
HOST_CUDA_WEAK void __tsan_acquire(void* edge);
HOST_CUDA_WEAK void __tsan_release(void* edge);
HOST_CUDA_WEAK void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
HOST_CUDA_WEAK void __sanitizer_finish_switch_fiber(void* fake, const void** bottom, size_t* size);
}

#if defined(__x86_64__)
// Saves the registers that a call preserves, and takes another stack. Signal masks are not touched:
// ucontext would pay a system call for them at each of a million switches.
extern "C" void host_cuda_switch(void** save_stack_pointer, void* stack_pointer);
asm(R"(
.text
.globl host_cuda_switch
.hidden host_cuda_switch
.type host_cuda_switch, @function
host_cuda_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size host_cuda_switch, .-host_cuda_switch
)");
#endif

namespace host_cuda {
namespace {

constexpr std::size_t kStackBytes = 1 << 17;
constexpr unsigned kNoSync = 1;  // a switch is no synchronisation: barriers are

struct Host {
  void* stack_pointer = nullptr;
  void* tsan = nullptr;
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  std::size_t stack_size = 0;
#if !defined(__x86_64__)
  ucontext_t context;
#endif
};
thread_local Host host;
thread_local Fiber* running = nullptr;
thread_local void (*entry_point)() = nullptr;

}  // namespace

struct FiberSwitch {
  static void to_fiber(Fiber& f) {
    running = &f;
    if (__tsan_switch_to_fiber) {
      host.tsan = __tsan_get_current_fiber();
      __tsan_switch_to_fiber(f.tsan_, kNoSync);
    }
    if (__sanitizer_start_switch_fiber) {
      __sanitizer_start_switch_fiber(&host.fake_stack, f.stack_, kStackBytes);
    }
#if defined(__x86_64__)
    host_cuda_switch(&host.stack_pointer, f.stack_pointer_);
#else
    swapcontext(&host.context, static_cast<ucontext_t*>(f.stack_pointer_));
#endif
    if (__sanitizer_finish_switch_fiber) {
      __sanitizer_finish_switch_fiber(host.fake_stack, nullptr, nullptr);
    }
    running = nullptr;
  }

  static void to_host(Fiber& f) {
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(host.tsan, kNoSync);
    if (__sanitizer_start_switch_fiber) {
      __sanitizer_start_switch_fiber(&f.fake_stack_, host.stack_bottom, host.stack_size);
    }
#if defined(__x86_64__)
    host_cuda_switch(&f.stack_pointer_, host.stack_pointer);
#else
    swapcontext(static_cast<ucontext_t*>(f.stack_pointer_), &host.context);
#endif
    arrived(f);
  }

  static void arrived(Fiber& f) {
    if (__sanitizer_finish_switch_fiber) {
      __sanitizer_finish_switch_fiber(f.fake_stack_, &host.stack_bottom, &host.stack_size);
    }
  }

  static void first_entry() {
    arrived(*running);
    entry_point();
    std::abort();  // an entry point ends by suspending
  }
};

Fiber::Fiber() {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* block = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  mprotect(block, page, PROT_NONE);  // below the stack: an overflow ends here
  stack_ = static_cast<char*>(block) + page;
  if (__tsan_create_fiber) tsan_ = __tsan_create_fiber(0);
#if !defined(__x86_64__)
  stack_pointer_ = new ucontext_t;
#endif
}

Fiber::~Fiber() {
  if (tsan_ != nullptr) __tsan_destroy_fiber(tsan_);
#if !defined(__x86_64__)
  delete static_cast<ucontext_t*>(stack_pointer_);
#endif
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  munmap(static_cast<char*>(stack_) - page, kStackBytes + page);
}

void Fiber::start(void (*entry)()) {
  entry_point = entry;
  fake_stack_ = nullptr;
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(static_cast<char*>(stack_) + kStackBytes - 64);
  *--top =
      nullptr;  // the return address of the entry, which keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(&FiberSwitch::first_entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack_pointer_ = top;
#else
  auto* context = static_cast<ucontext_t*>(stack_pointer_);
  getcontext(context);
  context->uc_stack.ss_sp = stack_;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, &FiberSwitch::first_entry, 0);
#endif
}

void Fiber::resume() { FiberSwitch::to_fiber(*this); }
void Fiber::suspend() { FiberSwitch::to_host(*running); }

void acquire(void* edge) {
  if (__tsan_acquire) __tsan_acquire(edge);
}
void release(void* edge) {
  if (__tsan_release) __tsan_release(edge);
}

}  // namespace host_cuda
