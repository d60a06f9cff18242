// The tiles of a walk and the order in which they are visited.
#pragma once

#include <atomic>
#include <thread>

#include "gemm.h"
#include "memory.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Blocks of kEdge nodes for every image, and the order of the pairs of blocks: first every block with itself, then the
// rounds of a tournament, in which block `last` stays and the others turn. Pairs of a round have no block in common.
// A pair runs when both its blocks have finished their rounds before, so that no accumulator has two writers, and each
// sees its pairs in the order of the rounds: results depend neither on the number of threads nor on their timing.
struct Grid {
  Sizes sizes;
  int64_t blocks, padded;

  explicit Grid(const Sizes& s) : sizes(s), blocks((s.nodes + kEdge - 1) / kEdge), padded(blocks * kEdge) {}

  int nodes_in(int64_t block) const {
    return static_cast<int>(std::min<int64_t>(kEdge, sizes.nodes - block * kEdge));
  }

  // body(b, block) for every block of every image.
  template <class F>
  void each_block(Parallel parallel, const F& body) const {
    for_each(parallel, sizes.batch * blocks, [&](int64_t n) { body(n / blocks, n % blocks); });
  }

  // body(b, I, J) for every pair I <= J of every image. Threads take pairs in order, so whatever a pair waits for was
  // taken before by a thread that is running: also a single thread gets through.
  template <class F>
  void each_pair(Parallel parallel, const F& body) const {
    const int64_t last = blocks + blocks % 2 - 1, matches = (last + 1) / 2;
    const int64_t diagonal = sizes.batch * blocks, total = diagonal + sizes.batch * last * matches;
    struct alignas(64) Progress {
      std::atomic<int64_t> rounds{0};
    };
    Buffer<Progress> progress(diagonal);
    std::atomic<int64_t> next{0};
    for_each(parallel, total, [&](int64_t) {
      for (int64_t n = next++; n < total; n = next++) {
        if (n < diagonal) {
          body(n / blocks, n % blocks, n % blocks);
          progress[n].rounds.store(1, std::memory_order_release);
          continue;
        }
        const int64_t round = (n - diagonal) / (sizes.batch * matches), rest = (n - diagonal) % (sizes.batch * matches);
        const int64_t b = rest / matches, match = rest % matches;
        int64_t one = match == 0 ? last : (round + match) % last, other = (round - match + last) % last;
        if (one > other) std::swap(one, other);
        // With an odd number of blocks one of them pauses, opposite one that there is not.
        for (const int64_t block : {one, other})
          if (block < blocks) wait_for(progress[b * blocks + block].rounds, round + 1);
        if (other < blocks) body(b, one, other);
        for (const int64_t block : {one, other})
          if (block < blocks) progress[b * blocks + block].rounds.store(round + 2, std::memory_order_release);
      }
    });
  }

 private:
  static void wait_for(const std::atomic<int64_t>& value, int64_t wanted) {
    for (int tries = 0; value.load(std::memory_order_acquire) != wanted; ++tries)
      if (tries > 1000) std::this_thread::yield();
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
