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

// As load4, with every number rounded to its terms; not rounded if Terms is 0.
template <class Unit, int Terms, class Whole>
inline Vec<Double4> load4_rounded(const typename Unit::Number* row, int64_t n, int64_t count, Whole whole) {
  if constexpr (Unit::kPack == 1 || Terms == 0) return load4(row, n, count, whole);
  typename Unit::Number some[4] = {};
  for (int lane = 0; lane < std::min<int64_t>(4, count - n); ++lane)
    some[lane] = round_to_terms<Unit, Terms>(row[n + lane]);
  return load4(some, 0, 4);
}

// The inner product of x and y, with x rounded to terms, or not if Terms is 0.
template <class Unit, int Terms>
inline double dot(const typename Unit::Number* x, const typename Unit::Number* y, int64_t count) {
  const auto factors = [&](int64_t n, auto whole) {
    return Factors<1>{{load4_rounded<Unit, Terms>(x, n, count, whole)}, {load4(y, n, count, whole)}};
  };
  return dot_products<1>(count, factors)[0];
}

// put(i, row) for the rows of a transposed square of numbers. Vectors have 16 bytes: every instruction set interleaves
// such vectors in one instruction.
template <class T, int N, class Put>
inline void transpose_square(const T* from, int64_t stride, const Put& put) {
  constexpr Simd<T, N> d;
  Vec<Simd<T, N>> rows[N];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) rows[i] = LoadU(d, from + i * stride);
  if constexpr (N == 2) {
    put(0, __builtin_shufflevector(rows[0], rows[1], 0, 2));
    put(1, __builtin_shufflevector(rows[0], rows[1], 1, 3));
  } else {
    const auto low_02 = __builtin_shufflevector(rows[0], rows[2], 0, 4, 1, 5);
    const auto high_02 = __builtin_shufflevector(rows[0], rows[2], 2, 6, 3, 7);
    const auto low_13 = __builtin_shufflevector(rows[1], rows[3], 0, 4, 1, 5);
    const auto high_13 = __builtin_shufflevector(rows[1], rows[3], 2, 6, 3, 7);
    put(0, __builtin_shufflevector(low_02, low_13, 0, 4, 1, 5));
    put(1, __builtin_shufflevector(low_02, low_13, 2, 6, 3, 7));
    put(2, __builtin_shufflevector(high_02, high_13, 0, 4, 1, 5));
    put(3, __builtin_shufflevector(high_02, high_13, 2, 6, 3, 7));
  }
}

// Adds row c of `from`, which has kBlockSize numbers, to column c of `to`.
template <class T>
inline void add_transposed(const T* from, int64_t rows, T* to, int64_t stride) {
  constexpr int kSquare = 16 / sizeof(T);
  constexpr Simd<T, kSquare> d;
  int64_t c = 0;
  for (; c + kSquare <= rows; c += kSquare)
    for (int i = 0; i < kBlockSize; i += kSquare)
      transpose_square<T, kSquare>(from + c * kBlockSize + i, kBlockSize, [&](int row, Vec<Simd<T, kSquare>> numbers) {
        T* at = to + (i + row) * stride + c;
        StoreU(LoadU(d, at) + numbers, d, at);
      });
  for (; c < rows; ++c)
    for (int i = 0; i < kBlockSize; ++i) to[i * stride + c] += from[c * kBlockSize + i];
}

// Column c of `count` rows, at most kBlockSize, becomes row c of `to`, which is filled up with 0. Rows start `stride`
// numbers after each other. `to` is written a cache line at a time: stores of single numbers at a stride would wait for
// memory.
template <class T>
inline void transpose(const T* from, int64_t stride, int64_t columns, int count, T* to) {
  constexpr int kSquare = 16 / sizeof(T), kLine = 64 / sizeof(T);
  constexpr Simd<T, kSquare> d;
  static_assert(kBlockSize % kLine == 0, "the last line must reach to the end");
  for (int first = 0; first < kBlockSize; first += kLine) {
    const int end = std::min(first + kLine, count), whole = std::max(first, end / kSquare * kSquare);
    int64_t c = 0;
    for (; c + kSquare <= columns; c += kSquare)
      for (int i = first; i < whole; i += kSquare)
        transpose_square<T, kSquare>(from + i * stride + c, stride, [&](int row, Vec<Simd<T, kSquare>> numbers) {
          StoreU(numbers, d, to + (c + row) * kBlockSize + i);
        });
    // What is not part of a whole square: the last columns, the last rows, the padding.
    for (int64_t n = 0; n < columns; ++n) {
      for (int i = n < c ? whole : first; i < end; ++i) to[n * kBlockSize + i] = from[i * stride + n];
      for (int i = std::max(first, end); i < first + kLine; ++i) to[n * kBlockSize + i] = 0;
    }
  }
}

}  // namespace DIFNET_ISA
}  // namespace difnet
