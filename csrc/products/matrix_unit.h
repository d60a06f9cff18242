// Products on a unit that multiplies matrices of bfloat16 numbers: Intel's AMX. It has eight tile registers of 16 rows
// of 64 bytes.
#pragma once

#include "gemm.h"

namespace difnet {
inline namespace DIFNET_ISA {

// `Tiles` has the instructions zero, load, store and dot on numbered tile registers. A Session is an object of it.
template <class Tiles>
struct MatrixUnit {
  using Number = float;
  using Element = uint32_t;
  using Session = Tiles;
  static constexpr int kLanes = 16, kPack = 2;
  // Tile registers 0 to 3 accumulate 2 x 2 tiles of C, 4 and 5 hold X, 6 and 7 hold Y. A strip has all columns of two
  // blocks' tile, so that accumulators in memory are loaded and stored less often.
  static constexpr int kMR = 32, kNR = 32, kStrip = kBlockSize;
  static constexpr int kDepthMultiple = 32, kRowMultiple = 16, kColumnMultiple = 16;
  static constexpr bool kLeftNodeMajor = true;

  // As VectorUnit::multiply_transposed, but X holds `depth` elements of each node, node by node.
  template <class Visit>
  static inline void multiply_transposed(
      const Element* x, int64_t depth, const Element* y, const DepthRange* ranges, int count, int rows, int columns,
      const Visit& visit) {
    alignas(64) float c[kMR * kNR];
    for (int j = 0; j < columns; j += kNR)
      for (int i = 0; i < rows; i += kMR) {
        Tiles::template zero<0>(), Tiles::template zero<1>(), Tiles::template zero<2>(), Tiles::template zero<3>();
        for (int n = 0; n < count; ++n)
          add_dots<true, true>(
              x + i * depth + ranges[n].x, depth, y + ranges[n].y * kBlockSize + j, kBlockSize, ranges[n].depth);
        store<true, true>(c, kNR);
        visit(i, j, static_cast<const float*>(c));
      }
  }

  // C (rows, columns) += X Y over `depth` elements, all three rounded up to whole tile registers. Products are added to
  // C directly: a sum from zero would take another pass over C, and the digits that this loses are small beside the
  // rounding of operands to bfloat16.
  static inline void multiply_accumulate(
      const Element* x, int64_t ldx, const Element* y, int64_t ldy, int64_t depth, int rows, float* c, int64_t ldc,
      int64_t columns) {
    for (int i = 0; i < rows; i += 32)
      for (int64_t j = 0; j < columns; j += 32) {
        const bool tall = rows - i > 16, wide = columns - j > 16;
        const auto accumulate = tall && wide ? accumulate_micro_tile<true, true>
                                : tall       ? accumulate_micro_tile<true, false>
                                : wide       ? accumulate_micro_tile<false, true>
                                             : accumulate_micro_tile<false, false>;
        accumulate(x + i * ldx, ldx, y + j, ldy, depth, c + i * ldc + j, ldc);
      }
  }

 private:
  // A micro-tile is two tile registers high if Tall and two wide if Wide, else one.
  template <bool Tall, bool Wide>
  static void accumulate_micro_tile(
      const Element* x, int64_t ldx, const Element* y, int64_t ldy, int64_t depth, float* c, int64_t ldc) {
    const int64_t c_bytes = ldc * sizeof(float);
    Tiles::template load<0>(c, c_bytes);
    if constexpr (Wide) Tiles::template load<1>(c + 16, c_bytes);
    if constexpr (Tall) Tiles::template load<2>(c + 16 * ldc, c_bytes);
    if constexpr (Tall && Wide) Tiles::template load<3>(c + 16 * ldc + 16, c_bytes);
    add_dots<Tall, Wide>(x, ldx, y, ldy, depth);
    store<Tall, Wide>(c, ldc);
  }

  template <bool Tall, bool Wide>
  static void add_dots(const Element* x, int64_t ldx, const Element* y, int64_t ldy, int64_t depth) {
    const int64_t x_bytes = ldx * sizeof(Element), y_bytes = ldy * sizeof(Element);
    for (int64_t m = 0; m < depth; m += 16, x += 16, y += 16 * ldy) {
      Tiles::template load<4>(x, x_bytes);
      Tiles::template load<6>(y, y_bytes);
      Tiles::template dot<0, 4, 6>();
      if constexpr (Wide) {
        Tiles::template load<7>(y + 16, y_bytes);
        Tiles::template dot<1, 4, 7>();
      }
      if constexpr (Tall) {
        Tiles::template load<5>(x + 16 * ldx, x_bytes);
        Tiles::template dot<2, 5, 6>();
      }
      if constexpr (Tall && Wide) Tiles::template dot<3, 5, 7>();
    }
  }

  template <bool Tall, bool Wide>
  static void store(float* c, int64_t ldc) {
    const int64_t c_bytes = ldc * sizeof(float);
    Tiles::template store<0>(c, c_bytes);
    if constexpr (Wide) Tiles::template store<1>(c + 16, c_bytes);
    if constexpr (Tall) Tiles::template store<2>(c + 16 * ldc, c_bytes);
    if constexpr (Tall && Wide) Tiles::template store<3>(c + 16 * ldc + 16, c_bytes);
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
