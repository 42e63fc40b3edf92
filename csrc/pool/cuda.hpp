// What the functions of the poolings on a device need beside those of pool.hpp and volume.hpp.
#pragma once
#include "pool/pool.hpp"

namespace arraynn::cuda {

// Max unpooling with memory for the last element of every output position.
std::int64_t unpool_scratch_bytes(const UnpoolProblem& p);
template <class T>
void max_unpool(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,
                void* scratch);

}  // namespace arraynn::cuda
