// Batches of products with broadcasting.
#pragma once
#include <cstdint>

#include "core/tensor_view.hpp"
#include "gemm/gemm.hpp"

namespace arraynn {

// Batch axes as in np.matmul: along an axis the operands move by these elements, 0 where they stay.
// The products are stored one after the other.
struct GemmBatch {
  int ndim = 0;
  std::int64_t shape[kMaxDims], stride_a[kMaxDims], stride_b[kMaxDims];
};
void gemm_batch(const char* op, const GemmProblem<float>& p, const GemmBatch& batch);
void gemm_batch(const char* op, const GemmProblem<double>& p, const GemmBatch& batch);
void gemm_batch(const char* op, const GemmProblem<Bfloat16>& p, const GemmBatch& batch);

#if defined(ARRAYNN_CUDA)  // what gemm.hpp declares, for the dtype that only a GPU has
void gemm(const char* op, const GemmProblem<Half>& p);
void gemm_batch(const char* op, const GemmProblem<Half>& p, const GemmBatch& batch);
void use_packed(const char* op, PreparedWeight*, Operand operand, GemmProblem<Half>* p);
void column_sums(const Half* x, std::int64_t m, std::int64_t n, Half* out);
// Of partial sums, which are float32.
void column_sums(const float* x, std::int64_t m, std::int64_t n, Half* out);
void column_sums(const float* x, std::int64_t m, std::int64_t n, Bfloat16* out);
#endif

}  // namespace arraynn
