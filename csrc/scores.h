// What both passes share: the grid of tiles, the centred features, and the exponentials of a tile.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gemm.h"
#include "memory.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Blocks of kEdge nodes for every image, and the order in which pairs of blocks are visited. Pairs of one round have no
// block in common, so they run in parallel without sharing an accumulator, and an accumulator sees its pairs in the
// order of the rounds: results depend neither on the number of threads nor on their timing.
struct Grid {
  Sizes sizes;
  int64_t blocks, padded;

  explicit Grid(const Sizes& s) : sizes(s), blocks((s.nodes + kEdge - 1) / kEdge), padded(blocks * kEdge) {}

  int nodes_in(int64_t block) const {
    return static_cast<int>(std::min<int64_t>(kEdge, sizes.nodes - block * kEdge));
  }

  // body(b, block) for every block of every image.
  template <class F>
  void each_block(Parallel parallel, const F& body) const {
    for_each(parallel, sizes.batch * blocks, [&](int64_t n) { body(n / blocks, n % blocks); });
  }

  // body(b, I, J) for every pair I <= J of every image: first the diagonal, then a round-robin tournament in which
  // block `last` stays and the others turn.
  template <class F>
  void each_pair(Parallel parallel, const F& body) const {
    each_block(parallel, [&](int64_t b, int64_t block) { body(b, block, block); });
    const int64_t last = blocks + blocks % 2 - 1, matches = (last + 1) / 2;
    for (int64_t round = 0; round < last; ++round) {
      for_each(parallel, sizes.batch * matches, [&](int64_t n) {
        const int64_t b = n / matches, match = n % matches;
        const int64_t one = match == 0 ? last : (round + match) % last;
        const int64_t other = (round - match + last) % last;
        if (one < blocks && other < blocks) body(b, std::min(one, other), std::max(one, other));
      });
    }
  }
};

// Centred features G (math.md, section 3), rows of `stride` numbers, and the two terms that turn scores into exponents:
//
//   P_ij is proportional to exp(g_i . g_j + row_i + column_j) weight_j.
//
// Where an image allows it ("shared"), row = column = -|g|^2 / 2, so that the exponential is exp(-|g_i - g_j|^2 / 2),
// the same for (i, j) and (j, i), and weight_j = exp(bias_j + |g_j|^2 / 2 - top). Elsewhere column is the bias, weight
// is 1, and row is what keeps the exponents of a row below zero; then (i, j) and (j, i) take an exponential each.
template <class T, int W>
struct Scores {
  Grid grid;
  int64_t stride;
  Buffer<T> centred, packed, centre, row, column, weight;
  Buffer<double> bias;  // double: the weight's exponent is a difference of larger numbers
  Buffer<char> shared;

  T* features(int64_t b, int64_t block) const { return centred + (b * grid.padded + block * kEdge) * stride; }
  T* panels(int64_t b, int64_t block) const {
    return packed + (b * grid.padded + block * kEdge) * grid.sizes.width;
  }
  int64_t node(int64_t b, int64_t block) const { return b * grid.padded + block * kEdge; }

  Scores(const Sizes& sizes, const Array& feature, const Array& node_bias, Parallel parallel) : grid(sizes) {
    const int64_t batch = sizes.batch, width = sizes.width, blocks = grid.blocks, nodes = batch * grid.padded;
    stride = (width + W - 1) / W * W;
    centred = Buffer<T>(nodes * stride);
    packed = Buffer<T>(nodes * width);
    centre = Buffer<T>(batch * stride);
    bias = Buffer<double>(nodes);
    row = Buffer<T>(nodes);
    column = Buffer<T>(nodes);
    weight = Buffer<T>(nodes);
    shared = Buffer<char>(batch);

    // Sums over an image are sums of its blocks' sums, in order, whoever computed them.
    Buffer<double> sums(batch * blocks * stride), lengths(batch * blocks * 2);
    grid.each_block(parallel, [&](int64_t b, int64_t block) {
      double* sum = sums + (b * blocks + block) * stride;
      for (int i = 0; i < grid.nodes_in(block); ++i) {
        T* to = features(b, block) + i * stride;
        read_row(feature, b, block * kEdge + i, width, to);
        for (int64_t c = 0; c < width; ++c) sum[c] += to[c];
      }
    });
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t c = 0; c < width; ++c) {
        double sum = 0;
        for (int64_t block = 0; block < blocks; ++block) sum += sums[(b * blocks + block) * stride + c];
        centre[b * stride + c] = static_cast<T>(sum / sizes.nodes);
      }
    grid.each_block(parallel, [&](int64_t b, int64_t block) {
      const T *from = features(b, block), *mean = centre + b * stride;
      double* sum = lengths + (b * blocks + block) * 2;
      for (int i = 0; i < grid.nodes_in(block); ++i, from += stride) {
        T plain = 0, moved = 0;
        for (int64_t c = 0; c < width; ++c) {
          plain += from[c] * from[c];
          moved += (from[c] - mean[c]) * (from[c] - mean[c]);
        }
        sum[0] += std::sqrt(plain);
        sum[1] += std::sqrt(moved);
      }
    });
    for (int64_t b = 0; b < batch; ++b) {
      double plain = 0, moved = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        plain += lengths[(b * blocks + block) * 2];
        moved += lengths[(b * blocks + block) * 2 + 1];
      }
      if (moved > plain) std::fill_n(centre + b * stride, stride, T(0));
    }
    subtract_centre(node_bias, parallel);
    choose_form(parallel);
  }

 private:
  void subtract_centre(const Array& node_bias, Parallel parallel) {
    const int64_t width = grid.sizes.width;
    constexpr int P = Blocks<T, W>::panel;
    grid.each_block(parallel, [&](int64_t b, int64_t block) {
      const T* mean = centre + b * stride;
      T *rows = features(b, block), *to = panels(b, block);
      for (int i = 0; i < grid.nodes_in(block); ++i) {
        double dot = 0, squares = 0, prior = 0;
        T* x = rows + i * stride;
        for (int64_t c = 0; c < width; ++c) {
          x[c] -= mean[c];
          dot += static_cast<double>(x[c]) * mean[c];
          squares += static_cast<double>(x[c]) * x[c];
        }
        if (node_bias.data != nullptr) read_row(node_bias, b, block * kEdge + i, 1, &prior);
        bias[node(b, block) + i] = dot + prior;
        column[node(b, block) + i] = static_cast<T>(-squares / 2);
      }
      for (int panel = 0; panel < kEdge / P; ++panel)
        for (int64_t c = 0; c < width; ++c)
          for (int i = 0; i < P; ++i) *to++ = rows[(panel * P + i) * stride + c];
    });
  }

  // Images are shared whose weights keep to the range of numbers, and whose norms to that where they have digits left.
  void choose_form(Parallel parallel) {
    constexpr double kSpread = 60, kNorm = 1e4;
    constexpr double infinity = std::numeric_limits<double>::infinity();
    for_each(parallel, grid.sizes.batch, [&](int64_t b) {
      double top = -infinity, bottom = infinity;
      bool usable = true;
      const int64_t start = b * grid.padded, count = grid.sizes.nodes;
      for (int64_t i = start; i < start + count; ++i) {
        const double logarithm = bias[i] - column[i];
        usable &= std::isfinite(logarithm) && -column[i] < kNorm;
        top = std::max(top, logarithm);
        bottom = std::min(bottom, logarithm);
      }
      shared[b] = usable && top - bottom < kSpread;
      for (int64_t i = start; i < start + count; ++i) {
        // What rounding the column to T lost, the weight makes good.
        weight[i] = shared[b] ? static_cast<T>(std::exp(bias[i] - column[i] - top)) : T(1);
        if (!shared[b]) column[i] = static_cast<T>(bias[i]);
        row[i] = shared[b] ? column[i] : T(0);
      }
      constexpr T removed = -std::numeric_limits<T>::infinity();
      if (!shared[b]) std::fill(column + (start + count), column + (start + grid.padded), removed);
    });
  }

 public:
  // Exponentials of the tile (I, J): ij[i][j] for row i of I and column j of J, and in ji[i][j], if it is not null,
  // those of row j and column i. Both have rows of kEdge numbers.
  void exponentials(int64_t b, int64_t I, int64_t J, T* ij, T* ji) const {
    using S = Simd<T, W>;
    const T *row_i = row + node(b, I), *row_j = row + node(b, J);
    const T *column_i = column + node(b, I), *column_j = column + node(b, J);
    each_score(b, I, J, [&](int i, int j, typename S::Vector score) {
      // The column's term first, as in the pass that found the row's: exponents are rounded the same way.
      S::store(ij + i * kEdge + j, exp<W>((score + S::load(column_j + j)) + S::broadcast(row_i[i])));
      if (ji != nullptr)
        S::store(ji + i * kEdge + j, exp<W>((score + S::broadcast(column_i[i])) + S::load(row_j + j)));
    });
  }

  template <class Visit>
  void each_score(int64_t b, int64_t I, int64_t J, const Visit& visit) const {
    product<T, W>(features(b, I), stride, panels(b, J), grid.sizes.width, grid.nodes_in(I), grid.nodes_in(J), visit);
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
