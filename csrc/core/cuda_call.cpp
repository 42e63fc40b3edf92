#include "core/cuda_call.hpp"

#include <atomic>

namespace arraynn::cuda {
namespace {

std::atomic<bool> synchronous{false};

constexpr int kMaxDevices = 64;

}  // namespace

CallState& call_state() {
  static thread_local CallState state;
  return state;
}

bool synchronous_launches() { return synchronous.load(std::memory_order_relaxed); }
void set_synchronous_launches(bool on) { synchronous.store(on, std::memory_order_relaxed); }

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // ours to clear: nobody else's error is waiting behind a count that failed
    return 0;
  }
  return count;
}

namespace {
std::atomic<int> known[kMaxDevices];  // multiprocessors, 0 before they are asked for
}

void forget_multiprocessors() {
  for (std::atomic<int>& count : known) count.store(0, std::memory_order_relaxed);
}

int multiprocessors() {
  const int device = call_state().device;
  const bool cached = device >= 0 && device < kMaxDevices;
  int count = cached ? known[device].load(std::memory_order_relaxed) : 0;
  if (count == 0) {
    if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
      return 1;  // the launch itself will tell what is wrong
    }
    if (cached) known[device].store(count, std::memory_order_relaxed);
  }
  return count;
}

}  // namespace arraynn::cuda
