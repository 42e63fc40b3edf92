// Attention on tensor cores (mma.sync, from sm_80 on): what its forward and its gradients share. They are
// one loop. A block owns rows, queries or keys, and kColumns columns of a result; it walks over tiles
// of the other side, forms a tile of scores (or of scores and their gradients), turns it into factors, and adds
// factors times vectors of the other side to its sums:
//
//            rows      scores    gradients    factors               result
//   forward  queries   q k^T     -            exp(s - max)          out  += factors v
//   dq       queries   q k^T     dout v^T     ds                    dq   += factors k
//   dk       keys      k q^T     v dout^T     ds^T                  dk   += factors q
//   dv       keys      k q^T     -            (keep exp(s - lse))^T dv   += factors dout
//
// Nothing is added between blocks and nothing atomically: every sum is one chain in a fixed order. What that
// costs: scores are formed anew for each of the three gradients and for every kColumns columns.
//
// Tiles. Four warps, 16 kMmaM rows each and all columns of a tile, so that a row's maximum and sum need two
// shuffles and factors become operands where they are, without shared memory. A chunk is 128 bytes of
// each of kN vectors: kN = 64 in 16 bits, 32 in float32. A tile is a sequence of chunks, along the head
// dimension for products that give scores, then along the columns of the result; they run through a
// ring of kStages in shared memory, copied kStages - 1 ahead, across tiles. Vectors of the rows stay in shared
// memory where they fit beside the ring (kMostShared), else come with every chunk: no head dimension is
// too large, and the sums are the same.
//
//                  tile       registers of sums, scores   shared bytes at 64, 128, 512 of a head dimension
//   16 bits        64 x 64    64 + 32                     40, 48, 96 KiB
//     gradients               64 + 32 + 32                48, 64, 64 KiB
//   float32        64 x 32    64 + 16                     32, 48, 48 KiB
//     gradients               64 + 16 + 16                48, 80, 48 KiB
//
// Arithmetic. A chunk of 8 KiB, read from L2 once a block, stands against 64 x 64 x 64 products: 64 FLOP a
// byte in 16 bits (float32: 4 KiB against 64 x 32 x 32, 32 FLOP a byte; three mma each), and from device memory
// once for all blocks of a head that run together. From shared memory a warp reads 512 bytes for two mma.
//
// Products are those of core/cuda_mma.hpp: of 16 bits exact, of float32 in three parts, or one (tf32). Factors
// are float32 and must not lose bits on their way to an operand that a result would show: in 16 bits they are the sum of two numbers of 16 bits, which costs a second mma for a fragment
// that is there already: 22 bits in float16, 16 in bfloat16, twice those of a result. float16 holds 2^-24 at
// least: its factors are multiplied by a power of two, one for all exponentials, and for gradients one
// of a row, which grows with its largest as the maximum does.
//
// NaN. An mma multiplies what is hidden as well, and 0 times NaN or infinity would show. Elements of a result
// that are not finite are formed again on CUDA cores (cuda.cu), where what is hidden is left out, by a
// launch that ends at once where a block here left no note of one.
#pragma once
#include "attention/cuda.hpp"
#include "attention/cuda_tile.hpp"
#include "core/cuda_mma.hpp"

namespace arraynn::cuda {

// ---- tiles ------------------------------------------------------------------------------------------

template <class T, Products kProducts_>
struct ScoreTile {
  using Element = T;
  static constexpr Products kProducts = kProducts_;
  static constexpr int kColumns = 128;
  static constexpr int kThreads = 128, kMmaM = 1, kM = kThreads / kWarp * 16 * kMmaM;
  static constexpr int kRowBytes = 128, kK = kRowBytes / static_cast<int>(sizeof(T)), kN = kK;
  static constexpr int kSteps = kRowBytes / 32, kStepK = kK / kSteps;  // of an mma
  static constexpr int kMmaN = kN / 8, kMmaColumns = kColumns / 8;
  static constexpr int kParts = kColumns / kK, kMmaPart = kK / 8;  // chunks of the columns
  static constexpr int kStages = 4;
  static constexpr int kLeftBytes = kM * kRowBytes, kChunkBytes = kN * kRowBytes;
  static constexpr int kSplits = kProducts == Products::kTf32 ? 1 : 2;  // parts of a factor
  static_assert(kColumns % kK == 0);
};
// As in core/cuda_mma.hpp: what every multiprocessor with these tensor cores has, but for BlockVectors.
constexpr int kMostShared = 98 * 1024;

// f.operator()<Tile>() with the tile for an element type.
template <class T, class F>
void with_score_tile(const F& f) {
  if constexpr (sizeof(T) == 2) {
    f.template operator()<ScoreTile<T, Products::kExact>>();
  } else if (tf32_products()) {
    f.template operator()<ScoreTile<T, Products::kTf32>>();
  } else {
    f.template operator()<ScoreTile<T, Products::kThreeTf32>>();
  }
}

// ---- chunks -----------------------------------------------------------------------------------------

template <class Tile>
using LeftChunk = MmaStage<Tile, Tile::kM, true>;
template <class Tile>
using ScoreChunk = MmaStage<Tile, Tile::kN, true>;

// Vectors times factors, kK columns of them: rows 2t and 2t + 1 of 8 are read at once in float32, the order
// in which a lane has the factors of a row.
template <class Tile>
struct ValueChunk {
  using T = typename Tile::Element;
  static constexpr int kLength = Tile::kK;
  alignas(16) T v[Tile::kN * kLength];
  __device__ static constexpr int at(int row, int pack) {
    const int turn = sizeof(T) == 2 ? row % 8 : row / 2 % 4 * 2;
    return row * kLength + (pack ^ turn) * kPack<T>;
  }
};

// Vectors of one head: `count` from the first on.
template <class T>
struct HeadVectors {
  const T* p;
  std::int64_t stride, count;
  int dim;
  bool packed;  // packs begin at multiples of 16 bytes
};

// kRows vectors from `first` on, elements `column` to column + kK; zeros where there are none.
template <class Tile, int kRows, class Chunk, class T>
__device__ __forceinline__ void copy_chunk(Chunk* to, const HeadVectors<T>& from,
                                           std::int64_t first, int column) {
  constexpr int kPacks = Tile::kK / kPack<T>, kStep = Tile::kThreads / kPacks;
  const int pack = static_cast<int>(threadIdx.x) % kPacks;
  const int row = static_cast<int>(threadIdx.x) / kPacks;
  const int c = column + pack * kPack<T>;
  const int left = from.dim - c, n = left < 0 ? 0 : left < kPack<T> ? left : kPack<T>;
  const auto rows = static_cast<int>(max_i(0, min_i(kRows, from.count - first)));
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i) {
    const int r = row + kStep * i, m = r < rows ? n : 0;
    const T* at = m > 0 ? from.p + (first + r) * from.stride + c : from.p;
    T* pack_to = to->v + Chunk::at(r, pack);
    if (from.packed) {
      ptx::cp_async_cg_16(pack_to, at, m * static_cast<int>(sizeof(T)));
    } else {
      copy_elements(pack_to, from.p, [&](int e) -> const T* { return e < m ? at + e : nullptr; });
    }
  }
}

// What a block reads; in shared memory, since it would take a quarter of the registers. `left`: of its rows; `right`: of the side it walks over; [1] is there for gradients of
// scores. `values`: what factors are multiplied by, from `column` on.
template <class T>
struct BlockVectors {
  HeadVectors<T> left[2], right[2], values;
  std::int64_t row;  // first of the block
  int column;
  // The walk: tiles [begin, end) of each of `heads` heads, whose vectors are `step` apart.
  std::int64_t begin, end, heads, step[2], step_values;
};

// The chunks of a block in the order in which they are multiplied.
template <class Tile, int kOperands>
class ChunkRing {
  using T = typename Tile::Element;

 public:
  __device__ __forceinline__ ChunkRing(unsigned char* shared, const BlockVectors<T>& v)
      : v_(v), tile_(v.begin), heads_(v.begin < v.end ? v.heads : 0) {
    int chunks = 0;
#pragma unroll
    for (int i = 0; i < kOperands; ++i) {
      chunks += count(i);
      right_[i] = v.right[i].p;
    }
    values_ = v.values.p;
    resident_ = is_resident(chunks);
    ring_ = shared + (resident_ ? chunks * Tile::kLeftBytes : 0);
    left_ = shared;
    if (resident_) {
      for (int i = 0; i < chunks; ++i) copy_left(shared + i * Tile::kLeftBytes, i);
    }
#pragma unroll 1
    for (int i = 0; i < Tile::kStages - 1; ++i) copy_next(i);
  }

  // Chunks along the head dimension of an operand.
  __device__ __forceinline__ int count(int operand) const {
    return (v_.left[operand].dim + Tile::kK - 1) / Tile::kK;
  }
  // Chunks along the columns of the result.
  __device__ __forceinline__ int parts() const {
    const int columns = v_.values.dim - v_.column;
    return columns < Tile::kColumns ? (columns + Tile::kK - 1) / Tile::kK : Tile::kParts;
  }
  // Waits for the next chunk and copies the one that is kStages - 1 behind it.
  __device__ __forceinline__ void next() {
    ptx::cp_async_wait_group<Tile::kStages - 2>();
    __syncthreads();  // the chunk is there, the one before has been read and is filled again
    stage_ = stage_ == Tile::kStages - 1 ? 0 : stage_ + 1;
    copy_next(stage_ == 0 ? Tile::kStages - 1 : stage_ - 1);
  }
  template <class Chunk>
  __device__ __forceinline__ const Chunk& chunk() const {
    return *reinterpret_cast<const Chunk*>(at(stage_));
  }
  // The rows' chunk that goes with it, which is number `i` of them.
  __device__ __forceinline__ const LeftChunk<Tile>& left(int i) const {
    return *reinterpret_cast<const LeftChunk<Tile>*>(resident_ ? left_ + i * Tile::kLeftBytes
                                                               : at(stage_) + Tile::kChunkBytes);
  }

  static constexpr int kRingBytes = Tile::kStages * Tile::kChunkBytes;
  __host__ __device__ static constexpr bool is_resident(int chunks) {
    return chunks * Tile::kLeftBytes + kRingBytes <= kMostShared;
  }
  __host__ __device__ static constexpr std::size_t shared_bytes(int chunks) {
    return static_cast<std::size_t>(
        (is_resident(chunks) ? chunks : Tile::kStages) * Tile::kLeftBytes + kRingBytes);
  }

 private:
  const BlockVectors<T>& v_;
  unsigned char *left_, *ring_;
  bool resident_;
  int stage_ = Tile::kStages - 1, part_ = 0;
  std::int64_t tile_, heads_;  // heads left
  const T *right_[kOperands], *values_;

  __device__ __forceinline__ unsigned char* at(int stage) const {
    return ring_ + stage * (Tile::kChunkBytes + (resident_ ? 0 : Tile::kLeftBytes));
  }
  __device__ __forceinline__ void copy_left(unsigned char* to, int i) const {
    const bool first = kOperands == 1 || i < count(0);
    const HeadVectors<T>& from = v_.left[first ? 0 : kOperands - 1];
    copy_chunk<Tile, Tile::kM>(reinterpret_cast<LeftChunk<Tile>*>(to), from, v_.row,
                               (first ? i : i - count(0)) * Tile::kK);
  }
  __device__ __forceinline__ void copy_next(int stage) {
    if (heads_ > 0) {
      int chunks = 0;
#pragma unroll
      for (int i = 0; i < kOperands; ++i) chunks += count(i);
      if (part_ < chunks) {
        const bool first = kOperands == 1 || part_ < count(0);
        HeadVectors<T> from = v_.right[first ? 0 : kOperands - 1];
        from.p = right_[first ? 0 : kOperands - 1];
        copy_chunk<Tile, Tile::kN>(reinterpret_cast<ScoreChunk<Tile>*>(at(stage)), from, tile_,
                                   (first ? part_ : part_ - count(0)) * Tile::kK);
        if (!resident_) copy_left(at(stage) + Tile::kChunkBytes, part_);
      } else {
        HeadVectors<T> from = v_.values;
        from.p = values_;
        copy_chunk<Tile, Tile::kN>(reinterpret_cast<ValueChunk<Tile>*>(at(stage)), from, tile_,
                                   v_.column + (part_ - chunks) * Tile::kK);
      }
      if (++part_ == chunks + parts()) step_tile();
    }
    ptx::cp_async_commit_group();
  }
  __device__ __forceinline__ void step_tile() {
    part_ = 0;
    tile_ += Tile::kN;
    if (tile_ < v_.end) return;
    tile_ = v_.begin;
    --heads_;
#pragma unroll
    for (int i = 0; i < kOperands; ++i) right_[i] += v_.step[i];
    values_ += v_.step_values;
  }
};

// ---- products ---------------------------------------------------------------------------------------

template <class Tile>
using ScoreSums = float[Tile::kMmaM][Tile::kMmaN][4];
template <class Tile>
using ColumnSums = float[Tile::kMmaM][Tile::kMmaColumns][4];

// Where a lane's sums are: sum r of mma (i, j) is in row + 16 i + 8 (r / 2) and column + 8 j + r % 2.
template <class Tile>
struct ScorePlace {
  int lane, warp_row, row, column;
  __device__ __forceinline__ static ScorePlace here() {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
    const int warp_row = thread / kWarp * 16 * Tile::kMmaM;
    return {lane, warp_row, warp_row + lane / 4, lane % 4 * 2};
  }
};

// d += a b of one mma of k; in three parts, of which the sum of 8 of k is added to a float32.
template <class Tile>
__device__ __forceinline__ void multiply_parts(float (&d)[4], const Words (&a)[4],
                                               const Words (&small_a)[4], const Words (&b)[2],
                                               const Words (&small_b)[2]) {
  using T = typename Tile::Element;
  if constexpr (Tile::kProducts == Products::kThreeTf32) {
    float part[4] = {};
    multiply(T{}, part, small_a, b);
    multiply(T{}, part, a, small_b);
    multiply(T{}, part, a, b);
#pragma unroll
    for (int r = 0; r < 4; ++r) d[r] += part[r];
  } else {
    multiply(T{}, d, a, b);
  }
}

// s += rows of `left` times rows of `right` over a chunk, of which `depth` are there.
template <class Tile>
__device__ __forceinline__ void add_scores(const LeftChunk<Tile>& left,
                                           const ScoreChunk<Tile>& right, int depth,
                                           const ScorePlace<Tile>& place, ScoreSums<Tile>& s) {
#pragma unroll 2  // more would take registers
  for (int step = 0; step < Tile::kSteps; ++step) {
    if (step * Tile::kStepK >= depth) break;
    Words a[Tile::kMmaM][4], small_a[Tile::kMmaM][4];
#pragma unroll
    for (int i = 0; i < Tile::kMmaM; ++i) {
      load_fragments<true>(left, place.warp_row + 16 * i, step, place.lane, a[i]);
      prepare<Tile::kProducts>(a[i], small_a[i]);
    }
#pragma unroll
    for (int j = 0; j < Tile::kMmaN; j += 2) {
      Words pairs[4];
      load_fragments<false>(right, 8 * j, step, place.lane, pairs);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Words b[2] = {pairs[2 * h], pairs[2 * h + 1]}, small_b[2];
        prepare<Tile::kProducts>(b, small_b);
#pragma unroll
        for (int i = 0; i < Tile::kMmaM; ++i) {
          multiply_parts<Tile>(s[i][j + h], a[i], small_a[i], b, small_b);
        }
      }
    }
  }
}

// ---- factors ----------------------------------------------------------------------------------------

// A tile of factors as operands, in parts that add up to them: [1] is the smaller.
template <class Tile>
struct Factors {
  Words v[Tile::kSplits][Tile::kMmaM][Tile::kSteps][4];
};

__device__ __forceinline__ Words two_of(std::uint16_t low, std::uint16_t high) {
  return static_cast<Words>(low) | static_cast<Words>(high) << 16;
}

// The columns of an operand are in the order in which a lane has them, which is that of its sums in 16 bits
// and in tf32 t, t + 4 for the columns 2t, 2t + 1; rows of a ValueChunk are read in the same order.
template <class Tile>
__device__ __forceinline__ void to_factors(const ScoreSums<Tile>& s, Factors<Tile>& f) {
  using T = typename Tile::Element;
#pragma unroll
  for (int i = 0; i < Tile::kMmaM; ++i) {
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        if constexpr (sizeof(T) == 2) {
          const float (&d)[4] = s[i][2 * step + r / 2];
          const float x = d[r % 2 * 2], y = d[r % 2 * 2 + 1];
          const T big_x = from_compute<T>(x), big_y = from_compute<T>(y);
          f.v[0][i][step][r] = two_of(big_x.bits, big_y.bits);
          f.v[1][i][step][r] = two_of(from_compute<T>(x - to_compute(big_x)).bits,
                                      from_compute<T>(y - to_compute(big_y)).bits);
        } else {
          Words x;
          memcpy(&x, &s[i][step][r % 2 * 2 + r / 2], sizeof x);
          if constexpr (Tile::kProducts == Products::kThreeTf32) {
            f.v[1][i][step][r] = split(&x);
            f.v[0][i][step][r] = x;
          } else {
            f.v[0][i][step][r] = round_to_tf32(x);
          }
        }
      }
    }
  }
}

// Fragments of 16 columns by one mma of k, as pairs.
template <class Tile>
__device__ __forceinline__ void load_values(const ValueChunk<Tile>& chunk, int column, int step,
                                            int lane, Words (&pairs)[4]) {
  using T = typename Tile::Element;
  using Chunk = ValueChunk<Tile>;
  if constexpr (sizeof(T) == 2) {
    const int square = lane / 8, row = 16 * step + square % 2 * 8 + lane % 8;
    ptx::ldmatrix_m8n8_x4_trans(pairs, chunk.v + Chunk::at(row, column / kPack<T> + square / 2));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 8 * step + lane % 4 * 2 + i % 2, c = column + i / 2 * 8 + lane / 4;
      memcpy(&pairs[i], &chunk.v[Chunk::at(row, c / kPack<T>) + c % kPack<T>], sizeof(Words));
    }
  }
}

// sums += factors times a chunk, which is part kPart of the columns.
template <class Tile, int kPart>
__device__ __forceinline__ void add_values(const Factors<Tile>& f, const ValueChunk<Tile>& chunk,
                                           const ScorePlace<Tile>& place, ColumnSums<Tile>& sums) {
  using T = typename Tile::Element;
#pragma unroll
  for (int step = 0; step < Tile::kSteps; ++step) {
#pragma unroll
    for (int j = 0; j < Tile::kMmaPart; j += 2) {
      Words pairs[4];
      load_values(chunk, 8 * j, step, place.lane, pairs);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        Words b[2] = {pairs[2 * h], pairs[2 * h + 1]}, small_b[2];
        prepare<Tile::kProducts>(b, small_b);
#pragma unroll
        for (int i = 0; i < Tile::kMmaM; ++i) {
          float (&sum)[4] = sums[i][kPart * Tile::kMmaPart + j + h];
          if constexpr (sizeof(T) == 2) multiply(T{}, sum, f.v[1][i][step], b);
          multiply_parts<Tile>(sum, f.v[0][i][step], f.v[Tile::kSplits - 1][i][step], b, small_b);
        }
      }
    }
  }
}

// ---- the loop of a block ----------------------------------------------------------------------------

// f(row of the lane, i, half): rows of a lane; sums 2 half and 2 half + 1 of every mma (i, .) are in it.
template <class Tile, class F>
__device__ __forceinline__ void for_rows(const ScorePlace<Tile>& place, const F& f) {
#pragma unroll
  for (int i = 0; i < Tile::kMmaM; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) f(place.row + 16 * i + 8 * half, i, half);
  }
}
// f(column of the tile, sum) of a row.
template <int kCount, class F>
__device__ __forceinline__ void for_columns(int first, int half, float (&s)[kCount][4],
                                            const F& f) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) f(first + 8 * j + e, s[j][2 * half + e]);
  }
}

// f(row, column, i, j, e) of all scores s[i][j][e], columns one after the other.
template <class Tile, class F>
__device__ __forceinline__ void for_scores(const ScorePlace<Tile>& place, const F& f) {
#pragma unroll
  for (int j = 0; j < Tile::kMmaN; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      for_rows(place, [&](int row, int i, int half) {
        f(row, place.column + 8 * j + e, i, j, 2 * half + e);
      });
    }
  }
}

// A row's four lanes.
template <class Combine>
__device__ __forceinline__ float lanes_reduce(float x, const Combine& combine) {
  x = combine(x, __shfl_xor_sync(kWholeWarp, x, 1));
  return combine(x, __shfl_xor_sync(kWholeWarp, x, 2));
}

// Adds to `sums` over the whole walk. turn(head, tile, scores, gradients) turns scores into factors, and may
// change the sums so far.
template <class Tile, int kOperands, class T, class Turn>
__device__ __forceinline__ void walk_tiles(const BlockVectors<T>& v, const ScorePlace<Tile>& place,
                                           ColumnSums<Tile>& sums, const Turn& turn) {
  ChunkRing<Tile, kOperands> ring(dynamic_shared<unsigned char>(), v);
#pragma unroll 1
  for (std::int64_t head = 0; head < v.heads; ++head) {
#pragma unroll 1
    for (std::int64_t tile = v.begin; tile < v.end; tile += Tile::kN) {
      ScoreSums<Tile> s[kOperands] = {};
#pragma unroll
      for (int operand = 0; operand < kOperands; ++operand) {
        const int before = operand == 0 ? 0 : ring.count(0);
#pragma unroll 1
        for (int c = 0; c < ring.count(operand); ++c) {
          ring.next();
          add_scores<Tile>(ring.left(before + c), ring.template chunk<ScoreChunk<Tile>>(),
                           v.left[operand].dim - c * Tile::kK, place, s[operand]);
        }
      }
      turn(head, tile, s[0], s[kOperands - 1]);
      Factors<Tile> f;
      to_factors<Tile>(s[0], f);
      const auto add = [&]<int kPart>() {
        if (kPart >= ring.parts()) return;
        ring.next();
        add_values<Tile, kPart>(f, ring.template chunk<ValueChunk<Tile>>(), place, sums);
      };
      [&]<int... kPart>(std::integer_sequence<int, kPart...>) {
        (add.template operator()<kPart>(), ...);
      }(std::make_integer_sequence<int, Tile::kParts>{});
    }
  }
  ptx::cp_async_wait_group<0>();
}

// Leaves the note for is_done. `tile` is that of block_place.
template <class Tile>
__device__ __forceinline__ void note_repair(std::uint8_t* repair, std::int64_t tile, bool finite) {
  static_assert(Tile::kM == Square<float>::kSide && Tile::kColumns == kRepairColumns);
  const int wrong = __syncthreads_or(finite ? 0 : 1);
  if (threadIdx.x == 0) repair[tile] = wrong != 0 ? 1 : 0;
}

// Whether packs of all vectors of an array begin at multiples of 16 bytes.
template <class T>
bool vectors_fit(const T* p, const RowStrides& s) {
  constexpr std::int64_t kOf = kPack<T>;
  return is_packed(p) && s.b % kOf == 0 && s.h % kOf == 0 && s.l % kOf == 0;
}

// Vectors of a head of a sample, `first` the first of them.
template <class T>
__device__ __forceinline__ HeadVectors<T> head_vectors(const T* p, const RowStrides& s,
                                                       std::int64_t b, std::int64_t h,
                                                       std::int64_t first, std::int64_t count,
                                                       std::int64_t dim, bool packed) {
  return {p + b * s.b + h * s.h + first * s.l, s.l, count, static_cast<int>(dim), packed};
}

}  // namespace arraynn::cuda
