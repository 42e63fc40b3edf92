// Parts of attention on a GPU that have files of their own.
#pragma once
#include "attention/attention.hpp"

namespace arraynn::cuda {

// Few queries of one position each against whole caches, of rows or of pages.
template <class T>
bool has_decode_plan(const AttentionProblem<T>& p) {
  if (p.pages != nullptr) return true;
  return p.seqlen_q == 1 && p.q_begin == nullptr && p.mask == nullptr && p.bias == nullptr &&
         !p.dropout.on;
}
template <class T>
void run_decode(const char* op, const AttentionProblem<T>& p);

// Products on tensor cores: of all types that they multiply with float32 sums. Elements of a result may be
// wrong where they are not finite: what comes back says in which tiles there are some (is_done).
template <class T>
inline constexpr bool kHasTensorCores = sizeof(Compute<T>) == 4;
template <class T>
const std::uint8_t* run_tensor_forward(const AttentionProblem<T>& p);

struct TensorRepairs {
  const std::uint8_t *dq = nullptr, *dk = nullptr, *dv = nullptr;
};
template <class T>
TensorRepairs run_tensor_gradients(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                                   const float* delta);

// The most keys of a packed sequence, in memory of the call.
const std::int64_t* longest_keys(const std::int64_t* k_begin, std::int64_t sequences);

}  // namespace arraynn::cuda
