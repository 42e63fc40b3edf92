#include "runtime.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <sstream>
#include <utility>
#include <vector>

#include "fibers.hpp"

namespace host_cuda {
namespace {

constexpr int kWarp = 32;
constexpr unsigned kMaxThreads = 1024;
// The least that a kernel can be allowed on the devices that there are code for (8.6), and 9.0's.
constexpr std::size_t kMaxDynamicShared = 99 << 10, kMaxDynamicSharedOf90 = 227 << 10;
constexpr std::size_t kSharedAlignment = 1024;  // as of the kernels that ask for most
constexpr std::uint32_t kSharedWindow = 1024;
constexpr int kInvalidValue = 1, kInvalidConfiguration = 9;  // of cudaError_t
constexpr int kCooperativeLaunchTooLarge = 720;
constexpr int kMaxCluster = 8;  // that every device with clusters takes

enum class State : std::uint8_t { kReady, kAtWarpOperation, kAtBarrier, kWaits, kLeft };

struct Block;

struct Thread {
  Fiber fiber;
  Block* block = nullptr;
  Uint3 index{};
  int linear = 0;  // of all that run together; their blocks are whole warps of them
  int lane = 0, warp = 0;
  State state = State::kReady;
  Site site;
  const void* waits_for = nullptr;
  const char* what = "";
  // What it has seen in memory that others change: it waits for a change before it looks again.
  const std::uint32_t* watched = nullptr;
  std::uint32_t seen = 0;
  void* cluster_edge = nullptr;  // of the cluster's barrier at which it has arrived
  // Asynchronous copies in flight: [0, made) have been made, groups end at group_ends.
  std::vector<AsyncCopy> copies;
  std::vector<std::size_t> group_ends;
  std::size_t made = 0;

  void reset(Block* of, int first, int i, Dim3 dim) {
    const auto n = static_cast<unsigned>(i);
    block = of;
    index = {n % dim.x, n / dim.x % dim.y, n / (dim.x * dim.y)};
    linear = first + i;
    lane = i % kWarp;
    warp = i / kWarp;
    state = State::kReady;
    site = {};
    watched = nullptr;
    cluster_edge = nullptr;
    copies.clear();
    group_ends.clear();
    made = 0;
  }
};

// Happens-before edges of a barrier, named by their addresses. Two that take turns: who is late to leave
// one barrier must not see what others did on their way to the next.
struct Edges {
  char edge[2] = {};
  bool turn = false;
  void* current() { return &edge[turn ? 1 : 0]; }
};

struct WarpOperation {
  std::uint32_t arrived = 0, mask = 0;
  Site site;
  void* slots[kWarp] = {};
  Edges edges;
};

struct SharedObject {
  std::unique_ptr<char, void (*)(void*)> bytes{nullptr, &std::free};
  std::size_t size = 0;
  char edge = 0;
};

struct Block {
  Uint3 index{};
  int first = 0;  // of its threads
  bool begun = false;
  int live = 0, at_barrier = 0;
  Site barrier_site;
  Edges barrier_edges;
  bool votes[2] = {};  // of __syncthreads_or(), by the turn of the edges
  std::vector<WarpOperation> warps;
  std::map<const void*, SharedObject> shared;
  SharedObject dynamic;
};

struct Launch {
  const char* kernel = "";
  const std::function<void()>* body = nullptr;
  Dim3 grid, dim;
  int size = 0;  // threads of a block
  std::size_t shared_bytes = 0;
  char start_edge = 0, end_edge = 0;
  std::vector<std::unique_ptr<Block>> blocks;  // that run together
  int cluster = 1, at_cluster_barrier = 0;
  Edges cluster_edges;
  std::vector<const void*> shared_keys;  // of the objects that have addresses in other blocks
  std::vector<int> ready;
  int starved_warp = 0;
  std::string fault;
};

// One launch at a time; a launch runs on the thread that made it.
std::mutex launch_mutex;
std::vector<std::unique_ptr<Thread>> threads;
Launch now;
Thread* current = nullptr;
Schedule schedule;
Counters count{};
int device_multiprocessors = 2;
bool device_cooperative = true;
int device_major = 8, device_minor = 0;
std::int64_t last_blocks = 0;
std::uint64_t random_state = 1;

std::uint64_t next_random() {  // xorshift64*, Marsaglia 2003
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545F4914F6CDD1Dull;
}

std::string text(const Uint3& v) {
  std::ostringstream s;
  s << "(" << v.x << ", " << v.y << ", " << v.z << ")";
  return s.str();
}
std::string text(Site site) {
  return site.file == nullptr ? "?" : std::string(site.file) + ":" + std::to_string(site.line);
}

SharedObject make_shared_object(std::size_t bytes, std::size_t alignment) {
  SharedObject object;
  const std::size_t align = std::max<std::size_t>(alignment, 16);
  void* p = nullptr;
  if (posix_memalign(&p, align, std::max<std::size_t>(bytes, 1)) != 0) throw std::bad_alloc();
  std::memset(p, 0xFF, bytes);  // NaN in every floating type: nothing is initialised on the device
  object.bytes.reset(static_cast<char*>(p));
  object.size = bytes;
  return object;
}

void wake(Thread& t) {
  t.state = State::kReady;
  now.ready.push_back(t.linear);
}

// Lets others go on.
void suspend() {
  ++count.switches;
  Fiber::suspend();
}

void open_barrier(Block& block) {
  block.at_barrier = 0;
  block.barrier_site = {};
  block.barrier_edges.turn = !block.barrier_edges.turn;
  block.votes[block.barrier_edges.turn ? 1 : 0] = false;  // all have read it
  for (int i = block.first; i < block.first + block.live; ++i) {
    if (threads[static_cast<std::size_t>(i)]->state == State::kAtBarrier) {
      wake(*threads[static_cast<std::size_t>(i)]);
    }
  }
}

void thread_entry() {
  acquire(&now.start_edge);
  current->block->begun = true;
  (*now.body)();
  if (current->made < current->copies.size()) {
    fault("a thread leaves the kernel with cp.async still in flight");
  }
  current->state = State::kLeft;
  release(&now.end_edge);
  Block& block = *current->block;
  if (now.at_cluster_barrier > 0) {
    fault("a thread leaves the kernel while others wait at barrier.cluster");
  }
  --block.live;
  if (block.at_barrier > 0) {
    fault("a thread leaves the kernel while others wait at __syncthreads()", block.barrier_site);
  }
  if (block.live == 0) ++count.blocks;
  suspend();
}

// Who waits for what, when nobody can go on.
std::string deadlock() {
  std::map<std::string, int> waiting;
  int left = 0;
  const std::size_t n = now.blocks.size() * static_cast<std::size_t>(now.size);
  for (std::size_t i = 0; i < n; ++i) {
    const Thread& t = *threads[i];
    if (t.state == State::kLeft) {
      ++left;
    } else {
      const std::string what = t.state == State::kWaits       ? t.what
                               : t.state == State::kAtBarrier ? "__syncthreads()"
                                                              : "a warp operation";
      ++waiting[what + " at " + text(t.site)];
    }
  }
  std::ostringstream s;
  s << "deadlock:";
  for (const auto& [what, threads_there] : waiting) {
    s << " " << threads_there << " threads wait for " << what << ";";
  }
  s << " " << left << " have left the kernel";
  return s.str();
}

std::size_t pick() {
  const std::size_t n = now.ready.size();
  switch (schedule.order) {
    case Order::kOldest:
      return 0;
    case Order::kNewest:
      return n - 1;
    case Order::kRandom:
      return next_random() % n;
    case Order::kStarve: {
      const std::size_t start = next_random() % n;
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t k = (start + i) % n;
        if (now.ready[k] / kWarp != now.starved_warp) return k;
      }
      return start;
    }
  }
  return 0;
}

// Blocks that run together; of most launches it is one.
void run_blocks(const std::vector<unsigned>& indices) {
  const Dim3 grid = now.grid;
  now.blocks.clear();
  now.ready.clear();
  now.at_cluster_barrier = 0;
  const int warps = (now.size + kWarp - 1) / kWarp;
  engine_begin(warps);
  int first = 0;
  for (const unsigned i : indices) {
    auto& block = *now.blocks.emplace_back(std::make_unique<Block>());
    block.index = {i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)};
    block.first = first;
    block.live = now.size;
    block.warps.assign(static_cast<std::size_t>(warps), WarpOperation{});
    block.dynamic = make_shared_object(now.shared_bytes, kSharedAlignment);
    for (int t = 0; t < now.size; ++t) {
      const auto at = static_cast<std::size_t>(first + t);
      if (threads.size() == at) threads.push_back(std::make_unique<Thread>());
      threads[at]->reset(&block, first, t, now.dim);
      threads[at]->fiber.start(&thread_entry);
      now.ready.push_back(first + t);
    }
    first += now.size;
  }
  const auto all = static_cast<std::uint64_t>((first + kWarp - 1) / kWarp);
  now.starved_warp = static_cast<int>(next_random() % all);
  release(&now.start_edge);
  const auto any_live = [] {
    return std::any_of(now.blocks.begin(), now.blocks.end(),
                       [](const auto& block) { return block->live > 0; });
  };
  for (bool live = true; live;) {
    Block* of = now.blocks.front().get();
    if (now.ready.empty()) {
      if (!engine_idle()) now.fault = deadlock();
    } else {
      const auto chosen = now.ready.begin() + static_cast<std::ptrdiff_t>(pick());
      current = threads[static_cast<std::size_t>(*chosen)].get();
      of = current->block;
      now.ready.erase(chosen);
      current->fiber.resume();
      current = nullptr;
    }
    live = any_live();
    if (!live && now.fault.empty()) now.fault = engine_end();
    if (!now.fault.empty()) {
      throw Fault("[host_cuda] " + std::string(now.kernel) + ", block " + text(of->index) + ": " +
                  std::exchange(now.fault, {}));
    }
  }
  acquire(&now.end_edge);
}

}  // namespace

void set_schedule(const Schedule& s) { schedule = s; }
void set_multiprocessors(int n) { device_multiprocessors = n; }
int multiprocessors() { return device_multiprocessors; }
void set_cooperative(bool on) { device_cooperative = on; }
bool cooperative() { return device_cooperative; }
void set_last_blocks(std::int64_t n) { last_blocks = n; }
void set_capability(int major, int minor) {
  device_major = major;
  device_minor = minor;
}
int capability_major() { return device_major; }
int capability_minor() { return device_minor; }
Counters counters() { return count; }

const Uint3& thread_index() { return current->index; }
const Uint3& block_index() { return current->block->index; }
const Dim3& block_dim() { return now.dim; }
const Dim3& grid_dim() { return now.grid; }
int lane_index() { return current->lane; }
int warp_index() { return current->warp; }
bool copies_are_late() { return schedule.copies == Copies::kLate; }
void count_async_copy() { ++count.async_copies; }

void wait_for(const void* key, const char* what, Site site) {
  current->state = State::kWaits;
  current->waits_for = key;
  current->what = what;
  current->site = site;
  suspend();
}

void wake_waiting(const void* key) {
  const std::size_t n = now.blocks.size() * static_cast<std::size_t>(now.size);
  for (std::size_t i = 0; i < n; ++i) {
    if (threads[i]->state == State::kWaits && threads[i]->waits_for == key) wake(*threads[i]);
  }
}

// The engines know one block: those of blocks that run side by side are not modelled.
SharedObject& shared_of_engines(Site site) {
  if (now.blocks.size() > 1) fault("bulk copies or wgmma in blocks that run together", site);
  return now.blocks.front()->dynamic;
}

std::uint32_t shared_address(const void* p, Site site) {
  const SharedObject& shared = shared_of_engines(site);
  const std::ptrdiff_t at = static_cast<const char*>(p) - shared.bytes.get();
  if (at < 0 || at > static_cast<std::ptrdiff_t>(shared.size)) {
    fault("an address that is not in dynamic shared memory", site);
  }
  return static_cast<std::uint32_t>(at) + kSharedWindow;
}

char* shared_bytes(std::uint32_t address, std::size_t bytes, Site site) {
  const SharedObject& shared = shared_of_engines(site);
  if (address < kSharedWindow || address - kSharedWindow + bytes > shared.size) {
    fault("an access outside of dynamic shared memory", site);
  }
  return shared.bytes.get() + (address - kSharedWindow);
}

void fault(const std::string& what, Site site) {
  if (current == nullptr) throw Fault("[host_cuda] " + what);
  now.fault = what + ", thread " + text(current->index);
  if (site.file != nullptr) now.fault += ", at " + text(site);
  Fiber::suspend();  // for good: the host throws
  std::abort();
}

void sync_threads(Site site) {
  ++count.barriers;
  Block& block = *current->block;
  if (block.at_barrier > 0 && !(block.barrier_site == site)) {
    fault("threads of one block wait at different __syncthreads(), one at " +
              text(block.barrier_site),
          site);
  }
  if (block.live < now.size) {
    fault("__syncthreads() after a thread has left the kernel", site);
  }
  block.barrier_site = site;
  void* const edge = block.barrier_edges.current();
  release(edge);
  current->state = State::kAtBarrier;
  current->site = site;
  if (++block.at_barrier == block.live) open_barrier(block);  // wakes this thread with the others
  suspend();
  acquire(edge);
}

bool sync_threads_or(bool predicate, Site site) {
  Block& block = *current->block;
  bool& vote = block.votes[block.barrier_edges.turn ? 1 : 0];
  vote = vote || predicate;
  sync_threads(site);
  return vote;
}

void warp_operation(std::uint32_t mask, Site site, void* slot, WarpFunction function,
                    std::uint64_t argument, bool orders_memory) {
  ++count.warp_operations;
  Block& block = *current->block;
  WarpOperation& op = block.warps[static_cast<std::size_t>(current->warp)];
  const int lane = current->lane;
  if ((mask >> lane & 1) == 0)
    fault("a lane takes part in a warp operation without being in its mask", site);
  if (op.arrived != 0 && !(op.site == site)) {
    fault("lanes of one warp wait at different warp operations, one at " + text(op.site), site);
  }
  if (op.arrived != 0 && op.mask != mask) {
    fault("lanes of one warp take part in one operation with different masks", site);
  }
  op.mask = mask;
  op.site = site;
  op.slots[lane] = slot;
  op.arrived |= 1u << lane;
  void* const edge = op.edges.current();
  if (orders_memory) release(edge);
  if (op.arrived == mask) {
    if (function != nullptr) function(op.slots, mask, argument);
    op.arrived = 0;
    op.edges.turn = !op.edges.turn;
    const int first = block.first + current->warp * kWarp;
    for (int l = 0; l < kWarp; ++l) {
      if ((mask >> l & 1) == 0) continue;
      if (l != lane) wake(*threads[static_cast<std::size_t>(first + l)]);
    }
    wake(*current);
  } else {
    current->state = State::kAtWarpOperation;
    current->site = site;
  }
  suspend();
  if (orders_memory) acquire(edge);
}

void* shared_storage(const void* key, std::size_t bytes, std::size_t alignment) {
  Block& block = *current->block;
  auto found = block.shared.find(key);
  if (found == block.shared.end()) {
    std::size_t total = bytes;
    for (const auto& [other, object] : block.shared) total += object.size;
    if (total > kMaxDynamicShared) fault("more than 48 KiB of static shared memory");
    found = block.shared.emplace(key, make_shared_object(bytes, alignment)).first;
    release(&found->second.edge);  // poisoning it here is no write of this thread
  }
  acquire(&found->second.edge);
  return found->second.bytes.get();
}

void* dynamic_shared() { return current->block->dynamic.bytes.get(); }

bool is_shared(const void* p, std::size_t bytes) {
  const Block& block = *current->block;
  const auto* first = static_cast<const char*>(p);
  const auto inside = [&](const SharedObject& o) {
    return first >= o.bytes.get() && first + bytes <= o.bytes.get() + o.size;
  };
  return inside(block.dynamic) ||
         std::any_of(block.shared.begin(), block.shared.end(),
                     [&](const auto& entry) { return inside(entry.second); });
}

bool async_copy(const AsyncCopy& copy) {
  ++count.async_copies;
  current->copies.push_back(copy);
  return schedule.copies == Copies::kEarly;
}

void async_commit() { current->group_ends.push_back(current->copies.size()); }

const AsyncCopy* async_due(int pending) {
  Thread& t = *current;
  const auto groups = static_cast<int>(t.group_ends.size()) - pending;
  const std::size_t due = groups > 0 ? t.group_ends[static_cast<std::size_t>(groups) - 1] : 0;
  if (t.made >= due) return nullptr;
  if (schedule.copies == Copies::kEarly) {  // they were made at once
    t.made = due;
    return nullptr;
  }
  return &t.copies[t.made++];
}

std::uint32_t load_acquire(const std::uint32_t* p, Site site) {
  Thread& t = *current;
  if (t.watched == p && t.seen == *p) {  // who looks in a loop lets others go on
    wait_for(p, "a change of memory", site);
  }
  acquire(const_cast<std::uint32_t*>(p));
  t.watched = p;
  t.seen = *p;
  return t.seen;
}

void add_release(std::uint32_t* p, std::uint32_t value) {
  release(p);
  *p += value;
  wake_waiting(p);
}

std::uint32_t cluster_rank() {
  return current->block->index.x % static_cast<unsigned>(now.cluster);
}
std::uint32_t cluster_size() { return static_cast<std::uint32_t>(now.cluster); }

namespace {

// An address: 4 bits of the rank, 8 of the object (1 is dynamic shared memory), 20 within it.
constexpr std::uint32_t kOffsetBits = 20, kObjectBits = 8;

SharedObject& shared_object(Block& block, const void* key) {
  return key == nullptr ? block.dynamic : block.shared.at(key);
}

}  // namespace

std::uint32_t cluster_address(const void* shared, std::uint32_t rank, Site site) {
  if (rank >= cluster_size()) fault("mapa of a block that is not in the cluster", site);
  Block& block = *current->block;
  const auto* p = static_cast<const char*>(shared);
  const auto inside = [&](const SharedObject& o) {
    return p >= o.bytes.get() && p < o.bytes.get() + o.size;
  };
  const auto found = std::find_if(block.shared.begin(), block.shared.end(),
                                  [&](const auto& entry) { return inside(entry.second); });
  if (found == block.shared.end() && !inside(block.dynamic)) {
    fault("mapa of an address that is not in shared memory", site);
  }
  const void* const key = found == block.shared.end() ? nullptr : found->first;
  auto& keys = now.shared_keys;
  auto object = static_cast<std::uint32_t>(std::find(keys.begin(), keys.end(), key) - keys.begin());
  if (object == keys.size()) keys.push_back(key);
  const auto offset = static_cast<std::uint32_t>(p - shared_object(block, key).bytes.get());
  return rank << (kObjectBits + kOffsetBits) | (object + 1) << kOffsetBits | offset;
}

void* cluster_shared(std::uint32_t address, std::size_t bytes, Site site) {
  const std::uint32_t rank = address >> (kObjectBits + kOffsetBits);
  const std::uint32_t object = address >> kOffsetBits & ((1u << kObjectBits) - 1);
  const std::uint32_t offset = address & ((1u << kOffsetBits) - 1);
  if (rank >= cluster_size() || object == 0 || object > now.shared_keys.size()) {
    fault("an address that is not in the cluster's shared memory", site);
  }
  Block& block = **std::find_if(now.blocks.begin(), now.blocks.end(),
                                [&](const auto& b) { return b->index.x % cluster_size() == rank; });
  if (!block.begun) fault("shared memory of a block that may not have begun", site);
  if (block.live == 0) fault("shared memory of a block that may have left", site);
  const void* const key = now.shared_keys[object - 1];
  if (key != nullptr && !block.shared.contains(key)) {
    const std::size_t size = current->block->shared.at(key).size;
    release(
        &block.shared.emplace(key, make_shared_object(size, kSharedAlignment)).first->second.edge);
  }
  const SharedObject& to = shared_object(block, key);
  if (offset + bytes > to.size) fault("an access beyond the cluster's shared memory", site);
  return to.bytes.get() + offset;
}

void cluster_arrive(Site site) {
  ++count.barriers;
  if (current->cluster_edge != nullptr) {
    fault("barrier.cluster.arrive twice without a wait", site);
  }
  current->cluster_edge = now.cluster_edges.current();
  release(current->cluster_edge);
  if (++now.at_cluster_barrier < now.size * now.cluster) return;
  now.at_cluster_barrier = 0;
  now.cluster_edges.turn = !now.cluster_edges.turn;
  wake_waiting(&now.cluster_edges);
}

void cluster_wait(Site site) {
  void* const edge = std::exchange(current->cluster_edge, nullptr);
  if (edge == nullptr) fault("barrier.cluster.wait without an arrival", site);
  if (edge == now.cluster_edges.current()) wait_for(&now.cluster_edges, "barrier.cluster", site);
  acquire(edge);
}

std::size_t most_shared_bytes() {
  return device_major == 9 && device_minor == 0 ? kMaxDynamicSharedOf90 : kMaxDynamicShared;
}

int run(const char* name, Dim3 grid, Dim3 dim, std::size_t shared_bytes, bool together, int cluster,
        const std::function<void()>& kernel) {
  const std::uint64_t size = std::uint64_t{dim.x} * dim.y * dim.z;
  if (size == 0 || size > kMaxThreads || dim.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7FFFFFFFu || grid.y > 65535 || grid.z > 65535) {
    return kInvalidConfiguration;
  }
  if (shared_bytes > most_shared_bytes()) return kInvalidValue;
  const auto side_by_side = static_cast<unsigned>(cluster);
  if (cluster > 1 && (cluster > kMaxCluster || device_major < 9 || together ||
                      grid.x % side_by_side != 0 || grid.y != 1 || grid.z != 1)) {
    return kInvalidConfiguration;
  }
  // A block a multiprocessor is all that is promised to be there at once.
  if (together && std::int64_t{grid.x} * grid.y * grid.z > device_multiprocessors) {
    return kCooperativeLaunchTooLarge;
  }
  const std::lock_guard lock(launch_mutex);
  ++count.launches;
  now.kernel = name;
  now.body = &kernel;
  now.grid = grid;
  now.dim = dim;
  now.size = static_cast<int>(size);
  now.shared_bytes = shared_bytes;
  now.cluster = cluster;
  now.shared_keys.clear();
  random_state = schedule.seed * 0x9E3779B97F4A7C15ull + 1;
  std::vector<unsigned> order(std::size_t{grid.x} * grid.y * grid.z / side_by_side);
  std::iota(order.begin(), order.end(), 0u);
  if (!together && last_blocks > 0 && last_blocks < std::ssize(order)) {
    order.erase(order.begin(), order.end() - last_blocks);
  }
  if (schedule.order == Order::kNewest) {
    std::reverse(order.begin(), order.end());
  } else if (schedule.order != Order::kOldest) {
    for (std::size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[next_random() % i]);
  }
  if (together) {
    run_blocks(order);
  } else {
    for (const unsigned i : order) {
      std::vector<unsigned> blocks(side_by_side);
      std::iota(blocks.begin(), blocks.end(), i * side_by_side);
      if (schedule.order == Order::kNewest) std::reverse(blocks.begin(), blocks.end());
      run_blocks(blocks);
    }
  }
  return 0;
}

}  // namespace host_cuda
