// What the tests ask of the runtime, and its own kernels on NumPy arrays.
#include <cuda_runtime.h>
#include <pybind11/numpy.h>

#include <map>

#include "bind/call.hpp"
#include "bind/module_parts.hpp"
#include "core/cuda_call.hpp"
#include "golden.hpp"
#include "kernels.hpp"
#include "ptx.hpp"
#include "runtime.hpp"

namespace arraynn {
namespace {

using Floats = py::array_t<float, py::array::c_style>;
using Words = py::array_t<std::uint16_t, py::array::c_style>;
using cuda::Plant;
using Function = void (*)(const float*, float*);

host_cuda::Order order_from(const std::string& name) {
  static const std::map<std::string, host_cuda::Order> kOrders = {
      {"oldest", host_cuda::Order::kOldest},
      {"newest", host_cuda::Order::kNewest},
      {"random", host_cuda::Order::kRandom},
      {"starve", host_cuda::Order::kStarve}};
  return kOrders.at(name);
}

void pipeline_of_three(const float* x, float* y) { cuda::pipeline<Plant::kNone>(x, y, 3); }
void pipeline_without_wait(const float* x, float* y) { cuda::pipeline<Plant::kNoWait>(x, y, 3); }
void pipeline_early_reuse(const float* x, float* y) { cuda::pipeline<Plant::kEarlyReuse>(x, y, 3); }

const std::map<std::string, Function>& functions() {
  static const std::map<std::string, Function> kFunctions = {
      {"reverse", &cuda::reverse<Plant::kNone>},
      {"reverse no_barrier", &cuda::reverse<Plant::kNoBarrier>},
      {"reverse off_by_one", &cuda::reverse<Plant::kOffByOne>},
      {"reverse uninitialised", &cuda::reverse<Plant::kUninitialised>},
      {"reverse divergent_barrier", &cuda::reverse<Plant::kDivergentBarrier>},
      {"reverse thread_leaves", &cuda::reverse<Plant::kThreadLeaves>},
      {"sum", &cuda::sum<Plant::kNone>},
      {"sum wrong_mask", &cuda::sum<Plant::kWrongMask>},
      {"sum missing_lane", &cuda::sum<Plant::kMissingLane>},
      {"pipeline", &pipeline_of_three},
      {"pipeline no_wait", &pipeline_without_wait},
      {"pipeline early_reuse", &pipeline_early_reuse},
      {"rounds", &cuda::rounds<Plant::kNone>},
      {"rounds no_barrier", &cuda::rounds<Plant::kNoBarrier>},
      {"rounds missing_block", &cuda::rounds<Plant::kMissingBlock>},
      {"rounds too_many_blocks", &cuda::rounds<Plant::kTooManyBlocks>},
      {"rounds one_by_one", &cuda::rounds<Plant::kOneByOne>},
      {"too_many_threads", &cuda::too_many_threads},
      {"too_many_blocks", &cuda::too_many_blocks},
  };
  return kFunctions;
}

void run_kernel(const std::string& name, const Floats& x, Floats& y) {
  const DeviceCall call;
  functions().at(name)(x.data(), y.mutable_data());
  call.check("run_kernel", {x, y});
}

// By name of a fault, "" for none.
void warpgroup_product(const std::string& fault, bool bf16, bool along_a, bool along_b,
                       const Words& a, const Words& b, Floats& d) {
  using Run = void (*)(bool, bool, bool, const std::uint16_t*, const std::uint16_t*, float*);
  static const std::map<std::string, Run> kRuns = {
      {"", &cuda::warpgroup_product<Plant::kNone>},
      {"no_barrier", &cuda::warpgroup_product<Plant::kNoBarrier>},
      {"no_wait", &cuda::warpgroup_product<Plant::kNoWait>},
      {"no_product_fence", &cuda::warpgroup_product<Plant::kNoProductFence>},
      {"no_proxy_fence", &cuda::warpgroup_product<Plant::kNoProxyFence>},
      {"few_bytes", &cuda::warpgroup_product<Plant::kFewBytes>},
      {"half_group", &cuda::warpgroup_product<Plant::kHalfGroup>},
      {"registers", &cuda::warpgroup_product<Plant::kRegisters>},
      {"registers_reused", &cuda::warpgroup_product<Plant::kRegistersReused>},
  };
  const DeviceCall call;
  kRuns.at(fault)(bf16, along_a, along_b, a.data(), b.data(), d.mutable_data());
  call.check("warpgroup_product", {});
}

using Items = py::array_t<std::uint32_t, py::array::c_style>;

// Results of a kernel of golden.cu for operands (items, words).
Items golden(const std::string& name, const Items& given) {
  int count = 0;
  const cuda::GoldenKernel* kernels = cuda::golden_kernels(&count);
  for (int i = 0; i < count; ++i) {
    if (name != kernels[i].name) continue;
    const auto items = given.shape(0);
    Items out({items, static_cast<py::ssize_t>(kernels[i].out)});
    const DeviceCall call;
    cuda::run_golden(kernels[i], given.data(), out.mutable_data(), static_cast<int>(items));
    call.check("golden", {});
    return out;
  }
  throw std::out_of_range(name);
}

}  // namespace

void bind_host_cuda(py::module_& m) {
  py::register_local_exception<host_cuda::Fault>(m, "Fault", PyExc_RuntimeError);
  m.def("set_schedule", [](const std::string& order, bool late, std::uint64_t seed) {
    const auto copies = late ? host_cuda::Copies::kLate : host_cuda::Copies::kEarly;
    host_cuda::set_schedule({order_from(order), copies, seed});
  });
  m.def("set_multiprocessors", [](int count) {
    host_cuda::set_multiprocessors(count);
    cuda::forget_devices();
  });
  m.def("set_cooperative", [](bool on) {
    host_cuda::set_cooperative(on);
    cuda::forget_devices();
  });
  m.def("set_capability", [](int major, int minor) {
    host_cuda::set_capability(major, minor);
    cuda::forget_devices();
  });
  m.def("set_last_blocks", &host_cuda::set_last_blocks);
  m.def("stream_create", [] {
    cudaStream_t stream = nullptr;
    cudaStreamCreate(&stream);
    return reinterpret_cast<std::uintptr_t>(stream);
  });
  m.def("stream_destroy",
        [](std::uintptr_t stream) { cudaStreamDestroy(reinterpret_cast<cudaStream_t>(stream)); });
  m.def("counters", [] {
    const host_cuda::Counters c = host_cuda::counters();
    py::dict row;
    row["launches"] = c.launches;
    row["blocks"] = c.blocks;
    row["switches"] = c.switches;
    row["barriers"] = c.barriers;
    row["warp_operations"] = c.warp_operations;
    row["async_copies"] = c.async_copies;
    return row;
  });
  m.def("run_kernel", &run_kernel);
  m.def("golden", &golden);
  m.def("mma_16bit", [](bool bf16, const Words& a, const Words& b, Floats& d) {
    const DeviceCall call;
    cuda::mma_16bit(bf16, a.data(), b.data(), d.mutable_data());
    call.check("mma_16bit", {});
  });
  m.def("warpgroup_product", &warpgroup_product);
  m.def("mma_tf32", [](const Floats& a, const Floats& b, Floats& d) {
    const DeviceCall call;
    cuda::mma_tf32(a.data(), b.data(), d.mutable_data());
    call.check("mma_tf32", {});
  });
  m.def("cvt_f32_f16", &host_ptx::cvt_f32_f16);
  m.def("cvt_f32_bf16", &host_ptx::cvt_f32_bf16);
  m.def("cvt_rn_f16_f32", &host_ptx::cvt_rn_f16_f32);
  m.def("cvt_rn_bf16_f32", &host_ptx::cvt_rn_bf16_f32);
}

}  // namespace arraynn
