// Strided reading and writing in any dtype, aligned memory, and a parallel loop.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>

#include "bfloat16.h"
#include "walk.h"

namespace difnet {
inline namespace DIFNET_ISA {

constexpr int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// float16 in plain code: compilers have no type for it everywhere, and only inputs and outputs pass here.
inline float from_float16(uint16_t half) {
  uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  if (bits >= 0x0f800000) {  // infinity or NaN
    bits |= 0x7f800000;
    std::memcpy(&value, &bits, sizeof value);
  } else {
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;  // exponents are counted from -15, not -127
  }
  return half & 0x8000 ? -value : value;
}

inline uint16_t to_float16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint16_t sign = bits >> 16 & 0x8000;
  const float size = std::abs(value);
  if (value != value) return sign | 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  if (size < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(size * 0x1p24f));
  bits = (bits & 0x7fffffff) - (112u << 23);
  return sign | static_cast<uint16_t>((bits + 0xfff + (bits >> 13 & 1)) >> 13);  // to the nearest, ties to even
}

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
      const auto* from = static_cast<const uint16_t*>(array.data) + start;
      for (int64_t c = 0; c < count; ++c) to[c] = from_float16(from[c * step]);
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
      for (int64_t c = 0; c < count; ++c)
        static_cast<uint16_t*>(data)[start + c] = to_float16(static_cast<float>(from[c]));
      break;
  }
}

// Numbers on a cache line's boundary, zeroed unless all that is read will have been written. Throws std::bad_alloc.
enum class Fill { zeros, nothing };

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t count, Fill fill = Fill::zeros)
      : data_(static_cast<T*>(allocate(count * sizeof(T)))), bytes_(count * sizeof(T)) {
    if (fill == Fill::zeros) std::memset(static_cast<void*>(data_), 0, bytes_);
#if defined(__SANITIZE_ADDRESS__)
    if (fill == Fill::nothing) std::memset(static_cast<void*>(data_), 0xff, bytes_);  // NaN in every type
#endif
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
