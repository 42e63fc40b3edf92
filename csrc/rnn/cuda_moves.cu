// The elements that layers move, and lengths: a thread an element.
#include <algorithm>

#include "core/cuda_elements.hpp"
#include "core/cuda_pack.hpp"
#include "rnn/cuda.hpp"
#include "rnn/moves.hpp"

namespace arraynn {
namespace cuda {
namespace {

// Lengths that a launch brings along, 4 KB of parameters.
constexpr std::int64_t kCarried = 512;

template <class T>
__global__ void ARRAYNN_ELEMENT_BOUNDS rnn_move_kernel(const __grid_constant__ RnnMove<T> m) {
  for_elements(m.steps * m.batch * m.n, [&m](std::int64_t i) {
    const Quotient row = divide(i, m.n), at = divide(row.quotient, m.batch);
    const std::int64_t t = at.quotient, b = at.remainder;
    T* to = m.to.data + t * m.to.step + b * m.to.row;
    to[row.remainder] = m.is_active(t, b) ? m.value(t, b, row.remainder) : T(0);
  });
}

template <class T>
__global__ void ARRAYNN_ELEMENT_BOUNDS rnn_ends_kernel(const __grid_constant__ RnnEnds<T> e) {
  for_elements(e.batch * e.n, [&e](std::int64_t i) {
    const Quotient at = divide(i, e.n);
    e.to.data[at.quotient * e.to.row + at.remainder] = e.value(at.quotient, at.remainder);
  });
}

template <class Int>
__global__ void ARRAYNN_ELEMENT_BOUNDS hold_lengths_kernel(const Int* from, std::int64_t count,
                                                           std::int64_t steps, std::int64_t* to) {
  for_elements(count, [=](std::int64_t i) { to[i] = max_i(0, min_i(steps, from[i])); });
}

struct Carried {
  std::int64_t v[kCarried];
};
__global__ void ARRAYNN_ELEMENT_BOUNDS put_lengths_kernel(const __grid_constant__ Carried from,
                                                          std::int64_t count, std::int64_t* to) {
  for_elements(count, [&from, to](std::int64_t i) { to[i] = from.v[i]; });
}

}  // namespace

void hold_lengths(const void* from, bool wide, std::int64_t count, std::int64_t steps,
                  std::int64_t* to) {
  if (wide) {
    ARRAYNN_LAUNCH((hold_lengths_kernel<std::int64_t>), element_grid(count),
                   static_cast<const std::int64_t*>(from), count, steps, to);
  } else {
    ARRAYNN_LAUNCH((hold_lengths_kernel<std::int32_t>), element_grid(count),
                   static_cast<const std::int32_t*>(from), count, steps, to);
  }
}

void put_lengths(const std::int64_t* from, std::int64_t count, std::int64_t* to) {
  for (std::int64_t i = 0; i < count; i += kCarried) {
    Carried carried{};
    const std::int64_t n = min_i(kCarried, count - i);
    std::copy_n(from + i, n, carried.v);
    ARRAYNN_LAUNCH(put_lengths_kernel, element_grid(n), carried, n, to + i);
  }
}

}  // namespace cuda

template <class T>
void move_rows(const RnnMove<T>& m) {
  ARRAYNN_LAUNCH((cuda::rnn_move_kernel<T>), cuda::element_grid(m.steps * m.batch * m.n), m);
}
template <class T>
void take_ends(const RnnEnds<T>& e) {
  ARRAYNN_LAUNCH((cuda::rnn_ends_kernel<T>), cuda::element_grid(e.batch * e.n), e);
}

template void move_rows(const RnnMove<std::uint8_t>&);
template void move_rows(const RnnMove<float>&);
template void move_rows(const RnnMove<double>&);
template void take_ends(const RnnEnds<float>&);
template void take_ends(const RnnEnds<double>&);

}  // namespace arraynn
