// Small matrix products whose accumulators are registers. Operands are made of elements: numbers, or pairs of bfloat16
// numbers that lie side by side along the summed axis.
#pragma once

#include "bfloat16.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Tiles have an edge of kEdge nodes, a multiple of every register block.
constexpr int kEdge = 96;

// Part of the summed axis of a product: where it starts in the left and in the right operand, and its length.
struct Segment {
  int64_t left, right, depth;
};

template <class T, int W>
struct MultiplyAdd {
  using Number = T;
  using Element = T;
  static constexpr int kWidth = W, kPair = 1;
  template <int L>
  using Vector = typename Simd<T, L>::Vector;
  template <int L>
  static Vector<L> load(const T* from) {
    return Simd<T, L>::load(from);
  }
  template <int L>
  static Vector<L> broadcast(T value) {
    return Simd<T, L>::broadcast(value);
  }
  template <int L>
  static Vector<L> add(Vector<L> sum, Vector<L> x, Vector<L> y) {
    return sum + x * y;
  }
};

#if defined(DIFNET_HAS_AVX512_BF16)
// Products of pairs by vdpbf16ps: twice the rate of multiply-adds in float32.
struct DotBf16 {
  using Number = float;
  using Element = uint32_t;
  static constexpr int kWidth = 16, kPair = 2;
  template <int L>
  using Pairs = typename Simd<uint32_t, L>::Vector;
  template <int L>
  static Pairs<L> load(const uint32_t* from) {
    return Simd<uint32_t, L>::load(from);
  }
  template <int L>
  static Pairs<L> broadcast(uint32_t value) {
    return Simd<uint32_t, L>::broadcast(value);
  }
  template <int L>
  static typename Simd<float, L>::Vector add(typename Simd<float, L>::Vector sum, Pairs<L> x, Pairs<L> y) {
    if constexpr (L == 16)
      return (typename Simd<float, L>::Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
    else
      return (typename Simd<float, L>::Vector)_mm256_dpbf16_ps((__m256)sum, (__m256bh)x, (__m256bh)y);
  }
};
#endif

// Products with the element-wise arithmetic D.
template <class D>
struct Registers {
  using Number = typename D::Number;
  using Element = typename D::Element;
  static constexpr int W = D::kWidth, kWidth = W, kPair = D::kPair;
  static constexpr bool kManyRegisters = W * sizeof(Number) == 64;  // AVX-512 has 32
  // A register block of the widest product, and with it the columns that are computed at a time.
  static constexpr int kRows = kManyRegisters ? 8 : 4, kStrip = 3 * W;
  // Columns of a sum are padded to vectors; half a vector costs half where vectors are split.
  static constexpr int kColumns = kManyRegisters ? W / 2 : W;
  static constexpr bool kLeftByRow = false;  // left operands are read from where right ones lie
  static constexpr int kDepth = kPair;  // numbers that are summed at a time
  static constexpr int kLeftRows = 1;   // rows of a left operand are padded to a multiple of this

  template <int L>
  using Vector = typename Simd<Number, L>::Vector;

  // Sums of a block of R rows and N vectors of columns, and half a vector more if asked for: element (i, m) of X is
  // x[i * row + m * step], Y has rows of ldy elements. done(sums, halves) gets them.
  template <int R, int N, bool Half, class Done>
  static inline void block(
      const Element* x, int64_t row, int64_t step, const Element* y, int64_t ldy, const Segment* segments, int count,
      const Done& done) {
    Vector<W> sum[R][N + 1] = {};
    Vector<W / 2> half[R] = {};
    for (int s = 0; s < count; ++s) {
      const Element *left = x + segments[s].left * step, *right = y + segments[s].right * ldy;
      for (int64_t m = 0; m < segments[s].depth; ++m, left += step, right += ldy) {
        decltype(D::template load<W>(right)) value[N + 1];
        decltype(D::template load<W / 2>(right)) end;
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) value[n] = D::template load<W>(right + n * W);
        if constexpr (Half) end = D::template load<W / 2>(right + N * W);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          const auto factor = D::template broadcast<W>(left[r * row]);
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) sum[r][n] = D::template add<W>(sum[r][n], factor, value[n]);
          if constexpr (Half)
            half[r] = D::template add<W / 2>(half[r], D::template broadcast<W / 2>(left[r * row]), end);
        }
      }
    }
    done(sum, half);
  }

  // visit(i, j, row i, row i + 1) for every vector of two rows of X Y^T, where X and Y hold an element for each place
  // along the depth and each of kEdge nodes. Rows and columns are rounded up to whole blocks.
  template <class Visit>
  static inline void product(
      const Element* x, int64_t, const Element* y, const Segment* segments, int count, int rows, int columns,
      const Visit& visit) {
    for (int j = 0; j < columns; j += kStrip)
      for (int i = 0; i < rows; i += kRows)
        block<kRows, 3, false>(
            x + i, 1, kEdge, y + j, kEdge, segments, count, [&](const auto& sum, const auto&) __attribute__((
                always_inline)) {
#pragma GCC unroll 4
              for (int r = 0; r < kRows; r += 2)
#pragma GCC unroll 3
                for (int n = 0; n < 3; ++n) visit(i + r, j + n * W, sum[r][n], sum[r + 1][n]);
            });
  }

  // C (rows, columns) += X Y over `depth` elements. From zero, and one addition to C at the end: terms of a far tile
  // are small beside what C holds already. Columns are rounded up to kColumns.
  static inline void add(
      const Element* x, int64_t row, const Element* y, int64_t ldy, int64_t depth, int rows, Number* c, int64_t ldc,
      int64_t columns) {
    constexpr int kHalf = kManyRegisters ? W / 2 : W;
    int64_t left = (columns + kHalf - 1) / kHalf * kHalf;
    while (left > 0) {
      const bool half = left % W != 0 && left < 4 * W;
      const int vectors = static_cast<int>(left < 4 * W ? left / W : left == 5 * W ? 3 : 4);
      add_columns(vectors, half, x, row, y, ldy, depth, rows, c, ldc);
      const int done = vectors * W + (half ? W / 2 : 0);
      left -= done, y += done, c += done;
    }
  }

 private:
  static void add_columns(
      int vectors, bool half, const Element* x, int64_t row, const Element* y, int64_t ldy, int64_t depth, int rows,
      Number* c, int64_t ldc) {
    constexpr int S = kManyRegisters ? 1 : 2;  // half the registers, half the rows
    const auto go = [&](auto add) { add(x, row, y, ldy, depth, rows, c, ldc); };
    if constexpr (kManyRegisters) {
      if (half) {
        if (vectors == 0) return go(&add_rows<12, 0, true>);
        if (vectors == 1) return go(&add_rows<12, 1, true>);
        if (vectors == 2) return go(&add_rows<8, 2, true>);
        return go(&add_rows<6, 3, true>);
      }
    }
    if (vectors == 1) return go(&add_rows<12 / S, 1, false>);
    if (vectors == 2) return go(&add_rows<12 / S, 2, false>);
    if (vectors == 3) return go(&add_rows<8 / S, 3, false>);
    return go(&add_rows<6 / S, 4, false>);
  }

  // Rows in blocks of R at most, as even as can be.
  template <int R, int N, bool Half>
  static void add_rows(
      const Element* x, int64_t row, const Element* y, int64_t ldy, int64_t depth, int rows, Number* c, int64_t ldc) {
    for (int left = rows; left > 0;) {
      const int blocks = (left + R - 1) / R, now = (left + blocks - 1) / blocks;
      add_some<R, N, Half>(now, x, row, y, ldy, depth, c, ldc);
      x += now * row, c += now * ldc, left -= now;
    }
  }

  template <int R, int N, bool Half>
  static void add_some(
      int rows, const Element* x, int64_t row, const Element* y, int64_t ldy, int64_t depth, Number* c, int64_t ldc) {
    if constexpr (R > 1)
      if (rows < R) return add_some<R - 1, N, Half>(rows, x, row, y, ldy, depth, c, ldc);
    const Segment all{0, 0, depth};
    block<R, N, Half>(
        x, row, 1, y, ldy, &all, 1, [&](const auto& sum, const auto& half) __attribute__((always_inline)) {
#pragma GCC unroll 12
          for (int r = 0; r < R; ++r) {
            Number* at = c + r * ldc;
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n, at += W)
              Simd<Number, W>::store(at, Simd<Number, W>::load(at) + sum[r][n]);
            if constexpr (Half) Simd<Number, W / 2>::store(at, Simd<Number, W / 2>::load(at) + half[r]);
          }
        });
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
