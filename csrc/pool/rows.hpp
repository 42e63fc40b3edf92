// One padded row in L1 whose positions are kept apart by their residue modulo the stride, so that
// tap j of consecutive outputs is a contiguous load; and the way back.
#pragma once
#include "pool/pool.hpp"
#include "simd/transpose.hpp"
#include "simd/write.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Whether a result of `plane` elements of every plane goes past the caches, written in rows of n
// elements, every line once: whole vectors at addresses of whole vectors.
template <class T>
ARRAYNN_INLINE bool is_streamed(const PoolProblem& p, const T* to, std::int64_t plane,
                                std::int64_t n) {
  return streams(p.n * p.c * plane, sizeof(T)) && n % kLanes<T> == 0 &&
         reinterpret_cast<std::uintptr_t>(to) % kVecBytes == 0;
}

template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

template <class T>
struct Row {
  T* data;
  std::int64_t* taps;  // where tap j of output 0 lies
  std::int64_t phases, length;
  std::int64_t step;  // between two outputs: 1, or the stride of a row that is kept whole
  std::int64_t begin, size;
  T* out[3];  // vectors over the output row; the last two may hold integers of T's size
};

// The row of a thread, every position filled with `value`.
template <class T>
ARRAYNN_INLINE Row<T> make_row(const PoolAxis& w, void* scratch, T value) {
  Row<T> row;
  const RowPlan plan = row_plan(w);
  row.taps = static_cast<std::int64_t*>(scratch);
  row.data = reinterpret_cast<T*>(static_cast<char*>(scratch) + round_up(w.kernel * 8, 64));
  row.phases = plan.phases;
  row.length = plan.length;
  row.step = w.stride <= kMaxPhases ? 1 : w.stride;
  row.begin = w.begin;
  row.size = w.size;
  const std::int64_t elements = row_elements(w);
  for (std::int64_t i = 0; i < 3; ++i) {
    row.out[i] = row.data + elements + i * out_elements(w) + out_margin(w);
  }
  for (std::int64_t i = 0; i < elements; ++i) row.data[i] = value;
  for (std::int64_t i = 0; i < 3 * out_elements(w); ++i) row.data[elements + i] = T(0);
  for (std::int64_t j = 0; j < w.kernel; ++j) {
    const std::int64_t p = j * w.dilation;
    row.taps[j] = p % plan.phases * plan.length + p / plan.phases;
  }
  return row;
}

// Where input position k of a row of a power of two of phases lies; k + phases is one behind it.
template <class T>
ARRAYNN_INLINE T* phase_of(const Row<T>& row, std::int64_t k) {
  const std::int64_t at = row.begin + k;
  return row.data + at % row.phases * row.length + at / row.phases;
}

// Lane l of v[k] is element 4 l + k of four vectors laid end to end, and the way back.
template <class T>
ARRAYNN_INLINE void split_four(const Vec<T> (&in)[4], Vec<T> (&v)[4]) {
  Vec<T> even[2], odd[2];
  split_pair(in[0], in[1], &even[0], &odd[0]);
  split_pair(in[2], in[3], &even[1], &odd[1]);
  split_pair(even[0], even[1], &v[0], &v[2]);
  split_pair(odd[0], odd[1], &v[1], &v[3]);
}
template <class T>
ARRAYNN_INLINE void merge_four(const Vec<T> (&v)[4], Vec<T> (&out)[4]) {
  Vec<T> even[2], odd[2];
  merge_pair(v[0], v[2], &even[0], &even[1]);
  merge_pair(v[1], v[3], &odd[0], &odd[1]);
  merge_pair(even[0], odd[0], &out[0], &out[1]);
  merge_pair(even[1], odd[1], &out[2], &out[3]);
}

// Fills the row's input positions with load(x, n): elements [x, x + n) of the input row, n <= kSize.
template <class T, class Load>
ARRAYNN_INLINE void put_row(const Row<T>& row, const Load& load) {
  constexpr std::int64_t kL = kLanes<T>;
  if (row.phases == 1) {
    T* to = row.data + row.begin;
    std::int64_t x = 0;
    for (; x + kL <= row.size; x += kL) load(x, kL).store(to + x);
    if (x < row.size) store_n(load(x, row.size - x), to + x, row.size - x);
    return;
  }
  if (row.phases == 2) {
    // Position begin + x is even or odd with x, for every x of the loop.
    T* even = row.data + (row.begin & 1) * row.length + (row.begin >> 1);
    T* odd = row.data + ((row.begin + 1) & 1) * row.length + ((row.begin + 1) >> 1);
    std::int64_t x = 0;
    for (; x + 2 * kL <= row.size; x += 2 * kL) {
      Vec<T> e, o;
      split_pair(load(x, kL), load(x + kL, kL), &e, &o);
      e.store(even + (x >> 1));
      o.store(odd + (x >> 1));
    }
    const std::int64_t left = row.size - x;
    if (left > 0) {
      Vec<T> e, o, a, b = Vec<T>::zero();
      if (left > kL) {
        a = load(x, kL);
        b = load(x + kL, left - kL);
      } else {
        a = load(x, left);
      }
      split_pair(a, b, &e, &o);
      store_n(e, even + (x >> 1), (left + 1) >> 1);
      store_n(o, odd + (x >> 1), left >> 1);
    }
    return;
  }
  if (row.phases == 4) {
    T* to[4];
    for (std::int64_t k = 0; k < 4; ++k) to[k] = phase_of(row, k);
    const auto four = [&](std::int64_t x, std::int64_t left) __attribute__((always_inline)) {
      Vec<T> in[4], v[4];
      for (std::int64_t k = 0; k < 4; ++k) {
        const std::int64_t n = left - k * kL;
        in[k] = n > 0 ? load(x + k * kL, min_i(kL, n)) : Vec<T>::zero();
      }
      split_four(in, v);
      for (std::int64_t k = 0; k < 4; ++k) store_lanes(v[k], to[k] + (x >> 2), (left + 3 - k) >> 2);
    };
    std::int64_t x = 0;
    for (; x + 4 * kL <= row.size; x += 4 * kL) four(x, 4 * kL);
    if (x < row.size) four(x, row.size - x);
    return;
  }
  std::int64_t phase = row.begin % row.phases, at = row.begin / row.phases;
  for (std::int64_t x = 0; x < row.size; x += kL) {
    const std::int64_t n = min_i(kL, row.size - x);
    T lanes[kL];
    if (n == kL) {
      load(x, kL).store(lanes);
    } else {
      load(x, n).store(lanes);
    }
    for (std::int64_t l = 0; l < n; ++l) {
      row.data[phase * row.length + at] = lanes[l];
      if (++phase == row.phases) {
        phase = 0;
        ++at;
      }
    }
  }
}

// The row's input positions to dst, or added to it.
template <bool kAdd, class T>
ARRAYNN_INLINE void take_row(const Row<T>& row, T* dst) {
  constexpr std::int64_t kL = kLanes<T>;
  const auto write = [](Vec<T> v, T* p, std::int64_t n) __attribute__((always_inline)) {
    store_lanes(kAdd ? load_lanes(p, n) + v : v, p, n);
  };
  if (row.phases == 1) {
    const T* from = row.data + row.begin;
    std::int64_t x = 0;
    for (; x + kL <= row.size; x += kL) write(Vec<T>::load(from + x), dst + x, kL);
    if (x < row.size) write(Vec<T>::load(from + x), dst + x, row.size - x);
    return;
  }
  if (row.phases == 2) {
    const T* even = row.data + (row.begin & 1) * row.length + (row.begin >> 1);
    const T* odd = row.data + ((row.begin + 1) & 1) * row.length + ((row.begin + 1) >> 1);
    std::int64_t x = 0;
    Vec<T> a, b;
    for (; x + 2 * kL <= row.size; x += 2 * kL) {
      merge_pair(Vec<T>::load(even + (x >> 1)), Vec<T>::load(odd + (x >> 1)), &a, &b);
      write(a, dst + x, kL);
      write(b, dst + x + kL, kL);
    }
    const std::int64_t left = row.size - x;
    if (left > 0) {
      merge_pair(Vec<T>::load(even + (x >> 1)), Vec<T>::load(odd + (x >> 1)), &a, &b);
      write(a, dst + x, min_i(left, kL));
      if (left > kL) write(b, dst + x + kL, left - kL);
    }
    return;
  }
  if (row.phases == 4) {
    const T* from[4];
    for (std::int64_t k = 0; k < 4; ++k) from[k] = phase_of(row, k);
    const auto four = [&](std::int64_t x, std::int64_t left) __attribute__((always_inline)) {
      Vec<T> v[4], out[4];
      for (std::int64_t k = 0; k < 4; ++k) v[k] = Vec<T>::load(from[k] + (x >> 2));
      merge_four(v, out);
      for (std::int64_t k = 0; k < 4; ++k) {
        const std::int64_t n = left - k * kL;
        if (n > 0) write(out[k], dst + x + k * kL, n);
      }
    };
    std::int64_t x = 0;
    for (; x + 4 * kL <= row.size; x += 4 * kL) four(x, 4 * kL);
    if (x < row.size) four(x, row.size - x);
    return;
  }
  std::int64_t phase = row.begin % row.phases, at = row.begin / row.phases;
  for (std::int64_t x = 0; x < row.size; ++x) {
    const T v = row.data[phase * row.length + at];
    dst[x] = kAdd ? dst[x] + v : v;
    if (++phase == row.phases) {
      phase = 0;
      ++at;
    }
  }
}

// A vector of elements side by side, or the first n of one whose elements are `step` apart.
template <bool kStrided, class T>
ARRAYNN_INLINE Vec<T> load_strided(const T* p, std::int64_t step, std::int64_t n) {
  if constexpr (!kStrided) {
    (void)step, (void)n;
    return Vec<T>::load(p);
  } else {
    T lanes[kLanes<T>] = {};
    for (std::int64_t l = 0; l < n; ++l) lanes[l] = p[l * step];
    return Vec<T>::load(lanes);
  }
}
// Tap j of outputs [o, o + kSize); of a strided row only the first n.
template <bool kStrided, class T>
ARRAYNN_INLINE Vec<T> load_tap(const Row<T>& row, std::int64_t j, std::int64_t o, std::int64_t n) {
  return load_strided<kStrided>(row.data + row.taps[j] + o * row.step, row.step, n);
}

// Sums value(j, o, n), the share of tap j of outputs [o, o + kSize), into the row. Lanes from n on
// must be 0. With kDisjoint no two windows share a position.
template <bool kStrided, class T, class Value>
ARRAYNN_INLINE void spread_row(const Row<T>& row, const PoolAxis& w, bool disjoint,
                               const Value& value) {
  constexpr std::int64_t kL = kLanes<T>;
  if (!disjoint) {
    for (std::int64_t i = 0; i < row.phases * row.length; i += 16) {
      for (std::int64_t l = 0; l < 16; l += kL) Vec<T>::zero().store(row.data + i + l);
    }
  }
  // Taps outermost: a vector just stored is not loaded again shifted by a lane.
  for (std::int64_t j = 0; j < w.kernel; ++j) {
    T* p = row.data + row.taps[j];
    for (std::int64_t o = 0; o < w.out; o += kL) {
      const Vec<T> v = value(j, o, min_i(kL, w.out - o));
      if constexpr (!kStrided) {
        (disjoint ? v : Vec<T>::load(p + o) + v).store(p + o);
      } else {
        T lanes[kL];
        v.store(lanes);
        for (std::int64_t l = 0; l < min_i(kL, w.out - o); ++l) {
          T& at = p[(o + l) * row.step];
          at = disjoint ? lanes[l] : at + lanes[l];
        }
      }
    }
  }
}

// Positions [x, x + kSize) of phase `phase` of an input row: the sum of value(j, o), the share of
// tap j of outputs [o, o + kSize), over the taps of that phase. o can lie a window outside.
template <int kKernel, class T, class Value>
ARRAYNN_INLINE Vec<T> gather_phase(const PoolAxis& w, std::int64_t phases, std::int64_t position,
                                   const Value& value) {
  const std::int64_t kernel = kKernel > 0 ? kKernel : w.kernel;
  const std::int64_t dilation = kKernel > 0 ? 1 : w.dilation;
  const std::int64_t phase = phases == 1 ? 0 : position & 1;
  // An even dilation keeps every tap in the even phase.
  const bool even = (dilation & 1) == 0;
  if ((even && phase == 1) || phase >= kernel) return Vec<T>::zero();
  const std::int64_t shift = phases - 1, step = phases == 1 || even ? 1 : 2;
  Vec<T> sum = value(phase, (position - phase * dilation) >> shift);
  for (std::int64_t j = phase + step; j < kernel; j += step) {
    sum = sum + value(j, (position - j * dilation) >> shift);
  }
  return sum;
}

// The gradient of an input row in strides 1 and 2, without a row between: every input position
// gathers from the outputs that can reach it. value() must give 0 outside of the output row. With
// kKernel > 0 that is the kernel, and the dilation is 1.
template <bool kAdd, int kKernel = 0, class T, class Value>
ARRAYNN_INLINE void gather_row(const PoolAxis& w, T* dst, const Value& value) {
  constexpr std::int64_t kL = kLanes<T>;
  const auto write = [](Vec<T> v, T* p, std::int64_t n) __attribute__((always_inline)) {
    store_lanes(kAdd ? load_lanes(p, n) + v : v, p, n);
  };
  if (w.stride == 1) {
    for (std::int64_t x = 0; x < w.size; x += kL) {
      write(gather_phase<kKernel, T>(w, 1, w.begin + x, value), dst + x, w.size - x);
    }
    return;
  }
  for (std::int64_t x = 0; x < w.size; x += 2 * kL) {
    Vec<T> a, b;
    merge_pair(gather_phase<kKernel, T>(w, 2, w.begin + x, value),
               gather_phase<kKernel, T>(w, 2, w.begin + x + 1, value), &a, &b);
    const std::int64_t n = w.size - x;
    write(a, dst + x, n);
    if (n > kL) write(b, dst + x + kL, n - kL);
  }
}

template <class T>
ARRAYNN_INLINE void zero_fill(T* p, std::int64_t n) {
  if (n > 0) __builtin_memset(p, 0, static_cast<std::size_t>(n) * sizeof(T));
}

}  // namespace ARRAYNN_ISA_NAMESPACE
