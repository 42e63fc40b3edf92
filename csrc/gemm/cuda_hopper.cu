// Matrix products on Hopper: see cuda_hopper.hpp. Compiled for sm_90a alone.
#include "gemm/cuda_hopper.hpp"

#include "gemm/cuda_hopper_ring.hpp"

namespace arraynn::cuda {
namespace {

using hopper::kUnit;
using hopper::Matrix;

// Boxes of two matrices.
template <class T_, bool kAlongA_, bool kAlongB_>
struct MatrixLoader {
  using T = T_;
  static constexpr bool kAlongA = kAlongA_, kAlongB = kAlongB_, kMayBeEmpty = false;
  TensorMap a, b;
  bool moves_a, moves_b;  // from result to result

  struct Steps {
    __device__ explicit Steps(const MatrixLoader&) {}
    __device__ static constexpr unsigned next() { return hopper::kDepth / 16; }
  };
  template <class Tile>
  struct Copier {
    const MatrixLoader& loader;
    const hopper::Place& at;
    __device__ __forceinline__ Copier(const MatrixLoader& l, const hopper::Place& p)
        : loader(l), at(p) {}
    __device__ __forceinline__ void copy(hopper::Stage<Tile>& stage, int k,
                                         std::uint64_t* full) const {
      hopper::copy_matrix<Tile::kM, kAlongA>(stage.a, loader.a, at.row, k,
                                             loader.moves_a ? at.group : 0, full);
      hopper::copy_matrix<Tile::kN, kAlongB>(stage.b, loader.b, at.column, k,
                                             loader.moves_b ? at.group : 0, full);
    }
  };
  __device__ __forceinline__ void prefetch() const {
    ptx::prefetch_tensormap(&a);
    ptx::prefetch_tensormap(&b);
  }
  __device__ __forceinline__ static int columns_left(int n, int column) { return n - column; }
};

// How an operand moves from product to product of a batch: by one stride, or not at all.
struct Moves {
  std::int64_t stride = 0;
  bool even = true;
};
Moves moves_of(const GemmBatch& batch, const std::int64_t* strides) {
  Moves moves;
  std::int64_t inner = 1;  // products of the axes so far
  for (int d = batch.ndim - 1; d >= 0; --d) {
    if (batch.shape[d] == 1) continue;
    if (inner == 1) moves.stride = strides[d];
    moves.even = moves.even && strides[d] == moves.stride * inner;
    inner *= batch.shape[d];
  }
  return moves;
}

// What a call has beside its loader, and the operands.
template <class Out>
struct Product {
  Matrix a, b;
  std::int64_t part, parts;  // of k, one result each
  MatrixResult<Out> result;
  TileEpilogue<Out> epilogue;
};

template <class Tile, class T, bool kAlongA, bool kAlongB, class Out>
bool launch_layout(const Product<Out>& p) {
  hopper::Call<MatrixLoader<T, kAlongA, kAlongB>, MatrixResult<Out>> call{};
  if (!hopper::make_map<T>(&call.loader.a, p.a, Tile::kM) ||
      !hopper::make_map<T>(&call.loader.b, p.b, Tile::kN)) {
    return false;
  }
  call.loader.moves_a = p.a.count > 1 && p.a.move != 0;
  call.loader.moves_b = p.b.count > 1 && p.b.move != 0;
  call.m = static_cast<int>(p.a.outer);
  call.n = static_cast<int>(p.b.outer);
  call.depth = static_cast<int>(p.a.depth);
  call.part = static_cast<int>(p.part);
  call.groups = static_cast<unsigned>(p.a.count);
  call.move_group = call.move_part = p.a.outer * p.b.outer;
  call.result = p.result;
  call.epilogue = p.epilogue;
  return hopper::launch_ring<Tile>(call, p.a.count * p.parts);
}

template <class T, class Out>
bool launch(const Product<Out>& p) {
  return hopper::with_hopper_tile(p.a.outer, p.b.outer, p.a.count * p.parts, [&]<class Tile>() {
    if (p.a.along_k && p.b.along_k) return launch_layout<Tile, T, true, true>(p);
    if (p.a.along_k) return launch_layout<Tile, T, true, false>(p);
    if (p.b.along_k) return launch_layout<Tile, T, false, true>(p);
    return launch_layout<Tile, T, false, false>(p);
  });
}

template <class Out, class T>
Product<Out> product_of(const GemmProblem<T>& p) {
  const bool along_a = p.cs_a == 1, along_b = p.rs_b == 1;
  Product<Out> product{};
  product.a = {p.a, p.m, p.k, along_a ? p.rs_a : p.cs_a, along_a};
  product.b = {p.b, p.n, p.k, along_b ? p.cs_b : p.rs_b, along_b};
  product.part = p.k;
  product.parts = 1;
  return product;
}

template <class T>
bool fits(const GemmProblem<T>& p) {
  return is_hopper() && p.k > 0 && p.k % kUnit == 0 && p.m > 0 && p.n > 0 &&
         max_i(p.k, max_i(p.m, p.n)) <= hopper::kMostIndex;
}

}  // namespace

template <class T, class Out>
bool gemm_on_hopper(const GemmProblem<T>& p, const GemmResult<Out>& to, const GemmBatch& batch) {
  std::int64_t count = 1;
  for (int d = 0; d < batch.ndim; ++d) count *= batch.shape[d];
  const Moves a = moves_of(batch, batch.stride_a), b = moves_of(batch, batch.stride_b);
  if (!fits(p) || count == 0 || count > hopper::kMostIndex || !a.even || !b.even) return false;
  Product<Out> product = product_of<Out>(p);
  product.a.move = a.stride;
  product.b.move = b.stride;
  product.a.count = product.b.count = count;
  const Epilogue<Out>& e = to.epilogue;
  const auto packed = [&](const Out* c, std::int64_t stride) {
    constexpr std::int64_t kOf = kPack<Out>;
    return is_packed(c) && stride % kOf == 0 && (count == 1 || p.m * p.n % kOf == 0);
  };
  product.result = {
      to.c, e.residual, p.rs_c, e.rs_residual,
      packed(to.c, p.rs_c) && (e.residual == nullptr || packed(e.residual, e.rs_residual))};
  product.epilogue = {e.bias, e.bias == nullptr ? BiasAxis::kNone : e.bias_axis, p.accumulate,
                      e.activation};
  return launch<T>(product);
}

template <class T>
bool gemm_parts_on_hopper(const GemmProblem<T>& p, Parts parts, float* sums) {
  if (!fits(p) || parts.length % hopper::kDepth != 0 || p.cs_a == 1 || p.rs_b == 1) return false;
  Product<float> product = product_of<float>(p);
  product.part = parts.length;
  product.parts = parts.count;
  product.result = {sums, nullptr, p.n, 0, p.n % kPack<float> == 0};
  return launch<T>(product);
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template bool gemm_on_hopper(const GemmProblem<T>&, const GemmResult<T>&, const GemmBatch&);     \
  template bool gemm_on_hopper(const GemmProblem<T>&, const GemmResult<float>&, const GemmBatch&); \
  template bool gemm_parts_on_hopper(const GemmProblem<T>&, Parts, float*);
ARRAYNN_INSTANTIATE(Half)
ARRAYNN_INSTANTIATE(Bfloat16)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn::cuda
