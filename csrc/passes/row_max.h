// The terms that keep exponentials in range. A softmax subtracts the maximum of a row from its scores; here a bound of
// the maximum, which is known before any score, is enough for most images.
#pragma once

#include "centre.h"

namespace difnet {
inline namespace DIFNET_ISA {

// How the terms of the exponents of an image are added up.
enum class ExponentOrder : char {
  // (score + column) + row. row_i and column_i are both -|g_i|^2 / 2, so that one exponential, exp(-|g_i - g_j|^2 / 2),
  // serves (i, j) and (j, i): docs/math.md, section 5.
  shared,
  // score + (column + row), which rounds an exponent at the size of the score: biases may range over hundreds.
  terms_first,
  // (score + column) + row, for row terms of 2^20 and more. Their rounding errors are large, and cancel only if every
  // step is rounded as it was when the row's maximum was searched.
  score_first,
};

// The terms of the exponents, with the factor log2(e). With g and b of (12),
//
//   P_ij = 2^(log2(e) g_i . g_j + column_j + row_i) weight_j / row_sum_i.
//
// If the exponentials are shared, weight_j is w_j of (15). Else column_j is b_j rounded to T, weight_j is 2 to the
// power of the rounding error, and row_i is minus the largest exponent of the row or minus a bound of it.
template <class Unit, int Terms>
class ExponentTerms {
 public:
  using T = typename Unit::Number;

  ExponentTerms(const CentredFeatures<Unit, Terms>& features, const NodeNorms<T>& norms, const Pool& pool)
      : row(features.grid.places()),
        column(features.grid.places()),
        weight(features.grid.places()),
        order(features.grid.sizes().batch),
        features_(features),
        grid_(features.grid) {
    set_terms(norms, pool);
    search_rows(pool);
  }

  Buffer<T> row, column, weight;  // of each place
  Buffer<ExponentOrder> order;    // of each image

 private:
  using D = Simd<T, Unit::kLanes>;
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  // Maxima over the nodes of an image.
  struct Maxima {
    double logarithm = -kInfinity;  // of |g_j|^2 / 2 + b_j, which is "top" in (15) and (18)
    double norm = 0, prior = -kInfinity, bias = -kInfinity;
    bool usable = true;  // whether all are finite, and norms so small that exponents keep digits after the point
  };

  // Sets the maxima of every image, and the features, as products see them, of the node with the largest bias. The
  // exponentials of an image are shared if the range of its weights and the sizes of its norms allow that.
  void find_maxima(const NodeNorms<T>& norms, const Pool& pool, Buffer<Maxima>& maxima, Buffer<T>& most_biased) {
    // Weights go down to e^-60. Norms above 1e4 would be rounded by 2^-11 and more in an exponent.
    constexpr double kMaxSpread = 60 * kLog2e<T>, kMaxHalfNorm = 1e4 * kLog2e<T>;
    const int64_t d = features_.width();
    for_each(pool, grid_.sizes().batch, [&](int64_t b) {
      Maxima max;
      double least = kInfinity;
      int64_t most = grid_.first_block(b) * kBlockSize;
      grid_.for_each_node(b, [&](int64_t j) {
        const double logarithm = features_.bias[j] + norms.half_norm[j];
        max.usable &= logarithm < kInfinity && norms.half_norm[j] < kMaxHalfNorm;
        max.logarithm = std::max(max.logarithm, logarithm);
        max.norm = std::max<double>(max.norm, std::sqrt(2 * norms.half_norm[j] / kLog2e<T>));
        max.prior = std::max(max.prior, norms.prior[j]);
        least = std::min(least, logarithm);
        if (features_.bias[j] > features_.bias[most]) most = j;
      });
      max.usable &= max.logarithm > -kInfinity;
      max.bias = features_.bias[most];
      for (int64_t c = 0; c < d; ++c) most_biased[b * d + c] = round_to_terms<Unit, Terms>(features_.g[most * d + c]);
      const bool shared = max.usable && max.logarithm - least < kMaxSpread;
      order[b] = shared ? ExponentOrder::shared : ExponentOrder::score_first;
      maxima[b] = max;
    });
  }

  // Sets the terms of all nodes. The rows of an image whose exponentials are not shared are bounded. If the bounds of a
  // row are too far apart, the order remains score_first, and rows are searched.
  void set_terms(const NodeNorms<T>& norms, const Pool& pool) {
    const int64_t batch = grid_.sizes().batch, d = features_.width();
    Buffer<Maxima> maxima(batch);
    Buffer<T> most_biased(batch * d);
    find_maxima(norms, pool, maxima, most_biased);
    Buffer<char> unbounded(grid_.blocks());  // whether a row of the block has bounds too far apart
    grid_.for_each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const int64_t first = block * kBlockSize, end = first + grid_.nodes_in(block);
      if (order[b] == ExponentOrder::shared) {
        for (int64_t i = first; i < end; ++i) set_shared(i, norms.half_norm[i], maxima[b].logarithm);
        return;  // exponentials of padding are finite, and their values are 0
      }
      for (int64_t i = first; i < end; ++i) {
        if (!bound_row(i, maxima[b], most_biased.data() + b * d, norms)) unbounded[block] = 1;
        column[i] = static_cast<T>(features_.bias[i]);
        const double error = features_.bias[i] - column[i];
        weight[i] = Unit::kPack == 1 && std::abs(error) < 1 ? static_cast<T>(std::exp2(error)) : T(1);
      }
      // Exponentials of padding are 0.
      std::fill(column.data() + end, column.data() + first + kBlockSize, static_cast<T>(-kInfinity));
      std::fill(row.data() + end, row.data() + first + kBlockSize, static_cast<T>(-kInfinity));
    });
    for (int64_t b = 0; b < batch; ++b) {
      const char *begin = unbounded.data() + grid_.first_block(b), *end = begin + grid_.blocks_per_image();
      const bool bounded = std::all_of(begin, end, [](char is) { return is == 0; });
      if (order[b] == ExponentOrder::score_first && maxima[b].usable && bounded) order[b] = ExponentOrder::terms_first;
    }
  }

  // w_j of (15), and the terms of an exponential that is shared, (14). What rounding the norm to T lost is in the
  // weight. Where numbers are rounded to bfloat16, weights are powers of two, so that weighted states are rounded as
  // states are; the rest of the logarithm is in the exponent.
  void set_shared(int64_t j, T half_norm, double max_logarithm) {
    const double logarithm = features_.bias[j] + half_norm - max_logarithm;
    const double in_weight = Unit::kPack == 1 ? logarithm : std::rint(logarithm);
    weight[j] = static_cast<T>(std::exp2(in_weight));  // (15)
    column[j] = -half_norm;                            // (14)
    column[j] += static_cast<T>(logarithm - in_weight);
    row[j] = column[j];
  }

  // Sets the term of row i by bounds of its largest exponent. Returns false if these are too far apart, or the term so
  // large that it is rounded by more than exponents may be. Exponents are counted from the lower bound, which is often
  // close to the maximum: then small exponentials have small rounding errors. In float32, normal exponentials reach
  // from 2^-126 to 2^128, and the largest of a row must be
  //
  //   at least 2^-82   2^20 terms below 2^-126, which become 0, are then at most 2^-24 of the sum
  //   at most 2^98     the sum of 2^20 terms, times states of about 1, then stays below 2^128
  bool bound_row(int64_t i, const Maxima& max, const T* most_biased, const NodeNorms<T>& norms) {
    constexpr double kBelow = 82, kAbove = 98;
    const T* g_i = features_.g.data() + i * features_.width();
    const double bias = features_.bias[i], half_norm = norms.half_norm[i];
    const double score = kLog2e<T> * dot<Unit, Terms>(g_i, most_biased, features_.width());
    const double cauchy_schwarz = kLog2e<T> * norms.length[i] * max.norm + max.prior;
    const double lower = std::max(bias + 2 * half_norm, score + max.bias);     // (17)
    const double upper = std::min(max.logarithm + half_norm, cauchy_schwarz);  // (18)
    row[i] = static_cast<T>(-std::max(lower, upper - kAbove));
    return upper - lower < kBelow + kAbove && is_small(row[i]);
  }

  // Whether rounding the term to float32 changes an exponent by at most 2^-4.
  static bool is_small(T term) { return std::abs(term) < T(1 << 20); }

  // The maxima of the rows of images that could not be bounded, by a sweep over all their scores.
  void search_rows(const Pool& pool) {
    constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();
    const auto done = [](ExponentOrder is) { return is != ExponentOrder::score_first; };
    if (std::all_of(order.data(), order.data() + grid_.sizes().batch, done)) return;
    // The maxima of a node's row in tiles of which its block is the rows, and in those of which it is the columns.
    Buffer<T> max_of_rows(grid_.places(), Fill::uninitialized), max_of_columns(grid_.places(), Fill::uninitialized);
    for (T* max : {max_of_rows.data(), max_of_columns.data()}) std::fill_n(max, grid_.places(), kMinusInfinity);
    grid_.for_each_pair(pool, [&](int64_t b, int64_t I, int64_t J) {
      if (done(order[b])) return;
      const typename Unit::Session session;
      const T *column_i = column.data() + I * kBlockSize, *column_j = column.data() + J * kBlockSize;
      T *max_i = max_of_rows.data() + I * kBlockSize, *max_j = max_of_columns.data() + J * kBlockSize;
      alignas(64) T scores[kBlockSize * Unit::kStrip];
      grid_.for_each_strip(b, I, J, Unit::kStrip, [&](const Strip& strip) {
        features_.for_each_score(strip, [&](int i, int j, const T* micro_tile) {
          for (int r = 0; r < Unit::kMR; ++r)
            std::copy_n(micro_tile + r * Unit::kNR, Unit::kNR, scores + (i + r) * Unit::kStrip + j);
        });
        for (int i = 0; i < strip.rows; ++i) {
          Vec<D> max = Set(D(), kMinusInfinity);
          for (int j = 0; j < strip.columns; j += Unit::kLanes) {
            T* max_here = max_j + strip.first + j;
            const Vec<D> score = LoadU(D(), scores + i * Unit::kStrip + j) * Set(D(), kLog2e<T>);
            max = Max(score + LoadU(D(), column_j + strip.first + j), max);
            if (I != J) StoreU(Max(score + Set(D(), column_i[i]), LoadU(D(), max_here)), D(), max_here);
          }
          for (int lane = 0; lane < Unit::kLanes; ++lane) max_i[i] = std::max(max_i[i], static_cast<T>(max[lane]));
        }
      });
    });
    for (int64_t b = 0; b < grid_.sizes().batch; ++b) {
      if (done(order[b])) continue;
      bool small = true;
      grid_.for_each_node(b, [&](int64_t i) {
        // If all nodes are masked, a row has no maximum: its exponentials are 0, and its result is 0 / 0.
        const T max = std::max(max_of_rows[i], max_of_columns[i]);
        row[i] = max == kMinusInfinity ? T(0) : -max;
        small &= is_small(row[i]);
      });
      if (small) order[b] = ExponentOrder::terms_first;
    }
  }

  const CentredFeatures<Unit, Terms>& features_;
  const Grid& grid_;
};

}  // namespace DIFNET_ISA
}  // namespace difnet
