// Few rows against a B of 16 bits, read once as it is.
#include "core/parallel.hpp"
#include "gemm/gemm.hpp"
#include "gemm/skinny.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

static_assert(kFewRows == kSkinnyRows);

template <class S>
void few_rows(const GemmProblem<float>& g, int threads) {
  const float* a_rows[kSkinnyRows];
  for (std::int64_t i = 0; i < g.m; ++i) a_rows[i] = g.a + i * g.rs_a;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range part = split_range(ceil_div(g.n, kLanes<float>), nthreads, tid);
    const Range columns{part.begin * kLanes<float>, min_i(g.n, part.end * kLanes<float>)};
    skinny<float, S>(g, a_rows, columns);
  });
}

}  // namespace

extern const FewRowsKernels few_rows_kernels = {&few_rows<Half>, &few_rows<Bfloat16>};

}  // namespace ARRAYNN_ISA_NAMESPACE
