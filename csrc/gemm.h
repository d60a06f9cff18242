// The two small matrix products of a tile. Tiles have an edge of kEdge nodes, a multiple of every register block.
#pragma once

#include <cstdint>

#include "simd.h"

namespace difnet {
inline namespace DIFNET_ISA {

constexpr int kEdge = 96;

// Register blocks by vector width: the accumulators of a block and what feeds them fit the registers.
template <class T, int W>
struct Blocks {
  static constexpr bool many_registers = W * sizeof(T) == 64;  // AVX-512 has 32
  static constexpr int rows = many_registers ? 12 : W * sizeof(T) == 32 ? 6 : 4;
  static constexpr int panel = 2 * W;  // columns of a packed panel
};

// visit(i, j, vector) for every vector of C (rows, columns) = A B, where A is (rows, depth) with row stride lda, and B is
// packed in panels of 2 W columns: (columns / (2 W), depth, 2 W). Rows and columns are rounded up to whole blocks.
template <class T, int W, class Visit>
inline void product(
    const T* a, int64_t lda, const T* packed_b, int64_t depth, int rows, int columns, const Visit& visit) {
  using S = Simd<T, W>;
  constexpr int R = Blocks<T, W>::rows, P = Blocks<T, W>::panel;
  for (int j = 0; j < columns; j += P, packed_b += depth * P) {
    for (int i = 0; i < rows; i += R) {
      typename S::Vector sum[R][2] = {};
      const T *left = a + i * lda, *right = packed_b;
      for (int64_t m = 0; m < depth; ++m, ++left, right += P) {
        const auto first = S::load(right), second = S::load(right + W);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          const auto factor = S::broadcast(left[r * lda]);
          sum[r][0] += factor * first;
          sum[r][1] += factor * second;
        }
      }
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        visit(i + r, j, sum[r][0]);
        visit(i + r, j + W, sum[r][1]);
      }
    }
  }
}

// C (rows, N vectors) += X V over `depth`, where element (i, m) of X is x[i * row + m * step], V is (depth, ldv).
template <class T, int W, int R, int N>
inline void add_block(
    const T* x, int64_t row, int64_t step, const T* v, int64_t ldv, int depth, T* c, int64_t ldc) {
  using S = Simd<T, W>;
  // From zero, and one addition to C at the end: terms of a far tile are small beside what C holds already.
  typename S::Vector sum[R][N] = {};
  for (int m = 0; m < depth; ++m, v += ldv, x += step) {
    typename S::Vector value[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) value[n] = S::load(v + n * W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto factor = S::broadcast(x[r * row]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[r][n] += factor * value[n];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      T* at = c + r * ldc + n * W;
      S::store(at, S::load(at) + sum[r][n]);
    }
}

// The same for any number of columns that is a multiple of W; rows are rounded up to whole blocks.
template <class T, int W>
inline void add_product(
    const T* x, int64_t row, int64_t step, const T* v, int64_t ldv, int depth, int rows, T* c, int64_t ldc,
    int64_t columns) {
  constexpr int R = Blocks<T, W>::rows;
  constexpr int narrow = R == 12 ? 8 : R == 6 ? 4 : 3;  // rows of a block that is 3 vectors wide
  int64_t n = 0, vectors = columns / W;
  while (n < vectors) {
    const T* from = v + n * W;
    T* to = c + n * W;
    if ((vectors - n) % 2 == 1 && vectors - n >= 3) {
      for (int i = 0; i < rows; i += narrow)
        add_block<T, W, narrow, 3>(x + i * row, row, step, from, ldv, depth, to + i * ldc, ldc);
      n += 3;
    } else if (vectors - n >= 2) {
      for (int i = 0; i < rows; i += R)
        add_block<T, W, R, 2>(x + i * row, row, step, from, ldv, depth, to + i * ldc, ldc);
      n += 2;
    } else {
      for (int i = 0; i < rows; i += R)
        add_block<T, W, R, 1>(x + i * row, row, step, from, ldv, depth, to + i * ldc, ldc);
      n += 1;
    }
  }
}

}  // namespace DIFNET_ISA
}  // namespace difnet
