// Strided reading and writing in any dtype, aligned zeroed memory, and a parallel loop.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>

#include "bfloat16.h"
#include "walk.h"

namespace difnet {
inline namespace DIFNET_ISA {

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// `count` numbers of row (b, i) of an array.
template <class T>
inline void read_row(const Array& array, int64_t b, int64_t i, int64_t count, T* to) {
  const int64_t start = b * array.strides[0] + i * array.strides[1], step = array.strides[2];
  switch (array.type) {
    case Type::float64: {
      const auto* from = static_cast<const double*>(array.data) + start;
      for (int64_t c = 0; c < count; ++c) to[c] = static_cast<T>(from[c * step]);
      break;
    }
    case Type::float32: {
      const auto* from = static_cast<const float*>(array.data) + start;
      for (int64_t c = 0; c < count; ++c) to[c] = from[c * step];
      break;
    }
    case Type::bfloat16: {
      const auto* from = static_cast<const uint16_t*>(array.data) + start;
      for (int64_t c = 0; c < count; ++c) to[c] = from_bfloat16(from[c * step]);
      break;
    }
    case Type::float16: {
      const auto* from = static_cast<const _Float16*>(array.data) + start;
      for (int64_t c = 0; c < count; ++c) to[c] = static_cast<T>(from[c * step]);
      break;
    }
  }
}

// `count` numbers to a contiguous place in the given dtype.
template <class T>
inline void write_row(void* data, Type type, int64_t start, int64_t count, const T* from) {
  switch (type) {
    case Type::float64:
      for (int64_t c = 0; c < count; ++c) static_cast<double*>(data)[start + c] = from[c];
      break;
    case Type::float32:
      for (int64_t c = 0; c < count; ++c) static_cast<float*>(data)[start + c] = static_cast<float>(from[c]);
      break;
    case Type::bfloat16:
      for (int64_t c = 0; c < count; ++c)
        static_cast<uint16_t*>(data)[start + c] = to_bfloat16(static_cast<float>(from[c]));
      break;
    case Type::float16:
      for (int64_t c = 0; c < count; ++c) static_cast<_Float16*>(data)[start + c] = static_cast<_Float16>(from[c]);
      break;
  }
}

// Zeroed numbers on a cache line's boundary. Throws std::bad_alloc.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count) : data_(static_cast<T*>(allocate(count * sizeof(T)))), bytes_(count * sizeof(T)) {
    std::memset(static_cast<void*>(data_), 0, bytes_);
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) release(data_, bytes_);
  }

  T* operator+(int64_t offset) const { return data_ + offset; }
  T& operator[](int64_t index) const { return data_[index]; }

 private:
  T* data_ = nullptr;
  size_t bytes_ = 0;
};

// body(index) for every index in [0, count), on the caller's pool of threads.
template <class F>
inline void for_each(const Pool& pool, int64_t count, const F& body) {
  pool.run(
      count,
      [](void* context, int64_t begin, int64_t end) {
        for (int64_t index = begin; index < end; ++index) (*static_cast<const F*>(context))(index);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace DIFNET_ISA
}  // namespace difnet
