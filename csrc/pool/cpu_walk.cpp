#include "pool/walk.hpp"

#include <type_traits>

#include "pool/max_last.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// sum + g in the lanes that hit.
template <class T>
ARRAYNN_INLINE Vec<T> add_where(Hits<T> hit, Vec<T> sum, Vec<T> g) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return {(typename Vec<T>::Raw)_mm512_mask_add_ps((__m512)sum.v, hit.bits, (__m512)sum.v,
                                                     (__m512)g.v)};
  } else {
    return {(typename Vec<T>::Raw)_mm512_mask_add_pd((__m512d)sum.v, hit.bits, (__m512d)sum.v,
                                                     (__m512d)g.v)};
  }
#else
  return sum + hit.choose(g, Vec<T>::zero());
#endif
}

// The first n lanes of positions, and 0.
template <class T>
ARRAYNN_INLINE Ints<T> load_ints_n(const Int<T>* p, std::int64_t n) {
  if (n >= kLanes<T>) return load_ints<T>(p);
  Int<T> lanes[kLanes<T>] = {};
  for (std::int64_t l = 0; l < n; ++l) lanes[l] = p[l];
  return load_ints<T>(lanes);
}

template <class T>
ARRAYNN_INLINE void store_ints_n(Ints<T> v, Int<T>* p, std::int64_t n) {
  if (n >= kLanes<T>) return store_ints<T>(v, p);
  for (std::int64_t l = 0; l < n; ++l) p[l] = v[l];
}

// As many positions as T has lanes.
typedef std::int64_t OneVector __attribute__((vector_size(kVecBytes)));
typedef std::int64_t TwoVectors __attribute__((vector_size(2 * kVecBytes)));
template <class T>
using Positions = std::conditional_t<sizeof(T) == 4, TwoVectors, OneVector>;

// Output row oh of a sample: its indices, cut to the size of T; false when one lies outside of its
// window.
template <class T>
bool keep_given(const PoolProblem& p, std::int64_t oh, const std::int64_t* indices, Int<T>* to) {
  constexpr std::int64_t kL = kLanes<T>;
  using Unsigned = std::make_unsigned_t<Int<T>>;
  typedef Unsigned Columns __attribute__((vector_size(sizeof(Vec<T>))));
  const Range h = window_taps(p.h, oh);
  const std::int64_t top = window_first(p.h, oh) + h.begin, rows = h.end - h.begin;
  const auto width = static_cast<Unsigned>(p.w.size);
  std::int64_t any = 0;
  for (std::int64_t i = 0; i < p.w.out * p.c; ++i) any |= indices[i];
  if (rows <= 0 || any < 0 || any > INT32_MAX) return false;
  Ints<T> wrong{};
  for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
    const Range w = window_taps(p.w, ow);
    const auto first = static_cast<Unsigned>(top * p.w.size + window_first(p.w, ow) + w.begin);
    const auto columns = static_cast<Unsigned>(w.end - w.begin);
    for (std::int64_t c = 0; c < p.c; c += kL) {
      const std::int64_t n = min_i(kL, p.c - c), at = ow * p.c + c;
      Positions<T> wide;
      if (n == kL) {
        __builtin_memcpy(&wide, indices + at, sizeof wide);
      } else {
        for (std::int64_t l = 0; l < kL; ++l) wide[l] = indices[at + min_i(l, n - 1)];
      }
      const Ints<T> index = __builtin_convertvector(wide, Ints<T>);
      // From the window's first tap, less a row as often as that is possible: its column.
      Columns column = reinterpret_cast<Columns>(index) - first;
      for (std::int64_t i = 1; i < rows; ++i) {
        const Columns less = column - width;
        column = less < column ? less : column;
      }
      wrong |= column >= columns;
      store_ints_n<T>(index, to + at, n);
    }
  }
  for (std::int64_t l = 0; l < kL; ++l) {
    if (wrong[l] != 0) return false;
  }
  return true;
}

// And as they are found in x.
template <class T>
void keep_found(const PoolProblem& p, std::int64_t oh, const T* x, Int<T>* to) {
  const VolumeProblem planes = flat_volume(p);
  for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
    const Window k = make_window(planes, 0, oh, ow);
    Int<T>* out = to + ow * p.c;
    if (k.empty()) {
      for (std::int64_t c = 0; c < p.c; ++c) out[c] = -1;
      continue;
    }
    const T* in = x + k.base * p.c;
    for_channels<T>(0, p.c,
                    [&](auto count, std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
                      constexpr int kV = decltype(count)::value;
                      Best<T> best[kV];
                      best_of_window(k, in + c, p.c, n, best);
                      for (int v = 0; v < kV; ++v) {
                        const Ints<T> at = best[v].offset + set_ints<T>(k.base);
                        store_ints_n<T>(at, out + c + v * kLanes<T>, n);
                      }
                    });
  }
}

// The windows over one row of dx.
template <class T>
struct Over {
  std::int64_t rows;
  const Int<T>* at[kWalkRows];
  const T* dy[kWalkRows];
};

// kV vectors of channels, or n channels, of a row of dx whose first position is `base`.
template <int kKernel, int kStride, int kV, class T>
ARRAYNN_INLINE void gather_columns(const PoolProblem& p, const Over<T>& over, std::int64_t base,
                                   std::int64_t c, std::int64_t n, T* dx) {
  constexpr std::int64_t kL = kLanes<T>;
  Vec<T> sum[kKernel][kV];
  for (auto& column : sum) {
    for (Vec<T>& v : column) v = Vec<T>::zero();
  }
  const auto store = [&](std::int64_t iw, const Vec<T>(&v)[kV]) __attribute__((always_inline)) {
    if (iw < 0 || iw >= p.w.size) return;
    for (int i = 0; i < kV; ++i) store_lanes(v[i], dx + iw * p.c + c + i * kL, n);
  };
  std::int64_t left = -p.w.begin;
  for (std::int64_t o = 0; o < p.w.out; ++o, left += kStride) {
    Ints<T> tap[kKernel];
    for (int j = 0; j < kKernel; ++j) tap[j] = set_ints<T>(base + left + j);
    for (std::int64_t r = 0; r < over.rows; ++r) {
      for (int i = 0; i < kV; ++i) {
        const std::int64_t from = o * p.c + c + i * kL;
        const Ints<T> at = load_ints_n<T>(over.at[r] + from, n);
        const Vec<T> g = load_lanes(over.dy[r] + from, n);
        for (int j = 0; j < kKernel; ++j) {
          sum[j][i] = add_where(Hits<T>::of(at, tap[j]), sum[j][i], g);
        }
      }
    }
    for (int j = 0; j < kStride; ++j) store(left + j, sum[j]);
    for (int j = 0; j < kKernel; ++j) {
      for (int i = 0; i < kV; ++i) {
        sum[j][i] = j + kStride < kKernel ? sum[j + kStride][i] : Vec<T>::zero();
      }
    }
  }
  for (int j = 0; j < kKernel - kStride; ++j) store(left + j, sum[j]);
}

template <int kKernel, int kStride, class T>
void gather_channels(const PoolProblem& p, const Over<T>& over, std::int64_t base, T* dx) {
  constexpr std::int64_t kL = kLanes<T>;
  std::int64_t c = 0;
#if defined(__AVX512F__)  // pieces as long as there are registers for: prefetchers follow them
  for (; c + 4 * kL <= p.c; c += 4 * kL) {
    gather_columns<kKernel, kStride, 4>(p, over, base, c, kL, dx);
  }
#endif
  for (; c + 2 * kL <= p.c; c += 2 * kL) {
    gather_columns<kKernel, kStride, 2>(p, over, base, c, kL, dx);
  }
  for (; c < p.c; c += kL) {
    gather_columns<kKernel, kStride, 1>(p, over, base, c, min_i(kL, p.c - c), dx);
  }
  const std::int64_t end = p.w.out == 0 ? 0 : max_i(0, window_end(p.w, p.w.out - 1));
  zero_fill(dx + end * p.c, (p.w.size - end) * p.c);
}

template <class T>
bool gathered(const PoolProblem& p, const T* dy, const T* x, const std::int64_t* indices, T* dx,
              Range rows, void* scratch) {
  auto* kept = static_cast<Int<T>*>(scratch);
  const std::int64_t mask = ring_size(walk_rows(p.h)) - 1, out_row = p.w.out * p.c;
  const auto gather = p.w.kernel == 2   ? &gather_channels<2, 1, T>
                      : p.w.stride == 1 ? &gather_channels<3, 1, T>
                                        : &gather_channels<3, 2, T>;
  std::int64_t sample = -1, ready = 0;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    if (sample != r / p.h.size) {
      sample = r / p.h.size;
      ready = 0;
    }
    const std::int64_t ih = r - sample * p.h.size;
    const Range windows = windows_touching(p.h, ih, ih + 1);
    for (ready = max_i(ready, windows.begin); ready < windows.end; ++ready) {
      Int<T>* to = kept + (ready & mask) * out_row;
      if (indices == nullptr) {
        keep_found(p, ready, x + sample * p.h.size * p.w.size * p.c, to);
      } else if (!keep_given<T>(p, ready, indices + (sample * p.h.out + ready) * out_row, to)) {
        return false;
      }
    }
    Over<T> over{};
    for (std::int64_t oh = windows.begin; oh < windows.end; ++oh) {
      over.at[over.rows] = kept + (oh & mask) * out_row;
      over.dy[over.rows++] = dy + (sample * p.h.out + oh) * out_row;
    }
    gather(p, over, ih * p.w.size, dx + r * p.w.size * p.c);
  }
  return true;
}

// Rows that are windows of kRun elements side by side.
template <int kRun, class T>
ARRAYNN_INLINE void spread_to_runs(const PoolProblem& p, const T* dy, const T* x, T* dx,
                                   Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const T* in = x + r * p.w.size;
    T* to = dx + r * p.w.size;
    for (std::int64_t o = 0; o < p.w.out; o += kL) {
      const std::int64_t n = min_i(kL, p.w.out - o);
      Vec<T> run[kRun], taps[kRun];
      for (int k = 0; k < kRun; ++k) {
        const std::int64_t left = n * kRun - k * kL;
        run[k] = left > 0 ? load_lanes(in + o * kRun + k * kL, left) : Vec<T>::zero();
      }
      split_run(run, taps);
      give_to_largest(taps, load_lanes(dy + r * p.w.out + o, n), run);
      merge_run(run, taps);
      for (int k = 0; k < kRun; ++k) {
        const std::int64_t left = n * kRun - k * kL;
        if (left > 0) store_lanes(taps[k], to + o * kRun + k * kL, left);
      }
    }
    zero_fill(to + p.w.out * kRun, p.w.size - p.w.out * kRun);
  }
}

template <class T>
void runs(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows) {
  if (p.w.kernel == 2) return spread_to_runs<2>(p, dy, x, dx, rows);
  spread_to_runs<4>(p, dy, x, dx, rows);
}

}  // namespace

extern const WalkKernels walk_kernels = {{&runs<float>, &gathered<float>},
                                         {&runs<double>, &gathered<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
