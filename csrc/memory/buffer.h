// An array in scratch memory.
#pragma once

#include "../targets/targets.h"
#include "scratch.h"

namespace difnet {
inline namespace DIFNET_ISA {

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// What a new buffer holds. A buffer that is written before it is read may be uninitialized; builds with
// AddressSanitizer fill it with NaN.
enum class Fill { zeros, uninitialized };

// An array that starts on a cache line. Throws std::bad_alloc.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count, Fill fill = Fill::zeros)
      : data_(static_cast<T*>(allocate(count * sizeof(T)))), bytes_(count * sizeof(T)) {
    if (fill == Fill::zeros) std::memset(static_cast<void*>(data_), 0, bytes_);
#if defined(DIFNET_ADDRESS_SANITIZER)
    if (fill == Fill::uninitialized) std::memset(static_cast<void*>(data_), 0xff, bytes_);
#endif
  }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  ~Buffer() {
    if (data_ != nullptr) release(data_, bytes_);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t index) { return data_[index]; }
  const T& operator[](int64_t index) const { return data_[index]; }

 private:
  T* data_;
  size_t bytes_;
};

}  // namespace DIFNET_ISA
}  // namespace difnet
