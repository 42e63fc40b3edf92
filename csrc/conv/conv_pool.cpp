#include "conv/conv_pool.hpp"

#include <algorithm>

#include "conv/lanes.hpp"
#include "core/arena.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

// Of the convolution's result that waits to be pooled: of a thread, in an L2 of 512 KiB and more, and
// of a call.
constexpr std::int64_t kStripBytes = std::int64_t{192} << 10;
constexpr std::int64_t kSampleBytes = std::int64_t{2} << 20;

template <class T>
std::int64_t depthwise_scratch(const DepthwiseConv<T>& d) {
  return depthwise_kernels().of<T>().scratch(DepthwiseResidues<T>{d}, 1);
}
template <class T>
void run_depthwise(const DepthwiseConv<T>& d, void* scratch) {
  depthwise_kernels().of<T>().run(DepthwiseResidues<T>{d}, 1, scratch);
}

// A thread's scratch: rows or planes of the result, then what the two kernels need.
struct Parts {
  std::int64_t result, conv, pool;
  std::int64_t bytes() const { return result + conv + pool; }
};

template <class T>
struct Pooling {
  const Conv2dProblem& p;
  const DepthwiseConv<T>& d;
  const ConvPool<T>& pool;

  // body(thread's scratch, tid, nthreads), or the plan's line.
  template <class F>
  void run(int threads, const Parts& parts, const F& body) const {
    const std::int64_t bytes = round_up(parts.bytes(), 64);
    if (p.plan != nullptr) {
      return p.plan->note("depthwise",
                          "an output channel reads one input channel: a stencil, pooled in cache",
                          bytes * threads, threads);
    }
    const Scratch scratch(p.op, static_cast<std::size_t>(bytes * threads));
    parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
      body(static_cast<char*>(scratch.data()) + bytes * tid, tid, nthreads);
    });
  }

  // channels_first: blocks of planes of a sample, as many as the pooling takes side by side.
  void run_planes(int threads) const {
    const PoolProblem& whole = pool.p;
    const bool staged = is_staged(whole, pool.task()) && kStagedPlanes % d.multiplier == 0;
    const std::int64_t blocks = staged ? ceil_div(d.channels, kStagedPlanes) : d.channels;
    const std::int64_t planes =
        staged ? ceil_div(d.channels / d.multiplier, blocks) * d.multiplier : 1;
    const std::int64_t size = d.h.count * d.w.count;
    DepthwiseConv<T> some = d;
    some.n = 1;
    some.channels = planes;
    some.multiplier = staged ? d.multiplier : 1;
    PoolProblem part = whole;
    part.n = 1;
    part.c = planes;
    const Parts parts{round_up(planes * size * static_cast<std::int64_t>(sizeof(T)), 64),
                      round_up(depthwise_scratch(some), 64),
                      thread_scratch_bytes(part, sizeof(T), pool.task())};
    const std::int64_t in = d.h.size * d.w.size, out = whole.h.out * whole.w.out;
    run(threads, parts, [&](char* base, int tid, int nthreads) {
      const Range mine = split_range(d.n * blocks, nthreads, tid);
      T* result = reinterpret_cast<T*>(base);
      for (std::int64_t u = mine.begin; u < mine.end; ++u) {
        const std::int64_t sample = u / blocks;
        const Range c = block_of(blocks, u % blocks, staged);
        DepthwiseConv<T> s = d;
        s.n = 1;
        s.channels = c.end - c.begin;
        s.multiplier = staged ? d.multiplier : 1;
        s.src = d.src + (sample * (d.channels / d.multiplier) + c.begin / d.multiplier) * in;
        s.out = result;
        s.weight = d.weight + c.begin * d.kernel_h * d.kernel_w;
        s.bias = d.bias == nullptr ? nullptr : d.bias + c.begin;
        run_depthwise(s, base + parts.result);
        PoolProblem q = whole;
        q.n = 1;
        q.c = s.channels;
        pool.run(q, result, d.out + (sample * d.channels + c.begin) * out,
                 {0, pool_shares(q, sizeof(T), pool.task())}, base + parts.result + parts.conv);
      }
    });
  }

  // Channels of a block: of whole source channels.
  Range block_of(std::int64_t blocks, std::int64_t i, bool staged) const {
    if (!staged) return {i, i + 1};
    const Range c = split_range(d.channels / d.multiplier, blocks, i);
    return {c.begin * d.multiplier, c.end * d.multiplier};
  }

  // channels_last: strips of rows.
  void run_rows(int threads) const {
    const PoolProblem& whole = pool.p;
    const std::int64_t row = d.w.count * d.channels;
    const auto row_bytes = row * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t kept = kept_rows(whole.h);
    const std::int64_t rows = std::max<std::int64_t>(1, kStripBytes / row_bytes - kept);
    const Parts parts{round_up((kept + rows) * row_bytes, 64), depthwise_scratch(d), 0};
    run(threads, parts, [&](char* base, int tid, int nthreads) {
      T* band = reinterpret_cast<T*>(base);
      const Range mine = split_range(d.n * whole.h.out, nthreads, tid);
      for_pooled_strips(whole.h, mine, 1, rows, [&](const PooledStrip& s) {
        for (std::int64_t g = s.rows.begin; g < s.rows.end;) {
          const std::int64_t sample = g / d.h.count;
          const std::int64_t end = std::min(s.rows.end, (sample + 1) * d.h.count);
          conv_rows(sample, {g - sample * d.h.count, end - sample * d.h.count},
                    band + (g - s.first) * row, base + parts.result);
          g = end;
        }
        for_pooled_samples(whole.h, s, [&](std::int64_t sample, Range held, Range out) {
          pool.run_band(pooled_band(whole, d.channels, held, out),
                        band + (sample * whole.h.size + held.begin - s.first) * row,
                        d.out + (sample * whole.h.out + out.begin) * whole.w.out * d.channels);
        });
        std::copy_n(band + (s.keep - s.first) * row, (s.rows.end - s.keep) * row, band);
      });
    });
  }

  // Rows of the result of one sample.
  void conv_rows(std::int64_t sample, Range rows, T* out, void* scratch) const {
    std::int64_t offset[kMostDepthwiseTaps];
    for (std::int64_t t = 0; t < d.h.taps; ++t) {
      offset[t] = d.h.offset[t] + rows.begin * d.h.step;
    }
    DepthwiseConv<T> s = d;
    s.n = 1;
    s.h.count = rows.end - rows.begin;
    s.h.offset = offset;
    s.src = d.src + sample * d.h.size * d.w.size * (d.channels / d.multiplier);
    s.out = out;
    run_depthwise(s, scratch);
  }
};

}  // namespace

template <class T>
void pool_depthwise(const Conv2dProblem& p, const DepthwiseConv<T>& d, const ConvPool<T>& pool,
                    int threads) {
  const Pooling<T> pooling{p, d, pool};
  return d.channels_last ? pooling.run_rows(threads) : pooling.run_planes(threads);
}

template <class T>
void pool_by_samples(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,
                     T* y) {
  const ConvPool<T>& pool = *e.pool;
  const std::int64_t in = p.ic * p.in_size(), result = p.oc * p.out_size();
  const std::int64_t out = p.oc * pool.p.h.out * pool.p.w.out;
  const auto item = static_cast<std::int64_t>(sizeof(T));
  const std::int64_t samples = std::clamp<std::int64_t>(kSampleBytes / (result * item), 1, p.n);
  ConvEpilogue<T> unpooled = e;
  unpooled.pool = nullptr;
  Conv2dProblem some = p;
  some.n = samples;
  const std::int64_t bytes = samples * result * item;
  if (p.plan != nullptr) {
    const T* none = nullptr;
    conv2d(some, none, none, unpooled, static_cast<T*>(nullptr));
    p.plan->reason = "of some samples into scratch, whose pooling is a pass of its own";
    p.plan->scratch += bytes;
    return;
  }
  const Scratch scratch(p.op, static_cast<std::size_t>(bytes));
  T* waiting = static_cast<T*>(scratch.data());
  for (std::int64_t i = 0; i < p.n; i += samples) {
    some.n = std::min(samples, p.n - i);
    conv2d(some, x + i * in, weight, unpooled, waiting);
    PoolProblem part = pool.p;
    part.n = some.n;
    if (pool.average) {
      avg_pool(p.op, part, pool.divisor, waiting, y + i * out);
    } else {
      max_pool(p.op, part, waiting, y + i * out, static_cast<std::int64_t*>(nullptr));
    }
  }
}

#define ARRAYNN_INSTANTIATE(T)                                                   \
  template void pool_depthwise<T>(const Conv2dProblem&, const DepthwiseConv<T>&, \
                                  const ConvPool<T>&, int);                      \
  template void pool_by_samples<T>(const Conv2dProblem&, const T*, const T*,     \
                                   const ConvEpilogue<T>&, T*);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
