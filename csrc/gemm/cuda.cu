// Matrix products over the tiles of core/cuda_mma.hpp and core/cuda_tile.hpp, and sums of columns.
#include "core/cuda_mma.hpp"
#include "core/cuda_scratch.hpp"
#include "gemm/batch.hpp"

namespace arraynn {
namespace cuda {
namespace {

// ---- products ---------------------------------------------------------------------------------------

template <class T>
struct GemmCall {
  std::int64_t m, n;
  std::int64_t tiles_m, tiles_n;
  MatrixOperand<T, true> a, b;  // of the first product; kAlongK is the kernel's
  MatrixResult<T> result;
  TileEpilogue<T> epilogue;
  GemmBatch batch;
};

// Neighbouring blocks take the tiles of a column of tiles: they read one part of B, and A in turn.
template <class T, class Tile, bool kAlongA, bool kAlongB>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    gemm_kernel(const __grid_constant__ GemmCall<T> call) {
  const std::int64_t block = blockIdx.x, tiles = call.tiles_m * call.tiles_n;
  std::int64_t rest = block / tiles;
  const std::int64_t tile = block - rest * tiles;
  MatrixOperand<T, kAlongA> a{call.a.p, call.a.stride, call.a.outer, call.a.depth, call.a.packed};
  MatrixOperand<T, kAlongB> b{call.b.p, call.b.stride, call.b.outer, call.b.depth, call.b.packed};
  MatrixResult<T> result = call.result;
  const std::int64_t moved = rest * call.m * call.n;
  result.c += moved;
  if (result.residual != nullptr) result.residual += moved;
#pragma unroll 1
  for (int d = call.batch.ndim - 1; d >= 0; --d) {
    const std::int64_t index = rest % call.batch.shape[d];
    rest /= call.batch.shape[d];
    a.p += index * call.batch.stride_a[d];
    b.p += index * call.batch.stride_b[d];
  }
  multiply_tile<Tile>(a, b, result, call.epilogue, call.m, call.n, tile % call.tiles_m * Tile::kM,
                      tile / call.tiles_m * Tile::kN, 0, a.depth);
}

// Whether packs of a matrix begin at multiples of 16 bytes, in all products of a batch.
template <class T>
bool packs_fit(const void* p, std::int64_t stride, const std::int64_t* moves, int ndim) {
  bool fit = reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && stride % kPack<T> == 0;
  for (int d = 0; d < ndim; ++d) fit = fit && moves[d] % kPack<T> == 0;
  return fit;
}

template <class T, class Tile>
void launch_gemm(GemmCall<T>& call, bool along_a, bool along_b, std::int64_t count) {
  call.tiles_m = ceil_div(call.m, Tile::kM);
  call.tiles_n = ceil_div(call.n, Tile::kN);
  const Grid grid{call.tiles_m * call.tiles_n * count, Tile::kThreads, Tile::kSharedBytes};
  if (along_a && along_b) {
    ARRAYNN_LAUNCH((gemm_kernel<T, Tile, true, true>), grid, call);
  } else if (along_a) {
    ARRAYNN_LAUNCH((gemm_kernel<T, Tile, true, false>), grid, call);
  } else if (along_b) {
    ARRAYNN_LAUNCH((gemm_kernel<T, Tile, false, true>), grid, call);
  } else {
    ARRAYNN_LAUNCH((gemm_kernel<T, Tile, false, false>), grid, call);
  }
}

template <class T, class Table>
void launch_tiles(GemmCall<T>& call, bool along_a, bool along_b, std::int64_t count) {
  using Large = typename Table::Large;
  const std::int64_t large = ceil_div(call.m, Large::kM) * ceil_div(call.n, Large::kN) * count;
  if (call.m > Large::kM / 2 && call.n > Large::kN / 2 && large >= multiprocessors()) {
    launch_gemm<T, Large>(call, along_a, along_b, count);
  } else {
    launch_gemm<T, typename Table::Small>(call, along_a, along_b, count);
  }
}

template <class T>
void run_gemm(const GemmProblem<T>& p, const GemmBatch& batch) {
  std::int64_t count = 1;
  for (int d = 0; d < batch.ndim; ++d) count *= batch.shape[d];
  if (p.m == 0 || p.n == 0 || count == 0) return;
  const bool along_a = p.cs_a == 1, along_b = p.rs_b == 1;
  // The stride of a single row is no reason to copy it element by element.
  const auto stride_of = [](std::int64_t size, std::int64_t stride) {
    return size == 1 ? 0 : stride;
  };
  const std::int64_t stride_a = along_a ? stride_of(p.m, p.rs_a) : stride_of(p.k, p.cs_a);
  const std::int64_t stride_b = along_b ? stride_of(p.n, p.cs_b) : stride_of(p.k, p.rs_b);
  const Epilogue<T>& e = p.epilogue;
  GemmCall<T> call{};
  call.m = p.m;
  call.n = p.n;
  call.a = {p.a, stride_a, p.m, p.k, packs_fit<T>(p.a, stride_a, batch.stride_a, batch.ndim)};
  call.b = {p.b, stride_b, p.n, p.k, packs_fit<T>(p.b, stride_b, batch.stride_b, batch.ndim)};
  const std::int64_t whole[] = {p.m * p.n};
  const int moves = count > 1 ? 1 : 0;
  const bool packed =
      packs_fit<T>(p.c, p.rs_c, whole, moves) &&
      (e.residual == nullptr || packs_fit<T>(e.residual, e.rs_residual, whole, moves));
  call.result = {p.c, e.residual, p.rs_c, e.rs_residual, packed};
  call.epilogue = {e.bias, e.bias == nullptr ? BiasAxis::kNone : e.bias_axis, p.accumulate,
                   e.activation};
  call.batch = batch;
  with_tiles<T>(p.k, [&]<class Table>() { launch_tiles<T, Table>(call, along_a, along_b, count); });
}

// ---- sums of columns --------------------------------------------------------------------------------

// A block takes kColumns columns and kChunk rows, its thread (r, c) every kSumRows-th of the rows; the
// results of the threads are added in order. Chunks depend on the shape alone.
constexpr int kColumns = 32, kSumRows = 8;
constexpr std::int64_t kChunk = 1024;

template <class Sum>
struct ColumnStorage {
  Sum v[kSumRows][kColumns];
};

template <class In, class Out>
__global__ void __launch_bounds__(kColumns* kSumRows)
    column_sums_kernel(const In* x, std::int64_t m, std::int64_t n, Out* out) {
  using Sum = Compute<In>;
  auto& shared = shared_storage<ColumnStorage<Sum>>();
  const int r = static_cast<int>(threadIdx.x) / kColumns,
            c = static_cast<int>(threadIdx.x) % kColumns;
  const std::int64_t strips = ceil_div(n, kColumns);
  const std::int64_t chunk = blockIdx.x / strips;
  const std::int64_t column = blockIdx.x % strips * kColumns + c;
  const std::int64_t end = min_i(m, (chunk + 1) * kChunk);
  Sum sum = 0;
  if (column < n) {
#pragma unroll 8
    for (std::int64_t i = chunk * kChunk + r; i < end; i += kSumRows) {
      sum = sum + to_compute(x[i * n + column]);
    }
  }
  shared.v[r][c] = sum;
  __syncthreads();
  if (r == 0 && column < n) {
#pragma unroll
    for (int i = 1; i < kSumRows; ++i) sum = sum + shared.v[i][c];
    out[chunk * n + column] = from_compute<Out>(sum);
  }
}

template <class In, class Out>
void launch_column_sums(const In* x, std::int64_t m, std::int64_t n, Out* out) {
  const Grid grid{ceil_div(n, kColumns) * max_i(1, ceil_div(m, kChunk)), kColumns * kSumRows};
  ARRAYNN_LAUNCH((column_sums_kernel<In, Out>), grid, x, m, n, out);
}

template <class In, class Out>
void run_column_sums(const In* x, std::int64_t m, std::int64_t n, Out* out) {
  if (m <= kChunk) return launch_column_sums(x, m, n, out);
  using Sum = Compute<In>;
  const std::int64_t chunks = ceil_div(m, kChunk);
  const Scratch scratch("column_sums", chunks * n * static_cast<std::int64_t>(sizeof(Sum)));
  auto* partial = scratch.as<Sum>();
  launch_column_sums(x, m, n, partial);
  run_column_sums(partial, chunks, n, out);
}

}  // namespace
}  // namespace cuda

// use_packed: the kernels read a weight where it lies.
#define ARRAYNN_DEFINE(T)                                                             \
  void gemm(const char*, const GemmProblem<T>& p) { cuda::run_gemm(p, GemmBatch{}); } \
  void gemm_batch(const char*, const GemmProblem<T>& p, const GemmBatch& batch) {     \
    cuda::run_gemm(p, batch);                                                         \
  }                                                                                   \
  void use_packed(const char*, PreparedWeight*, Operand, GemmProblem<T>*) {}          \
  void column_sums(const T* x, std::int64_t m, std::int64_t n, T* out) {              \
    cuda::run_column_sums(x, m, n, out);                                              \
  }
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_DEFINE)
#undef ARRAYNN_DEFINE
void column_sums(const float* x, std::int64_t m, std::int64_t n, Half* out) {
  cuda::run_column_sums(x, m, n, out);
}
void column_sums(const float* x, std::int64_t m, std::int64_t n, Bfloat16* out) {
  cuda::run_column_sums(x, m, n, out);
}

}  // namespace arraynn
