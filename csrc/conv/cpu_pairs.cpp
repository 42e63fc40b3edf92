// Copies of bfloat16 with neighbouring channels in one element of 32 bits.
#include "conv/pairs.hpp"
#include "core/parallel.hpp"
#include "gemm/pairs.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

constexpr int kL = kLanes<float>;
// Columns of planes that a member takes at a time: two cache lines of each.
constexpr std::int64_t kColumns = 64;

ARRAYNN_INLINE Words words_of(const Bfloat16* p, std::int64_t n) { return load_words(p, n); }
// Of widened numbers the upper half.
ARRAYNN_INLINE Words words_of(const float* p, std::int64_t n) {
  return (Words)load_lanes(p, n).v >> 16;
}

template <class S>
void copy_rows(const S* src, std::int64_t batch, std::int64_t rows, std::int64_t columns,
               int threads, float* dst) {
  const std::int64_t pairs = ceil_div(rows, kPair);
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    const Range mine = split_range(batch * pairs, nthreads, tid);
    for (std::int64_t u = mine.begin; u < mine.end; ++u) {
      const std::int64_t b = u / pairs, row = u % pairs * kPair;
      const S* even = src + (b * rows + row) * columns;
      for (std::int64_t j = 0; j < columns; j += kL) {
        const std::int64_t n = min_i(kL, columns - j);
        const Words odd = row + 1 < rows ? words_of(even + columns + j, n) : Words{};
        store_lanes(join_pairs(words_of(even + j, n), odd), dst + u * columns + j, n);
      }
    }
  });
}

// Rows of one column lie as they are wanted, but for a last odd one.
void copy_single_columns(const Bfloat16* src, std::int64_t batch, std::int64_t rows, int threads,
                         float* dst) {
  const std::int64_t pairs = ceil_div(rows, kPair);
  const PairSource from{src, rows, 1, batch, rows};
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    const Range mine = split_range(batch, nthreads, tid);
    for (std::int64_t b = mine.begin; b < mine.end; ++b) {
      for (std::int64_t p = 0; p < pairs; p += kL) {
        store_lanes(from.along_k(b, p), dst + b * pairs + p, min_i(kL, pairs - p));
      }
    }
  });
}

void copy_pair_rows(const Bfloat16* src, std::int64_t batch, std::int64_t rows,
                    std::int64_t columns, int threads, float* dst) {
  if (columns == 1) return copy_single_columns(src, batch, rows, threads, dst);
  copy_rows(src, batch, rows, columns, threads, dst);
}

void copy_planes(const Bfloat16* src, std::int64_t n, std::int64_t batch, std::int64_t rows,
                 std::int64_t columns, int threads, float* dst) {
  const std::int64_t pairs = ceil_div(rows, kPair), pixel = batch * pairs;
  const std::int64_t parts = ceil_div(columns, kColumns);
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    const Range mine = split_range(n * parts, nthreads, tid);
    for (std::int64_t u = mine.begin; u < mine.end; ++u) {
      const std::int64_t sample = u / parts, j0 = u % parts * kColumns;
      const std::int64_t j1 = min_i(columns, j0 + kColumns);
      for (std::int64_t b = 0; b < batch; ++b) {
        const Bfloat16* planes = src + (sample * batch + b) * rows * columns;
        const PairSource from{planes, 1, columns, columns, rows};
        for (std::int64_t p = 0; p < pairs; p += kL) {
          const std::int64_t depth = min_i(kL, pairs - p);
          for (std::int64_t j = j0; j < j1; j += kL) {
            Vec<float> v[kL];
            for (int r = 0; r < kL; ++r) {
              v[r] = r < depth ? from.across(j, p + r) : Vec<float>::zero();
            }
            transpose(v);
            float* to = dst + (sample * columns + j) * pixel + b * pairs + p;
            for (int r = 0; r < kL; ++r) {
              if (j + r >= j1) break;
              store_lanes(v[r], to + r * pixel, depth);
            }
          }
        }
      }
    }
  });
}

}  // namespace

extern const PairCopies pair_copies = {&copy_pair_rows, &copy_rows<float>, &copy_planes};

}  // namespace ARRAYNN_ISA_NAMESPACE
