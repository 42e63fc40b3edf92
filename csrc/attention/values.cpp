#include "attention/values.hpp"

#include <algorithm>

namespace arraynn {

void check_cumulative(const char* op, const char* arg, const Array& a, std::int64_t total) {
  const std::int64_t n = a->shape[0];
  const std::int64_t* at = integers(a);
  if (n < 1 || at[0] != 0) fail<ValueError>(op, arg, "expected a first element of 0, got none");
  for (std::int64_t i = 1; i < n; ++i) {
    if (at[i] < at[i - 1]) {
      fail<ValueError>(op, arg, "expected ascending elements, got ", at[i], " after ", at[i - 1]);
    }
  }
  if (at[n - 1] != total) {
    fail<ValueError>(op, arg, "expected a last element of ", total, " (all rows), got ", at[n - 1]);
  }
}

void check_lengths(const char* op, const AttentionProblem<float>& s) {
  for (std::int64_t b = 0; b < s.batch; ++b) {
    if (s.kv_lengths[b] < 0 || s.kv_lengths[b] > s.seqlen_k) {
      fail<ValueError>(op, "kv_lengths", "expected values in [0, ", s.seqlen_k, "], got ",
                       s.kv_lengths[b]);
    }
  }
}

void check_square(const char* op, const AttentionProblem<float>& s) {
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const AttentionSequence at = sequence_of(s, b);
    require_square(op, at.queries, at.keys);
  }
}

std::int64_t packed_columns(const AttentionProblem<float>& s, std::int64_t) {
  std::int64_t longest = 0;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    longest = std::max(longest, s.k_begin[b + 1] - s.k_begin[b]);
  }
  return longest;
}

void number_by_longest(const AttentionProblem<float>& s, AttentionDropout* dropout) {
  dropout->row = packed_columns(s, 0);
}

template <class T>
void clear_gradient(T* p, std::int64_t n) {
  std::fill_n(p, n, T(0));
}
template void clear_gradient<float>(float*, std::int64_t);
template void clear_gradient<double>(double*, std::int64_t);

}  // namespace arraynn
