// Threads. parallel.cpp is the only file with OpenMP in it.
#pragma once

namespace arraynn {

// Team size a kernel may use now: the innermost `threads(n)` of this thread, else set_num_threads,
// else min(affinity, cgroup quota, physical cores, omp_get_max_threads()). 1 after a fork.
int max_threads();
void set_num_threads(int n);          // process-wide; n >= 1
int set_thread_local_threads(int n);  // 0 = no override; returns the former value
int default_threads();
const char* default_threads_reason();

// Runs body(context, tid, nthreads) on a team of at most `threads`; a team of one never touches
// OpenMP. With flush_denormals every member flushes denormals to zero and restores its mode after.
void parallel_run(int threads, bool flush_denormals, void (*body)(void*, int, int), void* context);

// All members of the innermost team wait here. Does nothing in a team of one.
void team_barrier(int nthreads);

enum class Denormals : bool { kKeep = false, kFlush = true };

// f(tid, nthreads), called once by every member.
template <class F>
[[gnu::always_inline]] static inline void parallel(int threads, Denormals mode, const F& f) {
  parallel_run(
      threads, mode == Denormals::kFlush,
      [](void* context, int tid, int nthreads) {
        (*static_cast<const F*>(context))(tid, nthreads);
      },
      const_cast<F*>(&f));
}

// Team size for `work` units when one thread should have at least `grain` of them.
[[gnu::always_inline]] static inline int threads_for(double work, double grain) {
  const double wanted = work / grain;
  if (wanted < 2.0) return 1;
  const int limit = max_threads();
  return wanted < limit ? static_cast<int>(wanted) : limit;
}

}  // namespace arraynn
