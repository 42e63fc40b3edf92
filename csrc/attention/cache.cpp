#include "attention/cache.hpp"

#include <algorithm>
#include <cstring>

#include "core/error.hpp"

namespace arraynn {

void extend_lengths(const char* op, const AttentionProblem<float>& s, const std::int64_t* before,
                    std::int64_t more, std::int64_t* after) {
  for (std::int64_t b = 0; b < s.batch; ++b) {
    if (before[b] < 0 || before[b] > s.seqlen_k - more) {
      fail<ValueError>(op, "lengths", "expected values in [0, ", s.seqlen_k - more, "], got ",
                       before[b]);
    }
    after[b] = before[b] + more;
    if (s.pages == nullptr) continue;
    const std::int64_t used = s.page_size == 0 ? 0 : ceil_div(after[b], s.page_size);
    for (std::int64_t i = 0; i < used; ++i) {
      const std::int64_t page = s.pages[b * s.pages_per_sequence + i];
      if (page < 0 || page >= s.page_count) {
        fail<ValueError>(op, "block_table", "expected pages in [0, ", s.page_count, "), got ",
                         page);
      }
    }
  }
}

void check_angles(const char* op, const AttentionProblem<float>& s, std::int64_t rows) {
  for (std::int64_t b = 0; b < s.batch; ++b) {
    if (s.kv_lengths[b] > rows) {
      fail<ValueError>(op, "cos", "expected a row for each of ", s.kv_lengths[b],
                       " positions, got ", rows);
    }
  }
}

void last_positions(const AttentionProblem<float>& s, std::int64_t rows, std::int64_t* to) {
  for (std::int64_t i = 0; i < s.batch * rows; ++i) {
    to[i] = std::max<std::int64_t>(0, s.kv_lengths[i / rows] - rows + i % rows);
  }
}

void append_rows(const AttentionProblem<float>& s, const NewRows& n) {
  for (std::int64_t b = 0; b < s.batch; ++b) {
    for (std::int64_t t = 0; t < n.rows; ++t) {
      const std::int64_t row = cache_row(s, n.target, b, s.kv_lengths[b] - n.rows + t);
      for (std::int64_t h = 0; h < s.kv_heads; ++h) {
        const std::int64_t from = b * n.source.b + t * n.source.l + h * n.source.h;
        std::memmove(static_cast<char*>(n.to) + (row + h * n.target.h) * n.item,
                     static_cast<const char*>(n.from) + from * n.item,
                     static_cast<std::size_t>(n.dim * n.item));
      }
    }
  }
}

}  // namespace arraynn
