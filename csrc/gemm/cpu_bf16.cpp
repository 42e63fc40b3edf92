// Products of bfloat16 where the CPU multiplies them (AVX512_BF16): the tiles of ukernel.hpp, whose lanes
// and elements are pairs of neighbours along k, 32 bits.
//
// A microkernel forms twice the products of one of float32 from as many loads.
//
// Plan. As `blocked` of gemm.hpp with KC pairs: B in blocks of panels, which the team shares or, with few rows,
// splits; A in place where its rows are whole pairs, else copied. Tiles of sums lie in L1: bias, residual
// and activation are float32 there, and rounded once as they are stored. With more than one block of k the
// sums of all of C wait in scratch.
//
// Bits. A sum is a chain over ascending pairs in a block and over blocks in order, whatever the plan.
#include "core/parallel.hpp"
#include "gemm/gemm.hpp"
#include "gemm/pack.hpp"
#include "gemm/pairs.hpp"
#include "gemm/ukernel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

constexpr int kL = kLanes<float>;            // pairs of a vector
constexpr int kN = kNR<float>;               // columns of a panel
constexpr std::int64_t kDepth = kKC<float>;  // pairs of a block of k
constexpr std::int64_t kRowStride = kPackedRowStride<float>;
constexpr Tap kNoTap{0, 0};
constexpr TapList kOnePiece{&kNoTap, 1, 0};
// Rows up to which blocks of B are few panels that stay in L2, each thread's own.
constexpr std::int64_t kFewRows = 24 * kMR;
static_assert(kL == 16);

// A block of A, dst[i ld + p] = pair p of row i, or of B, dst[p ld + i] of column i. The last vectors are
// written whole: ld holds them.
template <Operand kOperand>
void copy_pairs(const PairSource& from, float* dst, std::int64_t ld) {
  constexpr bool kRows = kOperand == Operand::kA;
  const std::int64_t pairs = ceil_div(from.k, kPair);
  for (std::int64_t i = 0; i < from.count; i += kL) {
    const std::int64_t count = min_i(kL, from.count - i);
    for (std::int64_t p = 0; p < pairs; p += kL) {
      const std::int64_t depth = min_i(kL, pairs - p);
      Vec<float> v[kL];
      if (from.step == 1) {
        for (int r = 0; r < kL; ++r) v[r] = r < count ? from.along_k(i + r, p) : Vec<float>::zero();
        if constexpr (!kRows) transpose(v);
      } else {
        for (int r = 0; r < kL; ++r) v[r] = r < depth ? from.across(i, p + r) : Vec<float>::zero();
        if constexpr (kRows) transpose(v);
      }
      for (int r = 0; r < kL; ++r) {
        if (r >= (kRows ? count : depth)) break;
        v[r].store(kRows ? dst + (i + r) * ld + p : dst + (p + r) * ld + i);
      }
    }
  }
}

using Problem = GemmProblem<Bfloat16>;

// Columns [j, j + n) of the block of k from pair p on, as panels of `depth` rows.
void pack_panels(const Problem& g, std::int64_t p, std::int64_t depth, std::int64_t j,
                 std::int64_t n, float* dst) {
  for (std::int64_t q = 0; q < n; q += kN, dst += depth * kN) {
    const std::int64_t width = min_i(kN, n - q), k = min_i(kPair * depth, g.k - kPair * p);
    copy_pairs<Operand::kB>({g.b + kPair * p * g.rs_b + (j + q) * g.cs_b, g.cs_b, g.rs_b, width, k},
                            dst, kN);
  }
}

struct Plan {
  bool copy_a;
  std::int64_t pairs, depth, panels;      // of k; of its blocks; of a block of B
  int row_parts, column_parts;            // the team as a grid
  std::int64_t a_floats, b_floats, sums;  // scratch: per thread, per part of the columns, in all
};

Plan make_plan(const Problem& g, int threads) {
  Plan plan{};
  plan.pairs = ceil_div(g.k, kPair);
  plan.depth = min_i(kDepth, max_i(1, plan.pairs));
  plan.copy_a = g.cs_a != 1 || g.k % kPair != 0 || g.rs_a % kPair != 0 ||
                reinterpret_cast<std::uintptr_t>(g.a) % sizeof(float) != 0 ||
                rows_alias<Bfloat16>(g.rs_a);
  plan.row_parts = 1;
  plan.column_parts = threads;
  for (int parts = threads; parts > 1 && g.m > kFewRows; --parts) {
    if (threads % parts == 0) {
      plan.row_parts = parts;
      plan.column_parts = threads / parts;
      break;
    }
  }
  const std::int64_t most = g.m > kFewRows ? kNC<float> / kN : kPanelsAtOnce;
  plan.panels = min_i(most, ceil_div(ceil_div(g.n, kN), plan.column_parts));
  plan.a_floats = plan.copy_a ? kMC<float> * kRowStride : 0;
  plan.b_floats = g.packed_b != nullptr ? 0 : plan.panels * plan.depth * kN;
  plan.sums = plan.pairs > plan.depth ? g.m * g.n : 0;
  return plan;
}

std::int64_t scratch_bytes(const Problem& g, int threads) {
  // A smaller team than asked for has another grid: room for any.
  std::int64_t most = 0;
  for (int team = 1; team <= threads; ++team) {
    const Plan plan = make_plan(g, team);
    most = max_i(most, team * plan.a_floats + plan.column_parts * plan.b_floats + plan.sums);
  }
  return most * static_cast<std::int64_t>(sizeof(float));
}

// A tile of C on its way: float32 until the last block of k is added.
struct Tile {
  alignas(64) float sums[kMR * kN], residual[kMR * kN], column_bias[kN], row_bias[kMR];

  // Rows [i, i + m) of columns [j, j + n).
  void run(const Problem& g, const Plan& plan, const float* const* a_rows, const float* panel,
           std::int64_t depth, std::int64_t i, std::int64_t m, std::int64_t j, std::int64_t n,
           bool first, bool last, float* all_sums) {
    float* rows[kMR];
    const float* residual_rows[kMR];
    for (std::int64_t r = 0; r < m; ++r) {
      rows[r] = plan.sums > 0 ? all_sums + (i + r) * g.n + j : sums + r * kN;
      residual_rows[r] = residual + r * kN;
    }
    TileStore<float> store{rows, n, !first, nullptr, nullptr, nullptr, Activation{}};
    const Epilogue<Bfloat16>& e = g.epilogue;
    if (last) {
      if (e.bias_axis == BiasAxis::kColumn) store.column_bias = column_bias;  // set by the panel
      if (e.bias_axis == BiasAxis::kRow) {
        for (std::int64_t r = 0; r < m; ++r) row_bias[r] = to_compute(e.bias[i + r]);
        store.row_bias = row_bias;
      }
      if (e.residual != nullptr) {
        for (std::int64_t r = 0; r < m; ++r) {
          widen(e.residual + (i + r) * e.rs_residual + j, n, residual + r * kN);
        }
        store.residual_rows = residual_rows;
      }
      store.activation = e.activation;
    }
    run_tile<PairProducts>(m, a_rows, depth, kOnePiece, panel, kN, store);
    if (!last) return;
    for (std::int64_t r = 0; r < m; ++r) {
      for (std::int64_t c = 0; c < n; c += kL) {
        store_lanes(load_lanes(rows[r] + c, n - c), g.c + (i + r) * g.rs_c + j + c, n - c);
      }
    }
  }

  static void widen(const Bfloat16* from, std::int64_t n, float* to) {
    for (std::int64_t c = 0; c < n; c += kL) load_lanes(from + c, n - c).store(to + c);
  }
};

// One thread's part: rows of a block of A against the panels of a block of B.
void run_panels(const Problem& g, const Plan& plan, const float* a, std::int64_t rs_a,
                std::int64_t i, std::int64_t m, std::int64_t p, std::int64_t depth,
                const float* panel, Range panels, float* all_sums) {
  Tile tile;
  const bool first = p == 0, last = p + depth >= plan.pairs;
  const std::int64_t tiles = ceil_div(m, kMR);
  for (std::int64_t q = panels.begin; q < panels.end; ++q, panel += depth * kN) {
    const std::int64_t j = q * kN, n = min_i(kN, g.n - j);
    if (last && g.epilogue.bias_axis == BiasAxis::kColumn) {
      Tile::widen(g.epilogue.bias + j, n, tile.column_bias);
    }
    for (std::int64_t t = 0; t < tiles; ++t) {
      const Range rows = split_range(m, tiles, t);
      const float* a_rows[kMR];
      for (std::int64_t r = rows.begin; r < rows.end; ++r) a_rows[r - rows.begin] = a + r * rs_a;
      tile.run(g, plan, a_rows, panel, depth, i + rows.begin, rows.end - rows.begin, j, n, first,
               last, all_sums);
    }
  }
}

void run_team(const Problem& g, const Plan& plan, int tid, int nthreads, float* scratch) {
  const int row_part = tid % plan.row_parts, column_part = tid / plan.row_parts;
  float* const a_copy = scratch + tid * plan.a_floats;
  float* const b_block = scratch + nthreads * plan.a_floats + column_part * plan.b_floats;
  float* const sums = scratch + nthreads * plan.a_floats + plan.column_parts * plan.b_floats;
  const std::int64_t all_panels = ceil_div(g.n, kN);
  const Range rows = split_range(g.m, plan.row_parts, row_part);
  const Range mine = split_range(all_panels, plan.column_parts, column_part);
  const bool shared = plan.row_parts > 1 && g.packed_b == nullptr;
  const std::int64_t row_blocks = ceil_div(rows.end - rows.begin, kMC<float>);
  // Every member passes the same number of barriers, whatever its share of the columns.
  const std::int64_t blocks = ceil_div(ceil_div(all_panels, plan.column_parts), plan.panels);
  for (std::int64_t jc = 0; jc < blocks; ++jc) {
    const Range panels = {min_i(mine.end, mine.begin + jc * plan.panels),
                          min_i(mine.end, mine.begin + (jc + 1) * plan.panels)};
    std::int64_t p = 0;
    do {
      const std::int64_t depth = min_i(plan.depth, plan.pairs - p);
      const float* block = b_block;
      if (g.packed_b != nullptr) {
        block = reinterpret_cast<const float*>(g.packed_b) + p * all_panels * kN +
                panels.begin * depth * kN;
      } else {
        const Range part = split_range(panels.end - panels.begin, plan.row_parts, row_part);
        const std::int64_t j = (panels.begin + part.begin) * kN;
        pack_panels(g, p, depth, j, min_i(g.n, (panels.begin + part.end) * kN) - j,
                    b_block + part.begin * depth * kN);
      }
      if (shared) team_barrier(nthreads);
      for (std::int64_t ic = 0; ic < row_blocks; ++ic) {
        const Range part = split_range(rows.end - rows.begin, row_blocks, ic);
        const std::int64_t i = rows.begin + part.begin, m = part.end - part.begin;
        const Bfloat16* from = g.a + i * g.rs_a + kPair * p * g.cs_a;
        const float* a = a_copy;
        std::int64_t rs_a = kRowStride;
        if (plan.copy_a) {
          const std::int64_t k = min_i(kPair * depth, g.k - kPair * p);
          copy_pairs<Operand::kA>({from, g.rs_a, g.cs_a, m, k}, a_copy, kRowStride);
        } else {
          a = reinterpret_cast<const float*>(from);
          rs_a = g.rs_a / kPair;
        }
        run_panels(g, plan, a, rs_a, i, m, p, depth, block, panels, sums);
      }
      if (shared) team_barrier(nthreads);
      p += depth;
    } while (p < plan.pairs);
  }
}

void run_gemm(const Problem& g, int threads, void* scratch) {
  if (g.m == 0 || g.n == 0) return;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    run_team(g, make_plan(g, nthreads), tid, nthreads, static_cast<float*>(scratch));
  });
}

// Of B, which is what stays from call to call.
std::int64_t pack(const Problem& g, Operand, int threads, Bfloat16* dst) {
  const std::int64_t pairs = ceil_div(g.k, kPair), width = round_up(g.n, kN);
  if (dst == nullptr) return kPair * pairs * width;
  float* const to = reinterpret_cast<float*>(dst);
  const std::int64_t panels = width / kN, blocks = ceil_div(pairs, kDepth);
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    const Range mine = split_range(blocks * panels, nthreads, tid);
    for (std::int64_t u = mine.begin; u < mine.end; ++u) {
      const std::int64_t p = u / panels * kDepth, depth = min_i(kDepth, pairs - p);
      const std::int64_t j = u % panels * kN;
      pack_panels(g, p, depth, j, min_i(kN, g.n - j), to + p * width + j * depth);
    }
  });
  return kPair * pairs * width;
}

// out[j] = sum_i x[i rs + j], in float32, rounded once. Rows in ascending order.
void column_sums(const Bfloat16* x, std::int64_t rs, std::int64_t m, std::int64_t n, int threads,
                 Bfloat16* out) {
  constexpr int kVectors = 8;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range part = split_range(ceil_div(n, kL), nthreads, tid);
    for (std::int64_t v0 = part.begin; v0 < part.end; v0 += kVectors) {
      const std::int64_t count = min_i(kVectors, part.end - v0);
      Vec<float> sums[kVectors];
      for (auto& sum : sums) sum = Vec<float>::zero();
      for (std::int64_t i = 0; i < m; ++i) {
        const Bfloat16* row = x + i * rs;
        for (std::int64_t v = 0; v < count; ++v) {
          const std::int64_t j = (v0 + v) * kL;
          sums[v] = sums[v] + load_lanes(row + j, n - j);
        }
      }
      for (std::int64_t v = 0; v < count; ++v) {
        const std::int64_t j = (v0 + v) * kL;
        store_lanes(sums[v], out + j, n - j);
      }
    }
  });
}

}  // namespace

extern const GemmTable<Bfloat16> gemm_kernels = {&scratch_bytes, &run_gemm, &pack, &column_sums};

}  // namespace ARRAYNN_ISA_NAMESPACE
