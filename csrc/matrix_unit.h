// Products on a unit that multiplies tiles of bfloat16 numbers: Intel's AMX, or a model of it in plain code, with which
// the same data flow is tested where there is no AMX.
#pragma once

#include "kernels.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Eight tiles of 16 rows of 64 bytes. They are the calling thread's for as long as the object lives.
class AmxTiles {
 public:
  AmxTiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } const configuration;
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;

  template <int Tile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
  }
  template <int Tile>
  static void load(const void* from, int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(Tile) : "memory");
  }
  template <int Tile>
  static void store(void* to, int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(Tile) : "memory");
  }
  // C += A B: A holds rows of 16 pairs, B for each pair a row of 16 columns, C rows of 16 float32 numbers.
  template <int C, int A, int B>
  static void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

// The same in plain code.
class ModelTiles {
 public:
  ModelTiles() {}  // not trivial: the object is there for what its life means
  ~ModelTiles() {}

  template <int Tile>
  static void zero() {
    std::memset(tiles_[Tile], 0, sizeof tiles_[Tile]);
  }
  template <int Tile>
  static void load(const void* from, int64_t row_bytes) {
    for (int row = 0; row < 16; ++row)
      std::memcpy(tiles_[Tile][row], static_cast<const char*>(from) + row * row_bytes, 64);
  }
  template <int Tile>
  static void store(void* to, int64_t row_bytes) {
    for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(to) + row * row_bytes, tiles_[Tile][row], 64);
  }
  template <int C, int A, int B>
  static void dot() {
    for (int row = 0; row < 16; ++row)
      for (int pair = 0; pair < 16; ++pair)
        for (int column = 0; column < 16; ++column) {
          const uint16_t *a = tiles_[A][row] + 2 * pair, *b = tiles_[B][pair] + 2 * column;
          float sum;
          std::memcpy(&sum, tiles_[C][row] + 2 * column, sizeof sum);
          sum += from_bfloat16(a[0]) * from_bfloat16(b[0]);
          sum += from_bfloat16(a[1]) * from_bfloat16(b[1]);
          std::memcpy(tiles_[C][row] + 2 * column, &sum, sizeof sum);
        }
  }

 private:
  alignas(64) static thread_local uint16_t tiles_[8][16][32];
};
inline thread_local uint16_t ModelTiles::tiles_[8][16][32];

template <class Tiles>
struct MatrixUnit {
  using Number = float;
  using Element = uint32_t;
  using Session = Tiles;
  static constexpr int kWidth = 16, kPair = 2;
  // Of a product's block, and of the part of a tile that is computed at a time: all of it, so that sums that lie in
  // memory are loaded and stored seldom.
  static constexpr int kRows = 32, kPanel = 32, kStrip = kEdge;
  static constexpr int kColumns = 16, kLeftRows = 16;
  static constexpr bool kLeftByRow = true;
  static constexpr int kDepth = 32;

  // As Registers::product, but X is an element for each of kEdge nodes and each place along the depth.
  template <class Visit>
  static inline void product(
      const Element* x, int64_t depth, const Element* y, const Segment* segments, int count, int rows, int columns,
      const Visit& visit) {
    alignas(64) float sums[kRows * kPanel];
    for (int j = 0; j < columns; j += kPanel)
      for (int i = 0; i < rows; i += kRows) {
        Tiles::template zero<0>(), Tiles::template zero<1>(), Tiles::template zero<2>(), Tiles::template zero<3>();
        for (int s = 0; s < count; ++s)
          add_dots<true, true>(
              x + i * depth + segments[s].left, depth, y + segments[s].right * kEdge + j, kEdge, segments[s].depth);
        store<true, true>(sums, kPanel);
        visit(i, j, static_cast<const float*>(sums));
      }
  }

  // C (rows, columns) += X Y over `depth` elements, all rounded up to whole tiles. The sums go on from C: started from
  // zero they would take another pass over it, and operands of 16 bits round more than that loses.
  static inline void add(
      const Element* x, int64_t row, const Element* y, int64_t ldy, int64_t depth, int rows, float* c, int64_t ldc,
      int64_t columns) {
    for (int i = 0; i < rows; i += 32)
      for (int64_t j = 0; j < columns; j += 32) {
        const bool wide = columns - j > 16;
        const auto go = rows - i > 16 ? wide ? add_block<true, true> : add_block<true, false>
                                      : wide ? add_block<false, true> : add_block<false, false>;
        go(x + i * row, row, y + j, ldy, depth, c + i * ldc + j, ldc);
      }
  }

 private:
  // Tiles 0 to 3 are the sums, by rows; 4 and 5 hold left operands, 6 and 7 right ones.
  template <bool Tall, bool Wide>
  static void add_block(
      const Element* x, int64_t row, const Element* y, int64_t ldy, int64_t depth, float* c, int64_t ldc) {
    const int64_t bytes = ldc * sizeof(float);
    Tiles::template load<0>(c, bytes);
    if constexpr (Wide) Tiles::template load<1>(c + 16, bytes);
    if constexpr (Tall) Tiles::template load<2>(c + 16 * ldc, bytes);
    if constexpr (Tall && Wide) Tiles::template load<3>(c + 16 * ldc + 16, bytes);
    add_dots<Tall, Wide>(x, row, y, ldy, depth);
    store<Tall, Wide>(c, ldc);
  }

  template <bool Tall, bool Wide>
  static void add_dots(const Element* x, int64_t row, const Element* y, int64_t ldy, int64_t depth) {
    const int64_t row_bytes = row * sizeof(Element), y_bytes = ldy * sizeof(Element);
    for (int64_t m = 0; m < depth; m += 16, x += 16, y += 16 * ldy) {
      Tiles::template load<4>(x, row_bytes);
      Tiles::template load<6>(y, y_bytes);
      Tiles::template dot<0, 4, 6>();
      if constexpr (Wide) {
        Tiles::template load<7>(y + 16, y_bytes);
        Tiles::template dot<1, 4, 7>();
      }
      if constexpr (Tall) {
        Tiles::template load<5>(x + 16 * row, row_bytes);
        Tiles::template dot<2, 5, 6>();
      }
      if constexpr (Tall && Wide) Tiles::template dot<3, 5, 7>();
    }
  }

  template <bool Tall, bool Wide>
  static void store(float* c, int64_t ldc) {
    const int64_t bytes = ldc * sizeof(float);
    Tiles::template store<0>(c, bytes);
    if constexpr (Wide) Tiles::template store<1>(c + 16, bytes);
    if constexpr (Tall) Tiles::template store<2>(c + 16 * ldc, bytes);
    if constexpr (Tall && Wide) Tiles::template store<3>(c + 16 * ldc + 16, bytes);
  }
};

// The kernels of an instruction set with such a unit: float32 products of one number or of two, or none where float32
// is asked for as it is.
template <class Tiles>
void forward_on(const Forward& call) {
  switch (parts(call.feature, call.precision)) {
    case 1:
      return walk_forward<MatrixUnit<Tiles>, 1>(call);
    case 2:
      return walk_forward<MatrixUnit<Tiles>, 2>(call);
    default:
      return forward(call);
  }
}

template <class Tiles>
void backward_on(const Backward& call) {
  switch (parts(call.feature, call.precision)) {
    case 1:
      return walk_backward<MatrixUnit<Tiles>, 1>(call);
    case 2:
      return walk_backward<MatrixUnit<Tiles>, 2>(call);
    default:
      return backward(call);
  }
}

}  // namespace DIFNET_ISA
}  // namespace difnet
