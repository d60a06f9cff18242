// Rounding to bfloat16. Instructions that multiply bfloat16 numbers read pairs of neighbours along the summed axis. In
// a packed operand, the two numbers of a pair are adjacent.
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

// Two vectors of 16 numbers, rounded to bfloat16.
struct RoundedRows {
  typedef uint16_t Halves __attribute__((vector_size(64), may_alias));
  Halves rows;   // the first vector, then the second
  Halves pairs;  // alternately a number of the first vector and one of the second
};

#if DIFNET_HAS_AVX512_BF16
inline RoundedRows round_rows(__m512 first, __m512 second) {
  alignas(64) static constexpr uint16_t kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i rows = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  const __m512i pairs = _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), rows);
  return {(RoundedRows::Halves)rows, (RoundedRows::Halves)pairs};
}
#else
inline RoundedRows round_rows(Vec<Simd<float, 16>> first, Vec<Simd<float, 16>> second) {
  RoundedRows result;
  for (int lane = 0; lane < 16; ++lane) {
    result.rows[lane] = result.pairs[2 * lane] = to_bfloat16(first[lane]);
    result.rows[16 + lane] = result.pairs[2 * lane + 1] = to_bfloat16(second[lane]);
  }
  return result;
}
#endif

// 16 bfloat16 numbers as float32.
inline Vec<Simd<float, 16>> PromoteTo(Simd<float, 16>, const uint16_t* from) {
  typedef uint16_t Half __attribute__((vector_size(32), may_alias));
  typedef uint32_t Wide __attribute__((vector_size(64), may_alias));
  Half half;
  std::memcpy(&half, from, sizeof half);
  const Wide bits = __builtin_convertvector(half, Wide) << 16;
  Vec<Simd<float, 16>> value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
