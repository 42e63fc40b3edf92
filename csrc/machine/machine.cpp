#include "machine/machine.hpp"

#include <algorithm>
#include <chrono>

#include "core/arena.hpp"
#include "core/error.hpp"
#include "core/index.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

double seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Best of `rounds`, each long enough (>= 2 ms) for the clock and the wake-up of the team.
template <class F>
double best_rate(int rounds, const F& work) {
  double best = 0;
  for (int i = 0; i < rounds; ++i) {
    const double start = seconds();
    const double done = work();
    best = std::max(best, done / (seconds() - start));
  }
  return best;
}

std::int64_t floats_of(const char* op, std::int64_t bytes, int threads) {
  if (threads < 1) fail<ValueError>(op, "threads", "expected >= 1, got ", threads);
  if (bytes < 64) fail<ValueError>(op, "bytes", "expected >= 64, got ", bytes);
  return bytes / 4;
}

// Of work(part) on the parts of n floats that a team shares, again and again.
template <class Work>
double bytes_per_second(std::int64_t n, int threads, const Work& work) {
  const std::int64_t repeats = std::max<std::int64_t>(1, (std::int64_t{2} << 20) / n);
  return best_rate(20, [&] {
    parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
      const Range part = split_range(n, nthreads, tid);
      for (std::int64_t r = 0; r < repeats; ++r) work(part);
    });
    return 4.0 * static_cast<double>(n * repeats);
  });
}

}  // namespace

double measure_fma_rate(Dtype dtype, int threads, int rounds) {
  if (threads < 1) fail<ValueError>("measure_fma_rate", "threads", "expected >= 1, got ", threads);
  if (rounds < 1) fail<ValueError>("measure_fma_rate", "rounds", "expected >= 1, got ", rounds);
  const MachineKernels& k = machine_kernels();
  const auto fma = dtype == Dtype::kF32 ? k.fma_f32 : k.fma_f64;
  return best_rate(rounds, [&] {
    constexpr std::int64_t kIterations = 400000;
    double flop = 0;
    int team = 1;
    parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
      const double done = fma(kIterations);
      if (tid == 0) {
        flop = done;
        team = nthreads;
      }
    });
    return flop * team;
  });
}

double measure_copy_bandwidth(std::int64_t bytes, int threads) {
  constexpr const char* kOp = "measure_copy_bandwidth";
  const std::int64_t n = floats_of(kOp, bytes, threads);
  const Scratch from(kOp, static_cast<std::size_t>(n) * 4);
  const Scratch to(kOp, static_cast<std::size_t>(n) * 4);
  auto* src = static_cast<float*>(from.data());
  auto* dst = static_cast<float*>(to.data());
  std::fill_n(src, n, 1.0f);
  std::fill_n(dst, n, 0.0f);
  const MachineKernels& k = machine_kernels();
  return 2 * bytes_per_second(n, threads, [&](const Range& part) {
           k.copy(dst + part.begin, src + part.begin, part.end - part.begin);
         });
}

double measure_read_bandwidth(std::int64_t bytes, int threads) {
  constexpr const char* kOp = "measure_read_bandwidth";
  const std::int64_t n = floats_of(kOp, bytes, threads);
  const Scratch from(kOp, static_cast<std::size_t>(n) * 4);
  auto* src = static_cast<float*>(from.data());
  std::fill_n(src, n, 1.0f);
  const MachineKernels& k = machine_kernels();
  return bytes_per_second(n, threads, [&](const Range& part) {
    volatile float sink = k.sum(src + part.begin, part.end - part.begin);
    static_cast<void>(sink);
  });
}

}  // namespace arraynn
