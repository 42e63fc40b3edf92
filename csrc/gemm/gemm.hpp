// gemm: C[m,n] = activation(sum_k A[m,k] B[k,n] + bias + residual[m,n])
//
// Behind linear (B = W^T), matmul and, through the microkernel, the convolutions.
//
// Plan. The register tile is MR x NR (table in blocking.hpp); its rows are read through MR row
// pointers and broadcast, its columns are vectors of a packed panel of B:
//   blocked     K in blocks of KC; B blocks KC x NC packed into panels of NR columns, shared by the
//               team; A rows read in place, or copied to rows of KC + padding where their stride
//               would map a tile's rows to the same cache sets or where A is transposed
//   panel       few rows: a panel of B at a time is packed and used at once, or four where rows of
//               B are contiguous; the team splits the columns
//   skinny      at most kSkinnyRows rows: B is read once, straight from memory, transposed in
//               registers when its columns are contiguous; also a B of 16 bits (cpu_half.cpp)
// An operand that stays from call to call may come packed (use_packed): then nothing is copied,
// and B is read panel by panel however few the rows are.
// Bits. Every plan adds the products of one element in the same order (k ascending from 0 in
// blocks of KC, then block sums in order), so results depend neither on the plan, nor on the number
// of threads, nor on the other rows of a batch.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/dtype.hpp"
#include "core/prepared.hpp"
#include "elementwise/activation.hpp"

namespace arraynn {

enum class BiasAxis : std::uint8_t { kNone, kRow, kColumn };

// What happens to a finished sum, in registers before it is stored.
template <class T>
struct Epilogue {
  const T* bias = nullptr;  // [m] along rows or [n] along columns
  BiasAxis bias_axis = BiasAxis::kNone;
  const T* residual = nullptr;  // [m, n], row stride rs_residual
  std::int64_t rs_residual = 0;
  Activation activation;
};

// Strides in elements; of A and of B one stride is 1. C has unit column stride. k == 0 is a sum of
// nothing. C overlaps neither A nor B.
template <class T>
struct GemmProblem {
  std::int64_t m = 0, n = 0, k = 0;
  const T* a = nullptr;
  std::int64_t rs_a = 0, cs_a = 0;
  const T* b = nullptr;
  std::int64_t rs_b = 0, cs_b = 0;
  T* c = nullptr;
  std::int64_t rs_c = 0;
  Epilogue<T> epilogue;
  bool accumulate = false;  // adds to what C holds
  // k runs over samples, C is contiguous, not added to and without epilogue: a GPU may add up parts
  // of k, whose number follows from the whole shape.
  bool over_samples = false;
  // The operand again, in the order of the microkernel, or null. Blocks of KC of k, one after the
  // other; in a block B has its panels of kc x NR, A its rows of a stride that fits KC.
  const T* packed_a = nullptr;
  const T* packed_b = nullptr;
};

enum class Operand : std::uint8_t { kA, kB };

template <class T>
struct GemmTable {
  // Scratch bytes that gemm needs with a team of `threads`.
  std::int64_t (*scratch)(const GemmProblem<T>&, int threads);
  // With at most `threads` threads.
  void (*run)(const GemmProblem<T>&, int threads, void* scratch);
  // Elements of a packed operand, written to dst unless that is null.
  std::int64_t (*pack)(const GemmProblem<T>&, Operand, int threads, T* dst);
  // out[j] = sum_i x[i * rs + j]: the bias gradient. Rows in ascending order.
  void (*column_sums)(const T* x, std::int64_t rs, std::int64_t m, std::int64_t n, int threads,
                      T* out);
};

ARRAYNN_KERNEL_TABLE(FloatKernels<GemmTable>, gemm_kernels)
#if defined(__x86_64__)
namespace avx512_bf16 {
extern const GemmTable<Bfloat16> gemm_kernels;
}
#endif

// Whether gemm, at the level in force, takes operands of this dtype as they are. Of 16 bits it neither
// accumulates nor takes a packed A. On a GPU any dtype is multiplied.
#if defined(ARRAYNN_CUDA)
inline bool has_gemm(Dtype) { return true; }
#else
bool has_gemm(Dtype dtype);
#endif

// At most so many rows of A, along k, against a B of 16 bits in memory: b points to that.
inline constexpr std::int64_t kFewRows = 4;
struct FewRowsKernels {
  void (*f16)(const GemmProblem<float>&, int threads);
  void (*bf16)(const GemmProblem<float>&, int threads);
};
ARRAYNN_KERNEL_TABLE(FewRowsKernels, few_rows_kernels)
void gemm_few_rows(const GemmProblem<float>& p, Dtype b);

// These allocate scratch, pick the team and run the table of the ISA in force.
void gemm(const char* op, const GemmProblem<float>& p);
void gemm(const char* op, const GemmProblem<double>& p);
void gemm(const char* op, const GemmProblem<Bfloat16>& p);

// Sets packed_a or packed_b of the problem to the weight's form, made if this is the first call.
void use_packed(const char* op, PreparedWeight* weight, Operand operand, GemmProblem<float>* p);
void use_packed(const char* op, PreparedWeight* weight, Operand operand, GemmProblem<double>* p);
void use_packed(const char* op, PreparedWeight* weight, Operand operand, GemmProblem<Bfloat16>* p);

// Element offsets of one product of a batch; sizes, strides and epilogue are shared, and a residual
// moves with C.
struct BatchItem {
  std::int64_t a, b, c;
};
void gemm_batch(const char* op, const GemmProblem<float>& p, const BatchItem* items,
                std::int64_t count);
void gemm_batch(const char* op, const GemmProblem<double>& p, const BatchItem* items,
                std::int64_t count);
void gemm_batch(const char* op, const GemmProblem<Bfloat16>& p, const BatchItem* items,
                std::int64_t count);

// What gemm_batch takes now.
struct GemmUse {
  std::int64_t scratch;  // bytes
  int threads;
};
GemmUse gemm_batch_use(const GemmProblem<float>& p, std::int64_t count);
GemmUse gemm_batch_use(const GemmProblem<double>& p, std::int64_t count);
GemmUse gemm_batch_use(const GemmProblem<Bfloat16>& p, std::int64_t count);

// out[j] = sum_i x[i, j] of a contiguous x.
void column_sums(const float* x, std::int64_t m, std::int64_t n, float* out);
void column_sums(const double* x, std::int64_t m, std::int64_t n, double* out);
void column_sums(const Bfloat16* x, std::int64_t m, std::int64_t n, Bfloat16* out);

}  // namespace arraynn
