#include "pool/columns.hpp"
#include "pool/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
struct Average {
  AverageDivisor divisor;
  const T* columns = nullptr;  // taps counted along the row, or the fixed divisor
  std::int64_t row_count = 0;
  Vec<T> row = Vec<T>::zero(), pixel = Vec<T>::zero();

  ARRAYNN_MEMBER Vec<T> identity() const { return Vec<T>::zero(); }
  ARRAYNN_MEMBER Vec<T> map(Vec<T> v) const { return v; }
  ARRAYNN_MEMBER Vec<T> combine(Vec<T> acc, Vec<T> v) const { return acc + v; }
  ARRAYNN_MEMBER void begin(const PoolProblem& p, const Row<T>& r) {
    for (std::int64_t o = 0; o < p.w.out; ++o) {
      r.out[0][o] = static_cast<T>(divisor.fixed != 0 ? divisor.fixed
                                                      : counted_taps(p.w, o, divisor.include_pad));
    }
    columns = r.out[0];
  }
  ARRAYNN_MEMBER void set_row(const PoolProblem& p, std::int64_t oh) {
    row_count = divisor.fixed != 0 ? 1 : counted_taps(p.h, oh, divisor.include_pad);
    row = Vec<T>::set1(static_cast<T>(row_count));
  }
  ARRAYNN_MEMBER void set_pixel(const PoolProblem& p, std::int64_t ow) {
    const std::int64_t count =
        divisor.fixed != 0 ? divisor.fixed
                           : max_i(1, row_count * counted_taps(p.w, ow, divisor.include_pad));
    pixel = Vec<T>::set1(static_cast<T>(count));
  }
  ARRAYNN_MEMBER Vec<T> finish_columns(Vec<T> v, std::int64_t o) const {
    const Vec<T> count = Vec<T>::load(columns + o) * row;
    // An empty window sums to 0 and stays 0.
    return v / (divisor.fixed != 0 ? count : max(count, Vec<T>::set1(T(1))));
  }
  ARRAYNN_MEMBER Vec<T> finish(Vec<T> v) const { return v / pixel; }
};

template <class T>
Average<T> make_average(const AverageDivisor& d) {
  Average<T> op;
  op.divisor = d;
  return op;
}

template <bool kStrided, class T>
ARRAYNN_INLINE void backward_channels_first(const PoolProblem p, Average<T> op, const T* dy, T* dx,
                                            Range rows, void* scratch) {
  constexpr std::int64_t kL = kLanes<T>;
  const Row<T> row = make_row(p.w, scratch, T(0));
  op.begin(p, row);
  T* share = row.out[1];
  const bool disjoint = is_disjoint(p.w);
  const bool dense = is_dense(p.h);
  for_windows(p.h, dx, p.w.size, rows, dense, [&](std::int64_t plane, std::int64_t oh, Range mine) {
    op.set_row(p, oh);
    const T* g = dy + (plane * p.h.out + oh) * p.w.out;
    for (std::int64_t o = 0; o < p.w.out; o += kL) {
      const std::int64_t n = p.w.out - o;
      const Vec<T> all = op.finish_columns(load_lanes(g + o, n), o);
      all.store(share + o);
    }
    for (std::int64_t o = p.w.out; o < round_up(p.w.out, kL); ++o) share[o] = T(0);
    const auto value = [&](std::int64_t, std::int64_t o)
                           __attribute__((always_inline)) { return Vec<T>::load(share + o); };
    const bool gather = p.w.stride <= 2;
    if (!gather) {
      spread_row<kStrided>(row, p.w, disjoint,
                           [&](std::int64_t j, std::int64_t o, std::int64_t)
                               __attribute__((always_inline)) { return value(j, o); });
    }
    const Range taps = window_taps(p.h, oh);
    const std::int64_t fresh = first_reached(p.h, oh);
    for (std::int64_t i = taps.begin; i < taps.end; ++i) {
      const std::int64_t ih = oh * p.h.stride - p.h.begin + i * p.h.dilation;
      if (ih < mine.begin || ih >= mine.end) continue;
      T* d = dx + (plane * p.h.size + ih) * p.w.size;
      if (dense && ih >= fresh) {
        gather ? gather_row<false>(p.w, d, value) : take_row<false>(row, d);
      } else {
        gather ? gather_row<true>(p.w, d, value) : take_row<true>(row, d);
      }
    }
  });
}

// Windows of so many taps over so many channels: dx is written once, a row after another, as
// prefetchers follow it and as it can go past the caches. Positions side by side in the same windows
// share their sum.
inline constexpr std::int64_t kGatheredTaps = 16, kGatheredChannels = 64;

ARRAYNN_INLINE bool is_row_by_row(const PoolProblem& p) {
  return p.h.dilation == 1 && p.w.dilation == 1 && p.h.kernel * p.w.kernel > kGatheredTaps &&
         p.c >= kGatheredChannels;
}

template <class T>
ARRAYNN_INLINE void gather_channels_last(const PoolProblem p, Average<T> op, const T* dy, T* dx,
                                         Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const bool stream = is_streamed(p, dx, p.h.size * p.w.size, p.c);
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t sample = r / p.h.size, ih = r - sample * p.h.size;
    const Range h = windows_touching(p.h, ih, ih + 1);
    const T* from = dy + sample * p.h.out * p.w.out * p.c;
    T* to = dx + r * p.w.size * p.c;
    for (std::int64_t iw = 0, end = 0; iw < p.w.size; iw = end) {
      const Range w = windows_touching(p.w, iw, iw + 1);
      end = w.begin < w.end ? min_i(p.w.size, window_end(p.w, w.begin)) : p.w.size;
      if (w.end < p.w.out) end = min_i(end, window_first(p.w, w.end));
      const auto some = [&](auto vectors, std::int64_t c, std::int64_t n)
                            __attribute__((always_inline)) {
                              constexpr int kV = decltype(vectors)::value;
                              Vec<T> sum[kV];
#pragma GCC unroll 16
                              for (int v = 0; v < kV; ++v) sum[v] = Vec<T>::zero();
                              bool first = true;  // 0 + x is not x for x = -0
                              for (std::int64_t oh = h.begin; oh < h.end; ++oh) {
                                op.set_row(p, oh);
                                for (std::int64_t ow = w.begin; ow < w.end; ++ow, first = false) {
                                  op.set_pixel(p, ow);
                                  const T* g = from + (oh * p.w.out + ow) * p.c + c;
#pragma GCC unroll 16
                                  for (int v = 0; v < kV; ++v) {
                                    const Vec<T> share = op.finish(load_lanes(g + v * kL, n));
                                    sum[v] = first ? share : sum[v] + share;
                                  }
                                }
                              }
                              for (std::int64_t x = iw; x < end; ++x) {
                                T* d = to + x * p.c + c;
#pragma GCC unroll 16
                                for (int v = 0; v < kV; ++v) {
                                  if (stream) {
                                    stream_to(sum[v], d + v * kL);
                                  } else {
                                    store_lanes(sum[v], d + v * kL, n);
                                  }
                                }
                              }
                            };
      std::int64_t c = 0;
      constexpr std::int64_t kMany = kReduceVectors * kL;
      for (; c + kMany <= p.c; c += kMany) some(Count<kReduceVectors>{}, c, kL);
      for_channels<T>(c, p.c, some);
    }
  }
}

template <class T>
ARRAYNN_INLINE void backward_channels_last(const PoolProblem p, Average<T> op, const T* dy, T* dx,
                                           Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const bool dense = is_dense(p.h) && is_dense(p.w);
  const bool disjoint = is_disjoint(p.h) && is_disjoint(p.w);
  const bool stream = disjoint && is_streamed(p, dx, p.h.size * p.w.size, p.c);
  const std::int64_t row_step = p.w.size * p.c;
  for_windows(
      p.h, dx, row_step, rows, dense, [&](std::int64_t sample, std::int64_t oh, Range mine) {
        op.set_row(p, oh);
        const Range h = window_taps(p.h, oh);
        const std::int64_t top = window_first(p.h, oh), fresh_row = first_reached(p.h, oh);
        T* plane = dx + sample * p.h.size * row_step;
        if (dense) zero_behind_windows(p, plane, oh, mine);
        for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
          const Range w = window_taps(p.w, ow);
          const std::int64_t left = window_first(p.w, ow), fresh = first_reached(p.w, ow);
          op.set_pixel(p, ow);
          const T* g = dy + ((sample * p.h.out + oh) * p.w.out + ow) * p.c;
          for_channels<T>(
              0, p.c,
              [&](auto vectors, std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
                constexpr int kV = decltype(vectors)::value;
                Vec<T> share[kV];
#pragma GCC unroll 16
                for (int v = 0; v < kV; ++v) share[v] = op.finish(load_lanes(g + c + v * kL, n));
                for (std::int64_t i = h.begin; i < h.end; ++i) {
                  const std::int64_t ih = top + i * p.h.dilation;
                  if (ih < mine.begin || ih >= mine.end) continue;
                  const std::int64_t stored = dense && ih >= fresh_row ? fresh : p.w.size;
                  for (std::int64_t j = w.begin; j < w.end; ++j) {
                    const std::int64_t iw = left + j * p.w.dilation;
                    T* d = plane + ih * row_step + iw * p.c + c;
                    if (stream) {
#pragma GCC unroll 16
                      for (int v = 0; v < kV; ++v) stream_to(share[v], d + v * kL);
                    } else if (iw >= stored) {
#pragma GCC unroll 16
                      for (int v = 0; v < kV; ++v) store_lanes(share[v], d + v * kL, n);
                    } else {
#pragma GCC unroll 16
                      for (int v = 0; v < kV; ++v) {
                        store_lanes(load_lanes(d + v * kL, n) + share[v], d + v * kL, n);
                      }
                    }
                  }
                }
              });
        }
      });
}

// dx of windows over whole planes. Rows of dx are shares of a team: a plane may begin or end in one.
template <class T>
ARRAYNN_INLINE void spread_planes(const PoolProblem p, Average<T> op, const T* dy, T* dx,
                                  Range rows) {
  op.set_row(p, 0);
  op.set_pixel(p, 0);
  for (std::int64_t r = rows.begin; r < rows.end;) {
    const std::int64_t plane = r / p.h.size, end = min_i(rows.end, (plane + 1) * p.h.size);
    const Vec<T> share = op.finish(Vec<T>::set1(dy[plane]));
    for_vectors<T>((end - r) * p.w.size,
                   [&](std::int64_t i, std::int64_t n) __attribute__((always_inline)) {
                     store_lanes(share, dx + r * p.w.size + i, n);
                   });
    r = end;
  }
}

template <class T>
void average(const PoolProblem& p, const AverageDivisor& d, const T* x, T* y, Range rows,
             void* scratch) {
  if (is_by_columns(p)) return reduce_columns(p, make_average<T>(d), x, y, rows, scratch);
  if (is_staged(p, PoolTask::kSum)) {
    return pool_staged(p, x, y, nullptr, rows, scratch,
                       [&](const PoolProblem& b, const T* in, T* out, std::int64_t*) {
                         Average<T> op = make_average<T>(d);
                         reduce_channels_last(b, op, in, out, {0, b.h.out});
                       });
  }
  reduce_windows(p, make_average<T>(d), x, y, rows, scratch);
}

template <class T>
void average_backward(const PoolProblem& p, const AverageDivisor& d, const T* dy, T* dx, Range rows,
                      void* scratch) {
  const Average<T> op = make_average<T>(d);
  if (p.channels_last && is_row_by_row(p)) {
    gather_channels_last(p, op, dy, dx, rows);
  } else if (p.channels_last) {
    backward_channels_last(p, op, dy, dx, rows);
  } else if (is_tiled(p, PoolTask::kSumBackward)) {
    spread_tiles(p, op, dy, dx, rows);
  } else if (is_whole(p, PoolTask::kSumBackward)) {
    spread_planes(p, op, dy, dx, rows);
  } else if (is_by_columns(p)) {
    spread_columns(p, op, dy, dx, rows, scratch);
  } else if (is_staged(p, PoolTask::kSumBackward)) {
    pool_staged_backward(p, dy, dx, rows, scratch,
                         [&](const PoolProblem& b, const T* g, T* out, Range own) {
                           backward_channels_last(b, op, g, out, own);
                         });
  } else if (p.w.stride <= kMaxPhases) {
    backward_channels_first<false>(p, op, dy, dx, rows, scratch);
  } else {
    backward_channels_first<true>(p, op, dy, dx, rows, scratch);
  }
}

}  // namespace

#define ARRAYNN_AVERAGE(T, suffix)                                                           \
  void average_##suffix(const PoolProblem& p, const AverageDivisor& d, const T* x, T* y,     \
                        Range rows, void* scratch) {                                         \
    average(p, d, x, y, rows, scratch);                                                      \
  }                                                                                          \
  void average_backward_##suffix(const PoolProblem& p, const AverageDivisor& d, const T* dy, \
                                 T* dx, Range rows, void* scratch) {                         \
    average_backward(p, d, dy, dx, rows, scratch);                                           \
  }
ARRAYNN_AVERAGE(float, f32)
ARRAYNN_AVERAGE(double, f64)
#undef ARRAYNN_AVERAGE

}  // namespace ARRAYNN_ISA_NAMESPACE
