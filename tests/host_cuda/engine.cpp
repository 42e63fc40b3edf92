#include "engine.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <set>
#include <vector>

#include "fibers.hpp"

namespace host_cuda {
namespace {

constexpr int kWarp = 32, kWarpsOfGroup = 4;
constexpr std::uint32_t kAllLanes = 0xFFFFFFFFu;
constexpr std::int64_t kMostBytes = (1 << 20) - 1;  // of a phase

struct Barrier {
  std::uint32_t count = 0, pending = 0, phase = 0;
  std::int64_t bytes = 0;  // that are to come
  bool fenced = false;     // seen by the engines
  const void* maker = nullptr;
  char edge = 0;
};

// Of a box or, if it has axes, of pixels.
struct Copy {
  BoxMap map;
  ImageMap image;
  std::uint32_t to;
  std::int64_t at[5];       // the samples last
  std::int64_t further[3];  // of pixels
  void* barrier;
  Site site;
};

struct WarpProduct {
  Product p;
  std::array<float*, kWarp> d;
  std::array<const std::uint32_t*, kWarp> x;
  int warp;
  Site site;
};

struct Warp {
  std::deque<WarpProduct> products;
  std::deque<std::size_t> groups;  // products of each that was committed
  std::size_t open = 0;            // since then
  std::int64_t made = 0;           // products in all
  bool fenced = false;
};

std::map<const void*, Barrier> barriers;
std::deque<Copy> copies;
std::vector<Warp> warps;

Barrier& at(void* barrier, Site site) {
  const auto found = barriers.find(barrier);
  if (found == barriers.end()) fault("an mbarrier that nobody initialised", site);
  return found->second;
}

void end_phase_if_due(void* key, Barrier& b) {
  if (b.pending > 0 || b.bytes != 0) return;
  ++b.phase;
  b.pending = b.count;
  wake_waiting(key);
}

// The bank swizzle: packs of 16 bytes within 128 change places by the row of 128 bytes they are in.
std::uint32_t swizzled(std::uint32_t address) { return address ^ ((address >> 7 & 7) << 4); }

void copy_element(const Copy& c, std::uint32_t to, std::uint32_t bytes, const char* from) {
  char* p = shared_bytes(swizzled(to), bytes, c.site);
  if (from != nullptr) {
    std::memcpy(p, from, bytes);
  } else {
    std::memset(p, 0, bytes);
  }
}

std::int64_t copy_box_of(const Copy& c) {
  const BoxMap& m = c.map;
  std::uint32_t to = c.to;
  for (std::int64_t z = 0; z < m.box[2]; ++z) {
    for (std::int64_t y = 0; y < m.box[1]; ++y) {
      for (std::int64_t x = 0; x < m.box[0]; ++x, to += m.element) {
        const std::int64_t i[3] = {c.at[0] + x, c.at[1] + y, c.at[2] + z};
        bool inside = true;
        for (int k = 0; k < 3; ++k) {
          inside = inside && i[k] >= 0 && i[k] < static_cast<std::int64_t>(m.extent[k]);
        }
        const std::uint64_t offset = static_cast<std::uint64_t>(i[0]) * m.element +
                                     static_cast<std::uint64_t>(i[1]) * m.stride[0] +
                                     static_cast<std::uint64_t>(i[2]) * m.stride[1];
        copy_element(c, to, m.element, inside ? m.base + offset : nullptr);
      }
    }
  }
  return std::int64_t{m.box[0]} * m.box[1] * m.box[2] * m.element;
}

std::int64_t copy_pixels_of(const Copy& c) {
  const ImageMap& m = c.image;
  const int samples = m.axes + 1;
  const auto extent = [&](int k) { return static_cast<std::int64_t>(m.extent[k]); };
  std::int64_t at[5];  // the pixel, but for what it is read further
  std::memcpy(at, c.at, sizeof at);
  std::uint32_t to = c.to;
  for (std::uint32_t pixel = 0; pixel < m.pixels; ++pixel) {
    bool inside = at[samples] >= 0 && at[samples] < extent(samples);
    std::uint64_t offset = static_cast<std::uint64_t>(at[samples]) * m.stride[m.axes];
    for (int k = 0; k < m.axes; ++k) {
      const std::int64_t i = at[k + 1] + c.further[k];
      inside = inside && i >= 0 && i < extent(k + 1);
      offset += static_cast<std::uint64_t>(i) * m.stride[k];
    }
    for (std::int64_t x = 0; x < m.channels; ++x, to += m.element) {
      const std::int64_t channel = at[0] + x;
      const bool there = inside && channel >= 0 && channel < extent(0);
      const std::uint64_t in_pixel = static_cast<std::uint64_t>(channel) * m.element;
      copy_element(c, to, m.element, there ? m.base + offset + in_pixel : nullptr);
    }
    for (int k = 0; k < m.axes; ++k) {
      at[k + 1] += m.step[k];
      if (at[k + 1] <= extent(k + 1) - 1 + m.upper[k]) break;
      at[k + 1] = m.lower[k];
      if (k + 1 == m.axes) ++at[samples];
    }
  }
  return std::int64_t{m.channels} * m.pixels * m.element;
}

void make(const Copy& c) {
  const std::int64_t bytes = c.image.axes > 0 ? copy_pixels_of(c) : copy_box_of(c);
  Barrier& b = at(c.barrier, c.site);
  b.bytes -= bytes;
  if (b.bytes < -kMostBytes) fault("more bytes for an mbarrier than it can count", c.site);
  end_phase_if_due(c.barrier, b);
}

// Rounds towards zero.
float cut_off(double x) {
  const auto f = static_cast<float>(x);
  const bool further = std::isfinite(f) && std::fabs(static_cast<double>(f)) > std::fabs(x);
  return further ? std::nextafter(f, 0.0f) : f;
}

struct Operand {
  std::uint32_t start, leading, stride;
  bool along;
};

Operand decode(std::uint64_t descriptor, bool along, Site site) {
  if (descriptor >> 62 != 1)
    fault("wgmma without the swizzle of 128 bytes, which is not modelled", site);
  if ((descriptor >> 49 & 7) != 0) fault("wgmma with a base offset, which is not modelled", site);
  const auto field = [&](int at) {
    return static_cast<std::uint32_t>(descriptor >> at & 0x3FFF) << 4;
  };
  return {field(0), field(16), field(32), along};
}

double element(const Operand& o, std::uint32_t i, std::uint32_t k, const WarpProduct& w) {
  const std::uint32_t address =
      o.along ? o.start + i % 8 * 128 + i / 8 * o.stride + 2 * k
              : o.start + i % 64 * 2 + i / 64 * o.leading + k % 8 * 128 + k / 8 * o.stride;
  std::uint16_t bits = 0;
  std::memcpy(&bits, shared_bytes(swizzled(address), 2, w.site), 2);
  return static_cast<double>(w.p.to_float(bits));
}

void make(const WarpProduct& w) {
  constexpr std::uint32_t kDepth = 16, kRows = 16;
  const Operand b = decode(w.p.b, w.p.along_b, w.site);
  const auto n = static_cast<std::uint32_t>(w.p.n);
  const std::uint32_t first = static_cast<std::uint32_t>(w.warp % kWarpsOfGroup) * kRows;
  double x[kRows][kDepth];
  std::vector<std::array<double, kDepth>> y(n);
  if (w.p.x == nullptr) {
    const Operand a = decode(w.p.a, w.p.along_a, w.site);
    for (std::uint32_t i = 0; i < kRows; ++i) {
      for (std::uint32_t k = 0; k < kDepth; ++k) x[i][k] = element(a, first + i, k, w);
    }
  } else {  // registers hold what they hold now
    for (std::uint32_t i = 0; i < kRows; ++i) {
      for (std::uint32_t k = 0; k < kDepth; ++k) {
        const std::uint32_t pair = w.x[i % 8 * 4 + k % 8 / 2][i / 8 + k / 8 * 2];
        x[i][k] = static_cast<double>(w.p.to_float(static_cast<std::uint16_t>(pair >> k % 2 * 16)));
      }
    }
  }
  for (std::uint32_t k = 0; k < kDepth; ++k) {
    for (std::uint32_t j = 0; j < n; ++j) y[j][k] = element(b, j, k, w);
  }
  for (std::uint32_t lane = 0; lane < kWarp; ++lane) {
    for (std::uint32_t i = 0; i < n / 2; ++i) {
      const std::uint32_t row = lane / 4 + 8 * (i / 2 % 2),
                          column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float& d = w.d[lane][i];
      double sum = w.p.accumulate ? static_cast<double>(d) : 0.0;
      for (std::uint32_t k = 0; k < kDepth; ++k) sum += x[row][k] * y[column][k];
      d = cut_off(sum);
    }
  }
}

struct ProductSlot {
  Product p;
  Site site;
};

void begin_product(void* const* slots, std::uint32_t, std::uint64_t) {
  const auto& first = *static_cast<const ProductSlot*>(slots[0]);
  Warp& warp = warps[static_cast<std::size_t>(warp_index())];
  WarpProduct w{first.p, {}, {}, warp_index(), first.site};
  for (std::size_t lane = 0; lane < kWarp; ++lane) {
    const Product& p = static_cast<const ProductSlot*>(slots[lane])->p;
    if (p.a != w.p.a || p.b != w.p.b || p.accumulate != w.p.accumulate) {
      fault("lanes of a warp call wgmma with different operands", first.site);
    }
    w.d[lane] = p.d;
    w.x[lane] = p.x;
  }
  if (!warp.fenced) fault("wgmma without a wgmma.fence since d could be touched", first.site);
  ++warp.made;
  ++warp.open;
  warp.products.push_back(w);
}

void finish_products(void* const*, std::uint32_t, std::uint64_t pending) {
  Warp& warp = warps[static_cast<std::size_t>(warp_index())];
  warp.fenced = false;  // d may be touched now
  while (warp.groups.size() > pending) {
    for (; warp.groups.front() > 0; --warp.groups.front()) {
      make(warp.products.front());
      warp.products.pop_front();
    }
    warp.groups.pop_front();
  }
}

void warp_does(WarpFunction function, std::uint64_t argument, void* slot, Site site) {
  warp_operation(kAllLanes, site, slot, function, argument, false);
}

}  // namespace

void engine_begin(int count) {
  barriers.clear();
  copies.clear();
  warps.assign(static_cast<std::size_t>(count), Warp{});
}

bool engine_idle() {
  if (copies.empty()) return false;
  const Copy copy = copies.back();  // the last first: nobody may count on their order
  copies.pop_back();
  make(copy);
  return true;
}

std::string engine_end() {
  if (!copies.empty()) return "a block ends with a bulk copy in flight";
  for (const auto& [key, b] : barriers) {
    if (b.bytes != 0) return "a block ends while an mbarrier waits for bytes";
  }
  for (std::size_t i = 0; i < warps.size(); ++i) {
    if (!warps[i].products.empty()) return "a warp leaves the kernel with wgmma in flight";
    const std::size_t first = i / kWarpsOfGroup * kWarpsOfGroup;
    if (warps[i].made != warps[first].made) return "wgmma of less than a whole warpgroup";
  }
  return {};
}

void mbarrier_init(void* barrier, std::uint32_t count, Site site) {
  shared_address(barrier, site);
  if (count == 0 || count > kMostBytes) fault("an mbarrier for no threads, or too many", site);
  Barrier b;
  b.count = b.pending = count;
  b.maker = &thread_index();
  barriers[barrier] = b;
}

void mbarrier_arrive(void* barrier, std::uint32_t expect, Site site) {
  Barrier& b = at(barrier, site);
  b.bytes += expect;
  if (b.bytes > kMostBytes) fault("more bytes for an mbarrier than it can count", site);
  if (b.pending == 0) fault("more arrivals at an mbarrier than its phase has", site);
  --b.pending;
  release(&b.edge);
  end_phase_if_due(barrier, b);
}

bool mbarrier_wait(void* barrier, std::uint32_t parity, Site site) {
  Barrier& b = at(barrier, site);
  while (b.phase % 2 == parity) wait_for(barrier, "an mbarrier", site);
  acquire(&b.edge);
  return true;
}

void fence_proxy_async() {
  for (auto& [key, b] : barriers) b.fenced = b.fenced || b.maker == &thread_index();
}

bool encode_box_map(void* map, const BoxMap& wanted) {
  BoxMap m = wanted;
  m.magic = BoxMap::kMagic;
  bool good = reinterpret_cast<std::uintptr_t>(m.base) % 16 == 0 && m.box[0] * m.element <= 128;
  for (const std::uint64_t extent : m.extent) good = good && extent > 0 && extent <= 1ull << 32;
  for (const std::uint64_t stride : m.stride)
    good = good && stride % 16 == 0 && stride < 1ull << 40;
  for (const std::uint32_t box : m.box) good = good && box > 0 && box <= 256;
  good = good && m.box[0] * m.element % 16 == 0;
  if (good) std::memcpy(map, &m, sizeof m);
  return good;
}

bool encode_image_map(void* map, const ImageMap& wanted) {
  ImageMap m = wanted;
  m.magic = ImageMap::kMagic;
  const int rank = m.axes + 2;
  bool good = reinterpret_cast<std::uintptr_t>(m.base) % 16 == 0 && m.axes >= 1 && m.axes <= 3 &&
              m.channels > 0 && m.channels * m.element <= 128 && m.channels * m.element % 16 == 0 &&
              m.pixels > 0 && m.pixels <= 1024;
  for (int i = 0; i < rank; ++i) good = good && m.extent[i] > 0 && m.extent[i] <= 1ull << 32;
  for (int i = 0; i + 1 < rank; ++i) {
    good = good && m.stride[i] % 16 == 0 && m.stride[i] < 1ull << 40;
  }
  for (int i = 0; good && i < m.axes; ++i) {
    const int most = 1 << (16 / m.axes - 1);
    for (const int corner : {m.lower[i], m.upper[i]}) {
      good = good && corner >= -most && corner < most;
    }
    good = good && m.step[i] >= 1 && m.step[i] <= 8;
  }
  if (good) std::memcpy(map, &m, sizeof m);
  return good;
}

namespace {

void start(const Copy& copy) {
  count_async_copy();
  if (copy.to % 128 != 0) fault("a bulk copy to an address that is no multiple of 128", copy.site);
  if (!at(copy.barrier, copy.site).fenced) {
    fault("an mbarrier whose beginning no fence.proxy.async has shown to bulk copies", copy.site);
  }
  if (copies_are_late()) {
    copies.push_back(copy);
  } else {
    make(copy);
  }
}

}  // namespace

void copy_box(void* shared, const void* map, std::int32_t x, std::int32_t y, std::int32_t z,
              void* barrier, Site site) {
  Copy copy{{}, {}, shared_address(shared, site), {x, y, z}, {}, barrier, site};
  std::memcpy(&copy.map, map, sizeof copy.map);
  if (copy.map.magic != BoxMap::kMagic) fault("a bulk copy without a tensor map", site);
  start(copy);
}

void copy_image(void* shared, const void* map, std::initializer_list<std::int32_t> at,
                std::initializer_list<std::uint16_t> further, void* barrier, Site site) {
  Copy copy{{}, {}, shared_address(shared, site), {}, {}, barrier, site};
  std::memcpy(&copy.image, map, sizeof copy.image);
  const ImageMap& m = copy.image;
  if (m.magic != ImageMap::kMagic || at.size() != static_cast<std::size_t>(m.axes) + 2) {
    fault("a bulk copy of pixels without a tensor map of as many axes", site);
  }
  std::copy(at.begin(), at.end(), copy.at);
  std::copy(further.begin(), further.end(), copy.further);
  for (int k = 0; k < m.axes; ++k) {
    const std::int64_t last = static_cast<std::int64_t>(m.extent[k + 1]) - 1 + m.upper[k];
    if (copy.at[k + 1] < m.lower[k] || copy.at[k + 1] > last) {
      fault("a bulk copy of pixels that begins outside the box of its map", site);
    }
    if (copy.further[k] >= std::int64_t{1} << 16 / m.axes) {
      fault("a bulk copy of pixels further away than it can tell", site);
    }
  }
  start(copy);
}

void wgmma(const Product& product, Site site) {
  ProductSlot slot{product, site};
  warp_does(&begin_product, 0, &slot, site);
}

void wgmma_fence(Site site) {
  warp_does([](void* const*, std::uint32_t,
               std::uint64_t) { warps[static_cast<std::size_t>(warp_index())].fenced = true; },
            0, nullptr, site);
}

void wgmma_commit(Site site) {
  warp_does(
      [](void* const*, std::uint32_t, std::uint64_t) {
        Warp& warp = warps[static_cast<std::size_t>(warp_index())];
        warp.groups.push_back(warp.open);
        warp.open = 0;
      },
      0, nullptr, site);
}

void wgmma_wait(int pending, Site site) {
  warp_does(&finish_products, static_cast<std::uint64_t>(pending), nullptr, site);
}

}  // namespace host_cuda
