// Operands as sums of bfloat16 terms. With Terms = 1 a number is rounded to bfloat16. With Terms = 2 it is the sum of
// two bfloat16 numbers, and a product is the sum of three products of terms: that of the two second terms is left out,
// because it is below the rounding error. Units whose kPack is 1 multiply numbers as they are.
#pragma once

#include "../simd/dot_products.h"
#include "gemm.h"

namespace difnet {
inline namespace DIFNET_ISA {

// The type of the numbers of which a packed operand consists.
template <class Unit>
using Stored = std::conditional_t<Unit::kPack == 1, typename Unit::Number, uint16_t>;

// How many numbers are split at a time, on the stack: a multiple of everything that operands are padded to.
constexpr int kChunk = 64;

// The terms of `count` numbers, at most kChunk: terms[t][c] is term t of number c, and 0 for c >= count.
template <int Terms>
inline void split(const float* from, int64_t count, uint16_t (&terms)[Terms][kChunk]) {
  alignas(64) float rest[kChunk] = {};
  if (count == kChunk)
    std::memcpy(rest, from, sizeof rest);  // a constant length, which is copied by vectors
  else
    std::copy_n(from, count, rest);
  for (int t = 0; t < Terms; ++t)
    for (int c = 0; c < kChunk; ++c) {
      terms[t][c] = to_bfloat16(rest[c]);
      const float error = rest[c] - from_bfloat16(terms[t][c]);
      rest[c] = std::abs(error) < std::numeric_limits<float>::infinity() ? error : 0;  // inf - inf is NaN
    }
}

// The sum of a number's terms, which products use instead of the number.
template <class Unit, int Terms>
inline typename Unit::Number round_to_terms(typename Unit::Number value) {
  if constexpr (Unit::kPack == 1) {
    return value;
  } else {
    float sum = 0;
    for (int t = 0; t < Terms; ++t) sum += from_bfloat16(to_bfloat16(value - sum));
    return sum;
  }
}

// As load4, with every number rounded to its terms.
template <class Unit, int Terms>
inline Vec<Double4> load4_rounded(const typename Unit::Number* row, int64_t n, int64_t count) {
  if constexpr (Unit::kPack == 1) return load4(row, n, count);
  typename Unit::Number some[4] = {};
  for (int lane = 0; lane < std::min<int64_t>(4, count - n); ++lane)
    some[lane] = round_to_terms<Unit, Terms>(row[n + lane]);
  return load4(some, 0, 4);
}

// The inner product of x and y, with x rounded to terms.
template <class Unit, int Terms>
inline double dot(const typename Unit::Number* x, const typename Unit::Number* y, int64_t count) {
  const auto factors = [&](int64_t n) {
    return Factors<1>{{load4_rounded<Unit, Terms>(x, n, count)}, {load4(y, n, count)}};
  };
  return dot_products<1>(count, factors)[0];
}

// Column c of `count` rows, at most kBlockSize, becomes row c of `to`, which is filled up with 0. It is written by
// vectors, a cache line at a time: stores of single numbers at a stride would wait for memory.
template <class T>
inline void transpose(const T* from, int64_t columns, int count, T* to) {
  constexpr Simd<T, 32 / sizeof(T)> d;
  constexpr int kLanes = d.kLanes;
  static_assert(kBlockSize % (2 * kLanes) == 0, "the last vectors must reach to the end");
  for (int first = 0; first < kBlockSize; first += 2 * kLanes)
    for (int64_t c = 0; c < columns; ++c)
#pragma GCC unroll 2
      for (int i = first; i < first + 2 * kLanes; i += kLanes) {
        auto numbers = Zero(d);
        if (i + kLanes <= count) {
#pragma GCC unroll 8
          for (int lane = 0; lane < kLanes; ++lane) numbers[lane] = from[(i + lane) * columns + c];
        } else {
          for (int lane = 0; i + lane < count; ++lane) numbers[lane] = from[(i + lane) * columns + c];
        }
        StoreU(numbers, d, to + c * kBlockSize + i);
      }
}

}  // namespace DIFNET_ISA
}  // namespace difnet
