// One kernel of kernels.cu under a sanitizer: sanitized NAME early|late (copies). Prints "right" or "wrong".
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/cuda_call.hpp"
#include "kernels.hpp"
#include "runtime.hpp"

namespace {

using namespace arraynn::cuda;

constexpr int kTiles = 3, kNumbers = kTiles * 512;

bool run(const char* name, const float* x, float* y) {
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  if (is("reverse")) return reverse<Plant::kNone>(x, y), y[0] == x[127];
  if (is("reverse no_barrier")) return reverse<Plant::kNoBarrier>(x, y), y[0] == x[127];
  if (is("reverse off_by_one")) return reverse<Plant::kOffByOne>(x, y), y[0] == x[127];
  if (is("pipeline")) return pipeline<Plant::kNone>(x, y, kTiles), y[9] == 2 * x[9];
  if (is("pipeline early_reuse")) {
    return pipeline<Plant::kEarlyReuse>(x, y, kTiles), y[9] == 2 * x[9];
  }
  if (is("rounds")) return rounds<Plant::kNone>(x, y), y[9] == x[9] + 4;
  if (is("rounds no_barrier")) return rounds<Plant::kNoBarrier>(x, y), y[9] == x[9] + 4;
  if (is("sum")) return sum<Plant::kNone>(x, y), y[0] == 127 * 64;
  return false;
}

}  // namespace

int main(int, char** argv) {
  const bool early = std::strcmp(argv[2], "early") == 0;
  host_cuda::set_schedule(
      {host_cuda::Order::kOldest, early ? host_cuda::Copies::kEarly : host_cuda::Copies::kLate, 1});
  std::vector<float> x(kNumbers), y(kNumbers);
  for (int i = 0; i < kNumbers; ++i) x[static_cast<std::size_t>(i)] = static_cast<float>(i);
  const bool right = run(argv[1], x.data(), y.data());
  std::puts(right ? "right" : "wrong");
  return call_state().error == cudaSuccess ? 0 : 1;
}
