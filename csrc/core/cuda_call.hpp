// What a binding and the launches of its call share. The binding sets stream and device before the
// kernels' host functions run, and raises afterwards what a launch left in `error`: nothing on the
// way needs a return code, and none can be forgotten.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace arraynn::cuda {

struct CallState {
  cudaStream_t stream = nullptr;
  int device = 0;
  cudaError_t error = cudaSuccess;  // of the first launch that failed; later ones do nothing
  const char* kernel = "";          // its name and its shape
  std::int64_t blocks = 0;
  int threads = 0;
  std::size_t shared_bytes = 0;
  void* (*allocate)(std::size_t bytes) =
      nullptr;  // from the library's pool, until the call returns
};

CallState& call_state();  // of this thread

// Memory for the launches of this call: what follows on the stream may use it again afterwards.
template <class T>
T* scratch(std::int64_t count) {
  if (count == 0) return nullptr;
  return static_cast<T*>(call_state().allocate(static_cast<std::size_t>(count) * sizeof(T)));
}

// ann.cuda.debug(True): every launch is waited for and its error is that of its own kernel.
bool synchronous_launches();
void set_synchronous_launches(bool on);

// Devices that the driver offers, 0 without a driver. Never fails.
int device_count();
// Multiprocessors of the device of this call, which is asked once.
int multiprocessors();
// Of a block, dynamic and static.
int most_shared_bytes();
// Whether all blocks of a launch can be there at once and wait for each other.
bool launches_together();
// Whether it is a Hopper (9.0), which alone runs code for sm_90a.
bool is_hopper();
void forget_devices();  // asks again: those of tests change

}  // namespace arraynn::cuda
