// The tiles of a walk and the order in which they are visited.
#pragma once

#include <atomic>
#include <thread>

#include "gemm.h"
#include "memory.h"

namespace difnet {
inline namespace DIFNET_ISA {

// An image has this many players or more before one is given several blocks. The program that checks the kernels lowers
// it, so that small images are played as large ones are.
#if !defined(DIFNET_LEAST_PLAYERS)
#define DIFNET_LEAST_PLAYERS 40
#endif

// Blocks of kEdge nodes for every image, of which the first may have fewer, and the order of the pairs of blocks: first
// every player, a block or a few, with itself, then the rounds of a tournament, in which each player has one partner. A
// pair runs when both its blocks have finished all their pairs before: no accumulator has two writers, and each sees its
// pairs in one order, so that results depend neither on the number of threads nor on their timing.
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

  // body(b, I, J) for every pair I <= J of every image. Threads take pairs in one order, so whatever a pair waits for was
  // taken before, by a thread that is running: a single thread gets through as well.
  template <class F>
  void each_pair(const Pool& pool, const F& body) const {
    // A player is a few neighbouring blocks of a large image, whose data stay in the caches during a match. An even
    // number of players; one of them may not be there.
    const int64_t size = std::clamp<int64_t>(blocks / DIFNET_LEAST_PLAYERS, 1, 8);
    const int64_t players = round_up((blocks + size - 1) / size, 2), matches = players / 2;
    // As few images at a time as give every thread a match whose players are free: their data stay in the caches.
    const int64_t images = std::min(sizes.batch, (4 * pool.threads + matches - 1) / matches);
    // A thread takes a match, or where matches are few a row of its pairs.
    const int64_t share = images * matches >= 2 * pool.threads ? size : 1;
    Buffer<Progress> progress(sizes.batch * blocks);
    std::atomic<int64_t> next{0};

    // The pairs of block I, the `row`th of its player, with the other player's blocks.
    const auto play_row = [&](int64_t b, int64_t I, int64_t row, int64_t rows, int64_t other, int64_t round) {
      Progress* of = progress + b * blocks;
      const bool itself = round == 0;  // then a block was its predecessors' partner before
      of[I].wait_for(round * size + (itself ? row : 0));
      if (itself) body(b, I, I);
      for (int64_t J = itself ? I + 1 : other * size; J < std::min(blocks, (other + 1) * size); ++J) {
        of[J].wait_for(round * size + row);
        body(b, I, J);
        of[J].finish(row + 1 == rows && !itself ? (round + 1) * size : round * size + row + 1);
      }
      of[I].finish((round + 1) * size);
    };
    const auto play = [&](int64_t b, int64_t one, int64_t other, int64_t round, int64_t from) {
      const int64_t rows = std::min(size, blocks - one * size);
      for (int64_t row = from; row < std::min(rows, from + share); ++row)
        play_row(b, one * size + row, row, rows, other, round);
    };
    for_each(pool, pool.threads, [&](int64_t) {
      int64_t mine = next++, place = 0;
      for (int64_t first = 0; first < sizes.batch; first += images)
        for (int64_t round = 0; round < players; ++round)
          for (int64_t b = first; b < std::min(sizes.batch, first + images); ++b)
            for (int64_t match = 0; match < matches; ++match)
              for (int64_t from = 0; from < size; from += share, ++place) {
                if (place != mine) continue;
                const auto [one, other] = opponents(players, std::max<int64_t>(round - 1, 0), match);
                play(b, one, round == 0 ? one : other, round, from);
                if (round == 0) play(b, other, other, round, from);
                mine = next++;
              }
    });
  }

 private:
  class alignas(64) Progress {
   public:
    void wait_for(int64_t pairs) const {
      for (int tries = 0; pairs_.load(std::memory_order_acquire) != pairs; tries = std::min(tries + 1, 1000))
        if (tries == 1000) std::this_thread::yield();
    }
    void finish(int64_t pairs) { pairs_.store(pairs, std::memory_order_release); }

   private:
    std::atomic<int64_t> pairs_{0};
  };

  // The smaller and the larger player of a match of a round: the last stays and the others turn.
  static std::pair<int64_t, int64_t> opponents(int64_t players, int64_t round, int64_t match) {
    const int64_t last = players - 1, other = (round - match + last) % last;
    if (match == 0) return {other, last};
    return std::minmax((round + match) % last, other);
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
