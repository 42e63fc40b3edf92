#include "gemm/gemm.hpp"

#include "core/parallel.hpp"
#include "gemm/pack.hpp"
#include "gemm/skinny.hpp"
#include "gemm/ukernel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

constexpr Tap kNoTap{0, 0};
constexpr TapList kOnePiece{&kNoTap, 1, 0};

// A of the panel plan is kept whole: it must leave room in L2.
constexpr std::int64_t kPanelBytesOfA = std::int64_t{512} << 10;

// Rows up to which a panel of B is packed for its own use: more where packing it is a transpose
// (128x768x3072: 86 GFLOP/s against 76; of contiguous rows 200x512x2048: 85 against 92).
template <class T>
std::int64_t panel_rows(const GemmProblem<T>& g) {
  return (g.cs_b == 1 || g.packed_b != nullptr ? 8 : 24) * kMR;
}

enum class Algorithm : std::uint8_t { kSkinny, kPanel, kBlocked };

template <class T>
struct Plan {
  Algorithm algorithm;
  bool copy_a;
  std::int64_t ld_a;                    // row stride of the copy
  std::int64_t kc;                      // depth of a block: KC, or all of k
  std::int64_t nc;                      // columns of a block of B
  std::int64_t panels_at_once;          // panel plan: packed together
  int row_parts, column_parts;          // the team as a grid
  std::int64_t a_elements, b_elements;  // scratch: A per thread (blocked) or in all, B in all
};

// Rows of A that a tile cannot read in place.
template <class T>
bool needs_copy(const GemmProblem<T>& g) {
  if (g.packed_a != nullptr) return false;
  return g.cs_a != 1 || (rows_alias<T>(g.rs_a) && g.n > kNR<T>);
}

template <class T>
Plan<T> make_plan(const GemmProblem<T>& g, int threads) {
  Plan<T> plan{};
  plan.kc = min_i(kKC<T>, max_i(1, g.k));
  plan.row_parts = 1;
  plan.column_parts = threads;
  if (g.m <= kSkinnyRows && g.packed_b == nullptr) {
    plan.algorithm = Algorithm::kSkinny;
    plan.copy_a = g.cs_a != 1;
    plan.ld_a = g.k;
    plan.a_elements = plan.copy_a ? g.m * g.k : 0;
    return plan;
  }
  if (g.m <= panel_rows(g) && g.m * g.k * static_cast<std::int64_t>(sizeof(T)) <= kPanelBytesOfA) {
    plan.algorithm = Algorithm::kPanel;
    plan.copy_a = needs_copy(g);
    plan.ld_a = round_up(g.k, kLanes<T>) + kPackedRowStride<T> - kKC<T>;
    if (rows_alias<T>(plan.ld_a)) plan.ld_a += kLanes<T>;
    plan.a_elements = plan.copy_a ? g.m * plan.ld_a : 0;
    plan.panels_at_once = g.cs_b == 1 ? min_i(kPanelsAtOnce, ceil_div(g.n, kNR<T>)) : 1;
    plan.b_elements = threads * plan.panels_at_once * plan.kc * kNR<T>;
    if (g.packed_b != nullptr) plan.b_elements = 0;
    return plan;
  }
  plan.algorithm = Algorithm::kBlocked;
  plan.copy_a = needs_copy(g);
  plan.ld_a = kPackedRowStride<T>;
  // Splitting rows shares the packed B; columns are split when there are too few rows.
  for (int parts = threads; parts >= 1; --parts) {
    if (threads % parts == 0 && (parts == 1 || g.m >= parts * 4 * kMR)) {
      plan.row_parts = parts;
      plan.column_parts = threads / parts;
      break;
    }
  }
  const std::int64_t columns = round_up(ceil_div(g.n, plan.column_parts), kNR<T>);
  plan.nc = min_i(kNC<T>, columns);
  plan.a_elements = plan.copy_a ? threads * kMC<T> * plan.ld_a : 0;
  plan.b_elements = g.packed_b != nullptr ? 0 : plan.column_parts * plan.kc * plan.nc;
  return plan;
}

template <class T>
std::int64_t scratch_bytes(const GemmProblem<T>& g, int threads) {
  const Plan<T> plan = make_plan(g, threads);
  std::int64_t b_elements = plan.b_elements;
  if (plan.algorithm == Algorithm::kBlocked && g.packed_b == nullptr) {
    // OpenMP may hand out a smaller team, whose grid can have more columns: room for any grid.
    b_elements = plan.kc * min_i(threads * kNC<T>, round_up(g.n, kNR<T>) + threads * kNR<T>);
  }
  return (round_up(plan.a_elements, 64) + b_elements) * static_cast<std::int64_t>(sizeof(T));
}

// A row of A from block [p, p + KC) of k on, and the panels of B in that block, when they are packed.
template <class T>
const T* packed_rows(const GemmProblem<T>& g, std::int64_t p) {
  return g.packed_a + p / kKC<T> * g.m * kPackedRowStride<T>;
}
template <class T>
const T* packed_panels(const GemmProblem<T>& g, std::int64_t p) {
  return g.packed_b + p * round_up(g.n, kNR<T>);
}

// Rows [i, i + m) x columns [j, j + n) of C, tile by tile, from one panel. `next`, the panel
// after it or null, comes from L3 meanwhile.
template <class T>
void run_panel(const GemmProblem<T>& g, const T* a, std::int64_t rs_a, std::int64_t i,
               std::int64_t m, std::int64_t j, std::int64_t n, std::int64_t kc, const T* panel,
               bool first, bool last, const T* next) {
  const std::int64_t tiles = ceil_div(m, kMR);
  const T* a_rows[kMR];
  T* c_rows[kMR];
  const T* residual_rows[kMR];
  for (std::int64_t t = 0; t < tiles; ++t) {
    const Range rows = split_range(m, tiles, t);
    const std::int64_t count = rows.end - rows.begin;
    if (next != nullptr) {
      const Range part = split_range(kc * kNV, tiles, t);
      for (std::int64_t v = part.begin; v < part.end; ++v) {
        __builtin_prefetch(next + v * kLanes<T>, 0, 2);
      }
    }
    for (std::int64_t r = 0; r < count; ++r) a_rows[r] = a + (rows.begin + r) * rs_a;
    run_tile(count, a_rows, kc, kOnePiece, panel, kNR<T>,
             tile_store(g, i + rows.begin, j, count, n, !first, last, c_rows, residual_rows));
  }
}

template <class T>
void run_skinny(const GemmProblem<T>& g, const Plan<T>& plan, int tid, int nthreads, T* scratch) {
  const T* a = g.a;
  std::int64_t rs_a = g.rs_a;
  if (plan.copy_a) {
    if (tid == 0) pack_a(g.a, g.rs_a, g.cs_a, g.m, g.k, scratch, plan.ld_a);
    team_barrier(nthreads);
    a = scratch;
    rs_a = plan.ld_a;
  }
  const T* a_rows[kSkinnyRows];
  for (std::int64_t i = 0; i < g.m; ++i) a_rows[i] = a + i * rs_a;
  const Range part = split_range(ceil_div(g.n, kLanes<T>), nthreads, tid);
  skinny(g, a_rows, {part.begin * kLanes<T>, min_i(g.n, part.end * kLanes<T>)});
}

template <class T>
void run_panels(const GemmProblem<T>& g, const Plan<T>& plan, int tid, int nthreads, T* a_copy,
                T* b_scratch) {
  const T* a = g.a;
  std::int64_t rs_a = g.packed_a != nullptr ? kPackedRowStride<T> : g.rs_a;
  if (plan.copy_a) {
    const Range rows = split_range(g.m, nthreads, tid);
    pack_a(g.a + rows.begin * g.rs_a, g.rs_a, g.cs_a, rows.end - rows.begin, g.k,
           a_copy + rows.begin * plan.ld_a, plan.ld_a);
    team_barrier(nthreads);
    a = a_copy;
    rs_a = plan.ld_a;
  }
  const std::int64_t group = plan.panels_at_once;
  T* packed = b_scratch + tid * group * plan.kc * kNR<T>;
  const Range panels = split_range(ceil_div(g.n, kNR<T>), nthreads, tid);
  for (std::int64_t q0 = panels.begin; q0 < panels.end; q0 += group) {
    const std::int64_t q1 = min_i(panels.end, q0 + group), j0 = q0 * kNR<T>;
    std::int64_t p = 0;
    do {
      const std::int64_t kc = min_i(kKC<T>, g.k - p);
      const T* panel = packed;
      std::int64_t panel_step = plan.kc * kNR<T>;
      if (g.packed_b != nullptr) {
        panel = packed_panels(g, p) + q0 * kc * kNR<T>;
        panel_step = kc * kNR<T>;
      } else {
        pack_b(g.b + p * g.rs_b + j0 * g.cs_b, g.rs_b, g.cs_b, kc, min_i(q1 * kNR<T>, g.n) - j0,
               packed, panel_step);
      }
      const T* rows = g.packed_a != nullptr ? packed_rows(g, p) : a + p;
      for (std::int64_t q = q0; q < q1; ++q, panel += panel_step) {
        const std::int64_t j = q * kNR<T>;
        run_panel(g, rows, rs_a, 0, g.m, j, min_i(kNR<T>, g.n - j), kc, panel, p == 0,
                  p + kc == g.k, static_cast<const T*>(nullptr));
      }
      p += kc;
    } while (p < g.k);
  }
}

// The five loops: jc over columns, pc over k, ic over rows, jr over panels, ir over tiles.
template <class T>
void run_blocked(const GemmProblem<T>& g, const Plan<T>& plan, int tid, T* a_scratch, T* b_scratch,
                 int nthreads) {
  const int row_part = tid % plan.row_parts, column_part = tid / plan.row_parts;
  const std::int64_t all_panels = ceil_div(g.n, kNR<T>);
  const Range rows = split_range(g.m, plan.row_parts, row_part);
  const Range my_panels = split_range(all_panels, plan.column_parts, column_part);
  const std::int64_t panels_per_block = plan.nc / kNR<T>;
  // Every member passes the same number of barriers, whatever its share of the columns.
  const std::int64_t blocks = ceil_div(ceil_div(all_panels, plan.column_parts), panels_per_block);
  T* a_copy = a_scratch + tid * (plan.copy_a ? kMC<T> * plan.ld_a : 0);
  T* b_block = b_scratch + column_part * plan.kc * plan.nc;
  for (std::int64_t jc = 0; jc < blocks; ++jc) {
    const Range panels = {min_i(my_panels.end, my_panels.begin + jc * panels_per_block),
                          min_i(my_panels.end, my_panels.begin + (jc + 1) * panels_per_block)};
    std::int64_t p = 0;
    do {
      const std::int64_t kc = min_i(kKC<T>, g.k - p);
      const T* block_of_b = b_block;
      std::int64_t panel_step = plan.kc * kNR<T>;
      if (g.packed_b != nullptr) {
        panel_step = kc * kNR<T>;
        block_of_b = packed_panels(g, p) + panels.begin * panel_step;
      } else {
        const Range to_pack = split_range(panels.end - panels.begin, plan.row_parts, row_part);
        const std::int64_t j0 = (panels.begin + to_pack.begin) * kNR<T>;
        const std::int64_t j1 = min_i(g.n, (panels.begin + to_pack.end) * kNR<T>);
        pack_b(g.b + p * g.rs_b + j0 * g.cs_b, g.rs_b, g.cs_b, kc, j1 - j0,
               b_block + to_pack.begin * panel_step, panel_step);
        team_barrier(nthreads);
      }
      const std::int64_t row_blocks = ceil_div(rows.end - rows.begin, kMC<T>);
      for (std::int64_t ic = 0; ic < row_blocks; ++ic) {
        const Range block = split_range(rows.end - rows.begin, row_blocks, ic);
        const std::int64_t i = rows.begin + block.begin, m = block.end - block.begin;
        const T* a = g.a + i * g.rs_a + p * g.cs_a;
        std::int64_t rs_a = g.rs_a;
        if (g.packed_a != nullptr) {
          rs_a = kPackedRowStride<T>;
          a = packed_rows(g, p) + i * rs_a;
        } else if (plan.copy_a) {
          pack_a(a, g.rs_a, g.cs_a, m, kc, a_copy, plan.ld_a);
          a = a_copy;
          rs_a = plan.ld_a;
        }
        for (std::int64_t q = 0; q < panels.end - panels.begin; ++q) {
          const std::int64_t j = (panels.begin + q) * kNR<T>;
          const T* panel = block_of_b + q * panel_step;
          const T* next = q + 1 < panels.end - panels.begin ? panel + panel_step : nullptr;
          run_panel(g, a, rs_a, i, m, j, min_i(kNR<T>, g.n - j), kc, panel, p == 0, p + kc == g.k,
                    next);
        }
      }
      if (g.packed_b == nullptr) team_barrier(nthreads);
      p += kc;
    } while (p < g.k);
  }
}

template <class T>
std::int64_t pack(const GemmProblem<T>& g, Operand operand, int threads, T* dst) {
  const std::int64_t blocks = ceil_div(g.k, kKC<T>), width = round_up(g.n, kNR<T>);
  const bool a = operand == Operand::kA;
  const std::int64_t elements = a ? blocks * g.m * kPackedRowStride<T> : g.k * width;
  if (dst == nullptr) return elements;
  // Work in pieces of a block: a tile's rows of A, a panel of B.
  const std::int64_t pieces = a ? ceil_div(g.m, kMR) : width / kNR<T>;
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    const Range mine = split_range(blocks * pieces, nthreads, tid);
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      const std::int64_t block = i / pieces, p = block * kKC<T>, kc = min_i(kKC<T>, g.k - p);
      if (a) {
        const std::int64_t row = i % pieces * kMR;
        pack_a(g.a + row * g.rs_a + p * g.cs_a, g.rs_a, g.cs_a, min_i(kMR, g.m - row), kc,
               dst + (block * g.m + row) * kPackedRowStride<T>, kPackedRowStride<T>);
      } else {
        const std::int64_t j = i % pieces * kNR<T>;
        pack_b(g.b + p * g.rs_b + j * g.cs_b, g.rs_b, g.cs_b, kc, min_i(kNR<T>, g.n - j),
               dst + p * width + j * kc, kc * kNR<T>);
      }
    }
  });
  return elements;
}

template <class T>
void run_gemm(const GemmProblem<T>& g, int threads, void* scratch) {
  if (g.m == 0 || g.n == 0) return;
  T* const base = static_cast<T*>(scratch);
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Plan<T> plan = make_plan(g, nthreads);
    T* b_scratch = base + round_up(plan.a_elements, 64);
    switch (plan.algorithm) {
      case Algorithm::kSkinny:
        return run_skinny(g, plan, tid, nthreads, base);
      case Algorithm::kPanel:
        return run_panels(g, plan, tid, nthreads, base, b_scratch);
      case Algorithm::kBlocked:
        return run_blocked(g, plan, tid, base, b_scratch, nthreads);
    }
  });
}

// Rows of so many bytes, and kSumRows at least, are read in whole while the sums of all columns wait in
// `out`: read a part of every row at a time, arrays would come from memory in pieces.
constexpr std::int64_t kSumBytes = std::int64_t{8} << 10, kSumRows = 8;

template <class T>
void column_sums(const T* x, std::int64_t rs, std::int64_t m, std::int64_t n, int threads, T* out) {
  constexpr int kL = kLanes<T>;
  constexpr int kVectors = 8;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range part = split_range(ceil_div(n, kL), nthreads, tid);
    const auto item = static_cast<std::int64_t>(sizeof(T));
    const std::int64_t step = max_i(kSumRows, kSumBytes / max_i(1, n * item));
    for (std::int64_t i0 = 0; i0 < max_i(1, m); i0 += step) {
      const std::int64_t i1 = min_i(m, i0 + step);
      for (std::int64_t v0 = part.begin; v0 < part.end; v0 += kVectors) {
        const std::int64_t count = min_i(kVectors, part.end - v0);
        const std::int64_t j = v0 * kL;
        if (count == kVectors && j + kVectors * kL <= n) {
          Vec<T> acc[kVectors];
          ARRAYNN_UNROLL for (int v = 0; v < kVectors; ++v) {
            acc[v] = i0 > 0 ? Vec<T>::load(out + j + v * kL) : Vec<T>::zero();
          }
          for (std::int64_t i = i0; i < i1; ++i) {
            ARRAYNN_UNROLL for (int v = 0; v < kVectors; ++v) {
              acc[v] = acc[v] + Vec<T>::load(x + i * rs + j + v * kL);
            }
          }
          ARRAYNN_UNROLL for (int v = 0; v < kVectors; ++v) acc[v].store(out + j + v * kL);
          continue;
        }
        for (std::int64_t v = 0; v < count; ++v) {
          const std::int64_t at = j + v * kL, width = min_i(kL, n - at);
          Vec<T> sum = i0 > 0 ? load_n(out + at, width) : Vec<T>::zero();
          for (std::int64_t i = i0; i < i1; ++i) sum = sum + load_n(x + i * rs + at, width);
          store_n(sum, out + at, width);
        }
      }
    }
  });
}

template <class T>
constexpr GemmTable<T> table() {
  return {&scratch_bytes<T>, &run_gemm<T>, &pack<T>, &column_sums<T>};
}

}  // namespace

extern const FloatKernels<GemmTable> gemm_kernels = {table<float>(), table<double>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
