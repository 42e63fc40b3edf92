#include "core/cuda_call.hpp"

#include <atomic>
#include <iterator>

#include "core/cuda_scratch.hpp"

namespace arraynn::cuda {
namespace {

std::atomic<bool> synchronous{false};

constexpr int kMaxDevices = 64;

thread_local Describing* describing = nullptr;

}  // namespace

Describing::Describing() {
  describing = this;
  call_state().error = cudaErrorInvalidValue;
}
Describing::~Describing() {
  describing = nullptr;
  call_state().error = cudaSuccess;
}
Describing* Describing::current() { return describing; }

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

// What is asked of a device: the attributes, and what they are + 1, 0 before they are asked for.
constexpr cudaDeviceAttr kAttributes[] = {
    cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrCooperativeLaunch, cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor};
std::atomic<int> known[std::size(kAttributes)][kMaxDevices];

// `otherwise` where the driver does not tell: the launch itself will say what is wrong.
int attribute(std::size_t which, int otherwise) {
  const int device = call_state().device;
  const bool cached = device >= 0 && device < kMaxDevices;
  int value = cached ? known[which][device].load(std::memory_order_relaxed) : 0;
  if (value == 0) {
    if (cudaDeviceGetAttribute(&value, kAttributes[which], device) != cudaSuccess) {
      cudaGetLastError();
      return otherwise;
    }
    ++value;
    if (cached) known[which][device].store(value, std::memory_order_relaxed);
  }
  return value - 1;
}

}  // namespace

void forget_devices() {
  for (auto& values : known) {
    for (std::atomic<int>& value : values) value.store(0, std::memory_order_relaxed);
  }
}

int multiprocessors() { return attribute(0, 1); }
int most_shared_bytes() { return attribute(1, 48 << 10); }
bool launches_together() { return attribute(2, 0) != 0; }
bool is_hopper() { return attribute(3, 0) == 9 && attribute(4, 0) == 0; }

}  // namespace arraynn::cuda
