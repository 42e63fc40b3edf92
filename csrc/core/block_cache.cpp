#include "core/block_cache.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <mutex>

#include "core/arena.hpp"
#include "core/error.hpp"

namespace arraynn {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kDefaultLimit = std::size_t{1} << 30;

// Size classes: eighths of a power of two, so that at most 1/8 of a block is waste and nearby
// sizes share blocks.
std::size_t size_class(std::size_t bytes) {
  std::size_t step = kPage;
  while (step * 16 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

struct Cache {
  std::mutex mutex;
  std::multimap<std::size_t, void*> free_blocks;
  std::size_t cached = 0, limit = kDefaultLimit, hits = 0, misses = 0;
};

// Never destroyed: arrays that outlive the interpreter still return their blocks here.
Cache& cache() {
  static Cache* instance = new Cache;
  return *instance;
}

// A child must not inherit the lock from a thread that it does not have.
[[maybe_unused]] const int kAtForkRegistered = pthread_atfork(
    [] { cache().mutex.lock(); }, [] { cache().mutex.unlock(); }, [] { cache().mutex.unlock(); });

void shrink_locked(Cache& c) {
  while (c.cached > c.limit && !c.free_blocks.empty()) {
    const auto largest = std::prev(c.free_blocks.end());
    c.cached -= largest->first;
    std::free(largest->second);
    c.free_blocks.erase(largest);
  }
}

}  // namespace

void* block_alloc(std::size_t bytes) {
  if (bytes < kCachedBlockMin) return std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64);
  const std::size_t size = size_class(bytes);
  Cache& c = cache();
  {
    const std::lock_guard lock(c.mutex);
    const auto found = c.free_blocks.find(size);
    if (found != c.free_blocks.end()) {
      void* block = found->second;
      c.free_blocks.erase(found);
      c.cached -= size;
      ++c.hits;
      return block;
    }
    ++c.misses;
  }
  const bool huge = size >= kHugePage;
  void* block = std::aligned_alloc(huge ? kHugePage : kPage,
                                   huge ? (size + kHugePage - 1) / kHugePage * kHugePage : size);
  if (block != nullptr && huge) madvise(block, size, MADV_HUGEPAGE);
  return block;
}

void block_free(void* block, std::size_t bytes) {
  if (block == nullptr) return;
  if (bytes < kCachedBlockMin) {
    std::free(block);
    return;
  }
  const std::size_t size = size_class(bytes);
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  c.free_blocks.emplace(size, block);
  c.cached += size;
  shrink_locked(c);
}

BlockCacheStats block_cache_stats() {
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  return {c.cached, c.free_blocks.size(), c.limit, c.hits, c.misses};
}

void set_block_cache_limit(std::size_t bytes) {
  Cache& c = cache();
  const std::lock_guard lock(c.mutex);
  c.limit = bytes;
  shrink_locked(c);
}

Scratch::Scratch(const char* op, std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  data_ = block_alloc(bytes);
  if (data_ == nullptr) fail<OutOfMemory>(op, "scratch", "could not allocate ", bytes, " bytes");
}

Scratch::~Scratch() { block_free(data_, bytes_); }

}  // namespace arraynn
