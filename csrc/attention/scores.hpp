// What happens to a tile of scores between Q K^T and the exponential, and to probabilities after it.
// A tile holds keys down and the queries of a panel across: s[key * ld + query].
#pragma once
#include "attention/attention.hpp"
#include "gemm/blocking.hpp"
#include "simd/math.hpp"
#include "simd/philox.hpp"
#include "simd/storage.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Keys of a tile, at most. 128 x kNR probabilities are 16 KiB in float32 at AVX-512; 64 were 3 %
// slower (sums of P V are read and written per tile), 256 no faster.
inline constexpr std::int64_t kBlockN = 128;
// Rows of a tile that is turned: a line apart, so they spread over the sets of L1.
template <class T>
inline constexpr std::int64_t kRowStep = kBlockN + 64 / static_cast<int>(sizeof(T));

template <class T>
inline constexpr T kMinusInfinity = -T(__builtin_inf());
template <class T>
inline constexpr T kFirstMax = sizeof(T) == 4 ? T(-3.402823466385288598e38) : T(-__DBL_MAX__);

// A sink of -inf has no share, and leaves a query without keys with nothing.
template <class T>
ARRAYNN_INLINE bool has_sink(const AttentionProblem<T>& p, std::int64_t h) {
  return p.sinks != nullptr && p.sinks[h] != kMinusInfinity<T>;
}

// Memory that a call hands out in aligned pieces; with no memory behind it, it only counts.
template <class T>
struct Pieces {
  T* base;
  std::int64_t used = 0;

  [[gnu::always_inline]] inline T* take(std::int64_t n) {
    T* piece = base == nullptr ? nullptr : base + used;
    used += round_up(n, 64 / static_cast<int>(sizeof(T)));
    return piece;
  }
};

// A panel's place and what its queries see. Both ends of visible_keys() grow with the query.
template <class T>
struct PanelPlace {
  std::int64_t b, h, i0, count;
  AttentionSequence seq;
  Range any, all;  // keys that some query sees, and that all of them see

  ARRAYNN_INLINE PanelPlace at(const AttentionProblem<T>& p, const AttentionSequence& seq,
                               std::int64_t b, std::int64_t h, std::int64_t i0,
                               std::int64_t count) {
    const Range first = visible_keys(p, seq, i0), last = visible_keys(p, seq, i0 + count - 1);
    return {b, h, i0, count, seq, {first.begin, last.end}, {last.begin, first.end}};
  }
  // Lanes that hold queries, as whole vectors.
  [[gnu::always_inline]] inline std::int64_t width() const { return round_up(count, kLanes<T>); }
};

// Which elements of a tile dropout keeps: bit r % 32 of at[r / 32 * kNR + c] for key r and query c.
template <class T>
struct Kept {
  using Int = typename Vec<T>::Int;
  static constexpr std::int64_t kKeys = 32;
  Int* at;

  ARRAYNN_INLINE Kept in(Pieces<T>* pieces) {
    return {reinterpret_cast<Int*>(pieces->take(kBlockN / kKeys * kNR<T>))};
  }
  // Dropout's factors of key r and the queries from c on.
  [[gnu::always_inline]] inline Vec<T> factors(std::int64_t r, std::int64_t c, Vec<T> scale) const {
    using Ints = typename Vec<T>::RawInt;
    Ints lanes;
    __builtin_memcpy(&lanes, at + r / kKeys * kNR<T> + c, sizeof lanes);
    const Ints bit = Ints{} + (Int{1} << (r % kKeys));
    return select(Mask<T>{(lanes & bit) != Ints{}}, scale, Vec<T>::zero());
  }
};

template <class T, class F>
ARRAYNN_INLINE void for_tile(T* s, std::int64_t ld, std::int64_t keys, std::int64_t width,
                             const F& f) {
  for (std::int64_t r = 0; r < keys; ++r) {
    for (std::int64_t c = 0; c < width; c += kLanes<T>) {
      T* at = s + r * ld + c;
      f(Vec<T>::load(at), r, c).store(at);
    }
  }
}

// s = cap tanh(s / cap), and its slope 1 - tanh^2 where `slopes` (a tile of kNR) is given.
template <class T>
static void cap_scores(T* s, std::int64_t ld, std::int64_t keys, std::int64_t width, T cap,
                       T* slopes) {
  const Vec<T> to = Vec<T>::set1(cap), from = Vec<T>::set1(T(1) / cap), one = Vec<T>::set1(T(1));
  for_tile(s, ld, keys, width, [&](Vec<T> v, std::int64_t r, std::int64_t c) {
    const Vec<T> t = tanh(v * from);
    if (slopes != nullptr) fma(-t, t, one).store(slopes + r * kNR<T> + c);
    return t * to;
  });
}

// s -= slope |i + offset - j|.
template <class T>
static void add_alibi(T* s, std::int64_t ld, std::int64_t keys, std::int64_t j0, T slope,
                      const PanelPlace<T>& place) {
  T distance[kNR<T>];
  for (int c = 0; c < kNR<T>; ++c) {
    distance[c] = static_cast<T>(place.i0 + c + place.seq.offset - j0);
  }
  const Vec<T> factor = Vec<T>::set1(-slope);
  for_tile(s, ld, keys, place.width(), [&](Vec<T> v, std::int64_t r, std::int64_t c) {
    const Vec<T> d = Vec<T>::load(distance + c) - Vec<T>::set1(static_cast<T>(r));
    return fma(factor, abs(d), v);
  });
}

// kLanes bytes, or the n there are, as lanes that are all ones where the byte is not 0.
template <class T>
ARRAYNN_INLINE Mask<T> load_mask(const std::uint8_t* bytes, std::int64_t n) {
  typedef std::int8_t Bytes __attribute__((vector_size(kLanes<T> * sizeof(std::int8_t))));
  std::uint8_t some[kLanes<T>] = {};
  if (n < kLanes<T>) {
    for (int i = 0; i < kLanes<T>; ++i) some[i] = i < n ? bytes[i] : std::uint8_t{0};
    bytes = some;
  }
  Bytes b;
  __builtin_memcpy(&b, bytes, sizeof b);
  return {__builtin_convertvector(b, typename Vec<T>::RawInt) != typename Vec<T>::RawInt{}};
}

// Where query i's bias and mask start at key j0; null where there is none.
template <class T>
struct OffsetRow {
  const T* bias;
  const std::uint8_t* mask;

  ARRAYNN_INLINE OffsetRow at(const AttentionProblem<T>& p, const PanelPlace<T>& place,
                              std::int64_t i, std::int64_t j0) {
    const ScoreStrides &bs = p.bias_strides, &ms = p.mask_strides;
    const std::int64_t row = place.seq.q0 + i;
    const std::int64_t at_b = place.b * bs.b + place.h * bs.h + row * bs.i + j0 * bs.j;
    const std::int64_t at_m = place.b * ms.b + place.h * ms.h + row * ms.i + j0 * ms.j;
    return {p.bias == nullptr ? nullptr : p.bias + at_b,
            p.mask == nullptr ? nullptr : p.mask + at_m};
  }
  // Of keys j0 + j on, n of them: the bias, -inf where the mask hides the key.
  [[gnu::always_inline]] inline Vec<T> load(const AttentionProblem<T>& p, std::int64_t j,
                                            std::int64_t n) const {
    const bool whole = n >= kLanes<T>;
    Vec<T> v = Vec<T>::zero();
    if (bias != nullptr) {
      v = p.bias_strides.j == 0 ? Vec<T>::set1(*bias)
                                : (whole ? Vec<T>::load(bias + j) : load_n(bias + j, n));
    }
    if (mask == nullptr) return v;
    const Vec<T> hidden = Vec<T>::set1(kMinusInfinity<T>);
    if (p.mask_strides.j == 0) return *mask == 0 ? hidden : v;
    return select(load_mask<T>(mask + j, n), v, hidden);
  }
};

// Adds bias and mask. A score with a bias of -inf is hidden, whatever it was.
template <class T>
ARRAYNN_INLINE Vec<T> add_offset(Vec<T> score, Vec<T> offset) {
  const Vec<T> hidden = Vec<T>::set1(kMinusInfinity<T>);
  return select(offset == hidden, hidden, score + offset);
}

// Bit i says whether byte i of n, at most 16, is not 0.
ARRAYNN_INLINE std::uint32_t bits_of(const std::uint8_t* bytes, std::int64_t n) {
  std::uint32_t bits = 0;
  for (std::int64_t i = 0; i < n; i += 8) {
    std::uint64_t x = 0;
    if (n - i >= 8) {
      __builtin_memcpy(&x, bytes + i, 8);
    } else {
      for (std::int64_t k = n - i - 1; k >= 0; --k) x = x << 8 | bytes[i + k];
    }
    x |= x >> 4;
    x |= x >> 2;
    x |= x >> 1;
    // The lowest bits of all bytes side by side in the highest byte.
    x = (x & 0x0101010101010101u) * 0x0102040810204080u >> 56;
    bits |= static_cast<std::uint32_t>(x) << i;
  }
  return bits;
}

// A mask without a bias: bits of kLanes keys of a query are a lane, so nothing is transposed.
template <class T>
static void hide_masked(const AttentionProblem<T>& p, T* s, std::int64_t ld, std::int64_t j0,
                        std::int64_t keys, const PanelPlace<T>& place) {
  constexpr int kL = kLanes<T>;
  using Int = typename Vec<T>::Int;
  using Ints = typename Vec<T>::RawInt;
  const Vec<T> hidden = Vec<T>::set1(kMinusInfinity<T>);
  for (std::int64_t c = 0; c < place.width(); c += kL) {
    const std::uint8_t* rows[kL];
    for (int i = 0; i < kL; ++i) {
      rows[i] = OffsetRow<T>::at(p, place, place.i0 + min_i(c + i, place.count - 1), j0).mask;
    }
    for (std::int64_t j = 0; j < keys; j += kL) {
      const std::int64_t n = min_i(kL, keys - j);
      const std::uint32_t whole = (1u << n) - 1;
      std::uint32_t all = whole;
      Int seen[kL];
      for (int i = 0; i < kL; ++i) {
        const std::uint32_t bits =
            p.mask_strides.j == 0 ? (*rows[i] == 0 ? 0 : whole) : bits_of(rows[i] + j, n);
        all &= bits;
        seen[i] = static_cast<Int>(bits);
      }
      if (all == whole) continue;
      Ints lanes;
      __builtin_memcpy(&lanes, seen, sizeof lanes);
      for (int r = 0; r < kL; ++r) {
        if (r >= n) break;
        T* at = s + (j + r) * ld + c;
        const Mask<T> visible{(lanes & (Ints{} + (Int{1} << r))) != Ints{}};
        select(visible, Vec<T>::load(at), hidden).store(at);
      }
    }
  }
}

template <class T>
static void add_offsets(const AttentionProblem<T>& p, T* s, std::int64_t ld, std::int64_t j0,
                        std::int64_t keys, const PanelPlace<T>& place) {
  constexpr int kL = kLanes<T>;
  const bool same_for_all =
      (p.bias == nullptr || p.bias_strides.i == 0) && (p.mask == nullptr || p.mask_strides.i == 0);
  if (same_for_all) {
    const OffsetRow<T> row = OffsetRow<T>::at(p, place, 0, j0);
    for (std::int64_t j = 0; j < keys; j += kL) {
      T offsets[kL];
      const std::int64_t n = min_i(kL, keys - j);
      row.load(p, j, n).store(offsets);
      for_tile(s + j * ld, ld, n, place.width(), [&](Vec<T> v, std::int64_t r, std::int64_t) {
        return add_offset(v, Vec<T>::set1(offsets[r]));
      });
    }
    return;
  }
  if (p.bias == nullptr) return hide_masked(p, s, ld, j0, keys, place);
  const bool plain = p.mask == nullptr && p.bias_strides.j == 1;
  for (std::int64_t c = 0; c < place.width(); c += kL) {
    OffsetRow<T> rows[kL];
    for (int i = 0; i < kL; ++i) {
      // Lanes past the last query repeat it: they are never stored.
      rows[i] = OffsetRow<T>::at(p, place, place.i0 + min_i(c + i, place.count - 1), j0);
    }
    for (std::int64_t j = 0; j < keys; j += kL) {
      const std::int64_t n = min_i(kL, keys - j);
      Vec<T> square[kL];
      if (plain && n == kL) {
        for (int i = 0; i < kL; ++i) square[i] = Vec<T>::load(rows[i].bias + j);
      } else {
        for (int i = 0; i < kL; ++i) square[i] = rows[i].load(p, j, n);
      }
      transpose(square);
      for (int r = 0; r < kL; ++r) {
        if (r >= n) break;
        T* at = s + (j + r) * ld + c;
        add_offset(Vec<T>::load(at), square[r]).store(at);
      }
    }
  }
}

// -inf where the key is outside visible_keys() of the query.
template <class T>
static void hide_outside(const AttentionProblem<T>& p, T* s, std::int64_t ld, std::int64_t j0,
                         std::int64_t keys, const PanelPlace<T>& place) {
  T low[kNR<T>], high[kNR<T>];
  for (std::int64_t c = 0; c < kNR<T>; ++c) {
    const Range r = visible_keys(p, place.seq, place.i0 + c);
    low[c] = static_cast<T>(min_i(keys, max_i(0, r.begin - j0)));
    high[c] = static_cast<T>(min_i(keys, max_i(0, r.end - j0)));
  }
  const Vec<T> hidden = Vec<T>::set1(kMinusInfinity<T>);
  const auto hide = [&](std::int64_t begin, std::int64_t end) {
    for_tile(s + begin * ld, ld, end - begin, place.width(),
             [&](Vec<T> v, std::int64_t r, std::int64_t c) {
               const Vec<T> key = Vec<T>::set1(static_cast<T>(begin + r));
               const Mask<T> inside =
                   (key >= Vec<T>::load(low + c)) & (key < Vec<T>::load(high + c));
               return select(inside, v, hidden);
             });
  };
  const std::int64_t before = min_i(keys, max_i(0, place.all.begin - j0));
  const std::int64_t after = max_i(before, min_i(keys, place.all.end - j0));
  hide(0, before);
  hide(after, keys);
}

// Everything that turns q . k into the score of a softmax.
template <class T>
static void finish_scores(const AttentionProblem<T>& p, T* s, std::int64_t ld, std::int64_t j0,
                          std::int64_t keys, const PanelPlace<T>& place, T* cap_slopes) {
  if (p.softcap > 0) {
    cap_scores(s, ld, keys, place.width(), static_cast<T>(p.softcap), cap_slopes);
  }
  if (p.slopes != nullptr) {
    add_alibi(s, ld, keys, j0, p.slopes[place.b * p.slopes_b + place.h], place);
  }
  if (p.mask != nullptr || p.bias != nullptr) add_offsets(p, s, ld, j0, keys, place);
  if (j0 < place.all.begin || j0 + keys > place.all.end) {
    hide_outside(p, s, ld, j0, keys, place);
  }
}

// What an element that dropout keeps is multiplied by.
template <class T>
ARRAYNN_INLINE Vec<T> dropout_scale(const AttentionDropout& d) {
  return Vec<T>::set1(d.threshold > 0xFFFFFFFFu ? T(0) : static_cast<T>(d.scale));
}

// Draws the elements of a tile that dropout keeps.
template <class T>
[[gnu::noinline]] static void draw(const AttentionProblem<T>& p, std::int64_t j0, std::int64_t keys,
                                   const PanelPlace<T>& place, const Kept<T>& kept) {
  using K = Kept<T>;
  constexpr int kAtOnce = 4;
  const AttentionDropout& d = p.dropout;
  const auto threshold = static_cast<std::uint32_t>(d.threshold);
  const std::int64_t chunks = ceil_div(keys, K::kKeys);
  for (std::int64_t c = 0; c < place.count; c += kAtOnce) {
    std::uint64_t at[kAtOnce];
    int skip[kAtOnce];
    std::int64_t words = keys;
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t query = place.seq.q0 + place.i0 + min_i(c + i, place.count - 1);
      at[i] = static_cast<std::uint64_t>((place.b * d.b + place.h * d.h + query) * d.row + j0);
      // A counter gives four words, of which the first key's need not be the first.
      skip[i] = static_cast<int>(at[i] % 4);
      at[i] /= 4;
      words = max_i(words, keys + skip[i]);
    }
    std::uint32_t bits[kBlockN / K::kKeys + 1][kAtOnce] = {};
    for (std::int64_t w = 0; w < words; w += K::kKeys) {
      philox_bits(at, d.key, threshold, bits[w / K::kKeys]);
      for (int i = 0; i < kAtOnce; ++i) at[i] += K::kKeys / 4;
    }
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (int i = 0; i < kAtOnce; ++i) {
        const std::uint64_t both = std::uint64_t{bits[chunk + 1][i]} << 32 | bits[chunk][i];
        kept.at[chunk * kNR<T> + c + i] =
            static_cast<typename K::Int>(static_cast<std::uint32_t>(both >> skip[i]));
      }
    }
  }
  // The lanes past the last query are never stored, but they are read.
  for (std::int64_t i = 0; i < chunks; ++i) {
    for (std::int64_t c = round_up(place.count, kAtOnce); c < place.width(); ++c) {
      kept.at[i * kNR<T> + c] = 0;
    }
  }
}

// Q^T of a panel, dst[d * kNR + query] = factor * rows[query * stride + d]; 0 past the last query.
template <class T>
static void pack_panel(const T* rows, std::int64_t stride, std::int64_t count, std::int64_t dim,
                       T factor, T* dst) {
  if (count < kNR<T>) __builtin_memset(dst, 0, sizeof(T) * static_cast<std::size_t>(dim * kNR<T>));
  transpose_copy(rows, stride, dst, kNR<T>, count, dim);
  const Vec<T> f = Vec<T>::set1(factor);
  for (std::int64_t i = 0; i < dim * kNR<T>; i += kLanes<T>) {
    (f * Vec<T>::load(dst + i)).store(dst + i);
  }
}

// Rows of keys or values of one block.
template <class T>
struct Rows {
  const T* at;
  std::int64_t step;
};

// Row stride of copies: whole vectors, and not such that a tile's rows share cache sets.
template <class T>
ARRAYNN_INLINE std::int64_t copy_stride(std::int64_t dim) {
  const std::int64_t step = round_up(dim, kLanes<T>);
  return rows_alias<T>(step) ? step + kLanes<T> : step;
}

template <class T, class S>
ARRAYNN_INLINE void copy_row(const S* from, std::int64_t dim, T* to) {
  std::int64_t d = 0;
  for (; d + kLanes<T> <= dim; d += kLanes<T>) load(from + d).store(to + d);
  if (d < dim) load_n(from + d, dim - d).store(to + d);
}

// Row j of a head of k or v that is not in pages.
template <class T>
ARRAYNN_INLINE const T* row_of(const T* base, const RowStrides& strides, std::int64_t b,
                               std::int64_t kv_head, const AttentionSequence& seq, std::int64_t j) {
  return base + b * strides.b + kv_head * strides.h + (seq.k0 + j) * strides.l;
}

// Keys [j0, j0 + n) of a head of k or v, copied.
template <class T, class S>
static Rows<T> copy_rows(const AttentionProblem<T>& p, const S* base, const RowStrides& strides,
                         std::int64_t b, std::int64_t kv_head, const AttentionSequence& seq,
                         std::int64_t j0, std::int64_t n, std::int64_t dim, T* buffer) {
  if (p.pages == nullptr) {
    const S* rows = row_of(base, strides, b, kv_head, seq, j0);
    for (std::int64_t r = 0; r < n; ++r) {
      copy_row(rows + r * strides.l, dim, buffer + r * copy_stride<T>(dim));
    }
  } else {
    const S* head = base + kv_head * strides.h;
    const std::int64_t* pages = p.pages + b * p.pages_per_sequence;
    for (std::int64_t r = 0; r < n; ++r) {
      const std::int64_t j = j0 + r;
      copy_row(head + pages[j / p.page_size] * strides.b + j % p.page_size * strides.l, dim,
               buffer + r * copy_stride<T>(dim));
    }
  }
  return {buffer, copy_stride<T>(dim)};
}

// The same where they lie, unless `copy`, or when they are in pages or have 16 bits.
template <class T>
static Rows<T> fetch_rows(const AttentionProblem<T>& p, const T* base, const RowStrides& strides,
                          std::int64_t b, std::int64_t kv_head, const AttentionSequence& seq,
                          std::int64_t j0, std::int64_t n, std::int64_t dim, bool copy, T* buffer) {
  const auto copied = [&](const auto* rows) {
    return copy_rows(p, rows, strides, b, kv_head, seq, j0, n, dim, buffer);
  };
  if constexpr (sizeof(T) == 4) {
    const void* rows = base;
    if (p.kv_half == Dtype::kF16) return copied(static_cast<const Half*>(rows));
    if (p.kv_half == Dtype::kBF16) return copied(static_cast<const Bfloat16*>(rows));
  }
  if (copy || p.pages != nullptr) return copied(base);
  return {row_of(base, strides, b, kv_head, seq, j0), strides.l};
}

}  // namespace ARRAYNN_ISA_NAMESPACE
