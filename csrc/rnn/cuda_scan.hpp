// All steps of a layer in one direction in one launch: what forward (cuda.cu) and backward
// (cuda_backward.cu) share.
//
// Plan. A block of 256 threads a multiprocessor, all there at once (a cooperative launch), go through the
// steps together. A step has one to three parts, and between any two of them a barrier of the whole grid:
//   product  z = h W' for all gates of a unit, or going back dz W, and the arithmetic of the gates at once
//   second   that of the step's second product: the candidate of a reset before it, the projection
//   rows     with layer norms: a block takes whole samples, normalises them and forms their gates
// so an RNN, LSTM or GRU has one barrier a step, and two with a second product or norms (three with both).
//
// Apart. A barrier of the grid takes longer than a step of a small network. Where the weights of all panels fit
// the shared memory of one block, and that is estimated to take less (plan_scan), a block takes samples of
// its own through all steps instead: each of its warps has every 8th panel, for the block's samples, and what
// the steps wait for is the barrier of the block.
//
// Products. T is what they read: h, weights and gradients of gates; all else is Compute<T>. A panel is kUnits = 8
// units with all of their gates, the columns of one mma a gate; a tile is kSamples = 32 samples, the rows of two,
// or half of that where there is a block for each. Blocks own panels, for the whole sequence: with more panels
// than blocks each has every grid-th, with fewer several blocks share a panel and split its tiles. What a block
// owns decides who reads the state again: c, and what is carried back, stay with one thread; only h (dz) is
// read by others, after the barrier.
//   k        goes in groups of 16, or 32 in 16 bits: a lane loads 16 bytes of k of a row at a time. mma takes
//            them in that order, which both operands agree on. Every 8th group from group w on is chain w, that
//            of warp w; or a warp takes all chains, in order, where blocks are apart. The sums of the chains meet
//            in shared memory, 8 x gates x 256 elements (LSTM: 32 KiB of float32), and thread i of the block has
//            element i: sample i / 8 and unit i % 8; apart, lane i of a warp has every 32nd from i on
//   weights  of the panels of a block lie in shared memory for all steps, in the order of the fragments: 8 x
//            gates x k elements a panel, 64 KiB for an LSTM of 512 units in float32, 48 for 768 in 16 bits. Of
//            those that do not fit (227 KiB a block on sm_90, 163 on sm_80), the last groups of k come from L2 in
//            each step, where W_hh of a few thousand units stays. Where they are read once, all do
//   h        comes from L2, straight into fragments: 4 KiB of h for 8 KiB of products a group of k and a tile
//            of 32. The next group's load is on its way while one is multiplied, and x's share of the gates
//            of the next step is asked for before the products of this one
//   types    16 bits by m16n8k16 with float32 sums; float32 by three products of tf32, or by one
//            (ann.set_float32_precision), as in core/cuda_products.hpp; float64, and float32 with fewer than
//            kLeastSplitDepth of k, by multiply-adds
//
// Bits. A sum is eight chains over ascending k and the sum of those in order, which depends on the
// depth alone: not on the batch, the tile, the grid, or on which weights are in shared memory.
//
// A device that does not launch all blocks together (or has no room) runs the same kernel once for every
// part of every step; so does a call of one step and one part.
#pragma once
#include <cfloat>

#include "core/cuda_grid.hpp"
#include "core/cuda_pack.hpp"
#include "core/cuda_products.hpp"
#include "core/cuda_reduce.hpp"
#include "core/cuda_shared.hpp"
#include "rnn/stack.hpp"
#include "rnn/step.hpp"
#include "rnn/step_back.hpp"

namespace arraynn::cuda {

inline constexpr int kScanWarps = 8, kScanThreads = kScanWarps * kWarp;
inline constexpr int kUnits = 8, kSamples = 32;
static_assert(kUnits * kSamples == kScanThreads);
// Of k: 16 bytes of four lanes, or of eight in float64.
template <class T>
inline constexpr int kGroup = sizeof(T) == 2 ? 32 : 16;

enum class ScanPart : std::uint8_t { kProduct, kRows, kSecond };
inline constexpr int kScanParts = 3;  // part(n) of a call is the n-th

// One product of a step: rows of samples times rows of weights.
template <class T>
struct ScanProduct {
  const T* w = nullptr;  // row of unit u in gate g: w + (g units + u) row
  std::int64_t row = 0, depth = 0, units = 0;
  int gates = 0;              // 0: there is none
  std::int64_t panels = 0;    // also of units that only pass
  Products products{};        // kExact: multiply-adds, but for 16 bits
  std::int64_t resident = 0;  // groups of k in shared memory
  std::int64_t at = 0;        // of them, in packs

  ARRAYNN_HOST_DEVICE std::int64_t groups() const { return ceil_div(depth, kGroup<T>); }
  // Packs of a group in a panel.
  ARRAYNN_HOST_DEVICE std::int64_t group_packs() const {
    return std::int64_t{gates} * kUnits * kGroup<T> / kPack<T>;
  }
};

template <class T>
ScanProduct<T> scan_product(const T* w, std::int64_t row, std::int64_t depth, std::int64_t units,
                            int gates, std::int64_t all_units) {
  ScanProduct<T> p;
  p.w = w;
  p.row = row;
  p.depth = depth;
  p.units = units;
  p.gates = gates;
  p.panels = ceil_div(all_units, kUnits);
  if constexpr (std::is_same_v<T, float>) {
    if (depth >= kLeastSplitDepth) {
      p.products = tf32_products() ? Products::kTf32 : Products::kThreeTf32;
    }
  }
  return p;
}

// What the launch of a scan runs: steps [begin, end) in their order, parts [part_begin, part_end) of each.
struct ScanRange {
  std::int64_t begin = 0, end = 0;
  int part_begin = 0, part_end = kScanParts;
};

// What every call has beside the scan.
template <class T>
struct ScanPlan {
  ScanProduct<T> first, second;
  std::uint32_t* arrived = nullptr;
  ScanRange range;
  std::int64_t samples = kSamples;  // of a tile
  bool apart = false;               // a block has samples, with all of their units
  std::int64_t resident_at = 0;     // bytes of shared memory before the weights
};

// ---- host -------------------------------------------------------------------------------------------

// Estimates in microseconds, of the clock of a Hopper: a barrier of the grid; the first load of a product;
// what a group of k of a chain takes; gates of an element a lane, which wait for memory once.
constexpr double kGridBarrier = 1.3, kFirstLoad = 0.3, kGroupTime = 0.05, kGateTime = 0.5;

// Of a step whose blocks have `tiles` tiles of `passes` elements a lane and `panels` panels, one after the other.
template <class T>
double step_time(const ScanProduct<T>& p, std::int64_t panels, std::int64_t tiles,
                 std::int64_t passes, std::int64_t warps) {
  if (p.gates == 0) return 0;
  const auto of = [](std::int64_t n) { return static_cast<double>(n); };
  const double product = kFirstLoad + kGroupTime * of(ceil_div(p.groups(), warps));
  return of(panels * tiles) * (product + kGateTime * of(passes));
}

// Blocks and shared memory; `rows`: samples of the part over rows, or 0.
template <class T>
Grid plan_scan(ScanPlan<T>* plan, std::int64_t batch, std::int64_t rows) {
  const std::int64_t most = multiprocessors(), steps = plan->range.end - plan->range.begin;
  ScanProduct<T>* const products[] = {&plan->first, &plan->second};
  int gates = 0;
  std::int64_t packs = 0;
  for (const ScanProduct<T>* p : products) {
    gates = p->gates > gates ? p->gates : gates;
    packs += p->panels * p->groups() * p->group_packs();
  }
  constexpr std::int64_t kOfReductions = 1024;  // static
  const std::int64_t sums =
      std::int64_t{gates} * kScanWarps * kScanThreads * std::int64_t{sizeof(Compute<T>)};
  std::int64_t left = max_i(0, most_shared_bytes() - kOfReductions - sums) / 16, used = 0;

  if (plan->first.panels * ceil_div(batch, kSamples / 2) <= most) plan->samples = kSamples / 2;
  std::int64_t tiles = ceil_div(batch, plan->samples), blocks = min_i(rows, most);
  double together = 0, apart = 0;
  // Samples of a block that is apart: whole elements of a warp's lanes.
  constexpr std::int64_t kOfLanes = kWarp / kUnits;
  const std::int64_t own = min_i(kSamples, round_up(ceil_div(batch, most), kOfLanes));
  const std::int64_t own_tiles = ceil_div(ceil_div(batch, own), most);
  for (const ScanProduct<T>* p : products) {
    if (p->gates == 0) continue;
    const std::int64_t shared_by = max_i(1, most / max_i(1, p->panels));
    const std::int64_t of_product = min_i(most, p->panels * min_i(shared_by, tiles));
    blocks = max_i(blocks, of_product);
    together += kGridBarrier + step_time(*p, ceil_div(p->panels, of_product),
                                         ceil_div(tiles, shared_by), 1, kScanWarps);
    apart += step_time(*p, ceil_div(p->panels, kScanWarps), own_tiles, own / kOfLanes, 1);
  }
  plan->apart = steps > 1 && packs <= left && apart < together;
  if (plan->apart) {
    plan->samples = own;
    tiles = ceil_div(batch, own);
    blocks = min_i(most, tiles);
  }
  for (ScanProduct<T>* p : products) {
    if (p->gates == 0 || blocks == 0) continue;
    const std::int64_t owned = plan->apart ? p->panels : ceil_div(p->panels, blocks);
    const std::int64_t owners = plan->apart ? blocks : max_i(1, blocks / max_i(1, p->panels));
    const std::int64_t times = steps * ceil_div(tiles, owners);
    const std::int64_t of_group = owned * p->group_packs();
    p->resident = times > 1 ? min_i(p->groups(), left / max_i(1, of_group)) : 0;
    p->at = used;
    used += p->resident * of_group;
    left -= p->resident * of_group;
  }
  plan->resident_at = sums;
  return {blocks, kScanThreads, static_cast<std::size_t>(sums + 16 * used)};
}

// Runs the plan of a call: in one launch where the device has room for all blocks, else part by part.
template <class Call>
void launch_scan(const char* name, void (*kernel)(Call), Grid grid, Call call) {
  auto& plan = call.plan;
  const ScanRange all = plan.range;
  const int parts = plan.second.gates != 0 || call.has_rows() ? kScanParts : 1;
  const bool waits = !plan.apart && (all.end - all.begin > 1 || parts > 1);
  if (!waits || resident_blocks(kernel, grid.threads, grid.shared_bytes) >= grid.blocks) {
    if (waits) fill(reinterpret_cast<std::uint8_t*>(plan.arrived), 4, std::uint8_t{0});
    grid.together = waits;
    return launch(name, kernel, grid, call);
  }
  for (std::int64_t i = all.begin; i < all.end; ++i) {
    for (int part = 0; part < parts; ++part) {
      if (!call.has(call.part(part), i)) continue;
      plan.range = {i, i + 1, part, part + 1};
      launch(name, kernel, grid, call);
    }
  }
}

// ---- products ---------------------------------------------------------------------------------------

// Rows that are multiplied, one a sample.
template <class T>
struct ScanRows {
  const T* p;
  std::int64_t stride;
};

template <class T>
__device__ __forceinline__ bool rows_are_packs(const T* p, std::int64_t stride) {
  return (reinterpret_cast<std::uintptr_t>(p) | static_cast<std::uintptr_t>(stride) * sizeof(T)) %
             16 ==
         0;
}

// A pack of a row from k on, 0 beyond its end.
template <class T>
__device__ __forceinline__ Pack<T> load_depth(const T* row, std::int64_t k, std::int64_t depth,
                                              bool packed) {
  if (packed && k + kPack<T> <= depth) return load_pack<Access::kInPlace>(row + k, true);
  Pack<T> r;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) r.v[i] = k + i < depth ? row[k + i] : T{};
  return r;
}

// Of a lane, in the places of mma: sum r of half m is that of sample 16 m + lane / 4 + 8 (r / 2) and unit
// lane % 4 * 2 + r % 2.
template <class T, int kGates>
using ScanSums = Compute<T>[kSamples / 16][kGates][4];

// Chains of a sum that are one warp's: from every 8th group on.
struct ScanChains {
  int begin, end;
};

// What of a product is one block's, or one warp's, at a time.
template <class T>
struct ScanTile {
  const ScanProduct<T>& p;
  const Pack<T>* resident;  // of the panel
  ScanRows<T> rows;
  std::int64_t panel, first, end;  // samples [first, end)
  ScanChains chains;

  // The second half of the tile is there.
  __device__ __forceinline__ bool both() const { return first + kSamples / 2 < end; }
  // Samples and units that are not there take another's place: their sums are not used.
  __device__ __forceinline__ const T* row(int i) const {
    const std::int64_t b = first + i;
    return rows.p + (b < end ? b : first) * rows.stride;
  }
  __device__ __forceinline__ const T* weights(int unit) const {
    const std::int64_t u = panel * kUnits + unit;
    return p.w + (u < p.units ? u : 0) * p.row;
  }
};

// A chain's sums of a lane, to [gate][sample][unit] in shared memory; those after the first are added there.
template <int kGates, class T>
__device__ __forceinline__ void put_sums(const ScanSums<T, kGates>& sum, bool both, bool first,
                                         Compute<T>* to) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
    for (int m = 0; m < kSamples / 16; ++m) {
      if (m > 0 && !both) continue;
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int sample = 16 * m + lane / 4 + 8 * (r / 2), unit = lane % 4 * 2 + r % 2;
        Compute<T>& total = to[gate * kScanThreads + sample * kUnits + unit];
        total = first ? sum[m][gate][r] : total + sum[m][gate][r];
      }
    }
  }
}

template <Products kProducts, int kGates, class T>
__device__ __forceinline__ void multiply_by_mma(const ScanTile<T>& tile, float* sums) {
  const ScanProduct<T>& p = tile.p;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int groups = static_cast<int>(p.groups()), resident = static_cast<int>(p.resident);
  const bool both = tile.both();
  const bool packed = rows_are_packs(tile.rows.p, tile.rows.stride);
  const bool packed_w = rows_are_packs(p.w, p.row);
  const std::int64_t of_lane = lane % 4 * kPack<T>, gate_row = p.units * p.row;
  const T* const w = tile.weights(lane / 4);
  const T* row[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) row[i] = tile.row(lane / 4 + 8 * i);

  const auto load = [&](int group, Pack<T>(&x)[4]) {
    const std::int64_t k = std::int64_t{group} * kGroup<T> + of_lane;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < 2 || both) x[i] = load_depth(row[i], k, p.depth, packed);
    }
  };
  // Of a pack of 16 bytes, those that step `step` of two takes.
  const auto words = [](const Pack<T>& x, int step, int word) {
    Words bits;
    memcpy(&bits, reinterpret_cast<const char*>(x.v) + 4 * (2 * step + word), sizeof bits);
    return bits;
  };
  Pack<T> x[4] = {};
  if (tile.chains.begin < groups) load(tile.chains.begin, x);
#pragma unroll 1
  for (int chain = tile.chains.begin; chain < tile.chains.end; ++chain) {
    ScanSums<T, kGates> sum = {};
#pragma unroll 1
    for (int group = chain; group < groups; group += kScanWarps) {
      Pack<T> b[kGates], next[4] = {};
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        if (group < resident) {
          b[gate] = tile.resident[(group * kGates + gate) * kWarp + lane];
        } else {
          b[gate] = load_depth(w + gate * gate_row, std::int64_t{group} * kGroup<T> + of_lane,
                               p.depth, packed_w);
        }
      }
      const int after = chain + 1 < tile.chains.end ? chain + 1 : groups;
      const int following = group + kScanWarps < groups ? group + kScanWarps : after;
      if (following < groups) load(following, next);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        Words leading[kGates][2], small_b[kGates][2];
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
          for (int r = 0; r < 2; ++r) leading[gate][r] = words(b[gate], step, r);
          prepare<kProducts>(leading[gate], small_b[gate]);
        }
#pragma unroll
        for (int m = 0; m < kSamples / 16; ++m) {
          if (m > 0 && !both) continue;
          Words a[4], small_a[4];
#pragma unroll
          for (int r = 0; r < 4; ++r) a[r] = words(x[2 * m + r % 2], step, r / 2);
          prepare<kProducts>(a, small_a);
#pragma unroll
          for (int gate = 0; gate < kGates; ++gate) {
            if constexpr (kProducts == Products::kThreeTf32) {
              float part[4] = {};
              multiply(T{}, part, small_a, leading[gate]);
              multiply(T{}, part, a, small_b[gate]);
              multiply(T{}, part, a, leading[gate]);
#pragma unroll
              for (int r = 0; r < 4; ++r) sum[m][gate][r] += part[r];
            } else {
              multiply(T{}, sum[m][gate], a, leading[gate]);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i] = next[i];
    }
    put_sums<kGates, T>(sum, both, chain == tile.chains.begin, sums);
  }
}

template <int kGates, class T>
__device__ __forceinline__ void multiply_by_cores(const ScanTile<T>& tile, T* sums) {
  constexpr int kChunks = kGroup<T> / kPack<T>;
  const ScanProduct<T>& p = tile.p;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int chunks = static_cast<int>(p.groups()) * kChunks;
  const int resident = static_cast<int>(p.resident) * kChunks;
  const bool both = tile.both();
  const bool packed = rows_are_packs(tile.rows.p, tile.rows.stride);
  const bool packed_w = rows_are_packs(p.w, p.row);
  const std::int64_t gate_row = p.units * p.row;
  const int unit = lane % 4 * 2;
  const T* const w[2] = {tile.weights(unit), tile.weights(unit + 1)};
  const T* row[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) row[i] = tile.row(lane / 4 + 8 * i);
#pragma unroll 1
  for (int chain = tile.chains.begin; chain < tile.chains.end; ++chain) {
    ScanSums<T, kGates> sum = {};
#pragma unroll 1
    for (int chunk = chain * kChunks; chunk < chunks;) {
      const std::int64_t k = std::int64_t{chunk} * kPack<T>;
      const int group = chunk / kChunks, within = chunk % kChunks;
      Pack<T> x[4] = {};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i < 2 || both) x[i] = load_depth(row[i], k, p.depth, packed);
      }
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
#pragma unroll
        for (int u = 0; u < 2; ++u) {
          const Pack<T> y =
              chunk < resident
                  ? tile.resident[((group * kGates + gate) * kUnits + unit + u) * kChunks + within]
                  : load_depth(w[u] + gate * gate_row, k, p.depth, packed_w);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (i >= 2 && !both) continue;
            T& s = sum[i / 2][gate][i % 2 * 2 + u];
#pragma unroll
            for (int e = 0; e < kPack<T>; ++e) s = multiply_add(x[i].v[e], y.v[e], s);
          }
        }
      }
      // The next of the group, or the first of the next group of the chain.
      chunk += within + 1 < kChunks ? 1 : 1 + (kScanWarps - 1) * kChunks;
    }
    put_sums<kGates, T>(sum, both, chain == tile.chains.begin, sums);
  }
}

// The sums of a warp's chains, to shared memory: [gate][sample][unit].
template <int kGates, class T>
__device__ __forceinline__ void multiply_panel(const ScanTile<T>& tile, Compute<T>* sums) {
  if constexpr (sizeof(T) == 2) {
    multiply_by_mma<Products::kExact, kGates>(tile, sums);
  } else if constexpr (std::is_same_v<T, float>) {
    switch (tile.p.products) {
      case Products::kThreeTf32:
        return multiply_by_mma<Products::kThreeTf32, kGates>(tile, sums);
      case Products::kTf32:
        return multiply_by_mma<Products::kTf32, kGates>(tile, sums);
      case Products::kExact:
        return multiply_by_cores<kGates>(tile, sums);
    }
  } else {
    multiply_by_cores<kGates>(tile, sums);
  }
}

// A sum that three products leave without a finite value, by multiply-adds.
template <class T>
__device__ __forceinline__ T multiply_again(const ScanProduct<T>& p, const T* x, const T* w) {
  T sum = 0;
#pragma unroll 1
  for (std::int64_t k = 0; k < p.depth; ++k) sum = multiply_add(x[k], w[k], sum);
  return sum;
}

// The panels and tiles of a block, or where blocks are apart of a warp: every so many from a first one on.
struct ScanShare {
  std::int64_t panel, panels, tile, tiles;
};
template <class T>
__device__ __forceinline__ ScanShare share_of(const ScanPlan<T>& plan, const ScanProduct<T>& p) {
  if (plan.apart) return {threadIdx.x / kWarp, kScanWarps, blockIdx.x, gridDim.x};
  return {blockIdx.x % p.panels, gridDim.x, blockIdx.x / p.panels, max_i(1, gridDim.x / p.panels)};
}

// Weights of the panels of this block that stay.
template <class T>
__device__ __forceinline__ void keep_weights(const ScanPlan<T>& plan, const ScanProduct<T>& p,
                                             char* resident) {
  constexpr int kChunks = kGroup<T> / kPack<T>;
  if (p.gates == 0 || p.resident == 0) return;
  const bool packed = rows_are_packs(p.w, p.row);
  const std::int64_t of_panel = p.resident * p.group_packs();
  Pack<T>* to = reinterpret_cast<Pack<T>*>(resident) + p.at;
  const std::int64_t first = plan.apart ? 0 : blockIdx.x % p.panels;
  for (std::int64_t panel = first; panel < p.panels; panel += plan.apart ? 1 : gridDim.x) {
    for (std::int64_t i = threadIdx.x; i < of_panel; i += kScanThreads) {
      const std::int64_t chunk = i % kChunks, u = panel * kUnits + i / kChunks % kUnits;
      const std::int64_t gate = i / (kChunks * kUnits) % p.gates;
      const std::int64_t group = i / (kChunks * kUnits * p.gates);
      const T* row = p.w + (gate * p.units + (u < p.units ? u : 0)) * p.row;
      to[i] = load_depth(row, group * kGroup<T> + chunk * kPack<T>, p.depth, packed);
    }
    to += of_panel;
  }
}

// f(b, unit, z) of all samples and all units of this block's panels; z[g] is the sum of gate g, zeros where
// there are no weights of that unit, and unless it `multiplies`. before(b, unit) comes ahead of the product.
template <int kGates, class T, class Before, class F>
__device__ __forceinline__ void for_products(const ScanPlan<T>& plan, const ScanProduct<T>& p,
                                             ScanRows<T> rows, std::int64_t batch, bool multiplies,
                                             const Before& before, const F& f) {
  using C = Compute<T>;
  const auto* resident =
      reinterpret_cast<const Pack<T>*>(dynamic_shared<char>() + plan.resident_at) + p.at;
  const std::int64_t of_panel = p.resident * p.group_packs();
  const ScanShare share = share_of(plan, p);
  if (share.tile >= share.tiles) return;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  const bool apart = plan.apart;
  // Those who share a tile: the block, whose warps have a chain each, or a warp that has all.
  const int lanes = apart ? kWarp : kScanThreads, place = apart ? thread % kWarp : thread;
  const int most = static_cast<int>(max_i(1, min_i(kScanWarps, p.groups())));
  const ScanChains chains = apart ? ScanChains{0, most} : ScanChains{warp, warp + 1};
  C* const sums = dynamic_shared<C>() + (apart ? warp * kGates * kScanThreads : 0);
  C* const own = sums + (apart ? 0 : warp * kGates * kScanThreads);
  const auto wait = [apart] {
    if (apart) {
      __syncwarp();
    } else {
      __syncthreads();
    }
  };
  if (apart) resident += share.panel * of_panel;
  for (std::int64_t panel = share.panel; panel < p.panels; panel += share.panels) {
    for (std::int64_t first = share.tile * plan.samples; first < batch;
         first += share.tiles * plan.samples) {
      const std::int64_t end = min_i(batch, first + plan.samples);
      const int elements = static_cast<int>(end - first) * kUnits;
      const bool sums_there = multiplies && panel * kUnits < p.units;
#pragma unroll 1
      for (int e = place; e < elements; e += lanes) {
        before(first + e / kUnits, panel * kUnits + e % kUnits);
      }
      const ScanTile<T> tile{p, resident, rows, panel, first, end, chains};
      if (sums_there) {
        multiply_panel<kGates>(tile, own);
        wait();  // the sums of all chains are there
      }
#pragma unroll 1
      for (int e = place; e < elements; e += lanes) {
        C z[kGates];
#pragma unroll
        for (int gate = 0; gate < kGates; ++gate) {
          z[gate] = 0;
          if (!sums_there) continue;
          z[gate] += sums[gate * kScanThreads + e];
#pragma unroll
          for (int chain = 1; chain < kScanWarps; ++chain) {
            if (!apart) z[gate] += sums[(chain * kGates + gate) * kScanThreads + e];
          }
          if constexpr (std::is_same_v<T, float>) {
            if (p.products == Products::kThreeTf32 && !(::fabsf(z[gate]) <= FLT_MAX)) {
              z[gate] = multiply_again(p, tile.row(e / kUnits),
                                       tile.weights(e % kUnits) + gate * p.units * p.row);
            }
          }
        }
        f(first + e / kUnits, panel * kUnits + e % kUnits, z);
      }
      if (sums_there) wait();  // and have been read: the next tile's take their place
    }
    resident += apart ? kScanWarps * of_panel : of_panel;
  }
}

// f(b) of the samples of this block, in the parts over rows.
template <class T, class F>
__device__ __forceinline__ void for_rows(const ScanPlan<T>& plan, std::int64_t batch, const F& f) {
  const std::int64_t each = plan.apart ? plan.samples : 1;
  for (std::int64_t first = blockIdx.x * each; first < batch; first += gridDim.x * each) {
    for (std::int64_t b = first; b < min_i(batch, first + each); ++b) f(b);
  }
}

// run(i, part) of every part of every step, and what comes before the first of them.
template <class Call, class Run>
__device__ __forceinline__ void walk_scan(const Call& call, const Run& run) {
  const auto& plan = call.plan;
  auto* resident = dynamic_shared<char>() + plan.resident_at;
  keep_weights(plan, plan.first, resident);
  keep_weights(plan, plan.second, resident);
  __syncthreads();
  std::uint32_t barriers = 0;
  bool goes_on = false;
#pragma unroll 1
  for (std::int64_t i = plan.range.begin; i < plan.range.end; ++i) {
#pragma unroll 1
    for (int n = plan.range.part_begin; n < plan.range.part_end; ++n) {
      const ScanPart part = call.part(n);
      if (!call.has(part, i)) continue;
      if (goes_on && !plan.apart) grid_barrier(plan.arrived, barriers);
      if (goes_on && plan.apart) __syncthreads();
      goes_on = true;
      run(i, part);
    }
  }
}

// ---- layer norms of a row, by a block ---------------------------------------------------------------

struct ScanNormStorage {
  BlockReduceStorage<double, kScanWarps> sums[2];
};

// The sums of f(i) over i < n, which every thread gets; it begins and ends with a barrier.
template <int kCount, class F>
__device__ __forceinline__ void sum_row(std::int64_t n, double (&sum)[kCount], const F& f) {
  auto& shared = shared_storage<ScanNormStorage>();
  for (int j = 0; j < kCount; ++j) sum[j] = 0;
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < n; i += kScanThreads) f(i, sum);
  for (int j = 0; j < kCount; ++j) {
    sum[j] = block_reduce(sum[j], shared.sums[j], [](double a, double b) { return a + b; });
  }
  __syncthreads();
}

// xhat as norm's kernels form it: the mean is subtracted in two parts.
template <class T>
struct NormScale {
  T mean, rstd, shift;
  __device__ __forceinline__ NormScale(double m, double r)
      : mean(static_cast<T>(m)),
        rstd(static_cast<T>(r)),
        shift(static_cast<T>((static_cast<double>(static_cast<T>(m)) - m) * r)) {}
  __device__ __forceinline__ T operator()(T x) const { return multiply_add(x - mean, rstd, shift); }
};

// to = LN(x) gain + bias.
template <class T>
__device__ __forceinline__ void normalise_row(std::int64_t n, double eps, const T* x, const T* gain,
                                              const T* bias, T* to, double* mean, double* rstd) {
  double sum[1];
  sum_row(n, sum, [&](std::int64_t i, double (&s)[1]) { s[0] += static_cast<double>(x[i]); });
  const double m = sum[0] / static_cast<double>(n);
  sum_row(n, sum, [&](std::int64_t i, double (&s)[1]) {
    const double d = static_cast<double>(x[i]) - m;
    s[0] += d * d;
  });
  const double r = 1.0 / ::sqrt(sum[0] / static_cast<double>(n) + eps);
  if (threadIdx.x == 0) {
    *mean = m;
    *rstd = r;
  }
  const NormScale<T> scale(m, r);
  for (std::int64_t i = threadIdx.x; i < n; i += kScanThreads) {
    const T v = scale(x[i]);
    to[i] = bias != nullptr ? multiply_add(v, gain[i], bias[i]) : v * gain[i];
  }
  __syncthreads();
}

// dx of LN(x) gain, from dy.
template <class T, class From, class To>
__device__ __forceinline__ void normalise_row_back(std::int64_t n, const From* dy, const T* x,
                                                   const T* gain, double mean, double rstd,
                                                   To* dx) {
  const NormScale<T> scale(mean, rstd);
  double sum[2];
  sum_row(n, sum, [&](std::int64_t i, double (&s)[2]) {
    const double g = static_cast<double>(to_compute(dy[i]) * gain[i]);
    s[0] += g;
    s[1] += g * static_cast<double>(scale(x[i]));
  });
  const double of_all = sum[0] / static_cast<double>(n), of_x = sum[1] / static_cast<double>(n);
  for (std::int64_t i = threadIdx.x; i < n; i += kScanThreads) {
    const double g = static_cast<double>(to_compute(dy[i]) * gain[i]);
    const double d = rstd * (g - of_all - static_cast<double>(scale(x[i])) * of_x);
    dx[i] = from_compute<To>(static_cast<T>(d));
  }
  __syncthreads();
}

__device__ __forceinline__ Range one_of(std::int64_t unit, std::int64_t units) {
  return {unit, unit < units ? unit + 1 : unit};
}

}  // namespace arraynn::cuda
