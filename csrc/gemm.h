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
  static constexpr bool kHalfIsCheap = W * sizeof(T) == 64;
  using Wide = typename Simd<T, W>::Vector;
  using Narrow = typename Simd<T, W / 2>::Vector;
  static Wide load(const T* from) { return Simd<T, W>::load(from); }
  static Narrow load_half(const T* from) { return Simd<T, W / 2>::load(from); }
  static Wide broadcast(const T* value) { return Simd<T, W>::broadcast(*value); }
  static Narrow broadcast_half(const T* value) { return Simd<T, W / 2>::broadcast(*value); }
  template <class Vector>
  static Vector add(Vector sum, Vector x, Vector y) {
    return sum + x * y;
  }
};

#if defined(DIFNET_HAS_AVX512_BF16)
// Products of pairs by vdpbf16ps: twice the rate of multiply-adds in float32.
struct DotBf16 {
  using Number = float;
  using Element = uint32_t;
  static constexpr int kWidth = 16, kPair = 2;
  static constexpr bool kHalfIsCheap = false;
  static __m512bh load(const uint32_t* from) { return (__m512bh)_mm512_loadu_si512(from); }
  static __m256bh load_half(const uint32_t* from) { return (__m256bh)_mm256_loadu_si256((const __m256i*)from); }
  // As a float, which is broadcast from memory; an integer would take the way through a general register.
  static __m512bh broadcast(const uint32_t* value) { return (__m512bh)_mm512_set1_ps(bits(value)); }
  static __m256bh broadcast_half(const uint32_t* value) { return (__m256bh)_mm256_set1_ps(bits(value)); }
  static Simd<float, 16>::Vector add(Simd<float, 16>::Vector sum, __m512bh x, __m512bh y) {
    return (Simd<float, 16>::Vector)_mm512_dpbf16_ps((__m512)sum, x, y);
  }
  static Simd<float, 8>::Vector add(Simd<float, 8>::Vector sum, __m256bh x, __m256bh y) {
    return (Simd<float, 8>::Vector)_mm256_dpbf16_ps((__m256)sum, x, y);
  }

 private:
  static float bits(const uint32_t* from) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
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
  // Rows and columns of a block of a product, and columns of a tile that are computed at a time.
  static constexpr int kRows = kManyRegisters ? 8 : 4, kPanel = 3 * W, kStrip = kPanel;
  // Columns of a sum are padded to vectors, or to half a vector where that is cheaper than a whole one.
  static constexpr int kColumns = D::kHalfIsCheap ? W / 2 : W;
  static constexpr bool kLeftByRow = false;  // left operands are read from where right ones lie
  static constexpr int kDepth = kPair;  // numbers that are summed at a time
  static constexpr int kLeftRows = 1;   // rows of a left operand are padded to a multiple of this

  // Held by a thread while it multiplies.
  struct Session {
    Session() {}
  };

  using S = Simd<Number, W>;
  using HalfS = Simd<Number, W / 2>;

  // visit(i, j, sums) for every block of kRows rows and kPanel columns of X Y^T, where X and Y hold an element for each
  // place along the depth and each of kEdge nodes. Rows and columns are rounded up to whole blocks.
  template <class Visit>
  static inline void product(
      const Element* x, int64_t, const Element* y, const Segment* segments, int count, int rows, int columns,
      const Visit& visit) {
    alignas(64) Number sums[kRows * kPanel];
    for (int j = 0; j < columns; j += kPanel)
      for (int i = 0; i < rows; i += kRows) {
        block<kRows, 3, false, false>(x + i, 1, kEdge, y + j, kEdge, segments, count, sums, kPanel);
        visit(i, j, static_cast<const Number*>(sums));
      }
  }

  // C (rows, columns) += X Y over `depth` elements. From zero, and one addition to C at the end: terms of a far tile
  // are small beside what C holds already. Columns are rounded up to kColumns.
  static inline void add(
      const Element* x, int64_t row, const Element* y, int64_t ldy, int64_t depth, int rows, Number* c, int64_t ldc,
      int64_t columns) {
    int64_t left = (columns + kColumns - 1) / kColumns * kColumns;
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
    constexpr int kShare = kManyRegisters ? 1 : 2;  // half the registers, half the rows
    const auto go = [&](auto add) { add(x, row, y, ldy, depth, rows, c, ldc); };
    if constexpr (kColumns < W) {
      if (half) {
        if (vectors == 0) return go(&add_rows<12, 0, true>);
        if (vectors == 1) return go(&add_rows<12, 1, true>);
        if (vectors == 2) return go(&add_rows<8, 2, true>);
        return go(&add_rows<6, 3, true>);
      }
    }
    if (vectors == 1) return go(&add_rows<12 / kShare, 1, false>);
    if (vectors == 2) return go(&add_rows<12 / kShare, 2, false>);
    if (vectors == 3) return go(&add_rows<8 / kShare, 3, false>);
    return go(&add_rows<6 / kShare, 4, false>);
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
    block<R, N, Half, true>(x, row, 1, y, ldy, &all, 1, c, ldc);
  }

  // A block of C, R rows and N vectors of columns and half a vector more if asked for: X Y, or that added to C. Element
  // (i, m) of X is x[i * row + m * step]; rows of Y have ldy elements. A function of its own, so that nothing else
  // takes registers from the sums.
  template <int R, int N, bool Half, bool Add>
  [[gnu::noinline]] static void block(
      const Element* x, int64_t row, int64_t step, const Element* y, int64_t ldy, const Segment* segments, int count,
      Number* c, int64_t ldc) {
    typename S::Vector sum[R][N + 1] = {};
    typename HalfS::Vector half[R] = {};
    for (int s = 0; s < count; ++s) {
      const Element *left = x + segments[s].left * step, *right = y + segments[s].right * ldy;
      for (int64_t m = 0; m < segments[s].depth; ++m, left += step, right += ldy) {
        decltype(D::load(right)) value[N + 1];
        decltype(D::load_half(right)) end;
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) value[n] = D::load(right + n * W);
        if constexpr (Half) end = D::load_half(right + N * W);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
          const auto factor = D::broadcast(left + r * row);
#pragma GCC unroll 4
          for (int n = 0; n < N; ++n) sum[r][n] = D::add(sum[r][n], factor, value[n]);
          if constexpr (Half) half[r] = D::add(half[r], D::broadcast_half(left + r * row), end);
        }
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r, c += ldc) {
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) S::store(c + n * W, Add ? S::load(c + n * W) + sum[r][n] : sum[r][n]);
      if constexpr (Half) HalfS::store(c + N * W, Add ? HalfS::load(c + N * W) + half[r] : half[r]);
    }
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
