// The blocks of a walk, the order in which pairs of blocks are computed, and the loops over both on a pool of threads.
#pragma once

#include "../memory/buffer.h"
#include "../products/gemm.h"
#include "../simd/subnormals.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Neighbouring blocks form groups of up to eight. Groups get smaller if threads would have fewer groups than this each.
// The Makefile sets 1 for tests/native/check.cpp, so that small images have groups of several blocks too.
#if !defined(DIFNET_GROUPS_PER_THREAD)
#define DIFNET_GROUPS_PER_THREAD 4
#endif
constexpr int64_t kGroupsPerThread = DIFNET_GROUPS_PER_THREAD;

// body(index) for every index in [0, count), on the threads of the pool.
template <class F>
inline void for_each(const Pool& pool, int64_t count, const F& body) {
  pool.run(
      count,
      [](void* context, int64_t begin, int64_t end) {
        for (int64_t index = begin; index < end; ++index) (*static_cast<const F*>(context))(index);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// Tells the CPU that the thread waits in a loop.
inline void spin_pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Every image is divided into blocks of kBlockSize nodes; its first block may have fewer. Blocks are numbered
// consecutively: those of the first image, those of the second, and so on. In arrays, node i of a block has the index
// block * kBlockSize + i, its place; padding follows a block's last node.
//
// A pair of blocks (I, J) is computed once and serves both: it adds to the sums of I as rows and to those of J as
// columns, which are different memory. The blocks of an image stand in a circle, and I is paired with itself and with
// the half of the circle that follows it. Of five blocks:
//
//   I = 0   (0, 0)  (0, 1)  (0, 2)
//   I = 1           (1, 1)  (1, 2)  (1, 3)
//   I = 2                   (2, 2)  (2, 3)  (2, 4)          a row:    one I, the same sums of rows
//   I = 3   (3, 0)                  (3, 3)  (3, 4)          a column: one J, the same sums of columns
//   I = 4   (4, 0)  (4, 1)                  (4, 4)
//
// A pair waits for two others: (I, J - 1), which adds to the same sums of rows, and (I + 1, J), which adds to the same
// sums of columns. Here (0, 2) waits for (0, 1) and (1, 2), and (3, 0) for (3, 4) and (4, 0). So no sum is ever written
// by two threads at the same time, and no lock is needed. Different threads can compute the pairs of different blocks I
// at the same time. Each sum adds its terms in one fixed order: results do not depend on the number of threads, on
// their timing, or on how blocks are grouped.
class Grid {
 public:
  explicit Grid(const Sizes& sizes) : sizes_(sizes), blocks_((sizes.nodes + kBlockSize - 1) / kBlockSize) {}

  const Sizes& sizes() const { return sizes_; }
  int64_t blocks_per_image() const { return blocks_; }
  int64_t blocks() const { return sizes_.batch * blocks_; }
  int64_t places() const { return blocks() * kBlockSize; }
  int64_t first_block(int64_t b) const { return b * blocks_; }

  int nodes_in(int64_t block) const {
    return block % blocks_ == 0 ? static_cast<int>(sizes_.nodes - (blocks_ - 1) * kBlockSize) : kBlockSize;
  }
  // The index in its image of a block's first node.
  int64_t first_node(int64_t block) const {
    const int64_t n = block % blocks_;
    return n == 0 ? 0 : sizes_.nodes - (blocks_ - n) * kBlockSize;
  }

  // body(place) for every node of an image.
  template <class F>
  void for_each_node(int64_t b, const F& body) const {
    for (int64_t block = first_block(b); block < first_block(b + 1); ++block) {
      const int64_t first = block * kBlockSize, count = nodes_in(block);
      for (int64_t i = 0; i < count; ++i) body(first + i);
    }
  }

  // body(b, block, thread) for every block of every image b; thread < pool.threads numbers the calling thread.
  template <class F>
  void for_each_block(const Pool& pool, const F& body) const {
    for_each(pool, pool.threads, [&](int64_t thread) {
      const int64_t end = (thread + 1) * blocks() / pool.threads;
      for (int64_t n = thread * blocks() / pool.threads; n < end; ++n) body(n / blocks_, n, thread);
    });
  }

  // body(b, I, J) for every pair of blocks of every image b, in the order above. Threads take pairs of groups (units)
  // from one queue. Whatever a unit waits for was taken earlier, by a thread that is running it or has finished it. So
  // there is no deadlock, even with a single thread. Results of `body` that would be subnormal are 0.
  template <class F>
  void for_each_pair(const Pool& pool, const F& body) const {
    // Groups are paired as blocks are. While a pair of groups is computed, the data of both stay in the caches.
    const int64_t wanted = kGroupsPerThread * pool.threads;
    const int64_t group_size = std::clamp<int64_t>(blocks() / wanted, 1, 8);
    const int64_t groups = (blocks_ + group_size - 1) / group_size;
    // In step s, group g is paired with group (g + s) mod groups. ceil(groups / 2) + 1 steps cover every pair of
    // blocks, because the sizes of groups differ by at most one block.
    const int64_t steps = (groups + 1) / 2 + 1, units_per_step = sizes_.batch * groups;
    Buffer<Progress> progress(units_per_step);
    std::atomic<int64_t> next{0};
    for_each(pool, pool.threads, [&](int64_t) {
      const FlushSubnormals flush;
      for (int64_t unit = next++; unit < units_per_step * steps; unit = next++) {
        const int64_t step = unit / units_per_step, b = unit % units_per_step / groups, group = unit % groups;
        Progress* of_image = progress.data() + b * groups;
        // Pair (I, J) of this unit waits for (I, J - 1) and (I + 1, J). They are in this unit too, where they come
        // first, or in the previous step: (I, J - 1) in that of this group, (I + 1, J) in that of the next group.
        of_image[group].wait_for(step);
        of_image[(group + 1) % groups].wait_for(step);
        for_each_pair_of(b, groups, group, group + step, body);
        of_image[group].finish(step + 1);
      }
    });
  }

  // body(strip) for the strips of a tile.
  template <class F>
  void for_each_strip(int64_t b, int64_t I, int64_t J, int width, const F& body) const {
    const int rows = nodes_in(I), columns = nodes_in(J);
    for (int first = 0; first < columns; first += width)
      body(Strip{b, I, J, rows, first, std::min(width, columns - first)});
  }

 private:
  // The number of steps that a group has finished.
  class alignas(64) Progress {
   public:
    void wait_for(int64_t steps) const {
      constexpr int kSpins = 1000;  // then the thread yields: there may be more threads than cores
      for (int spins = 0; steps_.load(std::memory_order_acquire) < steps; spins = std::min(spins + 1, kSpins))
        spins < kSpins ? spin_pause() : std::this_thread::yield();
    }
    void finish(int64_t steps) { steps_.store(steps, std::memory_order_release); }

   private:
    std::atomic<int64_t> steps_{0};
  };

  // body(b, I, J) for the blocks I of group `group` and those blocks J of group `other` that are in the half circle
  // after I. Here `other` and J are not reduced modulo the number of groups or blocks; J is reduced when `body` is
  // called.
  template <class F>
  void for_each_pair_of(int64_t b, int64_t groups, int64_t group, int64_t other, const F& body) const {
    const auto start_of = [&](int64_t g) { return g / groups * blocks_ + g % groups * blocks_ / groups; };
    for (int64_t I = start_of(group + 1) - 1; I >= start_of(group); --I) {
      // If the number of blocks is even, every block has an opposite one. The pair of the two is computed once, with
      // the block of the lower index as I.
      const int64_t partners = (blocks_ - 1) / 2 + (blocks_ % 2 == 0 && I < blocks_ / 2);
      const int64_t end = std::min(start_of(other + 1), I + partners + 1);
      for (int64_t J = std::max(I, start_of(other)); J < end; ++J)
        body(b, first_block(b) + I, first_block(b) + J % blocks_);
    }
  }

  Sizes sizes_;
  int64_t blocks_;  // of an image
};

}  // namespace DIFNET_ISA
}  // namespace difnet
