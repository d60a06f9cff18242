// One walk forward: z = P y and the update around it. Each score is computed once for both of its rows.
#pragma once

#include "scores.h"

namespace difnet {
inline namespace DIFNET_ISA {

// from + t (to - from), exact at both ends.
template <class T>
inline T lerp(T from, T to, T t) {
  return t < T(0.5) ? from + t * (to - from) : to - (to - from) * (1 - t);
}

// For each image and class the power of two that brings the largest state of its nodes to 1 or so: products with
// exponentials, which take nearly all of the range of numbers, stay in it. Shared exponentials are 1 at most: there only
// small states are moved. 1 where a state is infinite.
template <class A, int Parts>
Buffer<typename A::Number> state_scales(const Scores<A, Parts>& scores, const Array& state, const Pool& pool) {
  using T = typename A::Number;
  const Grid& grid = scores.grid;
  const int64_t k = grid.sizes.classes, batch = grid.sizes.batch;
  Buffer<T> largest(batch * grid.blocks * k), scratch(pool.threads * k, Fill::nothing), scales(batch * k);
  grid.each_block(pool, [&](int64_t b, int64_t block, int64_t thread) {
    T *most = largest + scores.block_of(b, block) * k, *row = scratch + thread * k;
    for (int i = 0; i < grid.nodes_in(block); ++i) {
      if (scores.removed(scores.node(b, block) + i)) continue;
      read_row(state, b, grid.first_node(block) + i, k, row);
      for (int64_t c = 0; c < k; ++c) most[c] = std::max(most[c], std::abs(row[c]));
    }
  });
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < k; ++c) {
      T most = 0;
      for (int64_t block = 0; block < grid.blocks; ++block)
        most = std::max(most, largest[scores.block_of(b, block) * k + c]);
      int exponent = 0;
      if (std::isfinite(most)) std::frexp(most, &exponent);
      constexpr int kMost = std::numeric_limits<T>::max_exponent - 2;  // both the scale and 1 / scale are numbers
      scales[b * k + c] = std::ldexp(T(1), -std::clamp(exponent, -kMost, scores.shared(b) ? 0 : kMost));
    }
  return scales;
}

template <class A, int Parts>
void walk_forward(const Forward& call) {
  using T = typename A::Number;
  const Sizes& sizes = call.sizes;
  const Scores<A, Parts> scores(sizes, call.feature, call.node_bias, call.pool);
  const Grid& grid = scores.grid;

  // Each node brings its scaled state and a 1, whose sum is the row sum, both times its weight.
  const int64_t k = sizes.classes, nodes = sizes.batch * grid.padded;
  Summand<A, Parts> brought(nodes, k + 1);
  Sums<A> total(nodes, k + 1);
  const Buffer<T> scales = state_scales(scores, call.state, call.pool);
  Buffer<T> scratch(call.pool.threads * kEdge * (k + 1), Fill::nothing);
  grid.each_block(call.pool, [&](int64_t b, int64_t block, int64_t thread) {
    T *rows = scratch + thread * kEdge * (k + 1), *row = rows;
    for (int i = 0; i < grid.nodes_in(block); ++i, row += k + 1) {
      const T weight = scores.weight[scores.node(b, block) + i];
      read_row(call.state, b, grid.first_node(block) + i, k, row);
      if (!scores.removed(scores.node(b, block) + i))  // whose states may be too large for the scale, and meet zeros
        for (int64_t c = 0; c < k; ++c) row[c] = row[c] * scales[b * k + c] * weight;
      row[k] = weight;
    }
    brought.set(scores.block_of(b, block), grid.nodes_in(block), rows, k + 1);
  });

  grid.each_pair(call.pool, [&](int64_t b, int64_t I, int64_t J) {
    const typename A::Session session;
    const int64_t at_i = scores.block_of(b, I), at_j = scores.block_of(b, J);
    const int rows = grid.nodes_in(I);
    const bool shared = scores.shared(b);
    Strip<A, Parts> ij, ji;
    for (int first = 0; first < grid.nodes_in(J); first += A::kStrip) {
      const int columns = std::min(A::kStrip, grid.nodes_in(J) - first);
      scores.template exponentials<false>(b, I, J, first, columns, ij, shared ? nullptr : &ji);
      total.add_to_rows(at_i, at_j, ij, brought, rows, first, columns);
      if (I != J) total.add_to_columns(at_i, at_j, shared ? ij : ji, brought, rows, first, columns);
    }
  });

  grid.each_block(call.pool, [&](int64_t b, int64_t block, int64_t thread) {
    T* sums = scratch + thread * kEdge * (k + 1);
    const T mu = static_cast<T>(call.mu), beta = static_cast<T>(call.beta);
    for (int i = 0; i < grid.nodes_in(block); ++i) {
      const int64_t out = b * sizes.nodes + grid.first_node(block) + i, from = scores.block_of(b, block);
      for (int64_t c = 0; c <= k; ++c) sums[c] = total.get(from, i, c);
      T *z = static_cast<T*>(call.z) + out * k, *state = static_cast<T*>(call.new_state) + out * k;
      // Row by row in memory that is there: z holds the seed, the new state the old one, until they are combined.
      read_row(call.seed, b, grid.first_node(block) + i, k, z);
      read_row(call.state, b, grid.first_node(block) + i, k, state);
      for (int64_t c = 0; c < k; ++c) {
        const T reached = sums[c] / sums[k] / scales[b * k + c];
        state[c] = lerp(state[c], lerp(z[c], reached, mu), beta);
        z[c] = reached;
      }
      // Without the row's own term, which the backward finds again, and without the logarithm: both lose digits.
      static_cast<T*>(call.row_sum)[out] = sums[k];
    }
  });
}

}  // namespace DIFNET_ISA
}  // namespace difnet
