// The centred features G = F - 1 m^T of docs/math.md, section 3, and what is computed from each node's features alone.
#pragma once

#include "../memory/arrays.h"
#include "../products/packed_rows.h"
#include "grid.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Exponentials are powers of two: this factor is in everything that is added to an exponent.
template <class T>
constexpr T kLog2e = static_cast<T>(1.4426950408889634);

// Of each node, what row_max.h bounds scores by, times log2(e) but for the length.
template <class T>
struct NodeNorms {
  explicit NodeNorms(int64_t places) : half_norm(places), length(places), prior(places) {}

  Buffer<T> half_norm;    // |g_j|^2 / 2
  Buffer<double> length;  // |g_j + m|
  Buffer<double> prior;   // c_j
};

template <class Unit, int Terms>
class CentredFeatures {
 public:
  using T = typename Unit::Number;

  // Sets `norms` too, whose memory is needed less long.
  CentredFeatures(
      const Sizes& sizes, const Array& feature, const Array& node_bias, const Pool& pool, NodeNorms<T>& norms)
      : grid(sizes),
        g(grid.places() * sizes.width, Fill::uninitialized),
        m(sizes.batch * sizes.width),
        packed(grid.places(), sizes.width, 1),
        bias(grid.places()) {
    grid.for_each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const int count = grid.nodes_in(block);
      for (int i = 0; i < count; ++i) read_row(feature, b, grid.first_node(block) + i, sizes.width, g_of(block, i));
    });
    // Products of bfloat16 features are exact. Centring would round the features again.
    if (Unit::kPack == 1 || feature.type != Type::bfloat16) find_centre(pool);
    subtract_centre(node_bias, pool, norms);
  }

  const Grid grid;
  Buffer<T> g;                     // G: a row for each place
  Buffer<T> m;                     // m: a row for each image
  PackedRows<Unit, Terms> packed;  // G
  Buffer<double> bias;             // b_j = c_j + m . g_j of (12), times log2(e); in double, because it may be large

  int64_t width() const { return grid.sizes().width; }
  const T* g_of(int64_t block, int i) const { return g.data() + (block * kBlockSize + i) * width(); }
  bool masked(int64_t place) const { return bias[place] == -std::numeric_limits<double>::infinity(); }

  // visit(i, j, micro-tile) for the scores of a strip: g_i . g_j, which is (1) by (12) but for b_j.
  template <class Visit>
  void for_each_score(const Strip& strip, const Visit& visit) const {
    packed.multiply(strip, {0}, {0}, visit);
  }

 private:
  T* g_of(int64_t block, int i) { return g.data() + (block * kBlockSize + i) * width(); }

  // The mean of an image's rows, or zero if the mean does not make the rows shorter. Sums over an image are sums of its
  // blocks' sums, in order, whichever thread computed them.
  void find_centre(const Pool& pool) {
    const int64_t batch = grid.sizes().batch, d = width();
    Buffer<double> sums(grid.blocks() * d), lengths(grid.blocks() * 2);
    grid.for_each_block(pool, [&](int64_t, int64_t block, int64_t) {
      double* sum = sums.data() + block * d;
      const int count = grid.nodes_in(block);
      for (int i = 0; i < count; ++i)
        for (int64_t c = 0; c < d; ++c) sum[c] += g_of(block, i)[c];
    });
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t c = 0; c < d; ++c) {
        double sum = 0;
        for (int64_t block = grid.first_block(b); block < grid.first_block(b + 1); ++block) sum += sums[block * d + c];
        m[b * d + c] = static_cast<T>(sum / grid.sizes().nodes);
      }
    grid.for_each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const T* mean = m.data() + b * d;
      double* sum = lengths.data() + block * 2;
      const int count = grid.nodes_in(block);
      for (int i = 0; i < count; ++i) {
        const auto squares = dot_products<2>(d, [&](int64_t n) {
          const auto plain = load4(g_of(block, i), n, d), centred = plain - load4(mean, n, d);
          return Factors<2>{{plain, centred}, {plain, centred}};
        });
        for (int n = 0; n < 2; ++n) sum[n] += std::sqrt(squares[n]);
      }
    });
    for (int64_t b = 0; b < batch; ++b) {
      double plain = 0, centred = 0;
      for (int64_t block = grid.first_block(b); block < grid.first_block(b + 1); ++block) {
        plain += lengths[block * 2];
        centred += lengths[block * 2 + 1];
      }
      // Also if a feature is NaN or infinite: it must not reach every row through the mean.
      if (!(centred <= plain)) std::fill_n(m.data() + b * d, d, T(0));
    }
  }

  void subtract_centre(const Array& node_bias, const Pool& pool, NodeNorms<T>& norms) {
    const int64_t d = width();
    grid.for_each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const T* mean = m.data() + b * d;
      const bool moved = std::any_of(mean, mean + d, [](T value) { return value != 0; });
      const int count = grid.nodes_in(block);
      for (int i = 0; i < count; ++i) {
        T* x = g_of(block, i);
        if (moved)  // not if features may be infinite
          for (int64_t c = 0; c < d; ++c) x[c] -= mean[c];
        // Norms are those of the numbers that are multiplied, or a node's score with itself would not cancel.
        const auto [squares, whole_squares, of_rounded] = dot_products<3>(d, [&](int64_t n) {
          const auto rounded = load4_rounded<Unit, Terms>(x, n, d), centre = load4(mean, n, d);
          const auto whole = rounded + centre;
          return Factors<3>{{rounded, whole, moved ? rounded : Zero(Double4())}, {rounded, whole, centre}};
        });
        double of_exact = of_rounded;  // m . g, with g as it is
        if (Unit::kPack > 1 && moved) {
          const auto factors = [&](int64_t n) { return Factors<1>{{load4(x, n, d)}, {load4(mean, n, d)}}; };
          of_exact = dot_products<1>(d, factors)[0];
        }
        double c = 0;  // the node bias
        if (node_bias.data != nullptr) read_row(node_bias, b, grid.first_node(block) + i, 1, &c);
        const int64_t place = block * kBlockSize + i;
        bias[place] = kLog2e<T> * (of_exact + c);  // (12)
        norms.half_norm[place] = static_cast<T>(kLog2e<T> * (squares / 2));
        norms.length[place] = std::sqrt(whole_squares);
        norms.prior[place] = kLog2e<T> * (of_exact - of_rounded + c);
      }
      packed.pack(block, count, 0, g_of(block, 0), d);
    });
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
