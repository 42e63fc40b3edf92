#include "rnn/moves.hpp"

#include <algorithm>

#include "core/parallel.hpp"
#include "elementwise/elementwise.hpp"

namespace arraynn {

template <class T>
void move_rows(const RnnMove<T>& m) {
  const bool plain = m.factors == nullptr && m.addend == nullptr && m.from.data != nullptr;
  const bool everywhere = m.active.lengths == nullptr && m.active.mask == nullptr;
  const std::int64_t rows = m.steps * m.batch;
  const bool constant = m.factors == nullptr && m.addend == nullptr && m.from.data == nullptr;
  const auto one = [&](std::int64_t t, std::int64_t b) {
    T* to = m.to.data + t * m.to.step + b * m.to.row;
    if (plain && everywhere) {
      std::copy_n(m.from.data + t * m.from.step + b * m.from.row, m.n, to);
    } else if (constant && everywhere) {
      std::fill_n(to, m.n, m.fill);
    } else {
      for (std::int64_t j = 0; j < m.n; ++j) to[j] = m.value(t, b, j);
    }
  };
  const int threads = threads_for(static_cast<double>(rows * m.n), kElementwiseGrain);
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    const Range part = split_range(rows, nthreads, tid);
    for (std::int64_t i = part.begin; i < part.end; ++i) one(i / m.batch, i % m.batch);
  });
}

template <class T>
void take_ends(const RnnEnds<T>& e) {
  for (std::int64_t b = 0; b < e.batch; ++b) {
    for (std::int64_t j = 0; j < e.n; ++j) e.to.data[b * e.to.row + j] = e.value(b, j);
  }
}

template void move_rows(const RnnMove<std::uint8_t>&);
template void move_rows(const RnnMove<float>&);
template void move_rows(const RnnMove<double>&);
template void take_ends(const RnnEnds<float>&);
template void take_ends(const RnnEnds<double>&);

}  // namespace arraynn
