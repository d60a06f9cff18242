// Fresh pages of memory cost several times as much as writing to them. So released memory is kept, up to a limit, for
// later calls of the same sizes.
#include "scratch.h"

#include <map>
#include <mutex>
#include <new>

namespace difnet {
namespace {

constexpr std::align_val_t kAlignment{64};
#if defined(DIFNET_ADDRESS_SANITIZER)
constexpr size_t kMaxKept = 0;
#else
constexpr size_t kMaxKept = size_t{64} << 20;
#endif

// These objects are never destroyed: a call may outlive the destructors of static objects. No thread waits for the
// lock: after a fork, the lock may be held by a thread that the child does not have.
auto& mutex = *new std::mutex;
auto& kept = *new std::multimap<size_t, void*>;
size_t bytes_kept = 0;

void free_memory(void* memory) { ::operator delete[](memory, kAlignment); }

}  // namespace

void* allocate(size_t bytes) {
  if (const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock); lock.owns_lock()) {
    if (const auto found = kept.find(bytes); found != kept.end()) {
      void* memory = found->second;
      kept.erase(found);
      bytes_kept -= bytes;
      return memory;
    }
  }
  return ::operator new[](bytes, kAlignment);
}

void release(void* memory, size_t bytes) noexcept {
  if (bytes > kMaxKept) return free_memory(memory);
  try {
    const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (!lock.owns_lock()) return free_memory(memory);
    if (bytes_kept + bytes > kMaxKept) {  // the sizes of calls have changed
      for (const auto& [size, other] : kept) free_memory(other);
      kept.clear();
      bytes_kept = 0;
    }
    kept.emplace(bytes, memory);
    bytes_kept += bytes;
  } catch (const std::bad_alloc&) {  // there is no memory for the entry of `kept`
    free_memory(memory);
  }
}

}  // namespace difnet
