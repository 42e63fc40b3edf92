// The threads of a CUDA block as fibers of one host thread: a test-only runtime under which the same
// .cu sources are compiled by the host's compiler. See README.md for what it finds and what it cannot.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace host_cuda {

// Where a device function was called: file and line of the source under test.
struct Site {
  const char* file = nullptr;
  int line = 0;
  bool operator==(const Site&) const = default;
};

// A kernel did what the programming model forbids; raised by launch().
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- what tests set -------------------------------------------------------------------------------

// Which of the threads that can go on does so next.
enum class Order : std::uint8_t {
  kOldest,  // the one that has waited longest
  kNewest,  // the one that was woken last, blocks from the last to the first
  kRandom,  // any, blocks in any order
  kStarve,  // those of one warp only when nobody else can
};
// When an asynchronous copy happens: at once, or when something waits for it.
enum class Copies : std::uint8_t { kEarly, kLate };

struct Schedule {
  Order order = Order::kOldest;
  Copies copies = Copies::kLate;
  std::uint64_t seed = 1;
};
void set_schedule(const Schedule& schedule);
// Whether the device launches blocks together.
void set_cooperative(bool on);
bool cooperative();
// Multiprocessors that the device claims: few, so that persistent kernels go round their loops.
void set_multiprocessors(int count);
int multiprocessors();
// Runs no more than the last `count` blocks of a grid, 0 for all: those of a grid too large to run.
void set_last_blocks(std::int64_t count);
// The device's compute capability, 8.0 at first, and with it the shared memory of a block.
void set_capability(int major, int minor);
int capability_major();
int capability_minor();

struct Counters {
  std::int64_t launches, blocks, switches, barriers, warp_operations, async_copies;
};
Counters counters();

// ---- what kernels see -----------------------------------------------------------------------------

struct Uint3 {
  unsigned x, y, z;
};
struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

const Uint3& thread_index();
const Uint3& block_index();
const Dim3& block_dim();
const Dim3& grid_dim();
int lane_index();

[[noreturn]] void fault(const std::string& what, Site site = {});

void sync_threads(Site site);
// The same, and whether any thread of the block said so.
bool sync_threads_or(bool predicate, Site site);

// An operation of the lanes in `mask`: each brings a slot, the last one to arrive computes for all.
// `orders_memory`: lanes see each other's earlier writes afterwards (__syncwarp; a shuffle does not).
using WarpFunction = void (*)(void* const* slots, std::uint32_t mask, std::uint64_t argument);
void warp_operation(std::uint32_t mask, Site site, void* slot, WarpFunction function,
                    std::uint64_t argument, bool orders_memory);

enum class Shuffle : std::uint8_t { kXor, kIndex, kUp, kDown };
std::uint64_t shuffle_bits(std::uint32_t mask, std::uint64_t bits, int operand, int width,
                           Shuffle kind, Site site);
std::uint32_t ballot(std::uint32_t mask, bool predicate, Site site);

// `key` tells the objects of one kernel apart; the first thread of a block makes them, filled with
// NaNs, on the heap, where AddressSanitizer sees their ends.
void* shared_storage(const void* key, std::size_t bytes, std::size_t alignment);
template <class Storage>
void* shared_storage() {
  static const char key = 0;
  return shared_storage(&key, sizeof(Storage), alignof(Storage));
}
void* dynamic_shared();
bool is_shared(const void* p, std::size_t bytes);

// The bytes are moved by the callers in ptx.hpp, which sanitizers see. async_copy: true when the copy
// is to be made at once. async_due: the next one that a wait must make, null when there is none.
struct AsyncCopy {
  void* shared;
  const void* global;
  int bytes, source_bytes;
};
bool async_copy(const AsyncCopy& copy);
void async_commit();
const AsyncCopy* async_due(int pending);

// Memory through which blocks of a launch wait for each other. A thread that finds what it found before goes
// on when it has changed.
std::uint32_t load_acquire(const std::uint32_t* p, Site site);
void add_release(std::uint32_t* p, std::uint32_t value);

// The blocks of a cluster. A place in shared memory of block `rank` has an address of 32 bits, which
// cluster_shared() turns into bytes that the callers in ptx.hpp write.
std::uint32_t cluster_rank();
std::uint32_t cluster_size();
std::uint32_t cluster_address(const void* shared, std::uint32_t rank, Site site);
void* cluster_shared(std::uint32_t address, std::size_t bytes, Site site);
void cluster_arrive(Site site);
void cluster_wait(Site site);

// ---- what engine.cpp adds: mbarriers, bulk copies, products of warpgroups ---------------------------

int warp_index();
bool copies_are_late();
// Until somebody wakes those that wait for `key`; what they wait for is told at a deadlock.
void wait_for(const void* key, const char* what, Site site);
void wake_waiting(const void* key);
// Dynamic shared memory in its window, which begins with 1 KiB of the system's (9.0); of the only block there is.
std::uint32_t shared_address(const void* p, Site site);
char* shared_bytes(std::uint32_t address, std::size_t bytes, Site site);
void count_async_copy();
// Of a block: before its threads, when none of them can go on (whether that changed), after them (what is
// wrong, or nothing).
void engine_begin(int warps);
bool engine_idle();
std::string engine_end();

// ---- launches -------------------------------------------------------------------------------------

// Dynamic shared memory that a block may ask for.
std::size_t most_shared_bytes();

// A cudaError_t. Throws Fault. Blocks run one after another, `cluster` neighbours side by side, or all of them
// `together`.
int run(const char* name, Dim3 grid, Dim3 block, std::size_t shared_bytes, bool together,
        int cluster, const std::function<void()>& kernel);

template <class... P>
int run_kernel(const char* name, void (*kernel)(P...), Dim3 grid, Dim3 block,
               std::size_t shared_bytes, bool together, int cluster,
               std::type_identity_t<P>... args) {
  return run(name, grid, block, shared_bytes, together, cluster, [&] { kernel(args...); });
}

}  // namespace host_cuda
