// One walk backward, docs/math.md (5) to (11). The exponentials are computed again; the row sums are those that the
// forward saved. The gradients of mu and beta of each image are added to grad_mu[b] and grad_beta[b].
#pragma once

#include "../products/accumulators.h"
#include "../simd/subnormals.h"
#include "lerp.h"
#include "state_scale.h"

namespace difnet {
inline namespace DIFNET_ISA {

template <class Unit, int Terms>
class WalkBackward {
 public:
  using T = typename Unit::Number;

  explicit WalkBackward(const Backward& call)
      : call_(call),
        k_(call.sizes.classes),
        d_(call.sizes.width),
        columns_(k_ + kDeltas),
        need_feature_(call.grad_feature != nullptr),
        exponentials_(call.sizes, call.feature, call.node_bias, call.pool),
        grid_(exponentials_.features.grid),
        row_scale_(grid_.places()),
        gradients_(grid_.places(), columns_),
        transposed_sums_(grid_.places(), columns_, grid_.blocks_per_image() > 1),
        factors_(need_feature_ ? grid_.places() : 0, columns_, 2),
        features_(pack_features()),
        grad_g_(need_feature_ ? grid_.places() : 0, d_, grid_.blocks_per_image() > 1),
        scratch_per_thread_(std::max(kBlockSize * columns_ + k_, 5 * k_ + d_)),
        scratch_(call.pool.threads * scratch_per_thread_, Fill::uninitialized),
        partial_(grid_.blocks() * 2),
        grad_scale_(call.sizes.batch),
        state_scale_(call.sizes.batch) {}

  void run() {
    const auto& pool = call_.pool;
    set_scales();
    grid_.for_each_block(pool, [&](int64_t b, int64_t block, int64_t thread) { pack(b, block, scratch(thread)); });
    if (need_feature_ || call_.grad_node_bias != nullptr || call_.grad_state != nullptr)
      grid_.for_each_pair(pool, [&](int64_t b, int64_t I, int64_t J) { add_pair(b, I, J); });
    grid_.for_each_block(pool, [&](int64_t b, int64_t block, int64_t thread) { finish(b, block, scratch(thread)); });
    for (int64_t block = 0; block < grid_.blocks(); ++block) {
      const int64_t b = block / grid_.blocks_per_image();
      call_.grad_mu[b] += call_.beta * partial_[2 * block];
      call_.grad_beta[b] += partial_[2 * block + 1];
    }
  }

 private:
  using D = Simd<T, Unit::kLanes>;
  using Weights = PackedWeights<Unit, Terms>;
  using Range = SharedRange<T>;

  // Two vectors of each node, groups of its packed row. With u_i = 1 / row_sum_i and w_j = weight_j,
  //
  //   kGradient  [a_i u_i, -delta_i u_i]
  //   kState     [w_j y_j, w_j]
  //
  // Every entry of dS is an exponential times an inner product: dS_ij = exp_ij kGradient_i . kState_j   (9)
  enum Group { kGradient, kState };

  // Where P is peaked, a_i . y_j and delta_i nearly cancel in (9). So delta is computed from the rounded a, and stored
  // as a sum of two numbers if a number is a single bfloat16 term.
  static constexpr int kDeltas = Unit::kPack == 2 && Terms == 1 ? 2 : 1;

  // If products take numbers as they are, the operands of scores are also those of sums of features.
  static constexpr bool kFeaturesArePacked = Unit::kPack == 1;
  PackedValues<Unit, Terms> pack_features() const {
    const auto& features = exponentials_.features;
    if constexpr (kFeaturesArePacked)
      return {grid_.places(), d_, features.g.data(), features.packed.depth_major(0)};
    else
      return {need_feature_ ? grid_.places() : 0, d_};
  }

  T* scratch(int64_t thread) { return scratch_.data() + thread * scratch_per_thread_; }

  // Sets the powers of two of each image by which gradients and states are multiplied: they bring the largest a, and
  // the largest state of a node that is not masked, to about 1. They are 1 where a number is infinite.
  void set_scales() {
    const int64_t blocks = grid_.blocks();
    Buffer<T> largest(2 * blocks, Fill::uninitialized);  // gradients, then states, of each block
    grid_.for_each_block(call_.pool, [&](int64_t b, int64_t block, int64_t thread) {
      T *row = scratch(thread), grad = 0, state = 0;
      const auto largest_in_row = [&](T so_far) {
        for (int64_t c = 0; c < k_; ++c) so_far = std::max(so_far, std::abs(row[c]));
        return so_far;
      };
      const int count = grid_.nodes_in(block);
      for (int i = 0; i < count; ++i) {
        read_row(call_.grad, b, grid_.first_node(block) + i, k_, row);
        grad = largest_in_row(grad);
        if (exponentials_.features.masked(block * kBlockSize + i)) continue;
        read_row(call_.state, b, grid_.first_node(block) + i, k_, row);
        state = largest_in_row(state);
      }
      largest[block] = grad;
      largest[blocks + block] = state;
    });
    for (int64_t b = 0; b < call_.sizes.batch; ++b) {
      const auto largest_of_image = [&](const T* of_blocks) {
        const T* begin = of_blocks + grid_.first_block(b);
        return double(*std::max_element(begin, begin + grid_.blocks_per_image()));
      };
      const double a = std::abs(call_.beta * call_.mu) * largest_of_image(largest.data());
      grad_scale_[b] = scale_to_one<T>(a, Range::kLargest - Range::kQuotient);  // so that grad_unscale() is normal
      state_scale_[b] = scale_to_one<T>(largest_of_image(largest.data() + blocks));
    }
  }

  // By what an image's reciprocals of row sums are multiplied.
  T reciprocal_scale(int64_t b) const { return exponentials_.shared(b) ? std::ldexp(T(1), Range::kQuotient) : T(1); }
  // What undoes the scales of gradients and reciprocals in the end.
  T grad_unscale(int64_t b) const { return 1 / grad_scale_[b] / reciprocal_scale(b); }

  // A state multiplied by its image's scale; 0 for masked nodes, which no other node takes anything from. Theirs could
  // overflow, because the scale ignores them.
  T scaled_state(int64_t b, int64_t place, T state) const {
    return exponentials_.features.masked(place) ? T(0) : state * state_scale_[b];
  }

  // Packs the vectors of a block's nodes. Each row first holds a_i u_i and delta_i u_i, which are a and delta of
  // docs/math.md, section 2, divided by the row sum: a = beta mu g, and delta_i is the inner product of a_i and z_i.
  // Both are scaled: a by grad_scale_ and reciprocal_scale, delta by state_scale_ too.
  void pack(int64_t b, int64_t block, T* rows) {
    const FlushSubnormals flush;
    T* z = rows + kBlockSize * columns_;
    const T scale = static_cast<T>(call_.beta * call_.mu) * grad_scale_[b];
    const bool normalise = exponentials_.terms.order[b] == ExponentOrder::terms_first;
    const int count = grid_.nodes_in(block);
    const int64_t first_node = grid_.first_node(block), first_place = block * kBlockSize;
    for (int i = 0; i < count; ++i) {
      T *a = rows + i * columns_, row_sum = 0;
      read_row(call_.row_sum, b, first_node + i, 1, &row_sum);
      read_row(call_.grad, b, first_node + i, k_, a);
      read_row(call_.z, b, first_node + i, k_, z);
      if (normalise) row_sum = row_scale_.normalise(first_place + i, row_sum);
      const T reciprocal = reciprocal_scale(b) / row_sum;
      for (int64_t c = 0; c < k_; ++c) a[c] = a[c] * scale * reciprocal;
      const T delta = static_cast<T>(state_scale_[b] * dot<Unit, Terms>(a, z, k_));
      a[k_] = delta;
      if constexpr (kDeltas == 2) a[k_ + 1] = delta - round_to_terms<Unit, Terms>(delta);
    }
    gradients_.pack(block, count, rows, columns_, columns_);
    if (!need_feature_) return;
    for (int i = 0; i < count; ++i)
      for (int64_t c = k_; c < columns_; ++c) rows[i * columns_ + c] *= -1;
    factors_.pack(block, count, kGradient, rows, columns_, columns_);
    for (int i = 0; i < count; ++i) {
      T *state = rows + i * columns_, weight = exponentials_.terms.weight[first_place + i];
      read_row(call_.state, b, first_node + i, k_, state);
      for (int64_t c = 0; c < k_; ++c) state[c] = scaled_state(b, first_place + i, state[c]) * weight;
      std::fill(state + k_, state + columns_, weight);
    }
    factors_.pack(block, count, kState, rows, columns_, columns_);
    if constexpr (!kFeaturesArePacked)
      features_.pack(block, count, exponentials_.features.g_of(block, 0), exponentials_.features.stride, d_);
  }

  void add_pair(int64_t b, int64_t I, int64_t J) {
    const typename Unit::Session session;
    const bool shared = exponentials_.shared(b);
    Weights ij, ji, ds;  // ds holds dS_ij + dS_ji
    grid_.for_each_strip(b, I, J, Unit::kStrip, [&](const Strip& strip) {
      exponentials_.compute(strip, row_scale_, ij, shared ? nullptr : &ji);
      transposed_sums_.add_to_rows(strip, shared ? ij : ji, gradients_);  // (8)
      if (I != J) transposed_sums_.add_to_columns(strip, ij, gradients_);
      if (!need_feature_) return;
      shared ? compute_ds_shared(strip, ij, ds) : compute_ds(strip, ij, ji, ds);
      grad_g_.add_to_rows(strip, ds, features_);  // (11), (13)
      if (I != J) grad_g_.add_to_columns(strip, ds, features_);
    });
  }

  // If (i, j) and (j, i) share an exponential, dS_ij + dS_ji is that exponential times a single inner product: that of
  // [kGradient_i, kState_i] and [kState_j, kGradient_j].
  void compute_ds_shared(const Strip& strip, const Weights& ij, Weights& ds) const {
    factors_.multiply(strip, {kGradient, kState}, {kState, kGradient}, [&](int i0, int j0, const T* factors) {
      for_each_two_rows<Unit>(i0, j0, factors, [&](int i, int j, Vec<D> factor_0, Vec<D> factor_1) {
        ds.set(i, j, factor_0 * ij.get(i, j), factor_1 * ij.get(i + 1, j));  // (9)
      });
    });
  }

  void compute_ds(const Strip& strip, const Weights& ij, const Weights& ji, Weights& ds) const {
    constexpr D d;
    alignas(64) T ds_ij[kBlockSize * Unit::kStrip];
    factors_.multiply(strip, {kGradient}, {kState}, [&](int i0, int j0, const T* factors) {
      for_each_two_rows<Unit>(i0, j0, factors, [&](int i, int j, Vec<D> factor_0, Vec<D> factor_1) {
        T* to = ds_ij + i * Unit::kStrip + j;
        StoreU(factor_0 * ij.get(i, j), d, to);  // (9)
        StoreU(factor_1 * ij.get(i + 1, j), d, to + Unit::kStrip);
      });
    });
    factors_.multiply(strip, {kState}, {kGradient}, [&](int i0, int j0, const T* factors) {
      for_each_two_rows<Unit>(i0, j0, factors, [&](int i, int j, Vec<D> factor_0, Vec<D> factor_1) {
        const T* from = ds_ij + i * Unit::kStrip + j;
        ds.set(
            i, j, MulAdd(factor_0, ji.get(i, j), LoadU(d, from)),
            MulAdd(factor_1, ji.get(i + 1, j), LoadU(d, from + Unit::kStrip)));
      });
    });
  }

  void finish(int64_t b, int64_t block, T* scratch) {
    T *grad = scratch, *state = grad + k_, *seed = state + k_, *z = seed + k_, *grad_y = z + k_, *grad_f = grad_y + k_;
    const T mu = static_cast<T>(call_.mu), beta = static_cast<T>(call_.beta);
    double *grad_mu = partial_.data() + 2 * block, *grad_beta = grad_mu + 1;
    const T unscale = grad_unscale(b), state_unscale = 1 / state_scale_[b];
    T *grad_state = static_cast<T*>(call_.grad_state), *grad_seed = static_cast<T*>(call_.grad_seed);
    const int count = grid_.nodes_in(block);
    const T* sums = transposed_sums_.total(block);
    const T* grad_g = need_feature_ ? grad_g_.total(block) : sums;
    for (int i = 0; i < count; ++i, sums += transposed_sums_.stride(), grad_g += need_feature_ ? grad_g_.stride() : 0) {
      const int64_t node = grid_.first_node(block) + i, out = b * call_.sizes.nodes + node;
      read_row(call_.grad, b, node, k_, grad);
      read_row(call_.state, b, node, k_, state);
      read_row(call_.seed, b, node, k_, seed);
      read_row(call_.z, b, node, k_, z);
      const int64_t place = block * kBlockSize + i;
      const T weight = exponentials_.terms.weight[place];
      // The difference in (16), multiplied by the scales and not yet by w_j. It is computed in double: if P_ij is near
      // 1 in most rows i, two large sums over many nodes nearly cancel.
      double difference = 0;
      for (int n = 0; n < kDeltas; ++n) difference -= sums[k_ + n];
      for (int64_t c = 0; c < k_; ++c) {
        const T sum = sums[c];
        grad_y[c] = MulAdd(1 - beta, grad[c], weight * sum * unscale);  // (8)
        const T y = scaled_state(b, place, round_to_terms<Unit, Terms>(state[c]));
        difference = MulAdd(double(sum), double(y), difference);
        *grad_mu = MulAdd(double(grad[c]), double(z[c] - seed[c]), *grad_mu);                          // (6)
        *grad_beta = MulAdd(double(grad[c]), double(lerp(seed[c], z[c], mu) - state[c]), *grad_beta);  // (7)
        if (grad_state != nullptr) grad_state[out * k_ + c] = grad_y[c];
        if (grad_seed != nullptr) grad_seed[out * k_ + c] = beta * (1 - mu) * grad[c];  // (5)
      }
      const T grad_c = static_cast<T>(double(weight) * difference * unscale * state_unscale);  // (10)
      if (call_.grad_node_bias != nullptr) static_cast<T*>(call_.grad_node_bias)[out] = grad_c;
      if (!need_feature_) continue;
      const T* m = exponentials_.features.m.data() + b * d_;
      for (int64_t c = 0; c < d_; ++c) grad_f[c] = MulAdd(grad_c, m[c], unscale * grad_g[c] * state_unscale);  // (13)
      write_row(call_.grad_feature, call_.feature.type, out * d_, d_, grad_f);
    }
  }

  const Backward& call_;
  const int64_t k_, d_, columns_;
  const bool need_feature_;
  const Exponentials<Unit, Terms> exponentials_;
  const Grid& grid_;
  RowScale<T> row_scale_;
  PackedValues<Unit, Terms> gradients_;  // [a u, delta u]
  Accumulators<Unit> transposed_sums_;   // sums over i of exp_ij [a_i u_i, delta_i u_i]; times w_j: P^T a, P^T delta
  PackedRows<Unit, Terms> factors_;      // kGradient, kState
  PackedValues<Unit, Terms> features_;   // G
  Accumulators<Unit> grad_g_;            // (dS + dS^T) G
  int64_t scratch_per_thread_;
  Buffer<T> scratch_;
  Buffer<double> partial_;              // the sums of (6) and (7) over the nodes of each block
  Buffer<T> grad_scale_, state_scale_;  // of each image
};

template <class Unit, int Terms>
void walk_backward(const Backward& call) {
  WalkBackward<Unit, Terms>(call).run();
}

}  // namespace DIFNET_ISA
}  // namespace difnet
