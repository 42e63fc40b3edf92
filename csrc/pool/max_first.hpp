// Indices of max pooling, channels_first.
//
// Tiles (tiles.hpp) are taken from memory into registers. Of other windows every input row that a window reaches is put into a padded row (rows.hpp) once, a row of windows
// ahead of its use; windows then take all of their taps into registers. The padded rows are a ring:
// rows of a plane, or the planes of a volume.
#pragma once
#include "pool/reduce.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
struct Ring {
  Row<T>
      row;  // out[0]: the offset of every window's first tap inside the row, -1 where it has none
  T* data;
  RingPlan plan;
  std::int64_t elements;
  Int<T>* first;
  bool any_empty;

  // Row ih of plane id.
  ARRAYNN_MEMBER T* at(std::int64_t id, std::int64_t ih) const {
    return data + ((id & plan.plane_mask) * plan.rows + (ih & plan.row_mask)) * elements;
  }
};

template <class T>
ARRAYNN_INLINE Ring<T> make_ring(const VolumeProblem& v, void* scratch) {
  const PoolAxis& w = v.plane.w;
  const T lowest = -T(__builtin_inf());
  char* rows = static_cast<char*>(scratch) + row_scratch_bytes(w, sizeof(T));
  Ring<T> r{make_row(w, scratch, lowest),
            reinterpret_cast<T*>(rows),
            ring_plan(v),
            row_elements(w),
            nullptr,
            false};
  r.first = reinterpret_cast<Int<T>*>(r.row.out[0]);
  for (std::int64_t o = 0; o < w.out; ++o) {
    const Range taps = window_taps(w, o);
    const bool empty = taps.begin == taps.end;
    r.first[o] = static_cast<Int<T>>(empty ? -1 : taps.begin * w.dilation);
    r.any_empty |= empty;
  }
  const std::int64_t all = r.plan.slots() * r.elements;
  for (std::int64_t i = 0; i < all; ++i) r.data[i] = lowest;
  return r;
}

// Row ih of plane id of the volume x, into its place.
template <class T>
ARRAYNN_INLINE void put_into(const Ring<T>& ring, const VolumeProblem& v, const T* x,
                             std::int64_t id, std::int64_t ih) {
  const T* in = x + (id * v.plane.h.size + ih) * v.plane.w.size;
  Row<T> row = ring.row;
  row.data = ring.at(id, ih);
  put_row(row, [&](std::int64_t col, std::int64_t n)
                   __attribute__((always_inline)) { return load_lanes(in + col, n); });
}

template <bool kStrided, int kKernel, class T>
ARRAYNN_INLINE void indices_channels_first(const VolumeProblem v, const T* x, T* y,
                                           std::int64_t* indices, Range rows, void* scratch) {
  constexpr std::int64_t kL = kLanes<T>;
  const PoolProblem& p = v.plane;
  const std::int64_t kernel = kKernel > 0 ? kKernel : p.w.kernel, plane = v.in_plane();
  const Ring<T> ring = make_ring<T>(v, scratch);
  const std::int64_t step = kStrided ? ring.row.step : 1;
  const bool flat = is_flat(v);
  const PoolAxis& slabs = flat ? p.h : v.d;  // what the ring goes along
  Int<T> lane_steps[kL];
  for (std::int64_t l = 0; l < kL; ++l) lane_steps[l] = static_cast<Int<T>>(l * p.w.stride);
  const Ints<T> steps = load_ints<T>(lane_steps);
  std::int64_t volume = -1, ready = 0;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t q = r / p.h.out, oh = r - q * p.h.out, od = q % v.d.out;
    const T* in = x + q / v.d.out * v.in();
    if (volume != q / v.d.out) {
      volume = q / v.d.out;
      ready = 0;
    }
    const std::int64_t slab = flat ? oh : od, ahead = min_i(slabs.out - 1, slab + (flat ? 1 : 0));
    ready = max_i(ready, window_first(slabs, slab));
    for (const std::int64_t end = min_i(slabs.size, window_end(slabs, ahead)); ready < end;
         ++ready) {
      if (flat) {
        put_into(ring, v, in, 0, ready);
      } else {
        for (std::int64_t ih = 0; ih < p.h.size; ++ih) put_into(ring, v, in, ready, ih);
      }
    }
    const Range d = window_taps(v.d, od), h = window_taps(p.h, oh);
    const std::int64_t deep = window_first(v.d, od), top = window_first(p.h, oh);
    const std::int64_t base = deep * plane + top * p.w.size - p.w.begin;
    const std::int64_t before = d.begin * v.d.dilation * plane + h.begin * p.h.dilation * p.w.size;
    T* out = y + r * p.w.out;
    std::int64_t* where = indices + r * p.w.out;
    const bool none = d.begin == d.end || h.begin == h.end;
    const auto some = [&](auto count, std::int64_t o) __attribute__((always_inline)) {
      constexpr int kV = decltype(count)::value;
      Best<T> best[kV];
      Ints<T> at[kV];
#pragma GCC unroll 16
      for (int l = 0; l < kV; ++l) {
        at[l] = load_ints<T>(ring.first + o + l * kL) + set_ints<T>(before);
      }
      find_best(at, best, [&](const auto& take) __attribute__((always_inline)) {
        for (std::int64_t k = d.begin; k < d.end; ++k) {
          for (std::int64_t i = h.begin; i < h.end; ++i) {
            const T* row = ring.at(deep + k * v.d.dilation, top + i * p.h.dilation) + o * step;
            std::int64_t offset = k * v.d.dilation * plane + i * p.h.dilation * p.w.size;
            for (std::int64_t j = 0; j < kernel; ++j, offset += p.w.dilation) {
              const T* from = row + ring.row.taps[j];
#pragma GCC unroll 16
              for (int l = 0; l < kV; ++l) {
                const std::int64_t left = p.w.out - o - l * kL;
                take(l, load_strided<kStrided>(from + l * kL * step, step, min_i(kL, left)),
                     set_ints<T>(offset));
              }
            }
          }
        }
      });
#pragma GCC unroll 16
      for (int l = 0; l < kV; ++l) {
        const std::int64_t c = o + l * kL, n = min_i(kL, p.w.out - c);
        if (l > 0 && n <= 0) continue;
        store_lanes(best[l].value, out + c, n);
        store_positions<T>(base + c * p.w.stride, best[l].offset + steps, n, where + c);
      }
    };
    for (std::int64_t o = 0; o < p.w.out; o += 4 * kL) {
      if (p.w.out - o > 2 * kL) {
        some(Count<4>{}, o);
      } else if (p.w.out - o > kL) {
        some(Count<2>{}, o);
      } else {
        some(Count<1>{}, o);
      }
    }
    for (std::int64_t o = 0; o < p.w.out && (none || ring.any_empty); ++o) {
      if (none || ring.first[o] < 0) where[o] = -1;
    }
  }
}

// The largest of tiles and its offset in planes of `width` columns.
template <class T>
ARRAYNN_INLINE Best<T> best_of_tiles(const Vec<T> (&taps)[4], std::int64_t width) {
  const Hits<T> top = Hits<T>::larger(taps[1], taps[0]);
  const Hits<T> bottom = Hits<T>::larger(taps[3], taps[2]);
  const Vec<T> upper = top.choose(taps[1], taps[0]), lower = bottom.choose(taps[3], taps[2]);
  const Hits<T> below = Hits<T>::larger(lower, upper);
  return {below.choose(lower, upper),
          below.choose(bottom.choose(set_ints<T>(width + 1), set_ints<T>(width)),
                       top.choose(set_ints<T>(1), set_ints<T>(0)))};
}

// Windows `all` of planes that are kOut windows wide, kOut less than a vector: element 4 q of a volume
// is the first of window q in its row, and q goes round with the volumes.
template <int kOut, class T>
ARRAYNN_INLINE void indices_of_narrow_tiles(const VolumeProblem& v, const T* x, T* y,
                                            std::int64_t* indices, Range all) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t period = v.out();
  const Ints<T> round = set_ints<T>(period), step = set_ints<T>(kL % period);
  Int<T> lanes[kL];
  for (std::int64_t l = 0; l < kL; ++l) lanes[l] = static_cast<Int<T>>((all.begin + l) % period);
  Ints<T> window = load_ints<T>(lanes);
  for (std::int64_t i = all.begin; i < all.end; i += kL) {
    const std::int64_t n = min_i(kL, all.end - i);
    Vec<T> taps[4];
    if (n == kL) {
      load_narrow_tiles<kOut>(x + 4 * i, taps);
    } else {
      T last[4 * kL] = {};
      for (std::int64_t k = 0; k < 4 * n; ++k) last[k] = x[4 * i + k];
      load_narrow_tiles<kOut>(last, taps);
    }
    const Best<T> best = best_of_tiles(taps, 2 * kOut);
    store_lanes(best.value, y + i, n);
    const Ints<T> first = 4 * window - 2 * (window & (kOut - 1));
    store_positions<T>(0, first + best.offset, n, indices + i);
    window += step;
    window -= window >= round ? round : Ints<T>{};
  }
}

// Two rows side by side are two streams with gaps, which prefetchers follow badly; together they are
// one.
inline constexpr std::int64_t kTileAhead = 4096;

// Rows of y of all planes, in the order of memory.
template <class T>
ARRAYNN_INLINE void indices_of_tiles(const VolumeProblem v, const T* x, T* y, std::int64_t* indices,
                                     Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t out = v.plane.w.out, width = 2 * out, height = v.plane.h.out;
  if (v.in() <= INT32_MAX) {
    const Range all = {rows.begin * out, rows.end * out};
    if (out == 1) return indices_of_narrow_tiles<1>(v, x, y, indices, all);
    if constexpr (kL > 2) {
      if (out == 2) return indices_of_narrow_tiles<2>(v, x, y, indices, all);
    }
    if constexpr (kL > 4) {
      if (out == 4) return indices_of_narrow_tiles<4>(v, x, y, indices, all);
    }
    if constexpr (kL > 8) {
      if (out == 8) return indices_of_narrow_tiles<8>(v, x, y, indices, all);
    }
  }
  Int<T> lanes[kL];
  for (std::int64_t l = 0; l < kL; ++l) lanes[l] = static_cast<Int<T>>(2 * l);
  const Ints<T> steps = load_ints<T>(lanes);
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const T* in = x + 2 * r * width;
    const std::int64_t base = r % (v.d.out * height) * 2 * width;
    const auto some = [&](std::int64_t o, std::int64_t n) __attribute__((always_inline)) {
      const char* ahead = reinterpret_cast<const char*>(in + 4 * o) + kTileAhead;
      for (int i = 0; i < 4 * kVecBytes; i += 64) __builtin_prefetch(ahead + i);
      Vec<T> taps[4];
      load_pairs(in + 2 * o, n, &taps[0], &taps[1]);
      load_pairs(in + width + 2 * o, n, &taps[2], &taps[3]);
      const Best<T> best = best_of_tiles(taps, width);
      store_lanes(best.value, y + r * out + o, n);
      store_positions<T>(base + 2 * o, best.offset + steps, n, indices + r * out + o);
    };
    if (out < kL) {  // what is behind a row is written next
      some(0, (rows.end - r) * out >= kL ? kL : out);
      continue;
    }
    for_vectors<T>(out, some);
  }
}

// Adaptive windows along the row have no common stride: columns are reduced first, whose first
// maxima lie in their first rows; of equal ones the window's first is the one that comes first.
template <class T>
ARRAYNN_INLINE void indices_of_columns(const VolumeProblem v, const T* x, T* y,
                                       std::int64_t* indices, Range rows, void* scratch) {
  constexpr std::int64_t kL = kLanes<T>;
  const PoolProblem& p = v.plane;
  const std::int64_t plane = v.in_plane(), width = p.w.size;
  T* largest = static_cast<T*>(scratch);
  auto* offsets = reinterpret_cast<Int<T>*>(largest + round_up(width, kL));
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t q = r / p.h.out, oh = r - q * p.h.out, volume = q / v.d.out;
    const std::int64_t od = q - volume * v.d.out;
    const Range d = window_taps(v.d, od), h = window_taps(p.h, oh);
    const std::int64_t base = window_first(v.d, od) * plane + window_first(p.h, oh) * width;
    const T* in = x + volume * v.in() + base;
    if (d.begin == d.end || h.begin == h.end) {
      for (std::int64_t o = r * p.w.out; o < (r + 1) * p.w.out; ++o) {
        y[o] = -T(__builtin_inf());
        indices[o] = -1;
      }
      continue;
    }
    for (std::int64_t c = 0; c < width; c += kL) {
      const std::int64_t n = min_i(kL, width - c);
      const Ints<T> first[1] = {
          set_ints<T>(d.begin * v.d.dilation * plane + h.begin * p.h.dilation * width)};
      Best<T> best[1];
      find_best(first, best, [&](const auto& take) __attribute__((always_inline)) {
        for (std::int64_t k = d.begin; k < d.end; ++k) {
          for (std::int64_t i = h.begin; i < h.end; ++i) {
            const std::int64_t offset = k * v.d.dilation * plane + i * p.h.dilation * width;
            take(0, load_lanes(in + offset + c, n), set_ints<T>(offset));
          }
        }
      });
      best[0].value.store(largest + c);
      store_ints<T>(best[0].offset, offsets + c);
    }
    for (std::int64_t o = 0; o < p.w.out; ++o) {
      const std::int64_t left = window_first(p.w, o), right = window_end(p.w, o);
      T value = largest[left];
      std::int64_t at = offsets[left] + left;
      for (std::int64_t c = left + 1; c < right; ++c) {
        const std::int64_t here = offsets[c] + c;
        const bool both = largest[c] == value || (largest[c] != largest[c] && value != value);
        const bool above = !(largest[c] <= value) && value == value;
        if (both ? here < at : above) {
          value = largest[c];
          at = here;
        }
      }
      y[r * p.w.out + o] = value;
      indices[r * p.w.out + o] = base + at;
    }
  }
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
