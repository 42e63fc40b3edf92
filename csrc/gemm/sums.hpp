// Products of 16-bit operands on a GPU whose float32 sums are not rounded.
#pragma once
#include "gemm/gemm.hpp"

namespace arraynn {

// Where a product goes: what of a GemmProblem has the type of the result, which need not be the operands'.
template <class Out>
struct GemmResult {
  Out* c = nullptr;
  Epilogue<Out> epilogue;
};

#if defined(ARRAYNN_CUDA)
// In place of p.c and p.epilogue.
void gemm_sums(const char* op, const GemmProblem<Half>& p, const GemmResult<float>& to);
void gemm_sums(const char* op, const GemmProblem<Bfloat16>& p, const GemmResult<float>& to);
void column_sums(const Half* x, std::int64_t m, std::int64_t n, float* out);
void column_sums(const Bfloat16* x, std::int64_t m, std::int64_t n, float* out);
#endif

}  // namespace arraynn
