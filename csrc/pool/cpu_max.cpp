#include "pool/reduce.hpp"
#include "pool/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
using Int = typename Vec<T>::Int;
template <class T>
using Ints = typename Vec<T>::RawInt;

template <class T>
ARRAYNN_INLINE Ints<T> load_ints(const Int<T>* p) {
  Ints<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
ARRAYNN_INLINE void store_ints(Ints<T> v, Int<T>* p) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class T>
ARRAYNN_INLINE Ints<T> set_ints(std::int64_t x) {
  return Ints<T>{} + static_cast<Int<T>>(x);
}

template <class T>
struct Max {
  ARRAYNN_MEMBER Vec<T> identity() const { return Vec<T>::set1(-T(__builtin_inf())); }
  // A NaN stays: max() alone returns its second operand when one is a NaN.
  ARRAYNN_MEMBER Vec<T> combine(Vec<T> acc, Vec<T> v) const {
    return select(v != v, v, max(v, acc));
  }
  ARRAYNN_MEMBER void begin(const PoolProblem&, const Row<T>&) const {}
  ARRAYNN_MEMBER void set_row(const PoolProblem&, std::int64_t) const {}
  ARRAYNN_MEMBER void set_pixel(const PoolProblem&, std::int64_t) const {}
  ARRAYNN_MEMBER Vec<T> finish_columns(Vec<T> v, std::int64_t) const { return v; }
  ARRAYNN_MEMBER Vec<T> finish(Vec<T> v) const { return v; }
};

// The largest value so far and its offset from the window's first position.
template <class T>
struct Best {
  Vec<T> value;
  Ints<T> offset;

  // The first NaN wins, then the first of equal values.
  ARRAYNN_MEMBER void take(Vec<T> v, Ints<T> at) {
#if defined(__AVX512F__)  // mask registers: the compiler goes through vectors of masks
    if constexpr (sizeof(T) == 4) {
      const __mmask16 larger = _mm512_cmp_ps_mask((__m512)value.v, (__m512)v.v, _CMP_NGE_UQ);
      const __mmask16 taken =
          _mm512_mask_cmp_ps_mask(larger, (__m512)value.v, (__m512)value.v, _CMP_ORD_Q);
      value.v = (typename Vec<T>::Raw)_mm512_mask_mov_ps((__m512)value.v, taken, (__m512)v.v);
      offset = (Ints<T>)_mm512_mask_mov_epi32((__m512i)offset, taken, (__m512i)at);
    } else {
      const __mmask8 larger = _mm512_cmp_pd_mask((__m512d)value.v, (__m512d)v.v, _CMP_NGE_UQ);
      const __mmask8 taken =
          _mm512_mask_cmp_pd_mask(larger, (__m512d)value.v, (__m512d)value.v, _CMP_ORD_Q);
      value.v = (typename Vec<T>::Raw)_mm512_mask_mov_pd((__m512d)value.v, taken, (__m512d)v.v);
      offset = (Ints<T>)_mm512_mask_mov_epi64((__m512i)offset, taken, (__m512i)at);
    }
#else
    const Mask<T> keep = (value >= v) | (value != value);
    value = select(keep, value, v);
    offset = keep.v ? offset : at;
#endif
  }
};

// ---- channels_first ------------------------------------------------------------------------------

// row.out: [0] the largest values of an output row, [1] their offsets, [2] the offset of each
// window's first tap inside the row, -1 where there is none.
template <class T>
struct FirstRows {
  Row<T> row;
  Range full;  // outputs whose windows lie wholly inside the row
  bool any_empty;
  Int<T>*offset, *first;
};

template <class T>
ARRAYNN_INLINE FirstRows<T> make_first_rows(const PoolAxis& w, void* scratch, T fill) {
  FirstRows<T> f{make_row(w, scratch, fill), {}, false, nullptr, nullptr};
  f.offset = reinterpret_cast<Int<T>*>(f.row.out[1]);
  f.first = reinterpret_cast<Int<T>*>(f.row.out[2]);
  for (std::int64_t o = 0; o < w.out; ++o) {
    const Range taps = window_taps(w, o);
    const bool empty = taps.begin == taps.end;
    f.first[o] = static_cast<Int<T>>(empty ? -1 : taps.begin * w.dilation);
    f.any_empty |= empty;
  }
  const std::int64_t room = w.size + w.begin - window_span(w);
  f.full.begin = min_i(w.out, ceil_div(w.begin, w.stride));
  f.full.end = max_i(f.full.begin, room < 0 ? 0 : min_i(w.out, room / w.stride + 1));
  return f;
}

// Largest values and offsets of output row oh of a plane.
template <bool kStrided, class T>
ARRAYNN_INLINE void best_of_row(const PoolProblem& p, const FirstRows<T>& f, const T* plane,
                                std::int64_t oh) {
  constexpr std::int64_t kL = kLanes<T>;
  const Range taps = window_taps(p.h, oh);
  const std::int64_t top = oh * p.h.stride - p.h.begin;
  T* best = f.row.out[0];
  if (taps.begin == taps.end) {
    for (std::int64_t o = 0; o < p.w.out; ++o) {
      best[o] = -T(__builtin_inf());
      f.offset[o] = -1;
    }
    return;
  }
  for (std::int64_t i = taps.begin; i < taps.end; ++i) {
    const T* in = plane + (top + i * p.h.dilation) * p.w.size;
    put_row(f.row, [&](std::int64_t col, std::int64_t n)
                       __attribute__((always_inline)) { return load_some(in + col, n); });
    const std::int64_t down = i * p.h.dilation * p.w.size;
    for (std::int64_t o = 0; o < p.w.out; o += kL) {
      Best<T> b;
      if (i == taps.begin) {
        b = {Vec<T>::set1(-T(__builtin_inf())), load_ints<T>(f.first + o) + set_ints<T>(down)};
      } else {
        b = {Vec<T>::load(best + o), load_ints<T>(f.offset + o)};
      }
      for (std::int64_t j = 0; j < p.w.kernel; ++j) {
        b.take(load_tap<kStrided>(f.row, j, o, min_i(kL, p.w.out - o)),
               set_ints<T>(down + j * p.w.dilation));
      }
      b.value.store(best + o);
      store_ints<T>(b.offset, f.offset + o);
    }
  }
  if (!f.any_empty) return;
  for (std::int64_t o = 0; o < p.w.out; ++o) {
    if (f.first[o] < 0) f.offset[o] = -1;
  }
}

template <bool kStrided, class T>
ARRAYNN_INLINE void indices_channels_first(const PoolProblem& p, const T* x, T* y,
                                           std::int64_t* indices, Range rows, void* scratch) {
  const FirstRows<T> f = make_first_rows(p.w, scratch, -T(__builtin_inf()));
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t plane = r / p.h.out, oh = r % p.h.out;
    best_of_row<kStrided>(p, f, x + plane * p.h.size * p.w.size, oh);
    const T* best = f.row.out[0];
    T* out = y + r * p.w.out;
    std::int64_t* where = indices + r * p.w.out;
    const std::int64_t base = (oh * p.h.stride - p.h.begin) * p.w.size - p.w.begin;
    for (std::int64_t o = 0; o < p.w.out; ++o) out[o] = best[o];
    for (std::int64_t o = 0; o < p.w.out; ++o) {
      const std::int64_t at = f.offset[o];
      where[o] = at < 0 ? -1 : base + o * p.w.stride + at;
    }
  }
}

// The offsets of given indices; false when one lies outside its window.
template <class T>
ARRAYNN_INLINE bool offsets_of_row(const PoolProblem& p, const FirstRows<T>& f,
                                   const std::int64_t* where, std::int64_t oh) {
  constexpr std::int64_t kL = kLanes<T>;
  const Range h = window_taps(p.h, oh);
  const std::int64_t base = (oh * p.h.stride - p.h.begin) * p.w.size - p.w.begin;
  std::int64_t lost = 0;
  for (std::int64_t o = 0; o < p.w.out; ++o) {
    const std::int64_t at = where[o] - base - o * p.w.stride;
    f.offset[o] = static_cast<Int<T>>(at);
    lost |= at ^ static_cast<std::int64_t>(f.offset[o]);
  }
  bool good = lost == 0;
  std::int64_t o = f.full.begin;
  if (h.begin < h.end) {
    for (; o + kL <= f.full.end; o += kL) {
      const Ints<T> at = load_ints<T>(f.offset + o);
      Ints<T> hit{};
      for (std::int64_t i = h.begin; i < h.end; ++i) {
        for (std::int64_t j = 0; j < p.w.kernel; ++j) {
          hit |= at == set_ints<T>(i * p.h.dilation * p.w.size + j * p.w.dilation);
        }
      }
      Int<T> all = -1;
      for (int l = 0; l < kL; ++l) all &= hit[l];
      good &= all != 0;
    }
  }
  for (std::int64_t q = 0; q < p.w.out; ++q) {
    if (q == f.full.begin && o > q) {
      q = o - 1;  // those were compared above
      continue;
    }
    const Range w = window_taps(p.w, q);
    if (h.begin == h.end || w.begin == w.end) {
      good &= where[q] == -1;
      f.offset[q] = -1;
      continue;
    }
    const std::int64_t at = f.offset[q], row = p.h.dilation * p.w.size;
    // The columns of a window span less than a row of the input, or the only row.
    bool found = false;
    for (std::int64_t i = h.begin; i < h.end && !found; ++i) {
      const std::int64_t along = at - i * row;
      found = along >= w.begin * p.w.dilation && along <= (w.end - 1) * p.w.dilation &&
              along % p.w.dilation == 0;
    }
    good &= found;
  }
  return good;
}

template <bool kStrided, class T>
ARRAYNN_INLINE bool backward_channels_first(const PoolProblem& p, const T* dy, const T* x,
                                            const std::int64_t* indices, T* dx, Range rows,
                                            void* scratch, void* spread_scratch) {
  const FirstRows<T> f = make_first_rows(p.w, scratch, -T(__builtin_inf()));
  const Row<T> out = make_row(p.w, spread_scratch, T(0));
  const bool disjoint = p.w.stride >= window_span(p.w);
  bool good = true;
  const bool dense = is_dense(p.h);
  for_windows(p.h, dx, p.w.size, rows, dense, [&](std::int64_t plane, std::int64_t oh, Range mine) {
    const std::int64_t at = (plane * p.h.out + oh) * p.w.out;
    if (indices == nullptr) {
      best_of_row<kStrided>(p, f, x + plane * p.h.size * p.w.size, oh);
    } else {
      good &= offsets_of_row(p, f, indices + at, oh);
    }
    const T* g = dy + at;
    const Range taps = window_taps(p.h, oh);
    for (std::int64_t i = taps.begin; i < taps.end; ++i) {
      const std::int64_t ih = oh * p.h.stride - p.h.begin + i * p.h.dilation;
      if (ih < mine.begin || ih >= mine.end) continue;
      const std::int64_t down = i * p.h.dilation * p.w.size;
      spread_row<kStrided>(
          out, p.w, disjoint,
          [&](std::int64_t j, std::int64_t o, std::int64_t n) __attribute__((always_inline)) {
            const Mask<T> won{load_ints<T>(f.offset + o) == set_ints<T>(down + j * p.w.dilation)};
            return select(won, load_some(g + o, n), Vec<T>::zero());
          });
      T* d = dx + (plane * p.h.size + ih) * p.w.size;
      if (dense && is_first(p.h, oh, ih)) {
        take_row<false>(out, d);
      } else {
        take_row<true>(out, d);
      }
    }
  });
  return good;
}

// ---- channels_last -------------------------------------------------------------------------------

// The taps of one output pixel inside the input.
struct Window {
  Range h, w;
  std::int64_t base;  // position of the window's first tap in its plane, inside or not
  std::int64_t row_offset, col_offset;  // positions between taps

  ARRAYNN_MEMBER bool empty() const { return h.begin == h.end || w.begin == w.end; }
};

ARRAYNN_INLINE Window make_window(const PoolProblem& p, std::int64_t oh, std::int64_t ow) {
  return {window_taps(p.h, oh), window_taps(p.w, ow),
          (oh * p.h.stride - p.h.begin) * p.w.size + ow * p.w.stride - p.w.begin,
          p.h.dilation * p.w.size, p.w.dilation};
}

// Of channels [c, c + n) of the plane x; the window is not empty.
template <class T>
ARRAYNN_INLINE Best<T> best_of_window(const PoolProblem& p, const Window& k, const T* x,
                                      std::int64_t c, std::int64_t n) {
  const std::int64_t first = k.h.begin * k.row_offset + k.w.begin * k.col_offset;
  Best<T> b{Vec<T>::set1(-T(__builtin_inf())), set_ints<T>(first)};
  for (std::int64_t i = k.h.begin; i < k.h.end; ++i) {
    for (std::int64_t j = k.w.begin; j < k.w.end; ++j) {
      const std::int64_t offset = i * k.row_offset + j * k.col_offset;
      b.take(load_some(x + (k.base + offset) * p.c + c, n), set_ints<T>(offset));
    }
  }
  return b;
}

template <class T>
ARRAYNN_INLINE void indices_channels_last(const PoolProblem& p, const T* x, T* y,
                                          std::int64_t* indices, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t sample = r / p.h.out, oh = r % p.h.out;
    const T* plane = x + sample * p.h.size * p.w.size * p.c;
    for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
      const Window k = make_window(p, oh, ow);
      const std::int64_t at = (r * p.w.out + ow) * p.c;
      if (k.empty()) {
        for (std::int64_t c = 0; c < p.c; ++c) {
          y[at + c] = -T(__builtin_inf());
          indices[at + c] = -1;
        }
        continue;
      }
      const auto some = [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
        const Best<T> b = best_of_window(p, k, plane, c, n);
        store_some(b.value, y + at + c, n);
        Int<T> offset[kL];
        store_ints<T>(b.offset, offset);
        for (std::int64_t l = 0; l < n; ++l) indices[at + c + l] = k.base + offset[l];
      };
      std::int64_t c = 0;
      for (; c + kL <= p.c; c += kL) some(c, kL);
      if (c < p.c) some(c, p.c - c);
    }
  }
}

template <class T>
ARRAYNN_INLINE bool backward_channels_last(const PoolProblem& p, const T* dy, const T* x,
                                           const std::int64_t* indices, T* dx, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  bool good = true;
  const bool dense = is_dense(p.h) && is_dense(p.w);
  for_windows(
      p.h, dx, p.w.size * p.c, rows, dense, [&](std::int64_t sample, std::int64_t oh, Range mine) {
        const std::int64_t plane = sample * p.h.size * p.w.size * p.c;
        if (dense) zero_behind_windows(p, dx + plane, oh, mine);
        for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
          const Window k = make_window(p, oh, ow);
          const std::int64_t at = ((sample * p.h.out + oh) * p.w.out + ow) * p.c;
          if (k.empty()) {
            for (std::int64_t c = 0; indices != nullptr && c < p.c; ++c)
              good &= indices[at + c] == -1;
            continue;
          }
          const auto some = [&](std::int64_t c, std::int64_t n) __attribute__((always_inline)) {
            Ints<T> offset;
            if (indices == nullptr) {
              offset = best_of_window(p, k, x + plane, c, n).offset;
            } else {
              Int<T> lanes[kL];
              std::int64_t lost = 0;
              for (std::int64_t l = 0; l < kL; ++l) {
                const std::int64_t o = indices[at + c + min_i(l, n - 1)] - k.base;
                lanes[l] = static_cast<Int<T>>(o);
                lost |= o ^ static_cast<std::int64_t>(lanes[l]);
              }
              good &= lost == 0;
              offset = load_ints<T>(lanes);
            }
            const Vec<T> g = load_some(dy + at + c, n);
            Ints<T> hit{};
            for (std::int64_t i = k.h.begin; i < k.h.end; ++i) {
              const std::int64_t ih = oh * p.h.stride - p.h.begin + i * p.h.dilation;
              const bool here = ih >= mine.begin && ih < mine.end;
              const bool first_row = dense && is_first(p.h, oh, ih);
              for (std::int64_t j = k.w.begin; j < k.w.end; ++j) {
                const std::int64_t tap = i * k.row_offset + j * k.col_offset;
                const Mask<T> won{offset == set_ints<T>(tap)};
                hit |= won.v;
                if (!here) continue;
                T* d = dx + plane + (k.base + tap) * p.c + c;
                const Vec<T> v = select(won, g, Vec<T>::zero());
                if (first_row && is_first(p.w, ow, ow * p.w.stride - p.w.begin + j)) {
                  store_some(v, d, n);
                } else {
                  store_some(load_some(d, n) + v, d, n);
                }
              }
            }
            if (indices == nullptr) return;
            Int<T> all = -1;
            for (int l = 0; l < kL; ++l) all &= hit[l];
            good &= all != 0;
          };
          std::int64_t c = 0;
          for (; c + kL <= p.c; c += kL) some(c, kL);
          if (c < p.c) some(c, p.c - c);
        }
      });
  return good;
}

// ---- entry points --------------------------------------------------------------------------------

template <class T>
void max_values(const PoolProblem& p, const T* x, T* y, Range rows, void* scratch) {
  reduce_windows(p, Max<T>{}, x, y, rows, scratch);
}

template <class T>
void max_indices(const PoolProblem& p, const T* x, T* y, std::int64_t* indices, Range rows,
                 void* scratch) {
  if (p.channels_last) return indices_channels_last(p, x, y, indices, rows);
  if (p.w.stride <= kMaxPhases) {
    return indices_channels_first<false>(p, x, y, indices, rows, scratch);
  }
  indices_channels_first<true>(p, x, y, indices, rows, scratch);
}

template <class T>
bool max_backward(const PoolProblem& p, const T* dy, const T* x, const std::int64_t* indices, T* dx,
                  Range rows, void* scratch) {
  if (p.channels_last) return backward_channels_last(p, dy, x, indices, dx, rows);
  void* second = static_cast<char*>(scratch) + row_scratch_bytes(p.w, sizeof(T));
  if (p.w.stride <= kMaxPhases) {
    return backward_channels_first<false>(p, dy, x, indices, dx, rows, scratch, second);
  }
  return backward_channels_first<true>(p, dy, x, indices, dx, rows, scratch, second);
}

}  // namespace

extern const PoolKernels pool_kernels = {
    {&max_values<float>, &max_indices<float>, &average_f32, &max_backward<float>,
     &average_backward_f32},
    {&max_values<double>, &max_indices<double>, &average_f64, &max_backward<double>,
     &average_backward_f64},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
