// Warp matrix instructions, conversions, shuffles and votes. Never built with ThreadSanitizer: the last lane to arrive
// computes for all, in their fragments.
#include "ptx.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace host_ptx {
namespace {

constexpr int kWarp = 32;
constexpr std::uint32_t kAllLanes = 0xFFFFFFFFu;

float tf32_to_float(std::uint32_t bits) { return std::bit_cast<float>(bits & 0xFFFFE000u); }

// Rounds towards zero.
float cut_off(double x) {
  const auto f = static_cast<float>(x);
  const bool further = std::isfinite(f) && std::fabs(static_cast<double>(f)) > std::fabs(x);
  return further ? std::nextafter(f, 0.0f) : f;
}

struct Fragments {
  float* d;
  const std::uint32_t *a, *b;
};

template <int kDepth>
struct Tiles {
  double a[16][kDepth] = {}, b[kDepth][8] = {};
};

template <int kDepth>
void multiply(void* const* slots, const Tiles<kDepth>& tiles) {
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& f = *static_cast<const Fragments*>(slots[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      const int row = g + 8 * (r / 2), column = 2 * t + r % 2;
      double sum = static_cast<double>(f.d[r]);
      for (int k = 0; k < kDepth; ++k) sum += tiles.a[row][k] * tiles.b[k][column];
      f.d[r] = cut_off(sum);
    }
  }
}

template <float (*to_float)(std::uint16_t)>
void multiply_16bit(void* const* slots, std::uint32_t, std::uint64_t) {
  Tiles<16> tiles;
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& f = *static_cast<const Fragments*>(slots[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      for (int i = 0; i < 2; ++i) {
        const auto half = static_cast<std::uint16_t>(f.a[r] >> 16 * i);
        tiles.a[g + 8 * (r % 2)][2 * t + i + 8 * (r / 2)] = static_cast<double>(to_float(half));
      }
    }
    for (int r = 0; r < 2; ++r) {
      for (int i = 0; i < 2; ++i) {
        const auto half = static_cast<std::uint16_t>(f.b[r] >> 16 * i);
        tiles.b[2 * t + i + 8 * r][g] = static_cast<double>(to_float(half));
      }
    }
  }
  multiply(slots, tiles);
}

void multiply_tf32(void* const* slots, std::uint32_t, std::uint64_t) {
  Tiles<8> tiles;
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& f = *static_cast<const Fragments*>(slots[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      tiles.a[g + 8 * (r % 2)][t + 4 * (r / 2)] = static_cast<double>(tf32_to_float(f.a[r]));
    }
    for (int r = 0; r < 2; ++r) {
      tiles.b[t + 4 * r][g] = static_cast<double>(tf32_to_float(f.b[r]));
    }
  }
  multiply(slots, tiles);
}

struct Matrices {
  std::uint32_t* r;
  const void* row;
  bool transposed;
};

void load_matrices(void* const* slots, std::uint32_t, std::uint64_t) {
  for (int matrix = 0; matrix < 4; ++matrix) {
    std::uint16_t m[8][8];
    for (int row = 0; row < 8; ++row) {
      std::memcpy(m[row], static_cast<const Matrices*>(slots[8 * matrix + row])->row, 16);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      const auto& slot = *static_cast<const Matrices*>(slots[lane]);
      std::uint32_t halves[2];
      for (int i = 0; i < 2; ++i) {
        const int row = lane / 4, column = 2 * (lane % 4) + i;
        halves[i] = slot.transposed ? m[column][row] : m[row][column];
      }
      slot.r[matrix] = halves[0] | halves[1] << 16;
    }
  }
}

void multiply_with(host_cuda::WarpFunction function, float* d, const std::uint32_t* a,
                   const std::uint32_t* b, Site site) {
  Fragments slot{d, a, b};
  host_cuda::warp_operation(kAllLanes, site, &slot, function, 0, false);
}

}  // namespace

float cvt_f32_f16(std::uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  float magnitude = 0;
  if (exponent == 31) {
    magnitude = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  }
  return (h >> 15) != 0 ? -magnitude : magnitude;
}

float cvt_f32_bf16(std::uint16_t h) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(h) << 16);
}

std::uint16_t cvt_rn_f16_f32(float f) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(f) ? 0x8000 : 0);
  const float a = std::fabs(f);
  if (std::isnan(f)) return 0x7FFF;
  if (a >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7C00);
  // The unit of the last of 11 bits, at least that of the denormals; nearbyint rounds ties to even.
  const int exponent = a == 0.0f ? -14 : std::max(std::ilogb(a), -14);
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(a, 10 - exponent)));
  // With the hidden bit left in, a carry moves into the exponent by itself.
  const int bits = units < 1024 ? units : (exponent + 14) * 1024 + units;
  return static_cast<std::uint16_t>(sign | bits);
}

std::uint16_t cvt_rn_bf16_f32(float f) {
  if (std::isnan(f)) return 0x7FFF;
  const auto bits = std::bit_cast<std::uint32_t>(f);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

std::uint32_t cvt_rna_tf32_f32(float f) {
  if (std::isnan(f)) return 0x7FFFE000u;
  // With the exponent beside it, a carry of the mantissa ends in infinity at most.
  return (std::bit_cast<std::uint32_t>(f) + (std::isinf(f) ? 0u : 0x1000u)) & 0xFFFFE000u;
}

float ex2_approx_ftz_f32(float x) {
  const auto e = static_cast<float>(std::exp2(static_cast<double>(x)));
  return e < 0x1p-126f ? 0.0f : e;
}

void mma_m16n8k16_f16(float* d, const std::uint32_t* a, const std::uint32_t* b, Site site) {
  multiply_with(&multiply_16bit<cvt_f32_f16>, d, a, b, site);
}
void mma_m16n8k16_bf16(float* d, const std::uint32_t* a, const std::uint32_t* b, Site site) {
  multiply_with(&multiply_16bit<cvt_f32_bf16>, d, a, b, site);
}
void mma_m16n8k8_tf32(float* d, const std::uint32_t* a, const std::uint32_t* b, Site site) {
  multiply_with(&multiply_tf32, d, a, b, site);
}

void ldmatrix_m8n8_x4(std::uint32_t* r, const void* row, bool transposed, Site site) {
  require_aligned(row, 16, "ldmatrix", site);
  if (!host_cuda::is_shared(row, 16)) {
    host_cuda::fault("ldmatrix of an address outside shared memory", site);
  }
  Matrices slot{r, row, transposed};
  host_cuda::warp_operation(kAllLanes, site, &slot, &load_matrices, 0, false);
}

}  // namespace host_ptx

// ---- shuffles and votes --------------------------------------------------------------------------------

namespace host_cuda {
namespace {

constexpr int kLanes = 32;
struct ShuffleSlot {
  std::uint64_t in, out;
  int operand;
  bool outside;
};

template <Shuffle kind>
void shuffle_lanes(void* const* slots, std::uint32_t mask, std::uint64_t width_) {
  const auto width = static_cast<int>(width_);
  for (int lane = 0; lane < kLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    auto& slot = *static_cast<ShuffleSlot*>(slots[lane]);
    const int segment = lane / width * width, within = lane % width;
    int source = lane;
    switch (kind) {
      case Shuffle::kXor:
        source = segment + (within ^ slot.operand);
        if (source >= segment + width) source = lane;
        break;
      case Shuffle::kIndex:
        source = segment + (slot.operand & (width - 1));
        break;
      case Shuffle::kUp:
        source = within >= slot.operand ? lane - slot.operand : lane;
        break;
      case Shuffle::kDown:
        source = within + slot.operand < width ? lane + slot.operand : lane;
        break;
    }
    slot.outside = (mask >> source & 1) == 0;
    if (!slot.outside) slot.out = static_cast<ShuffleSlot*>(slots[source])->in;
  }
}

}  // namespace

std::uint64_t shuffle_bits(std::uint32_t mask, std::uint64_t bits, int operand, int width,
                           Shuffle kind, Site site) {
  if (width < 1 || width > kLanes || !std::has_single_bit(static_cast<unsigned>(width))) {
    fault("a shuffle's width is a power of two up to 32", site);
  }
  static constexpr WarpFunction kFunctions[] = {
      &shuffle_lanes<Shuffle::kXor>, &shuffle_lanes<Shuffle::kIndex>, &shuffle_lanes<Shuffle::kUp>,
      &shuffle_lanes<Shuffle::kDown>};
  ShuffleSlot slot{bits, 0, operand, false};
  warp_operation(mask, site, &slot, kFunctions[static_cast<int>(kind)],
                 static_cast<std::uint64_t>(width), false);
  if (slot.outside) fault("a shuffle reads a lane outside its mask", site);
  return slot.out;
}

std::uint32_t ballot(std::uint32_t mask, bool predicate, Site site) {
  struct Slot {
    bool predicate;
    std::uint32_t result;
  } slot{predicate, 0};
  warp_operation(
      mask, site, &slot,
      [](void* const* slots, std::uint32_t lanes, std::uint64_t) {
        std::uint32_t votes = 0;
        for (int l = 0; l < kLanes; ++l) {
          if ((lanes >> l & 1) != 0 && static_cast<Slot*>(slots[l])->predicate) votes |= 1u << l;
        }
        for (int l = 0; l < kLanes; ++l) {
          if ((lanes >> l & 1) != 0) static_cast<Slot*>(slots[l])->result = votes;
        }
      },
      0, false);
  return slot.result;
}

}  // namespace host_cuda
