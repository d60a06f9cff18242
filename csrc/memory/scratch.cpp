// Fresh pages of memory cost several times as much as writing to them. So each thread keeps what it releases, up to a
// limit, for later calls of the same sizes. Memory that another thread released would lie in the caches of another
// core.
#include "scratch.h"

#include <new>

namespace difnet {
namespace {

constexpr std::align_val_t kAlignment{64};
#if defined(DIFNET_ADDRESS_SANITIZER)
constexpr size_t kMaxKept = 0;
#else
constexpr size_t kMaxKept = size_t{64} << 20;
#endif
constexpr int kMaxPieces = 64;

void free_memory(void* memory) { ::operator delete[](memory, kAlignment); }

// The memory that a thread keeps. It has no destructor, so that calls can still use it while a thread ends.
struct Kept {
  struct Piece {
    size_t bytes;
    void* memory;
  } pieces[kMaxPieces];
  int count;
  size_t bytes;
  bool ended;

  void clear() {
    for (int n = 0; n < count; ++n) free_memory(pieces[n].memory);
    count = 0;
    bytes = 0;
  }
};
thread_local Kept kept;

// Frees the memory when the thread ends.
struct AtEnd {
  ~AtEnd() {
    kept.clear();
    kept.ended = true;
  }
};

}  // namespace

void* allocate(size_t bytes) {
  for (int n = kept.count - 1; n >= 0; --n)
    if (kept.pieces[n].bytes == bytes) {
      void* memory = kept.pieces[n].memory;
      kept.pieces[n] = kept.pieces[--kept.count];
      kept.bytes -= bytes;
      return memory;
    }
  return ::operator new[](bytes, kAlignment);
}

void release(void* memory, size_t bytes) noexcept {
  static thread_local AtEnd at_end;
  (void)at_end;  // its first use registers its destructor
  if (bytes > kMaxKept || kept.ended) return free_memory(memory);
  if (kept.bytes + bytes > kMaxKept || kept.count == kMaxPieces) kept.clear();  // the sizes of calls have changed
  kept.pieces[kept.count++] = {bytes, memory};
  kept.bytes += bytes;
}

}  // namespace difnet
