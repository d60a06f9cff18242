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

// Row maxima of the scores plus bias, for images that are not shared; `row` becomes minus the maximum.
template <class T, int W>
void find_rows(Scores<T, W>& scores, Parallel parallel) {
  using S = Simd<T, W>;
  using Vector = typename S::Vector;
  const Grid& grid = scores.grid;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  if (std::all_of(scores.shared + 0, scores.shared + grid.sizes.batch, [](char shared) { return shared; })) return;
  Buffer<T> top(grid.sizes.batch * grid.padded);
  std::fill(top + 0, top + grid.sizes.batch * grid.padded, -infinity);
  grid.each_pair(parallel, [&](int64_t b, int64_t I, int64_t J) {
    if (scores.shared[b]) return;
    alignas(64) T tile[kEdge * kEdge];
    scores.each_score(b, I, J, [&](int i, int j, Vector score) { S::store(tile + i * kEdge + j, score); });
    const T *bias_i = scores.column + scores.node(b, I), *bias_j = scores.column + scores.node(b, J);
    T *top_i = top + scores.node(b, I), *top_j = top + scores.node(b, J);
    for (int i = 0; i < grid.nodes_in(I); ++i) {
      Vector most = S::broadcast(-infinity);
      for (int j = 0; j < grid.nodes_in(J); j += W) {
        const Vector score = S::load(tile + i * kEdge + j);
        const Vector mine = score + S::load(bias_j + j), other = score + S::broadcast(bias_i[i]);
        const Vector old = S::load(top_j + j);
        most = mine > most ? mine : most;
        if (I != J) S::store(top_j + j, other > old ? other : old);
      }
      for (int lane = 0; lane < W; ++lane) top_i[i] = std::max(top_i[i], static_cast<T>(most[lane]));
    }
  });
  for (int64_t b = 0; b < grid.sizes.batch; ++b)
    for (int64_t i = b * grid.padded; i < b * grid.padded + grid.sizes.nodes; ++i)
      // A row of removed nodes only has no maximum: its weights are 0, its result 0 / 0.
      if (!scores.shared[b]) scores.row[i] = top[i] == -infinity ? T(0) : -top[i];
}

template <class T, int W>
void walk_forward(const Forward& call) {
  const Sizes& sizes = call.sizes;
  Scores<T, W> scores(sizes, call.feature, call.node_bias, call.parallel);
  const Grid& grid = scores.grid;
  find_rows(scores, call.parallel);

  // Each node brings its state and a 1, whose sum is the row sum, both times its weight.
  const int64_t k = sizes.classes, columns = (k + 1 + W - 1) / W * W, nodes = sizes.batch * grid.padded;
  Buffer<T> brought(nodes * columns), total(nodes * columns);
  grid.each_block(call.parallel, [&](int64_t b, int64_t block) {
    for (int i = 0; i < grid.nodes_in(block); ++i) {
      const int64_t n = scores.node(b, block) + i;
      T* to = brought + n * columns;
      read_row(call.state, b, block * kEdge + i, k, to);
      to[k] = 1;
      for (int64_t c = 0; c <= k; ++c) to[c] *= scores.weight[n];
    }
  });

  grid.each_pair(call.parallel, [&](int64_t b, int64_t I, int64_t J) {
    alignas(64) T ij[kEdge * kEdge], other[kEdge * kEdge];
    T* ji = scores.shared[b] ? nullptr : other;
    scores.exponentials(b, I, J, ij, ji);
    const int64_t at_i = scores.node(b, I) * columns, at_j = scores.node(b, J) * columns;
    const int rows = grid.nodes_in(I), others = grid.nodes_in(J);
    add_product<T, W>(ij, kEdge, 1, brought + at_j, columns, others, rows, total + at_i, columns, columns);
    if (I != J)
      add_product<T, W>(
          ji == nullptr ? ij : ji, 1, kEdge, brought + at_i, columns, rows, others, total + at_j, columns, columns);
  });

  grid.each_block(call.parallel, [&](int64_t b, int64_t block) {
    const T mu = static_cast<T>(call.mu), beta = static_cast<T>(call.beta);
    for (int i = 0; i < grid.nodes_in(block); ++i) {
      const int64_t n = scores.node(b, block) + i, out = b * sizes.nodes + block * kEdge + i;
      const T *from = total + n * columns, sum = from[k];
      T *z = static_cast<T*>(call.z) + out * k, *state = static_cast<T*>(call.new_state) + out * k;
      // Row by row in memory that is there: z holds the seed, the new state the old one, until they are combined.
      read_row(call.seed, b, block * kEdge + i, k, z);
      read_row(call.state, b, block * kEdge + i, k, state);
      for (int64_t c = 0; c < k; ++c) {
        const T reached = from[c] / sum;
        state[c] = lerp(state[c], lerp(z[c], reached, mu), beta);
        z[c] = reached;
      }
      // Without the row's own term, which the backward finds again: together they would lose digits.
      static_cast<T*>(call.lse)[out] = std::log(sum);
    }
  });
}

}  // namespace DIFNET_ISA
}  // namespace difnet
