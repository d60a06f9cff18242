// One walk backward. The factor dS + dS^T of the features' gradient is symmetric: a tile of it serves both its blocks.
#pragma once

#include "walk_forward.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Rows of numbers for the left factor of a product, and the same numbers in panels for the right one.
template <class T, int W>
struct Factor {
  int64_t depth = 0;
  Buffer<T> rows, panels;

  Factor(int64_t nodes, int64_t depth) : depth(depth), rows(nodes * depth), panels(nodes * depth) {}

  void pack(int64_t first_node) {
    constexpr int P = Blocks<T, W>::panel;
    T* to = panels + first_node * depth;
    for (int panel = 0; panel < kEdge / P; ++panel)
      for (int64_t c = 0; c < depth; ++c)
        for (int i = 0; i < P; ++i) *to++ = rows[(first_node + panel * P + i) * depth + c];
  }
};

template <class T, int W>
void walk_backward(const Backward& call) {
  using S = Simd<T, W>;
  using Vector = typename S::Vector;
  const Sizes& sizes = call.sizes;
  const int64_t k = sizes.classes;
  const bool need_scores = call.grad_feature != nullptr || call.grad_node_bias != nullptr;
  const bool need_features = call.grad_feature != nullptr;
  Scores<T, W> scores(sizes, call.feature, call.node_bias, call.parallel);
  const Grid& grid = scores.grid;
  find_rows(scores, call.parallel);
  const int64_t nodes = sizes.batch * grid.padded, stride = scores.stride;
  const int64_t columns = (k + 1 + W - 1) / W * W;
  const T scale = static_cast<T>(call.beta * call.mu);

  // With u_i the inverse of the row sum and w_j the weights:
  //   brought_i = [a_i u_i, delta_i u_i]    whose sum over P's columns gives P^T a and P^T delta
  //   one_i = [a_i u_i, -delta_i u_i],  two_j = [w_j y_j, w_j]    so that dS_ij = exp_ij one_i . two_j
  Buffer<T> brought(nodes * columns), reached(nodes * columns);
  Factor<T, W> one(need_features ? nodes : 0, k + 1), two(need_features ? nodes : 0, k + 1);
  grid.each_block(call.parallel, [&](int64_t b, int64_t block) {
    for (int i = 0; i < grid.nodes_in(block); ++i) {
      const int64_t n = scores.node(b, block) + i, source = block * kEdge + i;
      T *to = brought + n * columns, *z = reached + n * columns, lse = 0, delta = 0;
      read_row(call.lse, b, source, 1, &lse);
      read_row(call.grad, b, source, k, to);
      read_row(call.z, b, source, k, z);
      for (int64_t c = 0; c < k; ++c) {
        to[c] *= scale;
        delta += to[c] * z[c];
        z[c] = 0;
      }
      to[k] = delta;
      const T u = std::exp(-lse);
      for (int64_t c = 0; c <= k; ++c) to[c] *= u;
      if (!need_features) continue;
      T *first = one.rows + n * (k + 1), *second = two.rows + n * (k + 1);
      std::copy_n(to, k, first);
      first[k] = -to[k];
      read_row(call.state, b, source, k, second);
      second[k] = 1;
      for (int64_t c = 0; c <= k; ++c) second[c] *= scores.weight[n];
    }
    if (need_features) {
      one.pack(scores.node(b, block));
      two.pack(scores.node(b, block));
    }
  });

  Buffer<T> grad_centred(need_features ? nodes * stride : 0);
  const bool need_pairs = need_scores || call.grad_state != nullptr;
  if (need_pairs)
    grid.each_pair(call.parallel, [&](int64_t b, int64_t I, int64_t J) {
      alignas(64) T ij[kEdge * kEdge], other[kEdge * kEdge];
      const bool shared = scores.shared[b];
      T* ji = shared ? ij : other;
      scores.exponentials(b, I, J, ij, shared ? nullptr : other);
      const int64_t i = scores.node(b, I), j = scores.node(b, J);
      const int rows = grid.nodes_in(I), others = grid.nodes_in(J);
      add_product<T, W>(
          ji, kEdge, 1, brought + j * columns, columns, others, rows, reached + i * columns, columns, columns);
      if (I != J)
        add_product<T, W>(
            ij, 1, kEdge, brought + i * columns, columns, rows, others, reached + j * columns, columns, columns);
      if (!need_features) return;

      const int64_t depth = k + 1;
      alignas(64) T both[kEdge * kEdge];  // dS_ij + dS_ji
      product<T, W>(
          one.rows + i * depth, depth, two.panels + j * depth, depth, rows, others, [&](int r, int c, Vector value) {
            S::store(both + r * kEdge + c, value * S::load(ij + r * kEdge + c));
          });
      product<T, W>(
          two.rows + i * depth, depth, one.panels + j * depth, depth, rows, others, [&](int r, int c, Vector value) {
            T* at = both + r * kEdge + c;
            S::store(at, S::load(at) + value * S::load(ji + r * kEdge + c));
          });
      add_product<T, W>(
          both, kEdge, 1, scores.features(b, J), stride, others, rows, grad_centred + i * stride, stride, stride);
      if (I != J)
        add_product<T, W>(
            both, 1, kEdge, scores.features(b, I), stride, rows, others, grad_centred + j * stride, stride, stride);
    });

  // sums of dmu and dbeta over each block
  Buffer<double> sums(sizes.batch * grid.blocks * 2);
  Buffer<T> scratch(sizes.batch * grid.blocks * (4 * k + stride));
  grid.each_block(call.parallel, [&](int64_t b, int64_t block) {
    const T mu = static_cast<T>(call.mu), beta = static_cast<T>(call.beta);
    double* sum = sums + (b * grid.blocks + block) * 2;
    T *grad = scratch + (b * grid.blocks + block) * (4 * k + stride), *state = grad + k, *seed = state + k;
    T *z = seed + k, *features = z + k;
    for (int i = 0; i < grid.nodes_in(block); ++i) {
      const int64_t n = scores.node(b, block) + i, source = block * kEdge + i, out = b * sizes.nodes + source;
      read_row(call.grad, b, source, k, grad);
      read_row(call.state, b, source, k, state);
      read_row(call.seed, b, source, k, seed);
      read_row(call.z, b, source, k, z);
      const T* from = reached + n * columns;
      const T weight = scores.weight[n];
      T of_bias = -weight * from[k];  // dc_j = (P^T a)_j . y_j - (P^T delta)_j
      for (int64_t c = 0; c < k; ++c) {
        of_bias += weight * from[c] * state[c];
        sum[0] += static_cast<double>(grad[c]) * (z[c] - seed[c]);
        sum[1] += static_cast<double>(grad[c]) * (lerp(seed[c], z[c], mu) - state[c]);
        if (call.grad_state != nullptr)
          static_cast<T*>(call.grad_state)[out * k + c] = weight * from[c] + (1 - beta) * grad[c];
        if (call.grad_seed != nullptr) static_cast<T*>(call.grad_seed)[out * k + c] = beta * (1 - mu) * grad[c];
      }
      if (call.grad_node_bias != nullptr) static_cast<T*>(call.grad_node_bias)[out] = of_bias;
      if (call.grad_feature == nullptr) continue;
      for (int64_t c = 0; c < sizes.width; ++c)
        features[c] = grad_centred[n * stride + c] + of_bias * scores.centre[b * stride + c];
      write_row(call.grad_feature, call.feature.type, out * sizes.width, sizes.width, features);
    }
  });
  double of_mu = 0, of_beta = 0;
  for (int64_t block = 0; block < sizes.batch * grid.blocks; ++block) {
    of_mu += sums[2 * block];
    of_beta += sums[2 * block + 1];
  }
  if (call.grad_mu != nullptr) *call.grad_mu = call.beta * of_mu;
  if (call.grad_beta != nullptr) *call.grad_beta = of_beta;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
