// The products of a tile, and the properties of a unit that computes them (VectorUnit, MatrixUnit).
//
// Nodes are divided into blocks of kBlockSize; a tile holds the pairs of nodes of two blocks. It is computed in strips
// of columns, and a strip in micro-tiles, whose sums stay in registers. A unit has two products:
//
//   multiply_transposed   C = X Y^T, summed over features or classes; each micro-tile of C goes to a visitor
//   multiply_accumulate   C += X Y, summed over nodes; X or Y is a strip, C is in memory
//
// and these properties, which say how operands are stored:
//
//   Number            the type of sums
//   Element           what operands consist of: a Number, or two bfloat16 numbers that are neighbours along the summed
//                     axis (VNNI layout)
//   kPack             how many numbers are in an Element
//   kLanes            how many Numbers are in a vector
//   kMR, kNR          the rows and columns of a micro-tile
//   kStrip            the columns of a strip
//   kDepthMultiple    multiply_transposed: the summed axis is padded to a multiple of this many numbers
//   kLeftNodeMajor    multiply_transposed: X is stored node by node, not depth by depth as Y is
//   kRowMultiple      multiply_accumulate: the rows of X are padded to a multiple of this
//   kColumnMultiple   multiply_accumulate: the columns of Y and C are padded to a multiple of this
//   Session           an object that a thread holds while it uses the unit
#pragma once

#include "../simd/bfloat16.h"

namespace difnet {
inline namespace DIFNET_ISA {

// A multiple of every kMR, kNR and kStrip.
constexpr int kBlockSize = 96;

// A range of the summed axis: its first element in X and in Y, and its length in elements.
struct DepthRange {
  int64_t x, y, depth;
};

// The columns first, ..., first + columns - 1 of the tile of blocks I and J of image b. I has `rows` nodes.
struct Strip {
  int64_t b, I, J;
  int rows, first, columns;
};

// For the micro-tile that starts at row i0 and column j0: visit(i, j, v, w) for the vectors v of row i and w of row i +
// 1 that start at column j.
template <class Unit, class Visit>
inline void for_each_two_rows(int i0, int j0, const typename Unit::Number* micro_tile, const Visit& visit) {
  constexpr Simd<typename Unit::Number, Unit::kLanes> d;
  for (int r = 0; r < Unit::kMR; r += 2, micro_tile += 2 * Unit::kNR)
#pragma GCC unroll 3
    for (int n = 0; n < Unit::kNR; n += Unit::kLanes)
      visit(i0 + r, j0 + n, LoadU(d, micro_tile + n), LoadU(d, micro_tile + Unit::kNR + n));
}

}  // namespace DIFNET_ISA
}  // namespace difnet
