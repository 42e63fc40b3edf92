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

template <class To, class From>
__global__ void ARRAYNN_ELEMENT_BOUNDS
rnn_move_kernel(const __grid_constant__ RnnMove<To, From> m) {
  const auto widen = [](From x) {
    if constexpr (std::is_same_v<From, Compute<From>>) {
      return x;
    } else {
      return to_compute(x);
    }
  };
  for_elements(m.steps * m.batch * m.n, [&m, &widen](std::int64_t i) {
    const Quotient row = divide(i, m.n), at = divide(row.quotient, m.batch);
    const std::int64_t t = at.quotient, b = at.remainder;
    To* to = m.to.data + t * m.to.step + b * m.to.row;
    to[row.remainder] =
        m.is_active(t, b) ? from_compute<To>(m.value(t, b, row.remainder, widen)) : To{};
  });
}

template <class To, class From>
__global__ void ARRAYNN_ELEMENT_BOUNDS
rnn_ends_kernel(const __grid_constant__ RnnEnds<To, From> e) {
  for_elements(e.batch * e.n, [&e](std::int64_t i) {
    const Quotient at = divide(i, e.n);
    const From value = e.value(at.quotient, at.remainder);
    To& to = e.to.data[at.quotient * e.to.row + at.remainder];
    if constexpr (std::is_same_v<To, From>) {
      to = value;
    } else {
      to = from_compute<To>(value);
    }
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

template <class To, class From>
void move_rows(const RnnMove<To, From>& m) {
  ARRAYNN_LAUNCH((cuda::rnn_move_kernel<To, From>), cuda::element_grid(m.steps * m.batch * m.n), m);
}
template <class To, class From>
void take_ends(const RnnEnds<To, From>& e) {
  ARRAYNN_LAUNCH((cuda::rnn_ends_kernel<To, From>), cuda::element_grid(e.batch * e.n), e);
}

#define ARRAYNN_INSTANTIATE(T)                   \
  template void move_rows(const RnnMove<T, T>&); \
  template void take_ends(const RnnEnds<T, T>&);
#define ARRAYNN_INSTANTIATE_HALF(T)                  \
  template void move_rows(const RnnMove<T, float>&); \
  template void move_rows(const RnnMove<float, T>&); \
  template void take_ends(const RnnEnds<T, float>&);
template void move_rows(const RnnMove<std::uint8_t>&);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
ARRAYNN_INSTANTIATE_HALF(Half)
ARRAYNN_INSTANTIATE_HALF(Bfloat16)
#undef ARRAYNN_INSTANTIATE
#undef ARRAYNN_INSTANTIATE_HALF

}  // namespace arraynn
