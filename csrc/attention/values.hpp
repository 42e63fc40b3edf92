// What the arguments of attention ask of the elements of arrays. On a GPU nothing is waited for: its
// kernels hold lengths to the arrays, and nobody complains of them.
#pragma once
#include "attention/attention.hpp"
#include "bind/array.hpp"

namespace arraynn {

inline bool given(py::handle h) { return h.ptr() != nullptr && !h.is_none(); }
inline const std::int64_t* integers(const Array& a) { return a->as<const std::int64_t>(); }

inline void require_square(const char* op, std::int64_t queries, std::int64_t keys) {
  if (queries != keys) {
    fail<ValueError>(op, "causal", "expected 'top_left' or 'bottom_right' where ", queries,
                     " queries meet ", keys, " keys, got True");
  }
}

// Ascending from 0 to `total`.
void check_cumulative(const char* op, const char* arg, const Array& a, std::int64_t total);
// kv_lengths in [0, seqlen_k].
void check_lengths(const char* op, const AttentionProblem<float>& s);
// As many queries as keys in every packed sequence.
void check_square(const char* op, const AttentionProblem<float>& s);
// Columns of a mask or a bias of packed sequences: the most keys of one. On a GPU nobody knows, and it is as
// many as the first of the two has; the scores of keys beyond them are NaN.
std::int64_t packed_columns(const AttentionProblem<float>& s, std::int64_t given);
// Rows of the mask of dropout are as long.
void number_by_longest(const AttentionProblem<float>& s, AttentionDropout* dropout);

// Fills a gradient with zeros.
template <class T>
void clear_gradient(T* p, std::int64_t n);

}  // namespace arraynn
