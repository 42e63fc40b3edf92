// The functions of CUDA's runtime library that the product calls: two devices, one after the other. What
// is put on a stream is done at once.
#include <cuda_runtime.h>

#include <mutex>
#include <set>

namespace {

constexpr int kDevices = 2;
thread_local int current_device = 0;

// Beside those that are there always: null, 1 the legacy default, 2 that of a thread.
std::mutex streams_mutex;
std::set<std::uintptr_t> streams;
std::uintptr_t last_stream = 2;

struct ErrorText {
  cudaError_t error;
  const char *name, *text;
};
constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorCooperativeLaunchTooLarge, "cudaErrorCooperativeLaunchTooLarge",
     "too many blocks in cooperative launch"},
};

const ErrorText& text_of(cudaError_t error) {
  for (const ErrorText& e : kErrors) {
    if (e.error == error) return e;
  }
  return kErrors[1];
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) { return text_of(error).name; }
const char* cudaGetErrorString(cudaError_t error) { return text_of(error).text; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= kDevices) return cudaErrorInvalidValue;
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device < 0 || device >= kDevices) return cudaErrorInvalidValue;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = host_cuda::multiprocessors();
      return cudaSuccess;
    case cudaDevAttrCooperativeLaunch:
      *value = host_cuda::cooperative() ? 1 : 0;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(host_cuda::most_shared_bytes());
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = host_cuda::capability_major();
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = host_cuda::capability_minor();
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  const std::lock_guard lock(streams_mutex);
  *stream = reinterpret_cast<cudaStream_t>(*streams.insert(++last_stream).first);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(streams_mutex);
  const auto found = streams.erase(reinterpret_cast<std::uintptr_t>(stream));
  return found != 0 ? cudaSuccess : cudaErrorInvalidResourceHandle;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const auto handle = reinterpret_cast<std::uintptr_t>(stream);
  const std::lock_guard lock(streams_mutex);
  return handle <= 2 || streams.contains(handle) ? cudaSuccess : cudaErrorInvalidResourceHandle;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 0;
  return cudaSuccess;
}
