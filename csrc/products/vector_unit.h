// Products whose accumulators are vector registers.
#pragma once

#include "gemm.h"

namespace difnet {
inline namespace DIFNET_ISA {

// How a vector of elements of X is multiplied by a vector of elements of Y and added to a vector of sums, lane by lane.
template <class T, int N>
struct MulAddLanes {
  using Number = T;
  using Element = T;
  using D = Simd<T, N>;
  using HalfD = Simd<T, N / 2>;
  static constexpr int kPack = 1;
  // Whether the last columns may be half a vector, where a whole one would be mostly padding. AVX-512 has instructions
  // for half its vectors that are as fast.
  static constexpr bool kHalfVectors = N * sizeof(T) == 64;

  static Vec<D> load(const T* from) { return LoadU(D(), from); }
  static Vec<HalfD> load_half(const T* from) { return LoadU(HalfD(), from); }
  static Vec<D> broadcast(const T* from) { return Set(D(), *from); }
  // The first half of a vector. It needs no instruction, while another broadcast would need another load.
  static Vec<HalfD> first_half(Vec<D> x) {
    if constexpr (N == 16)
      return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7);
    else if constexpr (N == 8)
      return __builtin_shufflevector(x, x, 0, 1, 2, 3);
    else
      return {};
  }
  template <class V>
  static V multiply_add(V x, V y, V sum) {
    return MulAdd(x, y, sum);
  }
};

#if DIFNET_HAS_AVX512_BF16
// Pairs of bfloat16 numbers by vdpbf16ps, at twice the rate of multiply-adds in float32.
struct DotBf16Lanes {
  using Number = float;
  using Element = uint32_t;
  using D = Simd<float, 16>;
  using HalfD = Simd<float, 8>;
  static constexpr int kPack = 2;
  static constexpr bool kHalfVectors = false;

  static __m512bh load(const uint32_t* from) { return (__m512bh)_mm512_loadu_si512(from); }
  static __m256bh load_half(const uint32_t* from) { return (__m256bh)_mm256_loadu_si256((const __m256i*)from); }
  // The element is read as a float, because a float is broadcast from memory by the instruction that uses it. An
  // integer would pass through a general register first.
  static __m512bh broadcast(const uint32_t* from) { return (__m512bh)_mm512_set1_ps(as_float(from)); }
  static __m256bh first_half(__m512bh x) { return (__m256bh)_mm512_castps512_ps256((__m512)x); }
  static __m512 multiply_add(__m512bh x, __m512bh y, __m512 sum) { return _mm512_dpbf16_ps(sum, x, y); }
  static __m256 multiply_add(__m256bh x, __m256bh y, __m256 sum) { return _mm256_dpbf16_ps(sum, x, y); }

 private:
  static float as_float(const uint32_t* from) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
};
#endif

template <class Lanes>
struct VectorUnit {
  using Number = typename Lanes::Number;
  using Element = typename Lanes::Element;
  static constexpr int kLanes = Lanes::D::kLanes, kPack = Lanes::kPack;
  // Registers of multiply_transposed:
  //   of 32 (AVX-512): 8 x 3 accumulators, 3 vectors of Y, 1 broadcast of X: 28
  //   of 16:           6 x 2 accumulators, 2 vectors of Y, 1 broadcast of X: 15
  static constexpr bool kHas32Registers = kLanes * sizeof(Number) == 64;
  static constexpr int kMR = kHas32Registers ? 8 : 6, kNR = (kHas32Registers ? 3 : 2) * kLanes;
  // Sums over the columns of a strip are added to accumulators in memory once for each strip. With 16 registers a strip
  // is a whole tile, so that this is rare. With AVX-512 a strip is narrow: it is faster if its exponentials stay in L1.
  static constexpr int kStrip = kHas32Registers ? kNR : kBlockSize;
  static constexpr int kColumnMultiple = Lanes::kHalfVectors ? kLanes / 2 : kLanes;
  static constexpr bool kLeftNodeMajor = false;
  static constexpr int kDepthMultiple = kPack, kRowMultiple = 1;

  struct Session {
    Session() {}  // Without it, compilers would report a session that only marks a scope as an unused variable.
  };

  // visit(i, j, C) for every micro-tile of C = X Y^T, (rows, columns) rounded up to whole micro-tiles. X and Y are
  // stored depth by depth: one element of each of kBlockSize nodes for each index of the summed axis.
  template <class Visit>
  static inline void multiply_transposed(
      const Element* x, int64_t, const Element* y, const DepthRange* ranges, int count, int rows, int columns,
      const Visit& visit) {
    alignas(64) Number c[kMR * kNR];
    for (int j = 0; j < columns; j += kNR)
      for (int i = 0; i < rows; i += kMR) {
        micro_kernel<kMR, kNR / kLanes, false, false>(x + i, 1, kBlockSize, y + j, kBlockSize, ranges, count, c, kNR);
        visit(i, j, static_cast<const Number*>(c));
      }
  }

  // C (rows, columns) += X Y over `depth` elements, columns rounded up to kColumnMultiple. Products are added up from
  // zero, and their sum is added to C. Added to C one by one, products that are small beside C would lose digits.
  static inline void multiply_accumulate(
      const Element* x, int64_t ldx, const Element* y, int64_t ldy, int64_t depth, int rows, Number* c, int64_t ldc,
      int64_t columns) {
    int64_t remaining = (columns + kColumnMultiple - 1) / kColumnMultiple * kColumnMultiple;
    while (remaining > 0) {
      // Four vectors of AVX-512 at a time, or two of others. Three are taken where one would be left, because with one
      // vector a micro-tile has half as many accumulators. Half a vector is computed together with up to two vectors.
      constexpr int kMost = kHas32Registers ? 4 : 2;
      const int64_t whole = remaining / kLanes;
      const bool with_half = remaining % kLanes != 0, half = with_half && whole <= 2;
      int vectors = static_cast<int>(std::min<int64_t>(whole, kMost));
      if (!with_half && whole - vectors == 1) vectors = 3;
      if (with_half && whole == vectors && !half) vectors = 2;
      accumulate_columns(vectors, half, x, ldx, y, ldy, depth, rows, c, ldc);
      const int done = vectors * kLanes + (half ? kLanes / 2 : 0);
      remaining -= done, y += done, c += done;
    }
  }

 private:
  // Computes `vectors` vectors of columns, and half a vector if `half`. With two or more of them, micro-tiles have as
  // many rows as accumulators fit the registers: they take 24 of 32 or 12 of 16. With one, they take half as many. The
  // other registers hold vectors of Y and the broadcast of X.
  static void accumulate_columns(
      int vectors, bool half, const Element* x, int64_t ldx, const Element* y, int64_t ldy, int64_t depth, int rows,
      Number* c, int64_t ldc) {
    constexpr int kShare = kHas32Registers ? 1 : 2;
    const auto run = [&](auto accumulate) { accumulate(x, ldx, y, ldy, depth, rows, c, ldc); };
    if constexpr (Lanes::kHalfVectors) {
      if (half) {
        if (vectors == 0) return run(&accumulate_rows<12, 0, true>);
        if (vectors == 1) return run(&accumulate_rows<12, 1, true>);
        return run(&accumulate_rows<8, 2, true>);
      }
    }
    if (vectors == 1) return run(&accumulate_rows<12 / kShare, 1, false>);
    if (vectors == 2) return run(&accumulate_rows<12 / kShare, 2, false>);
    if constexpr (kHas32Registers)
      if (vectors == 4) return run(&accumulate_rows<6, 4, false>);
    return run(&accumulate_rows<8 / kShare, 3, false>);
  }

  // All rows, in micro-tiles of at most MaxRows that are as even as possible.
  template <int MaxRows, int Vectors, bool Half>
  static void accumulate_rows(
      const Element* x, int64_t ldx, const Element* y, int64_t ldy, int64_t depth, int rows, Number* c, int64_t ldc) {
    for (int remaining = rows; remaining > 0;) {
      const int micro_tiles = (remaining + MaxRows - 1) / MaxRows, now = (remaining + micro_tiles - 1) / micro_tiles;
      accumulate_micro_tile<MaxRows, Vectors, Half>(now, x, ldx, y, ldy, depth, c, ldc);
      x += now * ldx, c += now * ldc, remaining -= now;
    }
  }

  // Calls the micro-kernel for `rows` rows, at most Rows.
  template <int Rows, int Vectors, bool Half>
  static void accumulate_micro_tile(
      int rows, const Element* x, int64_t ldx, const Element* y, int64_t ldy, int64_t depth, Number* c, int64_t ldc) {
    if constexpr (Rows > 1)
      if (rows < Rows) return accumulate_micro_tile<Rows - 1, Vectors, Half>(rows, x, ldx, y, ldy, depth, c, ldc);
    const DepthRange all{0, 0, depth};
    micro_kernel<Rows, Vectors, Half, true>(x, ldx, 1, y, ldy, &all, 1, c, ldc);
  }

  // A micro-tile of C, MR rows and Vectors vectors of columns, and half a vector if Half: C = X Y, or C += X Y if
  // Accumulate. Element (i, m) of X is x[i * row_stride + m * depth_stride]; Y has rows of ldy elements. It is not
  // inlined, because constants of the caller would occupy registers, and accumulators would be spilled to memory in the
  // innermost loop.
  template <int MR, int Vectors, bool Half, bool Accumulate>
  [[gnu::noinline]] static void micro_kernel(
      const Element* x, int64_t row_stride, int64_t depth_stride, const Element* y, int64_t ldy,
      const DepthRange* ranges, int count, Number* c, int64_t ldc) {
    constexpr typename Lanes::D d;
    constexpr typename Lanes::HalfD half_d;
    Vec<typename Lanes::D> sums[MR][Vectors + 1] = {};
    Vec<typename Lanes::HalfD> half_sums[MR] = {};
    for (int range = 0; range < count; ++range) {
      const Element *x_m = x + ranges[range].x * depth_stride, *y_m = y + ranges[range].y * ldy;
      for (int64_t m = 0; m < ranges[range].depth; ++m, x_m += depth_stride, y_m += ldy) {
        decltype(Lanes::load(y)) y_vectors[Vectors + 1];
        decltype(Lanes::load_half(y)) y_half;
#pragma GCC unroll 4
        for (int n = 0; n < Vectors; ++n) y_vectors[n] = Lanes::load(y_m + n * kLanes);
        if constexpr (Half) y_half = Lanes::load_half(y_m + Vectors * kLanes);
#pragma GCC unroll 12
        for (int i = 0; i < MR; ++i) {
          const auto x_im = Lanes::broadcast(x_m + i * row_stride);
#pragma GCC unroll 4
          for (int n = 0; n < Vectors; ++n) sums[i][n] = Lanes::multiply_add(x_im, y_vectors[n], sums[i][n]);
          if constexpr (Half) half_sums[i] = Lanes::multiply_add(Lanes::first_half(x_im), y_half, half_sums[i]);
        }
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < MR; ++i, c += ldc) {
#pragma GCC unroll 4
      for (int n = 0; n < Vectors; ++n) {
        Number* to = c + n * kLanes;
        StoreU(Accumulate ? LoadU(d, to) + sums[i][n] : sums[i][n], d, to);
      }
      if constexpr (Half) {
        Number* to = c + Vectors * kLanes;
        StoreU(Accumulate ? LoadU(half_d, to) + half_sums[i] : half_sums[i], half_d, to);
      }
    }
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
