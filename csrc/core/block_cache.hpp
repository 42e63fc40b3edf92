// Bounded cache of large aligned blocks behind outputs and scratch, so that a loop of calls does
// not page-fault its results at every step. Blocks of 2 MiB and more are huge-page advised.
#pragma once
#include <cstddef>

namespace arraynn {

// Below this an ordinary allocation does not go to the kernel and needs no cache.
inline constexpr std::size_t kCachedBlockMin = std::size_t{64} << 10;

struct BlockCacheStats {
  std::size_t cached_bytes, cached_blocks, limit_bytes, hits, misses;
};

// nullptr when memory is out. `bytes` is rounded up to a size class; free with the same count.
void* block_alloc(std::size_t bytes);
void block_free(void* block, std::size_t bytes);

BlockCacheStats block_cache_stats();
void set_block_cache_limit(std::size_t bytes);  // frees down to the new limit

}  // namespace arraynn
