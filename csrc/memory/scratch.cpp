// Fresh pages of memory cost several times as much as writing to them. So each thread keeps what it releases, up to a
// limit, for later calls of the same sizes. Memory that another thread released would lie in the caches of another
// core.
#include "scratch.h"

#include <algorithm>
#include <new>

namespace difnet {
namespace {

constexpr std::align_val_t kAlignment{64};
#if defined(DIFNET_ADDRESS_SANITIZER)
constexpr size_t kMaxKept = 0;
#else
constexpr size_t kMaxKept = size_t{64} << 20;
#endif
constexpr int kMaxPieces = 128;  // two calls of different sizes have fewer

void free_memory(void* memory) { ::operator delete[](memory, kAlignment); }

// The memory that a thread keeps, the oldest piece first. It has no destructor, so that calls can still use it while a
// thread ends.
struct Kept {
  struct Piece {
    size_t bytes;
    void* memory;
  } pieces[kMaxPieces];
  int count;
  size_t bytes;
  bool ended;

  void* take(int n) {
    const Piece piece = pieces[n];
    std::copy(pieces + n + 1, pieces + count, pieces + n);
    --count;
    bytes -= piece.bytes;
    return piece.memory;
  }
  void put(void* memory, size_t size) {
    pieces[count++] = {size, memory};
    bytes += size;
  }
};
thread_local Kept kept;

// Frees the memory when the thread ends.
struct AtEnd {
  ~AtEnd() {
    while (kept.count > 0) free_memory(kept.take(kept.count - 1));
    kept.ended = true;
  }
};

}  // namespace

void* allocate(size_t bytes) {
  for (int n = kept.count - 1; n >= 0; --n)
    if (kept.pieces[n].bytes == bytes) return kept.take(n);
  return ::operator new[](bytes, kAlignment);
}

void release(void* memory, size_t bytes) noexcept {
  static thread_local AtEnd at_end;
  (void)at_end;  // its first use registers its destructor
  if (bytes == 0 || bytes > kMaxKept || kept.ended) return free_memory(memory);
  while (kept.bytes + bytes > kMaxKept || kept.count == kMaxPieces) free_memory(kept.take(0));
  kept.put(memory, bytes);
}

}  // namespace difnet
