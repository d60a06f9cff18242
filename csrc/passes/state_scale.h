// Powers of two that keep the forward's sums of exponentials times states in the range of T.
#pragma once

#include "exponentials.h"

namespace difnet {
inline namespace DIFNET_ISA {

// The scale of each image and class: the power of two that brings the largest state of a node that is not masked to
// about 1. If exponentials are not shared, they may take nearly all of T's range.
//
// Shared exponentials are at most 1. Then a small state is scaled up, because its products with weights down to e^-60
// would be subnormal. A large state is scaled down only as far as a sum over 2^20 nodes needs to stay finite, so that
// the small states beside it keep their digits.
//
// The scale is 1 if a state is infinite or NaN.
template <class Unit, int Terms>
Buffer<typename Unit::Number> state_scales(
    const Exponentials<Unit, Terms>& exponentials, const Array& state, const Pool& pool) {
  using T = typename Unit::Number;
  const Grid& grid = exponentials.features.grid;
  const int64_t k = grid.sizes().classes, batch = grid.sizes().batch;
  Buffer<T> largest(grid.blocks() * k), scratch(pool.threads * k, Fill::uninitialized), scales(batch * k);
  grid.for_each_block(pool, [&](int64_t b, int64_t block, int64_t thread) {
    T *max = largest.data() + block * k, *row = scratch.data() + thread * k;
    const int count = grid.nodes_in(block);
    for (int i = 0; i < count; ++i) {
      if (exponentials.features.masked(block * kBlockSize + i)) continue;
      read_row(state, b, grid.first_node(block) + i, k, row);
      for (int64_t c = 0; c < k; ++c) max[c] = std::max(max[c], std::abs(row[c]));
    }
  });
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < k; ++c) {
      T max = 0;
      for (int64_t block = grid.first_block(b); block < grid.first_block(b + 1); ++block)
        max = std::max(max, largest[block * k + c]);
      int exponent = 0;
      if (std::isfinite(max)) std::frexp(max, &exponent);
      constexpr int kMaxExponent = std::numeric_limits<T>::max_exponent;
      if (exponent > 0 && exponentials.shared(b)) exponent = std::max(exponent - (kMaxExponent - 21), 0);
      constexpr int kMax = kMaxExponent - 2;  // so that scale and 1 / scale are normal numbers
      scales[b * k + c] = std::ldexp(T(1), -std::clamp(exponent, -kMax, kMax));
    }
  return scales;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
