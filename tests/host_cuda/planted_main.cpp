// planted PROBLEM FAULT: a kernel of csrc with one fault of planted.py, under every schedule. Prints a line
// for each: "right" (the bits of the kernel without a fault), "wrong", or what the runtime reports.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/cuda_call.hpp"
#include "core/cuda_scratch.hpp"
#include "planted.hpp"
#include "rnn/stack.hpp"
#include "runtime.hpp"

namespace arraynn::cuda {

// As device memory comes: full of NaN.
Scratch::Scratch(const char*, std::int64_t bytes)
    : data_(std::malloc(static_cast<std::size_t>(bytes) + 64)) {
  std::memset(data_, 0xFF, static_cast<std::size_t>(bytes) + 64);
}
Scratch::~Scratch() { std::free(data_); }

}  // namespace arraynn::cuda

void* arraynn::RnnMemory::block(std::size_t bytes) {
  blocks_.push_back(std::make_unique<RnnBlock>(op_, bytes));
  return blocks_.back()->data();
}

namespace {

using namespace arraynn;

// Memory of a call, given back at the end of it.
std::vector<void*> held;
void* allocate(std::size_t bytes) {
  held.push_back(std::malloc(bytes + 64));
  std::memset(held.back(), 0xFF, bytes + 64);
  return held.back();
}

std::string outcome(host_cuda::Problem run, const std::vector<float>& expected) {
  std::string text;
  try {
    const std::vector<float> got = run();
    const bool same = got.size() == expected.size() &&
                      std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0;
    text = same ? "right" : "wrong";
  } catch (const host_cuda::Fault& fault) {
    text = fault.what();
    text = text.substr(0, text.find('\n'));
  }
  for (void* p : held) std::free(p);
  held.clear();
  return text;
}

}  // namespace

int main(int, char** argv) {
  using host_cuda::Copies;
  using host_cuda::Order;
  host_cuda::set_multiprocessors(1);
  cuda::call_state().allocate = &allocate;
  const host_cuda::Problem run = host_cuda::problems().at(argv[1]);
  const std::vector<float> expected = run();
  host_cuda::planted_fault = std::atoi(argv[2]);
  for (const Order order : {Order::kOldest, Order::kNewest, Order::kRandom, Order::kStarve}) {
    for (const Copies copies : {Copies::kEarly, Copies::kLate}) {
      host_cuda::set_schedule({order, copies, 7});
      std::puts(outcome(run, expected).c_str());
    }
  }
  return cuda::call_state().error == cudaSuccess ? 0 : 1;
}
