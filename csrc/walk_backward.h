// One walk backward. The factor dS + dS^T of the features' gradient is symmetric: a tile of it serves both its blocks.
#pragma once

#include "walk_forward.h"

namespace difnet {
inline namespace DIFNET_ISA {

template <class A, int Parts>
void walk_backward(const Backward& call) {
  using T = typename A::Number;
  using S = Simd<T, A::kWidth>;
  using Vector = typename S::Vector;
  const Sizes& sizes = call.sizes;
  const int64_t k = sizes.classes, width = sizes.width;
  const bool need_features = call.grad_feature != nullptr;
  const bool need_pairs = need_features || call.grad_node_bias != nullptr || call.grad_state != nullptr;
  const Scores<A, Parts> scores(sizes, call.feature, call.node_bias, call.pool);
  const Grid& grid = scores.grid;
  const int64_t nodes = sizes.batch * grid.padded;
  const T mu = static_cast<T>(call.mu), beta = static_cast<T>(call.beta), scale = static_cast<T>(call.beta * call.mu);

  // delta is a difference's smaller side: in bfloat16 it takes two numbers, and is that of the rounded a.
  constexpr int kTail = A::kPair == 2 && Parts == 1 ? 2 : 1;
  const int64_t columns = k + kTail;

  // With u_i = 1 / row_sum_i, of which a power of two may be in the exponentials (take_up), and w_j the weights:
  //   brought_i = [a_i u_i, delta_i u_i]    whose sum over P's columns gives P^T a and P^T delta
  //   one_i = [a_i u_i, -delta_i u_i],  two_j = [w_j y_j, w_j]    so that dS_ij = exp_ij one_i . two_j
  enum Group { one, two };
  Summand<A, Parts> brought(nodes, columns), summed(need_features ? nodes : 0, width);
  Factor<A, Parts> factors(need_features ? nodes : 0, columns, 2);
  Sums<A> reached(nodes, columns), grad_centred(need_features ? nodes : 0, width);
  const int64_t room = std::max(kEdge * columns + k, 5 * k + width);
  Buffer<T> scratch(call.pool.threads * room, Fill::nothing);
  grid.each_block(call.pool, [&](int64_t b, int64_t block, int64_t thread) {
    const int64_t at = scores.block_of(b, block), start = scores.node(b, block);
    const int count = grid.nodes_in(block);
    T *rows = scratch + thread * room, *z = rows + kEdge * columns;
    for (int i = 0; i < count; ++i) {
      const int64_t source = grid.first_node(block) + i;
      T *a = rows + i * columns, row_sum = 0;
      read_row(call.row_sum, b, source, 1, &row_sum);
      read_row(call.grad, b, source, k, a);
      read_row(call.z, b, source, k, z);
      const T factor = scale / scores.take_up(b, start + i, row_sum);
      for (int64_t c = 0; c < k; ++c) a[c] *= factor;
      const T delta = static_cast<T>(dot<A, Parts>(a, z, k));
      a[k] = delta;
      if constexpr (kTail == 2) a[k + 1] = delta - held<A, Parts>(delta);
    }
    brought.set(at, count, rows, columns);
    if (!need_features) return;
    for (int i = 0; i < count; ++i)
      for (int64_t c = k; c < columns; ++c) rows[i * columns + c] *= -1;
    factors.set(at, count, one, rows, columns);
    for (int i = 0; i < count; ++i) {
      T *state = rows + i * columns, weight = scores.weight[start + i];
      read_row(call.state, b, grid.first_node(block) + i, k, state);
      for (int64_t c = 0; c < k; ++c) state[c] *= weight;
      std::fill(state + k, state + columns, weight);
    }
    factors.set(at, count, two, rows, columns);
    summed.set(at, count, scores.centred + start * width, width);
  });

  if (need_pairs)
    grid.each_pair(call.pool, [&](int64_t b, int64_t I, int64_t J) {
      const typename A::Session session;
      const int64_t i = scores.block_of(b, I), j = scores.block_of(b, J);
      const int rows = grid.nodes_in(I);
      const bool shared = scores.shared(b);
      Strip<A, Parts> ij, other, both;  // both: dS_ij + dS_ji
      for (int first = 0; first < grid.nodes_in(J); first += A::kStrip) {
        const int now = std::min(A::kStrip, grid.nodes_in(J) - first);
        scores.template exponentials<true>(b, I, J, first, now, ij, shared ? nullptr : &other);
        const Strip<A, Parts>& ji = shared ? ij : other;
        reached.add_to_rows(i, j, ji, brought, rows, first, now);
        if (I != J) reached.add_to_columns(i, j, ij, brought, rows, first, now);
        if (!need_features) continue;

        if (shared) {
          factors.product(i, j, {one, two}, {two, one}, rows, first, now, [&](int i0, int j0, const T* from) {
            each_two_rows<A>(i0, j0, from, [&](int r, int c, Vector x, Vector y) {
              both.set(r, c, x * ij.get(r, c), y * ij.get(r + 1, c));
            });
          });
        } else {
          alignas(64) T half[kEdge * A::kStrip];
          T* at = half;
          factors.product(i, j, {one}, {two}, rows, first, now, [&](int i0, int j0, const T* from) {
            each_two_rows<A>(i0, j0, from, [&](int r, int c, Vector x, Vector y) {
              S::store(at + r * A::kStrip + c, x * ij.get(r, c));
              S::store(at + (r + 1) * A::kStrip + c, y * ij.get(r + 1, c));
            });
          });
          factors.product(i, j, {two}, {one}, rows, first, now, [&](int i0, int j0, const T* from) {
            each_two_rows<A>(i0, j0, from, [&](int r, int c, Vector x, Vector y) {
              const T *first_row = at + r * A::kStrip + c, *second_row = first_row + A::kStrip;
              both.set(
                  r, c, S::load(first_row) + x * ji.get(r, c), S::load(second_row) + y * ji.get(r + 1, c));
            });
          });
        }
        grad_centred.add_to_rows(i, j, both, summed, rows, first, now);
        if (I != J) grad_centred.add_to_columns(i, j, both, summed, rows, first, now);
      }
    });

  Buffer<double> sums(sizes.batch * grid.blocks * 2);  // of dmu and dbeta over each block
  grid.each_block(call.pool, [&](int64_t b, int64_t block, int64_t thread) {
    const int64_t at = scores.block_of(b, block);
    double* sum = sums + at * 2;
    T *grad = scratch + thread * room, *state = grad + k, *seed = state + k, *z = seed + k;
    T *of_state = z + k, *of_feature = of_state + k;
    for (int i = 0; i < grid.nodes_in(block); ++i) {
      const int64_t n = scores.node(b, block) + i, source = grid.first_node(block) + i, out = b * sizes.nodes + source;
      read_row(call.grad, b, source, k, grad);
      read_row(call.state, b, source, k, state);
      read_row(call.seed, b, source, k, seed);
      read_row(call.z, b, source, k, z);
      const T weight = scores.weight[n];
      // dc_j = (P^T a)_j . y_j - (P^T delta)_j. Where most rows give node j their weight, both are sums over many nodes whose
      // difference is small: it is taken in double.
      double difference = 0;
      for (int tail = 0; tail < kTail; ++tail) difference -= reached.get(at, i, k + tail);
      for (int64_t c = 0; c < k; ++c) {
        of_state[c] = weight * reached.get(at, i, c);
        difference += static_cast<double>(reached.get(at, i, c)) * held<A, Parts>(state[c]);
        sum[0] += static_cast<double>(grad[c]) * (z[c] - seed[c]);
        sum[1] += static_cast<double>(grad[c]) * (lerp(seed[c], z[c], mu) - state[c]);
        if (call.grad_state != nullptr) static_cast<T*>(call.grad_state)[out * k + c] = of_state[c] + (1 - beta) * grad[c];
        if (call.grad_seed != nullptr) static_cast<T*>(call.grad_seed)[out * k + c] = beta * (1 - mu) * grad[c];
      }
      const T of_bias = static_cast<T>(weight * difference);
      if (call.grad_node_bias != nullptr) static_cast<T*>(call.grad_node_bias)[out] = of_bias;
      if (!need_features) continue;
      for (int64_t c = 0; c < width; ++c)
        of_feature[c] = grad_centred.get(at, i, c) + of_bias * scores.centre[b * width + c];
      write_row(call.grad_feature, call.feature.type, out * width, width, of_feature);
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
