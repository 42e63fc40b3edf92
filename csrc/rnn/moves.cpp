#include "rnn/moves.hpp"

#include <algorithm>
#include <functional>
#include <type_traits>

#include "core/parallel.hpp"
#include "elementwise/elementwise.hpp"

namespace arraynn {

template <class To, class From>
void move_rows(const RnnMove<To, From>& m) {
  static_assert(std::is_same_v<To, From>);
  const bool plain = m.factors == nullptr && m.addend == nullptr;
  const std::int64_t rows = m.steps * m.batch;
  const auto one = [&](std::int64_t t, std::int64_t b) {
    To* to = m.to.data + t * m.to.step + b * m.to.row;
    const From* from = m.from.data + t * m.from.step + b * m.from.row;
    if (!m.is_active(t, b)) {
      std::fill_n(to, m.n, To(0));
    } else if (plain && m.from.data == nullptr) {
      std::fill_n(to, m.n, m.fill);
    } else if (!plain) {
      for (std::int64_t j = 0; j < m.n; ++j) to[j] = m.value(t, b, j, std::identity{});
    } else if (from != to) {
      std::copy_n(from, m.n, to);
    }
  };
  const int threads = threads_for(static_cast<double>(rows * m.n), kElementwiseGrain);
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    const Range part = split_range(rows, nthreads, tid);
    for (std::int64_t i = part.begin; i < part.end; ++i) one(i / m.batch, i % m.batch);
  });
}

template <class To, class From>
void take_ends(const RnnEnds<To, From>& e) {
  for (std::int64_t b = 0; b < e.batch; ++b) {
    for (std::int64_t j = 0; j < e.n; ++j) e.to.data[b * e.to.row + j] = e.value(b, j);
  }
}

template void move_rows(const RnnMove<std::uint8_t, std::uint8_t>&);
template void move_rows(const RnnMove<float, float>&);
template void move_rows(const RnnMove<double, double>&);
template void take_ends(const RnnEnds<float, float>&);
template void take_ends(const RnnEnds<double, double>&);

}  // namespace arraynn
