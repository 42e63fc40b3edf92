#include "core/parallel.hpp"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <set>
#include <string>
#include <utility>

#include "core/cgroup.hpp"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace arraynn {
namespace {

std::atomic<int> g_threads{0};  // 0: the default
thread_local int t_threads = 0;
// libgomp's pool does not survive a fork: a child that asks it for a team waits for ever.
std::atomic<bool> g_forked{false};

int affinity_cpus(cpu_set_t* set) {
  CPU_ZERO(set);
  if (sched_getaffinity(0, sizeof *set, set) != 0) return 1;
  return std::max(1, CPU_COUNT(set));
}

int physical_cores(const cpu_set_t& set, int fallback) {
  std::set<std::pair<int, int>> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const std::string base = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    int package = -1, core = -1;
    if (!(std::ifstream(base + "physical_package_id") >> package)) return fallback;
    if (!(std::ifstream(base + "core_id") >> core)) return fallback;
    cores.emplace(package, core);
  }
  return cores.empty() ? fallback : static_cast<int>(cores.size());
}

struct Default {
  int threads;
  std::string reason;
};

const Default& computed_default() {
  static const Default value = [] {
    cpu_set_t set;
    const int affinity = affinity_cpus(&set);
    const int cores = physical_cores(set, affinity);
    const int quota = cgroup_quota("/");
    Default d{std::min(affinity, cores), ""};
    if (quota > 0) d.threads = std::min(d.threads, quota);
    d.reason = "affinity " + std::to_string(affinity) + ", physical cores " +
               std::to_string(cores) + ", cgroup quota " +
               (quota > 0 ? std::to_string(quota) : std::string("none"));
    return d;
  }();
  return value;
}

#if defined(__x86_64__)
constexpr unsigned kFtzDaz = 0x8040;
class FlushScope {
 public:
  explicit FlushScope(bool flush) : flush_(flush) {
    if (!flush_) return;
    saved_ = _mm_getcsr();
    _mm_setcsr(saved_ | kFtzDaz);
  }
  ~FlushScope() {
    // Exception flags raised by the kernel stay invisible to the caller.
    if (flush_) _mm_setcsr(saved_);
  }
  FlushScope(const FlushScope&) = delete;
  FlushScope& operator=(const FlushScope&) = delete;

 private:
  bool flush_;
  unsigned saved_ = 0;
};
#elif defined(__aarch64__)
class FlushScope {
 public:
  explicit FlushScope(bool flush) : flush_(flush) {
    if (!flush_) return;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved_ | (std::uint64_t{1} << 24)));
  }
  ~FlushScope() {
    if (flush_) __asm__ volatile("msr fpcr, %0" : : "r"(saved_));
  }
  FlushScope(const FlushScope&) = delete;
  FlushScope& operator=(const FlushScope&) = delete;

 private:
  bool flush_;
  std::uint64_t saved_ = 0;
};
#else
struct FlushScope {
  explicit FlushScope(bool) {}
};
#endif

// What was streamed past the caches is in memory before anything that follows.
void settle_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// The barrier of a team, on the stack of the call that made it. Libgomp's wakes its sleepers with a
// system call every time; a recurrent step of some microseconds has one or more.
struct Barrier {
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<unsigned> phase{0};

  void wait(int members) {
    const unsigned now = phase.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
      arrived.store(0, std::memory_order_relaxed);
      phase.store(now + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase.load(std::memory_order_acquire) == now; ++spins) {
      if (spins < kSpins) {
        relax();
      } else {  // a member may be waiting for this processor
        sched_yield();
        spins = kSpins;
      }
    }
  }

 private:
  static constexpr int kSpins = 1000;  // some 10 to 50 us

  static void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
  }
};
thread_local Barrier* t_barrier = nullptr;

// Libgomp is not instrumented: ThreadSanitizer is told that a team starts after its caller's work
// and ends before what follows. The caller's own frame, which libgomp hands round, it does not see.
#if defined(__SANITIZE_THREAD__)
#define ARRAYNN_NO_TSAN __attribute__((no_sanitize_thread))
void hand_over(void* team) { __tsan_release(team); }
void take_over(void* team) { __tsan_acquire(team); }
#else
#define ARRAYNN_NO_TSAN
void hand_over(void*) {}
void take_over(void*) {}
#endif

struct Team {
  void (*body)(void*, int, int);
  void* context;
  bool flush_denormals;
  Barrier barrier;
};

[[gnu::noinline]] void run_member(Team* team, int tid, int nthreads) {
  take_over(team);
  const FlushScope scope(team->flush_denormals);
  Barrier* const outer = std::exchange(t_barrier, &team->barrier);
  team->body(team->context, tid, nthreads);
  t_barrier = outer;
  settle_streams();
  hand_over(team);
}

const int g_atfork_registered =
    pthread_atfork(nullptr, nullptr, [] { g_forked.store(true, std::memory_order_relaxed); });

}  // namespace

int default_threads() { return computed_default().threads; }
const char* default_threads_reason() { return computed_default().reason.c_str(); }

int max_threads() {
  if (g_forked.load(std::memory_order_relaxed) || omp_in_parallel()) return 1;
  if (t_threads > 0) return t_threads;
  const int set = g_threads.load(std::memory_order_relaxed);
  return set > 0 ? set : std::min(default_threads(), omp_get_max_threads());
}

void set_num_threads(int n) { g_threads.store(n, std::memory_order_relaxed); }

int set_thread_local_threads(int n) { return std::exchange(t_threads, n); }

ARRAYNN_NO_TSAN void parallel_run(int threads, bool flush_denormals, void (*body)(void*, int, int),
                                  void* context) {
  if (threads <= 1) {
    const FlushScope scope(flush_denormals);
    body(context, 0, 1);
    settle_streams();
    return;
  }
  Team team{body, context, flush_denormals, {}};
  hand_over(&team);
#pragma omp parallel num_threads(threads)
  run_member(&team, omp_get_thread_num(), omp_get_num_threads());
  take_over(&team);
}

void team_barrier(int nthreads) {
  if (nthreads > 1) t_barrier->wait(nthreads);
}

}  // namespace arraynn
