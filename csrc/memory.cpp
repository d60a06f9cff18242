// Scratch memory. Fresh pages cost about as much as filling them several times, so what calls released is kept for those
// that follow with the same sizes, up to a limit.
#include <map>
#include <mutex>
#include <new>

#include "walk.h"

namespace difnet {
namespace {

constexpr std::align_val_t kAlignment{64};
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__  // which GCC defines itself
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kMostKept = 0;  // so that a use after the release is seen
#else
constexpr size_t kMostKept = size_t{64} << 20;
#endif

// Never destroyed: calls may outlive this file's statics. Tried, not waited for: a fork may leave the lock taken.
auto& mutex = *new std::mutex;
auto& kept = *new std::multimap<size_t, void*>;
size_t bytes_kept = 0;

void give_back(void* memory) { ::operator delete[](memory, kAlignment); }

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
  if (bytes > kMostKept) return give_back(memory);
  try {
    const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (!lock.owns_lock()) return give_back(memory);
    if (bytes_kept + bytes > kMostKept) {  // sizes have changed: start anew
      for (const auto& [size, other] : kept) give_back(other);
      kept.clear();
      bytes_kept = 0;
    }
    kept.emplace(bytes, memory);
    bytes_kept += bytes;
  } catch (const std::bad_alloc&) {  // no memory for the list
    give_back(memory);
  }
}

}  // namespace difnet
