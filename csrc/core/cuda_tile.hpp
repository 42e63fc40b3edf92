// The product of two matrices, one tile of the result a block, on CUDA cores: what gemm and the
// convolutions share. Operands say how they are copied to shared memory, the result where it is stored;
// tiles on tensor cores (cuda_mma.hpp) take the same.
//
// Bits. A sum, or a part of one, is one chain of fused multiply-adds, k ascending, in any tile: results
// depend neither on the tile nor on the other rows and columns.
#pragma once
#include <type_traits>

#include "core/cuda_activate.hpp"
#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"
#include "core/cuda_products.hpp"
#include "core/cuda_shared.hpp"
#include "core/index.hpp"
#include "gemm/gemm.hpp"
#include "ptx/cp_async.hpp"

namespace arraynn::cuda {

// ---- tiles ------------------------------------------------------------------------------------------

// kM x kN sums, kTM x kTN a thread; kK of k are in shared memory at a time, twice.
template <class T, int kM_, int kN_, int kK_, int kTM_, int kTN_, int kBlocks_>
struct Tile {
  using Element = T;
  static constexpr int kM = kM_, kN = kN_, kK = kK_, kTM = kTM_, kTN = kTN_;
  static constexpr int kBlocks = kBlocks_;  // a multiprocessor
  static constexpr bool kTensorCores = false;
  static constexpr int kSharedBytes = 0;  // static alone
  static constexpr int kThreadsM = kM / kTM, kThreadsN = kN / kTN, kThreads = kThreadsM * kThreadsN;
  // Elements that a thread reads from shared memory at once, 16 bytes of float32 and float64.
  static constexpr int kUnit = sizeof(T) == 8 ? 2 : 4;
  // A warp is 4 x 8 threads: per k it reads 4 kTM + 8 kTN elements, the least for 32.
  static constexpr int kLanesM = 4, kLanesN = 8;
  // Sums leave through shared memory in this many parts, 32 KiB at most.
  static constexpr int kParts = kM * kN * static_cast<int>(sizeof(Compute<T>)) > 32768 ? 2 : 1;
  static constexpr int kSumStride = kN + 8;  // rows of a warp fall on different banks

  static_assert(kThreadsM % kLanesM == 0 && kThreadsN % kLanesN == 0);
  static_assert(kTM / kParts % kUnit == 0 && kTN % kUnit == 0 && kK % kUnit == 0);
  static_assert(kK % kPack<T> == 0 && kM % kPack<T> == 0 && kN % kPack<T> == 0);
  static_assert(kM * kK % (kPack<T> * kThreads) == 0 && kN * kK % (kPack<T> * kThreads) == 0);
};

// Large: per k a thread reads 16 elements for 64 multiply-adds (float64: 8 for 16, whose units are half as
// many), so the 4 LDS.128 of a warp stand against 64 FFMA, which take a quarter of a multiprocessor 64
// cycles. 64 sums, the operands of a unit and addresses fill the 128 registers that two blocks of 256
// threads leave. Small: 64 threads, eight blocks.
template <class T>
struct TileTable;
template <>
struct TileTable<float> {
  using Large = Tile<float, 128, 128, 16, 8, 8, 2>;
  using Small = Tile<float, 32, 32, 32, 4, 4, 8>;
};
template <>
struct TileTable<double> {
  using Large = Tile<double, 64, 64, 16, 4, 4, 2>;
  using Small = Tile<double, 32, 32, 16, 4, 4, 6>;  // more blocks would spill
};

// f.operator()<Tile>() with the tile of a table for `count` results of m x n: the small one where there is
// no large tile for every multiprocessor, and for few rows or columns.
template <class Table, class F>
void with_tile(std::int64_t m, std::int64_t n, std::int64_t count, const F& f) {
  using Large = typename Table::Large;
  const std::int64_t large = ceil_div(m, Large::kM) * ceil_div(n, Large::kN) * count;
  if (m > Large::kM / 2 && n > Large::kN / 2 && large >= multiprocessors()) {
    f.template operator()<Large>();
  } else {
    f.template operator()<typename Table::Small>();
  }
}

// Tiles of a result in the order of blocks: along its shorter side first, so that neighbours read the same
// part of the longer side's operand.
struct TileGrid {
  std::int64_t m, n;
  struct Place {
    std::int64_t m, n;
  };
  constexpr std::int64_t count() const { return m * n; }
  __device__ __forceinline__ Place at(std::int64_t tile) const {
    const Quotient q = divide(tile, m <= n ? m : n);
    return m <= n ? Place{q.remainder, q.quotient} : Place{q.quotient, q.remainder};
  }
};

// Parts of a long sum, enough blocks for a large GPU and a thousand of k a part at least. They depend on the
// shape alone; the results of parts are added in order.
constexpr std::int64_t kWantedBlocks = 512, kLeastPart = 1024;
constexpr std::int64_t kPartUnit = 64;  // whole stages of every tile
struct Parts {
  std::int64_t length, count;
};
inline Parts parts_of(std::int64_t m, std::int64_t n, std::int64_t groups, std::int64_t depth) {
  const std::int64_t tiles = ceil_div(m, 64) * ceil_div(n, 64) * groups;
  const std::int64_t most = max_i(1, depth / kLeastPart);
  const std::int64_t wanted = min_i(most, ceil_div(kWantedBlocks, max_i(tiles, 1)));
  const std::int64_t length = round_up(ceil_div(max_i(depth, 1), wanted), kPartUnit);
  return {length, max_i(1, ceil_div(depth, length))};
}

// ---- operands ---------------------------------------------------------------------------------------

// One operand's part of a stage: rows of k where the operand is read along k, else rows of the other
// index. The former have a pack of padding: an odd number of 16 bytes, so that threads that read one
// k of neighbouring rows meet no bank twice.
template <class Tile, int kOuter, bool kAlongK>
struct OperandStage {
  using T = typename Tile::Element;
  static constexpr int kLength = kAlongK ? Tile::kK : kOuter;
  static constexpr int kRows = kAlongK ? kOuter : Tile::kK;
  static constexpr int kStride = kLength + (kAlongK ? kPack<T> : 0);
  static constexpr int kPacks = kLength / kPack<T>;
  alignas(16) T v[kRows * kStride];

  __device__ static constexpr int at(int row, int pack) { return row * kStride + pack * kPack<T>; }
  static_assert(!kAlongK || kStride / kPack<T> % 2 == 1);
};

// A pack element by element: from(i), called in order, is where element i is, or null for 0. cp.async takes no
// fewer than 4 bytes. `p` is any address of the array.
template <class T, class From>
__device__ __forceinline__ void copy_elements(T* to, const T* p, const From& from) {
  if constexpr (sizeof(T) >= 4) {
    constexpr int kBytes = static_cast<int>(sizeof(T));
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      const T* x = from(i);
      ptx::cp_async_ca<kBytes>(to + i, x != nullptr ? x : p, x != nullptr ? kBytes : 0);
    }
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      const T* x = from(i);
      pack.v[i] = x != nullptr ? *x : T{};
    }
    memcpy(__builtin_assume_aligned(static_cast<void*>(to), 16), &pack, sizeof pack);
  }
}

// How many of `size` are left from `at` on, of a pack at most.
template <class T>
__device__ __forceinline__ int left_of(std::int64_t size, std::int64_t at) {
  return static_cast<int>(max_i(0, min_i(kPack<T>, size - at)));
}

// An operand has kAlongK, whether its packs are along k or along the other index, and
// copy(to, outer_at(o), depth_at(k)): the pack to shared memory, 0 where it is outside. Of an address,
// outer_at finds what is the same for all k, depth_at what is the same for all rows. Here a matrix whose
// stride along packs is 1.
template <class T_, bool kAlongK_>
struct MatrixOperand {
  using T = T_;
  static constexpr bool kAlongK = kAlongK_;
  const T* p;
  std::int64_t stride;  // the one that is not 1
  std::int64_t outer, depth;
  bool packed;

  struct Place {
    std::int64_t offset;
    int left;  // of a pack
  };
  using Outer = Place;
  using Depth = Place;
  __device__ __forceinline__ Outer outer_at(std::int64_t o) const {
    if constexpr (kAlongK) {  // beyond the last row the first one: such sums are not stored
      return {o < outer ? o * stride : 0, kPack<T>};
    } else {
      return {o, left_of<T>(outer, o)};
    }
  }
  __device__ __forceinline__ Depth depth_at(std::int64_t k) const {
    if constexpr (kAlongK) {
      return {k, left_of<T>(depth, k)};
    } else {
      return {k * stride, k < depth ? kPack<T> : 0};
    }
  }
  __device__ __forceinline__ void copy(T* to, const Outer& o, const Depth& k) const {
    const int n = o.left < k.left ? o.left : k.left;
    const T* from = n > 0 ? p + o.offset + k.offset : p;
    if (packed) {
      ptx::cp_async_cg_16(to, from, n * static_cast<int>(sizeof(T)));
    } else {
      copy_elements(to, p, [&](int i) -> const T* { return i < n ? from + i : nullptr; });
    }
  }
};

// Fills one operand's part of a stage, which has kRows rows of kPacks packs and says where one lies. The
// packs of a thread are one column of them.
template <int kThreads, class Stage, class Operand>
class StageCopy {
 public:
  __device__ __forceinline__ StageCopy(const Operand& operand, std::int64_t outer)
      : operand_(operand) {
#pragma unroll
    for (int i = 0; i < kOuters; ++i) {
      outer_[i] = operand.outer_at(outer + (Operand::kAlongK ? row(i) : column()));
    }
  }
  __device__ __forceinline__ void operator()(Stage& stage, std::int64_t k) const {
    if constexpr (Operand::kAlongK) {
      const typename Operand::Depth depth = operand_.depth_at(k + column());
#pragma unroll
      for (int i = 0; i < kCount; ++i) operand_.copy(to(stage, i), outer_[i], depth);
    } else {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        operand_.copy(to(stage, i), outer_[0], operand_.depth_at(k + row(i)));
      }
    }
  }

 private:
  using T = typename Operand::T;
  static_assert(kThreads % Stage::kPacks == 0);
  static constexpr int kCount = Stage::kRows * Stage::kPacks / kThreads;
  static constexpr int kOuters = Operand::kAlongK ? kCount : 1;
  const Operand& operand_;
  typename Operand::Outer outer_[kOuters];

  __device__ static int pack() { return static_cast<int>(threadIdx.x) % Stage::kPacks; }
  __device__ static int column() { return pack() * kPack<T>; }
  __device__ static int row(int i) {
    return static_cast<int>(threadIdx.x) / Stage::kPacks + i * (kThreads / Stage::kPacks);
  }
  __device__ static T* to(Stage& stage, int i) { return stage.v + Stage::at(row(i), pack()); }
};

// Which of the kOuter rows (columns) of the tile a thread's i-th is: neighbours in shared memory for
// neighbouring threads, or units of them.
template <class Tile, bool kAlongK, int kThreadsOuter>
__device__ __forceinline__ constexpr int outer_of(int thread, int i) {
  return kAlongK ? thread + kThreadsOuter * i
                 : (thread + kThreadsOuter * (i / Tile::kUnit)) * Tile::kUnit + i % Tile::kUnit;
}

// kUnit steps of k of a thread's rows or columns.
template <class Tile, int kThreadsOuter, int kCount, int kOuter, bool kAlongK>
__device__ __forceinline__ void read_stage(
    const OperandStage<Tile, kOuter, kAlongK>& stage, int thread, int k,
    Compute<typename Tile::Element> (&r)[kCount][Tile::kUnit]) {
  using T = typename Tile::Element;
  using Stage = OperandStage<Tile, kOuter, kAlongK>;
  constexpr int kUnit = Tile::kUnit;
  struct alignas(sizeof(T) * kUnit) Unit {
    T v[kUnit];
  };
  const auto read = [&](int at) {
    Unit u;
    memcpy(&u, __builtin_assume_aligned(stage.v + at, alignof(Unit)), sizeof u);
    return u;
  };
#pragma unroll
  for (int i = 0; i < kCount; i += kAlongK ? 1 : kUnit) {
    const int outer = outer_of<Tile, kAlongK, kThreadsOuter>(thread, i);
    if constexpr (kAlongK) {
      const Unit u = read(outer * Stage::kStride + k);
#pragma unroll
      for (int e = 0; e < kUnit; ++e) r[i][e] = to_compute(u.v[e]);
    } else {
#pragma unroll
      for (int e = 0; e < kUnit; ++e) {
        const Unit u = read((k + e) * Stage::kStride + outer);
#pragma unroll
        for (int j = 0; j < kUnit; ++j) r[i + j][e] = to_compute(u.v[j]);
      }
    }
  }
}

// ---- the result -------------------------------------------------------------------------------------

// A result has T, offset(row, column), residual_offset(row, column), and `packed`: whether whole packs
// along a row, of the result and of its residual, are 16 bytes at multiples of 16.
template <class T_>
struct MatrixResult {
  using T = T_;
  T* c;
  const T* residual;  // or null
  std::int64_t rs_c, rs_residual;
  bool packed;

  __device__ __forceinline__ std::int64_t offset(std::int64_t row, std::int64_t column) const {
    return row * rs_c + column;
  }
  __device__ __forceinline__ std::int64_t residual_offset(std::int64_t row,
                                                          std::int64_t column) const {
    return row * rs_residual + column;
  }
};

// What happens to a finished sum: activation((accumulate ? c : 0) + sum + bias + residual).
template <class T>
struct TileEpilogue {
  const T* bias;
  BiasAxis bias_axis;
  bool accumulate;
  Activation activation;
};

template <class Tile, class A, class B>
struct TileStorage {
  using Sum = Compute<typename Tile::Element>;
  using StageA = OperandStage<Tile, Tile::kM, A::kAlongK>;
  using StageB = OperandStage<Tile, Tile::kN, B::kAlongK>;
  struct Stage {
    StageA a;
    StageB b;
  };
  union {
    Stage stages[2];
    alignas(16) Sum sums[Tile::kM / Tile::kParts * Tile::kSumStride];
  };
  static_assert(sizeof(stages) <= 49152 && sizeof(sums) <= 49152, "static shared memory");
};

// n sums of a row. A call would move the other sums that a thread still has in registers.
template <bool kOutOfLine = true, class Sum, class Result>
__device__ __forceinline__ void store_sums(const Sum* sums, int n, std::int64_t row,
                                           std::int64_t column,
                                           const TileEpilogue<typename Result::T>& e,
                                           const Result& result) {
  using T = typename Result::T;
  const bool packed = result.packed && n == kPack<T>;
  const auto load = [&](const T* p, const auto& offset) {
    Pack<T> r;
    if (packed) return load_pack<Access::kInPlace>(p + offset(row, column), true);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) r.v[i] = i < n ? p[offset(row, column + i)] : T{};
    return r;
  };
  const auto offset = [&](std::int64_t r, std::int64_t c) { return result.offset(r, c); };
  Pack<T> before, residual;
  if (e.accumulate) before = load(result.c, offset);
  if (result.residual != nullptr) {
    residual = load(result.residual,
                    [&](std::int64_t r, std::int64_t c) { return result.residual_offset(r, c); });
  }
  Pack<T> out;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    if (i >= n) {
      out.v[i] = T{};
      continue;
    }
    Sum v = sums[i];
    if (e.accumulate) v = to_compute(before.v[i]) + v;
    if (e.bias_axis == BiasAxis::kRow) v = v + to_compute(e.bias[row]);
    if (e.bias_axis == BiasAxis::kColumn) v = v + to_compute(e.bias[column + i]);
    if (result.residual != nullptr) v = v + to_compute(residual.v[i]);
    out.v[i] = from_compute<T>(activate<kOutOfLine>(e.activation, v));
  }
  if (packed) {
    store_pack(result.c + result.offset(row, column), out, true);
  } else {
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      if (i < n) result.c[result.offset(row, column + i)] = out.v[i];
    }
  }
}

// kRows rows of kN sums that lie in shared memory, to the result whose first they are: whole packs of a row
// a thread.
template <int kThreads, int kRows, int kN, int kStride, class Sum, class Result>
__device__ __forceinline__ void store_rows(const Sum* sums, std::int64_t m, std::int64_t n,
                                           std::int64_t row, std::int64_t column,
                                           const TileEpilogue<typename Result::T>& e,
                                           const Result& result) {
  constexpr int kPackOf = kPack<typename Result::T>, kPacks = kN / kPackOf;
#pragma unroll 1
  for (int at = static_cast<int>(threadIdx.x); at < kRows * kPacks; at += kThreads) {
    const int r = at / kPacks, c = at % kPacks * kPackOf;
    const auto count = static_cast<int>(min_i(kPackOf, n - column - c));
    if (row + r < m && count > 0) {
      store_sums(sums + r * kStride + c, count, row + r, column + c, e, result);
    }
  }
}

// ---- the block --------------------------------------------------------------------------------------

// The tile whose first row and column are (row, column) of an m x n result, over k in [begin, end): whole
// stages, but for the last one of all, which the operands fill with zeros.
template <class Tile, class A, class B, class Result>
  requires(!Tile::kTensorCores)
__device__ __forceinline__ void multiply_tile(const A& a, const B& b, const Result& result,
                                              const TileEpilogue<typename Result::T>& e,
                                              std::int64_t m, std::int64_t n, std::int64_t row,
                                              std::int64_t column, std::int64_t begin,
                                              std::int64_t end) {
  using Sum = Compute<typename Tile::Element>;
  constexpr int kUnit = Tile::kUnit;
  static_assert(kPartUnit % Tile::kK == 0);
  using Storage = TileStorage<Tile, A, B>;
  auto& shared = shared_storage<Storage>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  constexpr int kWarpsN = Tile::kThreadsN / Tile::kLanesN;
  const int thread_m = warp / kWarpsN * Tile::kLanesM + lane / Tile::kLanesN;
  const int thread_n = warp % kWarpsN * Tile::kLanesN + lane % Tile::kLanesN;

  Sum sum[Tile::kTM][Tile::kTN];
#pragma unroll
  for (int i = 0; i < Tile::kTM; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kTN; ++j) sum[i][j] = Sum(0);
  }
  const StageCopy<Tile::kThreads, typename Storage::StageA, A> copy_a(a, row);
  const StageCopy<Tile::kThreads, typename Storage::StageB, B> copy_b(b, column);
  const auto copy = [&](std::int64_t k, int stage) {
    if (k < end) {
      copy_a(shared.stages[stage].a, k);
      copy_b(shared.stages[stage].b, k);
    }
    ptx::cp_async_commit_group();
  };
  copy(begin, 0);
  int stage = 0;
  for (std::int64_t k = begin; k < end; k += Tile::kK) {
    copy(k + Tile::kK, stage ^ 1);
    ptx::cp_async_wait_group<1>();
    __syncthreads();
    const auto& now = shared.stages[stage];
#pragma unroll
    for (int step = 0; step < Tile::kK; step += kUnit) {
      Sum ra[Tile::kTM][kUnit], rb[Tile::kTN][kUnit];
      read_stage<Tile, Tile::kThreadsM>(now.a, thread_m, step, ra);
      read_stage<Tile, Tile::kThreadsN>(now.b, thread_n, step, rb);
#pragma unroll
      for (int u = 0; u < kUnit; ++u) {
#pragma unroll
        for (int i = 0; i < Tile::kTM; ++i) {
#pragma unroll
          for (int j = 0; j < Tile::kTN; ++j) {
            sum[i][j] = multiply_add(ra[i][u], rb[j][u], sum[i][j]);
          }
        }
      }
    }
    __syncthreads();  // the stage is filled again, or the sums take its place
    stage ^= 1;
  }

  constexpr int kPartRows = Tile::kM / Tile::kParts;
#pragma unroll 1
  for (int part = 0; part < Tile::kParts; ++part) {
    if (part > 0) __syncthreads();
#pragma unroll
    for (int i = 0; i < Tile::kTM; ++i) {
      if (i / (Tile::kTM / Tile::kParts) != part) continue;
      const int r = outer_of<Tile, A::kAlongK, Tile::kThreadsM>(thread_m, i) - part * kPartRows;
#pragma unroll
      for (int j = 0; j < Tile::kTN; ++j) {
        const int c = outer_of<Tile, B::kAlongK, Tile::kThreadsN>(thread_n, j);
        shared.sums[r * Tile::kSumStride + c] = sum[i][j];
      }
    }
    __syncthreads();
    store_rows<Tile::kThreads, kPartRows, Tile::kN, Tile::kSumStride>(
        shared.sums, m, n, row + part * kPartRows, column, e, result);
  }
}

}  // namespace arraynn::cuda
