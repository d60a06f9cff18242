// The centred features G = F - 1 m^T of docs/math.md, section 3, and the biases and norms of nodes.
#pragma once

#include "../memory/arrays.h"
#include "../products/packed_rows.h"
#include "grid.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Exponentials are computed as powers of two, so every term of an exponent contains this factor.
template <class T>
constexpr T kLog2e = static_cast<T>(1.4426950408889634);

// What row_max.h bounds scores by, for each place. `half_norm` and `prior` contain the factor log2(e).
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

  // Also sets `norms`, which are not members because they are not needed as long.
  CentredFeatures(
      const Sizes& sizes, const Array& feature, const Array& node_bias, const Pool& pool, NodeNorms<T>& norms)
      : grid(sizes),
        stride(round_up(sizes.width, Unit::kColumnMultiple)),
        g(grid.places() * stride, Fill::uninitialized),
        m(sizes.batch * sizes.width),
        packed(grid.places(), sizes.width, 1),
        bias(grid.places()) {
    grid.for_each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const int count = grid.nodes_in(block);
      for (int i = 0; i < count; ++i) {
        T* row = g_of(block, i);
        read_row(feature, b, grid.first_node(block) + i, sizes.width, row);
        std::fill(row + sizes.width, row + stride, T(0));
      }
      std::fill(g_of(block, count), g_of(block, kBlockSize), T(0));
    });
    // A unit of bfloat16 terms multiplies bfloat16 features without rounding them. Centring would round them again.
    if (Unit::kPack == 1 || feature.type != Type::bfloat16) find_centre(pool);
    subtract_centre(node_bias, pool, norms);
  }

  const Grid grid;
  const int64_t stride;            // from a row of g to the next
  Buffer<T> g;                     // G: a row for each place, padded with 0 to a multiple of kColumnMultiple
  Buffer<T> m;                     // m: a row for each image
  PackedRows<Unit, Terms> packed;  // G
  Buffer<double> bias;             // b_j = c_j + m . g_j of (12), times log2(e); in double, because it may be large

  int64_t width() const { return grid.sizes().width; }
  const T* g_of(int64_t block, int i) const { return g.data() + (block * kBlockSize + i) * stride; }
  bool masked(int64_t place) const { return bias[place] == -std::numeric_limits<double>::infinity(); }

  // visit(i, j, micro-tile) for the products g_i . g_j of a strip. With b_j added, they are the scores of (12).
  template <class Visit>
  void for_each_score(const Strip& strip, const Visit& visit) const {
    packed.multiply(strip, {0}, {0}, visit);
  }

 private:
  T* g_of(int64_t block, int i) { return g.data() + (block * kBlockSize + i) * stride; }

  // Sets m to the mean of an image's rows, or to zero if subtracting the mean does not shorten the rows on average. Of
  // many rows a sample is compared, because results do not depend on the choice (docs/math.md, section 3). The sums of
  // blocks are added in order, so that results do not depend on the threads.
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
    // Every seventh node of each block, from its first. Seven does not divide the 96 nodes of a block, so the sample is
    // not a few columns of a map whose width seven divides.
    const int step = grid.sizes().nodes < 1024 ? 1 : 7;
    grid.for_each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const T* mean = m.data() + b * d;
      double* sum = lengths.data() + block * 2;
      const int count = grid.nodes_in(block);
      for (int i = 0; i < count; i += step) {
        const auto squares = dot_products<2>(d, [&](int64_t n, auto whole) {
          const auto plain = load4(g_of(block, i), n, d, whole), centred = plain - load4(mean, n, d, whole);
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
      // The comparison is also false if a feature is NaN or infinite, which must not reach every row through the mean.
      if (!(centred <= plain)) std::fill_n(m.data() + b * d, d, T(0));
    }
  }

  void subtract_centre(const Array& node_bias, const Pool& pool, NodeNorms<T>& norms) {
    const int64_t d = width();
    grid.for_each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const T* mean = m.data() + b * d;
      const bool moved = std::any_of(mean, mean + d, [](T value) { return value != 0; });
      const double mean_squares = dot<Unit, 0>(mean, mean, d);
      const int count = grid.nodes_in(block);
      for (int i = 0; i < count; ++i) {
        T* x = g_of(block, i);
        if (moved)
          for (int64_t c = 0; c < d; ++c) x[c] -= mean[c];
        // Norms are computed from the rounded features that products use. Otherwise |g_i|^2 / 2 would not cancel the
        // score of node i with itself in an exponent. If m is zero, m . g is set to zero, because 0 times infinity is
        // NaN.
        const auto [squares, of_rounded] = dot_products<2>(d, [&](int64_t n, auto whole) {
          const auto rounded = load4_rounded<Unit, Terms>(x, n, d, whole), centre = load4(mean, n, d, whole);
          return Factors<2>{{rounded, moved ? rounded : Zero(Double4())}, {rounded, centre}};
        });
        double of_exact = of_rounded;  // m . g, with g as it was before rounding
        if (Unit::kPack > 1 && moved) of_exact = dot<Unit, 0>(x, mean, d);
        double c = 0;  // the node bias
        if (node_bias.data != nullptr) read_row(node_bias, b, grid.first_node(block) + i, 1, &c);
        const int64_t place = block * kBlockSize + i;
        bias[place] = kLog2e<T> * (of_exact + c);  // (12)
        norms.half_norm[place] = static_cast<T>(kLog2e<T> * (squares / 2));
        norms.length[place] = std::sqrt(std::max(squares + 2 * of_rounded + mean_squares, 0.0));
        norms.prior[place] = kLog2e<T> * (of_exact - of_rounded + c);
      }
      packed.pack(block, count, 0, g_of(block, 0), stride, d);
    });
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
