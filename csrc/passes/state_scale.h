// Powers of two that keep sums of exponentials times states, or times gradients, in the range of T.
#pragma once

#include "exponentials.h"

namespace difnet {
inline namespace DIFNET_ISA {

// The power of two that brings a number of this size to about 1, but at most 2^max_exponent or its reciprocal; 1 if the
// size is infinite or NaN. Up to SharedRange<T>::kLargest, the power and its reciprocal are normal numbers.
template <class T>
T scale_to_one(double size, int max_exponent = SharedRange<T>::kLargest) {
  int exponent = 0;
  if (std::isfinite(size)) std::frexp(size, &exponent);
  return std::ldexp(T(1), -std::clamp(exponent, -max_exponent, max_exponent));
}

// The scale of each image and class: the power of two that brings the largest state of a node that is not masked to
// about 1, because exponentials times weights may take nearly all of T's range. It is 1 if a state is infinite; NaN
// does not count.
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
      scales[b * k + c] = scale_to_one<T>(max);
    }
  return scales;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
