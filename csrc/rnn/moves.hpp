// What the layers do to elements beside the steps and the products; defined once per device.
#pragma once
#include <cstdint>

#include "core/dtype.hpp"
#include "core/host_device.hpp"
#include "core/index.hpp"

namespace arraynn {

// Element j of sample b at time t is data[t step + b row + j].
template <class T>
struct RnnRows {
  T* data = nullptr;
  std::int64_t step = 0, row = 0;
};

// Which samples take part in which steps; both null: all in all.
struct RnnActive {
  const std::int64_t* lengths = nullptr;  // [batch]
  const std::uint8_t* mask = nullptr;     // [steps, batch]
};

// to = (from + addend) factors over n elements of each row, `fill` where there is no `from`, 0 where a
// sample is not active. `to` may be `from`, of the same type.
template <class To, class From = To>
struct RnnMove {
  using C = Compute<To>;
  std::int64_t steps = 1, batch = 1, n = 0;
  RnnRows<To> to{};
  RnnRows<const From> from{};
  C fill = 0;
  const C* factors = nullptr;    // [batch, n] or null
  const From* addend = nullptr;  // of the first addends of a row, or null
  std::int64_t addends = 0;
  RnnActive active{};

  ARRAYNN_HOST_DEVICE [[gnu::always_inline]] bool is_active(std::int64_t t, std::int64_t b) const {
    if (active.lengths != nullptr && t >= active.lengths[b]) return false;
    return active.mask == nullptr || active.mask[t * batch + b] != 0;
  }
  // Where a sample is active; widen() makes a C of an element.
  template <class Widen>
  ARRAYNN_HOST_DEVICE [[gnu::always_inline]] C value(std::int64_t t, std::int64_t b, std::int64_t j,
                                                     const Widen& widen) const {
    C v = from.data == nullptr ? fill : widen(from.data[t * from.step + b * from.row + j]);
    if (j < addends) v = static_cast<C>(v + widen(addend[j]));
    return factors == nullptr ? v : static_cast<C>(v * factors[b * n + j]);
  }
};
template <class To, class From>
void move_rows(const RnnMove<To, From>& move);

// Of every sample the row at its last step, or with `first` at step 0; of a sample of no steps that of
// `none`, zeros where that is null.
template <class To, class From = To>
struct RnnEnds {
  std::int64_t steps = 0, batch = 0, n = 0;
  const std::int64_t* lengths = nullptr;
  bool first = false;
  RnnRows<To> to{};
  RnnRows<const From> from{}, none{};

  ARRAYNN_HOST_DEVICE [[gnu::always_inline]] From value(std::int64_t b, std::int64_t j) const {
    const std::int64_t length = lengths == nullptr ? steps : lengths[b];
    if (length == 0) return none.data == nullptr ? From{} : none.data[b * none.row + j];
    return from.data[(first ? 0 : length - 1) * from.step + b * from.row + j];
  }
};
template <class To, class From>
void take_ends(const RnnEnds<To, From>& ends);

// The other order of the first two axes: to[j][i] = from[i][j], rows of `row` elements.
template <class To, class From>
void swap_axes(const From* from, To* to, std::int64_t i, std::int64_t j, std::int64_t row) {
  move_rows(RnnMove<To, From>{
      .steps = j, .batch = i, .n = row, .to = {to, i * row, row}, .from = {from, row, j * row}});
}
template <class T>
void fill(T* to, std::int64_t n, Compute<T> value) {
  move_rows(RnnMove<T>{.n = n, .to = {to, 0, 0}, .fill = value});
}
template <class To, class From>
void copy(const From* from, To* to, std::int64_t n) {
  move_rows(RnnMove<To, From>{.n = n, .to = {to, 0, 0}, .from = {from, 0, 0}});
}

}  // namespace arraynn
