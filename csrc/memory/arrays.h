// Reading and writing rows of strided arrays of any type.
#pragma once

#include "../simd/bfloat16.h"
#include "../targets/targets.h"

namespace difnet {
inline namespace DIFNET_ISA {

// float16 numbers are converted bit by bit, because not every compiler has a type for them. Only inputs and outputs are
// converted.
inline float from_float16(uint16_t half) {
  uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  if (bits >= 0x0f800000) {  // infinity or NaN
    bits |= 0x7f800000;
    std::memcpy(&value, &bits, sizeof value);
  } else {
    std::memcpy(&value, &bits, sizeof value);
    value *= 0x1p112f;  // the exponent's bias is 15, not 127
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
  if (size < 0x1p-14f)  // subnormal
    return sign | static_cast<uint16_t>(std::nearbyint(size * 0x1p24f));
  bits = (bits & 0x7fffffff) - (112u << 23);
  return sign | static_cast<uint16_t>((bits + 0xfff + (bits >> 13 & 1)) >> 13);  // to the nearest, ties to even
}

// The first `count` numbers of row (b, i) of an array.
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

// Writes `count` numbers of the given type to a contiguous array, from index `start` on.
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

}  // namespace DIFNET_ISA
}  // namespace difnet
