// Rounding to bfloat16, and the packing of numbers in pairs, which is what products of bfloat16 numbers read.
#pragma once

#include "simd.h"

namespace difnet {
inline namespace DIFNET_ISA {

inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return 0x7fc0;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);  // to the nearest, ties to even
}

// Rounds two vectors of 16 numbers, rows of a tile, to bfloat16: `rows` holds the first and then the second,
// `pairs` the two numbers of each column side by side, the first in the low half.
struct Rounded {
  typedef uint16_t Halves __attribute__((vector_size(64), may_alias));
  Halves rows, pairs;
};

#if defined(DIFNET_HAS_AVX512_BF16)
inline Rounded round_rows(Simd<float, 16>::Vector first, Simd<float, 16>::Vector second) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
  alignas(64) static constexpr uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8,  24, 9,  25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return {(Rounded::Halves)both, (Rounded::Halves)_mm512_permutexvar_epi16(_mm512_load_si512(order), both)};
}
#else
inline Rounded round_rows(Simd<float, 16>::Vector first, Simd<float, 16>::Vector second) {
  Rounded result;
  for (int lane = 0; lane < 16; ++lane) {
    result.rows[lane] = result.pairs[2 * lane] = to_bfloat16(first[lane]);
    result.rows[16 + lane] = result.pairs[2 * lane + 1] = to_bfloat16(second[lane]);
  }
  return result;
}
#endif

// 16 numbers back in float32.
inline Simd<float, 16>::Vector widen(const uint16_t* from) {
  typedef uint16_t Half __attribute__((vector_size(32), may_alias));
  typedef uint32_t Wide __attribute__((vector_size(64), may_alias));
  Half half;
  std::memcpy(&half, from, sizeof half);
  const Wide bits = __builtin_convertvector(half, Wide) << 16;
  Simd<float, 16>::Vector value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
