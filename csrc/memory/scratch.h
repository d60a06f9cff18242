// Scratch memory of the kernels.
#pragma once

#include <cstddef>

namespace difnet {

// Memory that starts on a cache line. Throws std::bad_alloc.
void* allocate(size_t bytes);
void release(void* memory, size_t bytes) noexcept;

// AddressSanitizer finds uses of memory that was released or never written only if released memory is not reused.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DIFNET_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define DIFNET_ADDRESS_SANITIZER 1
#endif

}  // namespace difnet
