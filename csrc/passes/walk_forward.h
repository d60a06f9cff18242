// One walk forward: z = P y (3) and the update (4). A score g_i . g_j is computed once and used for both P_ij and P_ji.
#pragma once

#include "../products/accumulators.h"
#include "../simd/subnormals.h"
#include "lerp.h"
#include "state_scale.h"

namespace difnet {
inline namespace DIFNET_ISA {

template <class Unit, int Terms>
void walk_forward(const Forward& call) {
  using T = typename Unit::Number;
  const Exponentials<Unit, Terms> exponentials(call.sizes, call.feature, call.node_bias, call.pool);
  const Grid& grid = exponentials.features.grid;
  const int64_t k = call.sizes.classes, columns = k + 1;

  // A node's values are its scaled state and 1, both multiplied by its weight. Exponentials times the last value add up
  // to the row sum.
  PackedValues<Unit, Terms> values(grid.places(), columns);
  Accumulators<Unit> sums(grid.places(), columns, grid.blocks_per_image() > 1);
  const Buffer<T> scales = state_scales(exponentials, call.state, call.pool);
  Buffer<T> scratch(call.pool.threads * kBlockSize * columns, Fill::uninitialized);
  grid.for_each_block(call.pool, [&](int64_t b, int64_t block, int64_t thread) {
    const FlushSubnormals flush;
    T* rows = scratch.data() + thread * kBlockSize * columns;
    const int count = grid.nodes_in(block);
    for (int i = 0; i < count; ++i) {
      const int64_t place = block * kBlockSize + i;
      const T weight = exponentials.terms.weight[place];
      T* row = rows + i * columns;
      read_row(call.state, b, grid.first_node(block) + i, k, row);
      // A masked node's exponentials are 0. The scale ignores its state, so the scaled state could overflow, and 0
      // times infinity is NaN. So the state is not scaled.
      if (!exponentials.features.masked(place))
        for (int64_t c = 0; c < k; ++c) row[c] = row[c] * scales[b * k + c] * weight;
      row[k] = weight;
    }
    values.pack(block, count, rows, columns, columns);
  });

  grid.for_each_pair(call.pool, [&](int64_t b, int64_t I, int64_t J) {
    const typename Unit::Session session;
    const bool shared = exponentials.shared(b);
    PackedWeights<Unit, Terms> ij, ji;
    grid.for_each_strip(b, I, J, Unit::kStrip, [&](const Strip& strip) {
      exponentials.compute(strip, NoRowScale(), ij, shared ? nullptr : &ji);
      sums.add_to_rows(strip, ij, values);  // (3), (15)
      if (I != J) sums.add_to_columns(strip, shared ? ij : ji, values);
    });
  });

  grid.for_each_block(call.pool, [&](int64_t b, int64_t block, int64_t) {
    const T* row = sums.total(block);
    const T mu = static_cast<T>(call.mu), beta = static_cast<T>(call.beta);
    const int count = grid.nodes_in(block);
    for (int i = 0; i < count; ++i, row += sums.stride()) {
      const int64_t node = grid.first_node(block) + i, out = b * call.sizes.nodes + node;
      // z holds the seed and new_state the old state until both are combined.
      T *z = static_cast<T*>(call.z) + out * k, *state = static_cast<T*>(call.new_state) + out * k;
      read_row(call.seed, b, node, k, z);
      read_row(call.state, b, node, k, state);
      for (int64_t c = 0; c < k; ++c) {
        const T z_c = row[c] / row[k] / scales[b * k + c];     // (3)
        state[c] = lerp(state[c], lerp(z[c], z_c, mu), beta);  // (4)
        z[c] = z_c;
      }
      // The row sum is stored with its factor 2^row_i. Without that factor, the sum could overflow. Its logarithm would
      // lose digits. The backward computes row_i again.
      static_cast<T*>(call.row_sum)[out] = row[k];
    }
  });
}

}  // namespace DIFNET_ISA
}  // namespace difnet
