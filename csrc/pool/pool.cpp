#include "pool/pool.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/arena.hpp"
#include "core/parallel.hpp"
#include "pool/walk.hpp"

namespace arraynn {
namespace {

bool is_empty(const PoolProblem& p) { return p.n * p.c == 0 || p.h.out * p.w.out == 0; }

// f(part, scratch) on every thread's part of `total` shares, with so many bytes of scratch.
template <class F>
void for_shares(const char* op, const PoolProblem& p, std::int64_t total, std::int64_t bytes,
                Denormals mode, const F& f) {
  const auto images = static_cast<double>(p.n * p.c);
  const auto in = static_cast<double>(p.h.size * p.w.size);
  const auto out = static_cast<double>(p.h.out * p.w.out);
  const auto taps = static_cast<double>(p.h.kernel * p.w.kernel);
  // Wide windows are bound by arithmetic: some 8 taps cost as much as one element of traffic.
  const double work = images * (in + out + out * taps / 8);
  const int threads = static_cast<int>(
      std::min<std::int64_t>(threads_for(work, kPoolGrain), std::max<std::int64_t>(total, 1)));
  const Scratch scratch(op, static_cast<std::size_t>(bytes * threads));
  parallel(threads, mode, [&](int tid, int nthreads) {
    f(split_range(total, nthreads, tid), static_cast<char*>(scratch.data()) + bytes * tid);
  });
}

template <class T, class F>
void for_parts(const char* op, const PoolProblem& p, PoolTask task, Denormals mode, const F& f) {
  for_shares(op, p, pool_shares(p, sizeof(T), task), thread_scratch_bytes(p, sizeof(T), task), mode,
             f);
}

// Whether f(part) is true for every thread's part of the units.
template <class F>
bool for_units(const UnpoolProblem& whole, const F& f) {
  if (whole.n * whole.c == 0) return true;
  UnpoolProblem p = whole;
  const double work = static_cast<double>(p.n * p.c) * static_cast<double>(p.in + p.out);
  const int wanted = threads_for(work, kPoolGrain);
  if (p.channels_last) p.block = channels_of_unit(p.n, p.c, wanted);
  const std::int64_t units = unpool_units(p);
  const int threads = static_cast<int>(std::min<std::int64_t>(wanted, units));
  std::atomic<bool> good{true};
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    if (!f(p, split_range(units, nthreads, tid))) good.store(false, std::memory_order_relaxed);
  });
  return good.load();
}

}  // namespace

template <class T>
void max_pool(const char* op, const PoolProblem& p, const T* x, T* y, std::int64_t* indices) {
  if (is_empty(p)) return;
  const PoolTable<T>& k = pool_kernels().of<T>();
  const auto find = [&](Range part, void* scratch) {
    k.max_indices(flat_volume(p), x, y, indices, part, scratch);
  };
  if (indices == nullptr) {
    for_parts<T>(op, p, PoolTask::kMax, Denormals::kKeep,
                 [&](Range part, void* scratch) { k.max(p, x, y, part, scratch); });
  } else if (finds_in_tiles(flat_volume(p))) {
    for_shares(op, p, p.n * p.c * p.h.out, 0, Denormals::kKeep, find);
  } else {
    for_parts<T>(op, p, PoolTask::kIndices, Denormals::kKeep, find);
  }
}

// A thread's scratch for the positions of maxima.
template <class T>
struct FoundScratch {
  T* largest;
  std::int64_t* indices;
  char* rest;  // of the search
};
template <class T>
FoundScratch<T> found_scratch(const PoolProblem& p, char* scratch) {
  const FoundBytes found = found_bytes(p, sizeof(T));
  return {reinterpret_cast<T*>(scratch), reinterpret_cast<std::int64_t*>(scratch + found.values),
          scratch + found.values + found.indices};
}

// Adds dy where the maxima of blocks of planes are.
template <class T>
void add_to_maxima_of_blocks(const PoolProblem& p, const T* dy, const T* x, T* dx, Range blocks,
                             char* scratch) {
  const PoolTable<T>& k = pool_kernels().of<T>();
  const FoundScratch<T> found = found_scratch<T>(p, scratch);
  const std::int64_t in = p.h.size * p.w.size, out = p.h.out * p.w.out;
  for (std::int64_t i = blocks.begin; i < blocks.end; ++i) {
    const PoolProblem block = found_block(p, i);
    const std::int64_t first = i * kStagedPlanes;
    const Range all = {0, pool_shares(block, sizeof(T), PoolTask::kIndices)};
    k.max_indices(flat_volume(block), x + first * in, found.largest, found.indices, all,
                  found.rest);
    const UnpoolProblem planes{1, block.c, out, in, false};
    k.scatter(planes, dy + first * out, found.indices, dx + first * in, {0, block.c});
  }
}

// Adds dy where the maxima are that lie in rows `rows` of dx, band by band. Windows that reach the
// rows of two threads are looked at by both.
template <class T>
void add_to_maxima(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows,
                   char* scratch) {
  const PoolTable<T>& k = pool_kernels().of<T>();
  const FoundScratch<T> found = found_scratch<T>(p, scratch);
  const std::int64_t channels = p.channels_last ? p.c : 1, row = p.w.size * channels;
  const std::int64_t band_rows = found_rows(p, sizeof(T));
  for (std::int64_t r = rows.begin; r < rows.end;) {
    const std::int64_t plane = r / p.h.size, first = r - plane * p.h.size;
    const Range mine = {first, min_i(p.h.size, first + rows.end - r)};
    T* to = dx + plane * p.h.size * row;
    std::int64_t zeroed = mine.begin;
    const auto zero_until = [&](std::int64_t end) {
      if (end > zeroed) {
        std::memset(to + zeroed * row, 0,
                    static_cast<std::size_t>((end - zeroed) * row) * sizeof(T));
      }
      zeroed = std::max(zeroed, end);
    };
    const Range windows = windows_touching(p.h, mine.begin, mine.end);
    for (std::int64_t o = windows.begin; o < windows.end; o += band_rows) {
      const Range out = {o, min_i(windows.end, o + band_rows)};
      std::int64_t in = 0;
      const PoolProblem band = found_band(p, out, &in);
      zero_until(min_i(mine.end, in + band.h.size));
      k.max_indices(flat_volume(band), x + (plane * p.h.size + in) * row, found.largest,
                    found.indices, {0, band.h.out}, found.rest);
      UnpoolProblem part{
          1,     band.c, band.h.out * p.w.out, (mine.end - mine.begin) * p.w.size, p.channels_last,
          band.c};
      part.zeroed = true;
      part.first = (mine.begin - in) * p.w.size;
      k.scatter(part, dy + (plane * p.h.out + o) * found_row(p), found.indices,
                to + mine.begin * row, {0, 1});
    }
    zero_until(mine.end);
    r += mine.end - mine.begin;
  }
}

template <class T>
bool max_pool_backward(const char* op, const PoolProblem& p, const T* dy, const T* x,
                       const std::int64_t* indices, T* dx) {
  const std::int64_t in = p.h.size * p.w.size, out = p.h.out * p.w.out;
  if (is_empty(p)) {
    std::fill_n(dx, p.n * p.c * in, T(0));
    return true;
  }
  if (indices != nullptr) {
    UnpoolProblem u{p.n, p.c, out, in, p.channels_last};
    u.has_empty = has_empty_windows(p.h) || has_empty_windows(p.w);
    return scatter(u, dy, indices, dx);
  }
  if (is_row_of_runs(p)) {
    for_shares(op, p, p.n * p.c * p.h.size, 0, Denormals::kKeep,
               [&](Range part, void*) { walk_kernels().of<T>().runs(p, dy, x, dx, part); });
    return true;
  }
  if (is_gathered(p)) {
    for_shares(op, p, p.n * p.h.size, walk_bytes(p, sizeof(T)), Denormals::kKeep,
               [&](Range part, void* scratch) {
                 walk_kernels().of<T>().gathered(p, dy, x, dx, part, scratch);
               });
    return true;
  }
  constexpr PoolTask kTask = PoolTask::kMaxBackward;
  for_parts<T>(op, p, kTask, Denormals::kKeep, [&](Range part, char* scratch) {
    if (is_tiled(p, kTask)) {
      pool_kernels().of<T>().max_of_tiles_backward(p, dy, x, dx, part);
    } else if (is_walked(p)) {
      pool_kernels().of<T>().max_backward(p, dy, x, dx, part);
    } else if (is_staged(p, kTask)) {
      add_to_maxima_of_blocks(p, dy, x, dx, part, scratch);
    } else {
      add_to_maxima(p, dy, x, dx, part, scratch);
    }
  });
  return true;
}

template <class T>
void avg_pool(const char* op, const PoolProblem& p, const AverageDivisor& d, const T* x, T* y) {
  if (is_empty(p)) return;
  const PoolTable<T>& k = pool_kernels().of<T>();
  for_parts<T>(op, p, PoolTask::kSum, Denormals::kFlush,
               [&](Range part, void* scratch) { k.average(p, d, x, y, part, scratch); });
}

template <class T>
void avg_pool_backward(const char* op, const PoolProblem& p, const AverageDivisor& d, const T* dy,
                       T* dx) {
  if (is_empty(p)) {
    std::fill_n(dx, p.n * p.c * p.h.size * p.w.size, T(0));
    return;
  }
  const PoolTable<T>& k = pool_kernels().of<T>();
  for_parts<T>(op, p, PoolTask::kSumBackward, Denormals::kFlush,
               [&](Range part, void* scratch) { k.average_backward(p, d, dy, dx, part, scratch); });
}

template <class T>
void lp_pool(const char* op, const PoolProblem& p, double norm, const T* x, T* y) {
  if (is_empty(p)) return;
  const PoolTable<T>& k = pool_kernels().of<T>();
  for_parts<T>(op, p, PoolTask::kSum, Denormals::kFlush,
               [&](Range part, void* scratch) { k.lp(p, norm, true, x, y, part, scratch); });
}

template <class T>
void lp_pool_backward(const char* op, const PoolProblem& p, double norm, const T* dy, const T* x,
                      const T* y, T* dx) {
  const std::int64_t planes = p.n * p.c, in = planes * p.h.size * p.w.size;
  if (is_empty(p)) {
    std::fill_n(dx, in, T(0));
    return;
  }
  const PoolTable<T>& k = pool_kernels().of<T>();
  const std::int64_t out = planes * p.h.out * p.w.out;
  const Scratch shares(op, static_cast<std::size_t>(out) * sizeof(T));
  T* share = static_cast<T*>(shares.data());
  const std::int64_t rows = (p.channels_last ? p.n : planes) * p.h.out;
  const auto team = [](std::int64_t elements) {
    return threads_for(static_cast<double>(elements), kPoolGrain);
  };
  parallel(team(out), Denormals::kFlush, [&](int tid, int nthreads) {
    k.lp_shares(p, norm, dy, y, share, split_range(rows, nthreads, tid));
  });
  avg_pool_backward(op, p, AverageDivisor{false, 1}, share, dx);
  if (norm == 1) return;
  parallel(team(in), Denormals::kFlush, [&](int tid, int nthreads) {
    k.lp_slopes(norm, x, dx, split_range(in, nthreads, tid));
  });
}

template <class T>
bool scatter(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y) {
  const PoolTable<T>& k = pool_kernels().of<T>();
  return for_units(p, [&](const UnpoolProblem& blocks, Range units) {
    return k.scatter(blocks, x, indices, y, units);
  });
}

template <class T>
bool max_unpool(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y) {
  const PoolTable<T>& k = pool_kernels().of<T>();
  return for_units(p, [&](const UnpoolProblem& blocks, Range units) {
    return k.unpool(blocks, x, indices, y, units);
  });
}

template <class T>
bool max_unpool_backward(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, T* dx) {
  const PoolTable<T>& k = pool_kernels().of<T>();
  return for_units(p, [&](const UnpoolProblem& blocks, Range units) {
    return k.unpool_backward(blocks, dy, indices, dx, units);
  });
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void max_pool<T>(const char*, const PoolProblem&, const T*, T*, std::int64_t*);         \
  template bool max_pool_backward<T>(const char*, const PoolProblem&, const T*, const T*,          \
                                     const std::int64_t*, T*);                                     \
  template void avg_pool<T>(const char*, const PoolProblem&, const AverageDivisor&, const T*, T*); \
  template void avg_pool_backward<T>(const char*, const PoolProblem&, const AverageDivisor&,       \
                                     const T*, T*);                                                \
  template void lp_pool<T>(const char*, const PoolProblem&, double, const T*, T*);                 \
  template void lp_pool_backward<T>(const char*, const PoolProblem&, double, const T*, const T*,   \
                                    const T*, T*);                                                 \
  template bool scatter<T>(const UnpoolProblem&, const T*, const std::int64_t*, T*);               \
  template bool max_unpool<T>(const UnpoolProblem&, const T*, const std::int64_t*, T*);            \
  template bool max_unpool_backward<T>(const UnpoolProblem&, const T*, const std::int64_t*, T*);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
