// Packed panels of a recurrent matrix, and the microkernel over them.
#pragma once
#include "core/parallel.hpp"
#include "gemm/blocking.hpp"
#include "rnn/gates.hpp"
#include "rnn/tile.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// sums[v][r] = sum over k of a[r][k] panel[k][v], vectors of kLanes. In blocks of KC, as gemm sums.
template <class T, int kVectors, int kRows>
[[gnu::noinline]] static void panel_product(const T* const* rows, std::int64_t k, const T* panel,
                                            T* sums) {
  constexpr int kL = kLanes<T>;
  const T* a[kRows];
  ARRAYNN_UNROLL for (int r = 0; r < kRows; ++r) a[r] = rows[r];
  std::int64_t p = 0;
  do {
    const std::int64_t first = p, end = min_i(k, p + kKC<T>);
    Vec<T> acc[kRows][kVectors];
    ARRAYNN_UNROLL for (int r = 0; r < kRows; ++r) {
      ARRAYNN_UNROLL for (int v = 0; v < kVectors; ++v) acc[r][v] = Vec<T>::zero();
    }
    for (; p < end; ++p) {
      Vec<T> b[kVectors];
      ARRAYNN_UNROLL for (int v = 0; v < kVectors; ++v) b[v] = Vec<T>::load(panel + v * kL);
      panel += kVectors * kL;
      ARRAYNN_UNROLL for (int r = 0; r < kRows; ++r) {
        const Vec<T> av = Vec<T>::set1(a[r][p]);
        ARRAYNN_UNROLL for (int v = 0; v < kVectors; ++v) acc[r][v] = fma(av, b[v], acc[r][v]);
      }
    }
    ARRAYNN_UNROLL for (int r = 0; r < kRows; ++r) {
      ARRAYNN_UNROLL for (int v = 0; v < kVectors; ++v) {
        T* to = sums + (v * kRows + r) * kL;
        (first > 0 ? Vec<T>::load(to) + acc[r][v] : acc[r][v]).store(to);
      }
    }
  } while (p < k);
}

template <class T>
using PanelProduct = void (*)(const T* const*, std::int64_t, const T*, T*);
template <class T, int kVectors>
struct PanelProducts {
  PanelProduct<T> table[tile_rows(kVectors)];
};
template <class T, int kVectors, int kRows>
ARRAYNN_INLINE constexpr void fill_products(PanelProducts<T, kVectors>& u) {
  u.table[kRows - 1] = &panel_product<T, kVectors, kRows>;
  if constexpr (kRows > 1) fill_products<T, kVectors, kRows - 1>(u);
}
template <class T, int kVectors>
ARRAYNN_INLINE constexpr PanelProducts<T, kVectors> make_products() {
  PanelProducts<T, kVectors> u{};
  fill_products<T, kVectors, tile_rows(kVectors)>(u);
  return u;
}
template <class T, int kVectors>
static constexpr PanelProducts<T, kVectors> kProducts = make_products<T, kVectors>();

template <class T>
ARRAYNN_INLINE void run_product(int vectors, std::int64_t rows, const T* const* a, std::int64_t k,
                                const T* panel, T* sums) {
  if (vectors == 4) return kProducts<T, 4>.table[rows - 1](a, k, panel, sums);
  if (vectors == 3) return kProducts<T, 3>.table[rows - 1](a, k, panel, sums);
  return kProducts<T, 2>.table[rows - 1](a, k, panel, sums);
}

// A matrix in panels. A panel has `groups` vectors of units with all `gates` of each:
//   panel[p][k][u * gates + g][lane] = w(g, unit, k),  unit = (p * groups + u) kLanes + lane
template <class T>
struct Panels {
  const T* w;
  std::int64_t gate_stride, unit_stride, k_stride;  // of w, in elements; of the last two one is 1
  std::int64_t units, k;
  int gates, groups;
  T* packed;                 // all panels, or one per thread where every panel is used once
  bool one_panel;            // packed just before use
  const T* given = nullptr;  // all panels, from a former call

  int vectors() const { return gates * groups; }
  std::int64_t panel_units() const { return groups * kLanes<T>; }
  std::int64_t count() const { return ceil_div(units, panel_units()); }
  std::int64_t panel_size() const { return k * vectors() * kLanes<T>; }
  // One that is there, from a former call or packed before.
  const T* at(std::int64_t panel) const {
    return (given != nullptr ? given : packed) + panel * panel_size();
  }
  std::int64_t size(int threads) const {
    if (given != nullptr) return 0;
    return round_up((one_panel ? threads : count()) * panel_size(), 64);
  }
};

// Single rows keep four sums in flight; more of them share what a panel brings.
template <class T>
ARRAYNN_INLINE int groups_for(std::int64_t batch, std::int64_t units, int gates) {
  if (gates > 2) return 1;
  if (gates == 2) return batch <= 4 && units > kLanes<T> ? 2 : 1;
  return batch <= 4 && units > 2 * kLanes<T> ? 4 : 2;
}

// Gates [begin, end) of w_hh by hidden unit: z = h W_hh'.
template <class T>
ARRAYNN_INLINE Panels<T> gate_panels(const T* w, std::int64_t units, std::int64_t k,
                                     std::int64_t begin, std::int64_t end, std::int64_t batch,
                                     bool one_panel) {
  const int gates = static_cast<int>(end - begin);
  return {w + begin * units * k,
          units * k,
          k,
          1,
          units,
          k,
          gates,
          groups_for<T>(batch, units, gates),
          nullptr,
          one_panel};
}
// Rows of w [k, units]: its product from the left.
template <class T>
ARRAYNN_INLINE Panels<T> row_panels(const T* w, std::int64_t units, std::int64_t k,
                                    std::int64_t batch, bool one_panel) {
  return {w, 0, 1, units, units, k, 1, groups_for<T>(batch, units, 1), nullptr, one_panel};
}

inline constexpr std::int64_t kRowsAhead = 16;

template <class T>
static inline void pack_panel(const Panels<T>& w, std::int64_t panel, T* dst) {
  constexpr int kL = kLanes<T>;
  const std::int64_t step = w.vectors() * kL;
  for (int u = 0; u < w.groups; ++u) {
    const std::int64_t unit = (panel * w.groups + u) * kL;
    const std::int64_t width = max_i(0, min_i(kL, w.units - unit));
    for (int g = 0; g < w.gates; ++g) {
      T* to = dst + (u * w.gates + g) * kL;
      const T* from = w.w + g * w.gate_stride + unit * w.unit_stride;
      if (width < kL) {  // lanes that are no unit multiply zeros
        for (std::int64_t k = 0; k < w.k; ++k) Vec<T>::zero().store(to + k * step);
      }
      if (width == 0) continue;
      if (w.k_stride == 1) {
        transpose_copy(from, w.unit_stride, to, step, width, w.k);
        continue;
      }
      for (std::int64_t k = 0; k < w.k; ++k) {
        // Rows may be pages apart: no other prefetcher follows.
        __builtin_prefetch(from + (k + kRowsAhead) * w.k_stride);
        load_lanes(from + k * w.k_stride, width).store(to + k * step);
      }
    }
  }
}

// Packs the panels of thread `tid`, which alone will read them.
template <class T>
static inline void pack_own(const Panels<T>& w, int tid, int nthreads) {
  if (w.one_panel || w.given != nullptr) return;
  const Range mine = split_range(w.count(), nthreads, tid);
  for (std::int64_t p = mine.begin; p < mine.end; ++p) {
    pack_panel(w, p, w.packed + p * w.panel_size());
  }
}

// A thread's share of a step: some of the panels with every sample, or all of them with samples of
// its own, which is a team of one. Steps go over the panels from either end in turn: what the one
// before read last is still in L2.
struct Share {
  int tid, nthreads;
  std::int64_t first, every;  // samples; by turns, since lengths are often sorted
  bool backwards = false;

  template <class F>
  ARRAYNN_MEMBER void for_panels(std::int64_t count, const F& f) const {
    const Range mine = split_range(count, nthreads, tid);
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      f(backwards ? mine.end - 1 - (i - mine.begin) : i);
    }
  }
};

ARRAYNN_INLINE Share share_of(bool apart, int tid, int nthreads) {
  return apart ? Share{0, 1, tid, nthreads} : Share{tid, nthreads, 0, 1};
}

// Calls for `units` elements that the arithmetic of a tile will read, while its sums are formed.
template <class T>
ARRAYNN_INLINE void prefetch_units(const T* from, std::int64_t units) {
  for (std::int64_t j = 0; j < units; j += 64 / static_cast<int>(sizeof(T))) {
    __builtin_prefetch(from + j);
  }
}

// f(tile) for every tile of a share, ahead(tile) before its sums are formed. `row` lists `count`
// samples, a(b) is the vector of sample b. k == 0 gives sums of 0.
template <class T, class A, class P, class F>
ARRAYNN_INLINE void for_tiles(const Panels<T>& w, const std::int64_t* row, std::int64_t count,
                              std::int64_t k, const Share& share, const A& a, const P& ahead,
                              const F& f) {
  alignas(64) T sums[kMaxTileVectors * kLanes<T> + kInputSums<T>];
  const T* rows[kMaxTileRows];
  const int vectors = w.vectors();
  const std::int64_t tiles = ceil_div(count, tile_rows(vectors));
  if (count == 0) return;
  share.for_panels(w.count(), [&](std::int64_t p) {
    const T* panel = nullptr;
    if (w.given != nullptr || !w.one_panel) {
      panel = w.at(p);
    } else {
      T* own = w.packed + share.tid * w.panel_size();
      if (k > 0) pack_panel(w, p, own);
      panel = own;
    }
    for (std::int64_t i = 0; i < tiles; ++i) {
      const Range part = split_range(count, tiles, i);
      const std::int64_t n = part.end - part.begin;
      for (std::int64_t r = 0; r < n; ++r) rows[r] = k > 0 ? a(row[part.begin + r]) : nullptr;
      const Tile<T> tile{row + part.begin, n, p * w.panel_units(), sums};
      ahead(tile);
      run_product(vectors, n, rows, k, panel, sums);
      f(tile);
    }
  });
}
template <class T, class A, class F>
ARRAYNN_INLINE void for_tiles(const Panels<T>& w, const std::int64_t* row, std::int64_t count,
                              std::int64_t k, const Share& share, const A& a, const F& f) {
  for_tiles(w, row, count, k, share, a, [](const Tile<T>&) {}, f);
}

// The same from sums that are there already: rows of [gates, units].
template <class T, class P, class F>
ARRAYNN_INLINE void for_products(const Panels<T>& w, const std::int64_t* row, std::int64_t count,
                                 const T* product, const Share& share, const P& ahead, const F& f) {
  constexpr int kL = kLanes<T>;
  alignas(64) T sums[kMaxTileVectors * kLanes<T> + kInputSums<T>];
  const std::int64_t tiles = ceil_div(count, tile_rows(w.vectors()));
  if (count == 0) return;
  share.for_panels(w.count(), [&](std::int64_t p) {
    for (std::int64_t i = 0; i < tiles; ++i) {
      const Range part = split_range(count, tiles, i);
      const std::int64_t n = part.end - part.begin;
      const Tile<T> tile{row + part.begin, n, p * w.panel_units(), sums};
      ahead(tile);
      T* to = sums;
      for (int v = 0; v < w.vectors(); ++v) {
        const std::int64_t unit = (p * w.groups + v / w.gates) * kL;
        const std::int64_t width = max_i(0, min_i(kL, w.units - unit));
        const T* from = product + v % w.gates * w.units + unit;
        for (std::int64_t r = 0; r < n; ++r, to += kL) {
          load_lanes(from + row[part.begin + r] * w.gates * w.units, width).store(to);
        }
      }
      f(tile);
    }
  });
}

}  // namespace ARRAYNN_ISA_NAMESPACE
