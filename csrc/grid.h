// The tiles of a walk and the order in which they are visited.
#pragma once

#include <atomic>
#include <thread>

#include "gemm.h"
#include "memory.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Blocks are visited in groups, as large as leaves each thread this many. The program that checks the kernels lowers it, so
// that small images are visited as large ones are.
#if !defined(DIFNET_GROUPS_A_THREAD)
#define DIFNET_GROUPS_A_THREAD 4
#endif

// Blocks of kEdge nodes for every image, of which the first may have fewer, and the order of the pairs of blocks: each block
// meets itself, then those after it in turn, around a circle, until all have met. Of a pair (I, J) the first is served as
// the rows of tiles, the second, which may come before it, as the columns, into accumulators of their own. (I, J) comes after
// (I, J - 1), which adds to the same rows, and (I + 1, J), which adds to the same columns: no accumulator has two writers,
// and each sees its pairs in one order, so that results depend neither on the number of threads nor on their timing, nor on
// how pairs are grouped.
struct Grid {
  Sizes sizes;
  int64_t blocks, padded;

  explicit Grid(const Sizes& s) : sizes(s), blocks((s.nodes + kEdge - 1) / kEdge), padded(blocks * kEdge) {}

  int nodes_in(int64_t block) const {
    return block == 0 ? static_cast<int>(sizes.nodes - (blocks - 1) * kEdge) : kEdge;
  }
  int64_t first_node(int64_t block) const { return block == 0 ? 0 : sizes.nodes - (blocks - block) * kEdge; }

  // body(b, block, thread) for every block of every image; thread < pool.threads numbers scratch memory.
  template <class F>
  void each_block(const Pool& pool, const F& body) const {
    const int64_t count = sizes.batch * blocks;
    for_each(pool, pool.threads, [&](int64_t thread) {
      const int64_t end = (thread + 1) * count / pool.threads;
      for (int64_t n = thread * count / pool.threads; n < end; ++n) body(n / blocks, n % blocks, thread);
    });
  }

  // body(b, I, J) for every pair of every image, I == J once. Threads take pairs of groups in one order, so whatever a
  // pair waits for was taken before, by a thread that is running: a single thread gets through as well.
  template <class F>
  void each_pair(const Pool& pool, const F& body) const {
    // A group is a few neighbouring blocks, whose data stay in the caches while two groups meet.
    const int64_t share = DIFNET_GROUPS_A_THREAD * pool.threads;
    const int64_t size = std::clamp<int64_t>(sizes.batch * blocks / share, 1, 8);
    // At a step each group meets the one that lies as many places after it. Half way round the circle a block may be in a
    // group half the groups further on, rounded up.
    const int64_t groups = (blocks + size - 1) / size, steps = (groups + 1) / 2 + 1;
    // As few images at a time as keep the threads busy: their data stay in the caches. In turns of about as many, or the last
    // one would leave threads without work.
    const int64_t enough = (share + groups - 1) / groups, turns = std::max<int64_t>(sizes.batch / enough, 1);
    const int64_t images = (sizes.batch + turns - 1) / turns, units = images * groups * steps;
    Buffer<Progress> progress(sizes.batch * groups);
    std::atomic<int64_t> next{0};
    for_each(pool, pool.threads, [&](int64_t) {
      for (int64_t unit = next++; unit < sizes.batch * groups * steps; unit = next++) {
        const int64_t start = unit / units * images, now = std::min(images, sizes.batch - start), rest = unit % units;
        const int64_t step = rest / (now * groups), b = start + rest % (now * groups) / groups, group = rest % groups;
        Progress* of = progress + b * groups;
        of[group].wait_for(step);
        of[(group + 1) % groups].wait_for(step);
        meet(b, groups, group, group + step, body);
        of[group].finish(step + 1);
      }
    });
  }

 private:
  class alignas(64) Progress {
   public:
    void wait_for(int64_t steps) const {
      for (int tries = 0; steps_.load(std::memory_order_acquire) < steps; tries = std::min(tries + 1, 1000))
        if (tries == 1000) std::this_thread::yield();
    }
    void finish(int64_t steps) { steps_.store(steps, std::memory_order_release); }

   private:
    std::atomic<int64_t> steps_{0};
  };

  // The pairs of a group's blocks with those of another, which may lie beyond the circle's end.
  template <class F>
  void meet(int64_t b, int64_t groups, int64_t group, int64_t other, const F& body) const {
    const auto start_of = [&](int64_t place) { return place / groups * blocks + place % groups * blocks / groups; };
    for (int64_t I = start_of(group + 1) - 1; I >= start_of(group); --I) {
      // Of two blocks that lie opposite each other, which there are where blocks are even in number, one meets the other.
      const int64_t partners = (blocks - 1) / 2 + (blocks % 2 == 0 && I < blocks / 2);
      const int64_t end = std::min(start_of(other + 1), I + partners + 1);
      for (int64_t J = std::max(I, start_of(other)); J < end; ++J) body(b, I, J % blocks);
    }
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
