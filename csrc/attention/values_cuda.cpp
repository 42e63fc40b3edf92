#include "attention/values.hpp"

namespace arraynn {

void check_cumulative(const char*, const char*, const Array&, std::int64_t) {}
void check_lengths(const char*, const AttentionProblem<float>&) {}
void check_square(const char*, const AttentionProblem<float>&) {}

// The mask of dropout is numbered by it.
std::int64_t longest_keys(const char* op, const AttentionProblem<float>&) {
  fail<NotImplemented>(op, "dropout", "expected 0 for packed sequences on a GPU, got more");
}

}  // namespace arraynn
