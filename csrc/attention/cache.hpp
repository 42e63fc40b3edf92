// What a call against a cache asks of lengths and pages, and what it writes; once per device. On a GPU
// nothing is waited for: lengths are held to the cache, pages to those there are, and nobody complains.
#pragma once
#include "attention/attention.hpp"

namespace arraynn {

// after[b] = before[b] + more.
void extend_lengths(const char* op, const AttentionProblem<float>& s, const std::int64_t* before,
                    std::int64_t more, std::int64_t* after);
// A row of the tables of angles for every position.
void check_angles(const char* op, const AttentionProblem<float>& s, std::int64_t rows);
// to[b, i]: the positions of the last `rows` keys. Queries before the first position see nothing, however
// they are turned.
void last_positions(const AttentionProblem<float>& s, std::int64_t rows, std::int64_t* to);

// Rows of new keys or values, and the cache behind whose rows they go.
struct NewRows {
  const void* from;
  void* to;
  RowStrides source, target;
  std::int64_t rows, dim;
  std::int64_t item;  // bytes of an element
};
void append_rows(const AttentionProblem<float>& s, const NewRows& rows);

}  // namespace arraynn
