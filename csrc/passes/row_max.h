// The terms that are added to scores so that exponentials stay in range. A softmax subtracts the maximum of a row,
// which is known only after all scores of the row. For most images a bound of the maximum is enough: it can be computed
// before any score.
#pragma once

#include "centre.h"
#include "shared_range.h"

namespace difnet {
inline namespace DIFNET_ISA {

// How the terms of the exponents of an image are added up.
enum class ExponentOrder : char {
  // (score + column) + row, where row_i = column_i. One exponential, exp(-|g_i - g_j|^2 / 2), serves (i, j) and (j, i):
  // docs/math.md, section 5.
  shared,
  // score + (column + row). Biases may be in the hundreds, but they nearly cancel in column + row, so the sum with the
  // score is rounded at the size of the score only.
  terms_first,
  // (score + column) + row, for images with row terms of 2^20 or more. Sums with them have large rounding errors, which
  // cancel only if every step is rounded as it was in the search for the row's maximum.
  score_first,
};

// The terms of the exponents. They contain the factor log2(e), because exponentials are powers of two. With g and b of
// (12),
//
//   P_ij = 2^(log2(e) g_i . g_j + column_j + row_i) weight_j / row_sum_i.
//
// If the exponentials are shared, the terms are those of (14) and weight_j is w_j of (15); see set_shared. If not,
// column_j is b_j rounded to T. Row_i is minus the maximum of the other terms over the row, or minus a bound of it.
// Weight_j is 2^(rounding error of column_j) where operands are not rounded to bfloat16 terms and the error is below 1,
// and 1 elsewhere.
template <class Unit, int Terms>
class ExponentTerms {
 public:
  using T = typename Unit::Number;

  ExponentTerms(const CentredFeatures<Unit, Terms>& features, const NodeNorms<T>& norms, const Pool& pool)
      : range(features.grid.sizes().nodes, features.grid.sizes().classes),
        row(features.grid.places()),
        column(features.grid.places()),
        weight(features.grid.places()),
        order(features.grid.sizes().batch),
        features_(features),
        grid_(features.grid) {
    set_terms(norms, pool);
    search_rows(pool);
  }

  const SharedRange<T> range;
  Buffer<T> row, column, weight;  // of each place
  Buffer<ExponentOrder> order;    // of each image

 private:
  using D = Simd<T, Unit::kLanes>;
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  // Maxima over the nodes of an image.
  struct Maxima {
    double logarithm = -kInfinity;  // of |g_j|^2 / 2 + b_j: l_max in (15) and (18)
    double norm = 0, prior = -kInfinity, bias = -kInfinity;
    bool usable = true;  // whether `logarithm` is finite and |g_j|^2 / 2 of every node is small and not NaN
  };

  // Sets the maxima of every image, and the features of the node with the largest bias, rounded as products round them.
  // The exponentials of an image are shared if all its weights and norms are in the range that this takes.
  void find_maxima(const NodeNorms<T>& norms, const Pool& pool, Buffer<Maxima>& maxima, Buffer<T>& most_biased) {
    // At |g|^2 / 2 = 1e4, rounding it to float32 changes an exponent by up to 2^-11.
    constexpr double kMaxHalfNorm = 1e4 * kLog2e<T>;
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
      for (int64_t c = 0; c < d; ++c)
        most_biased[b * d + c] = round_to_terms<Unit, Terms>(features_.g[most * features_.stride + c]);
      const bool shared = max.usable && max.logarithm - least < range.max_spread;
      order[b] = shared ? ExponentOrder::shared : ExponentOrder::score_first;
      maxima[b] = max;
    });
  }

  // Sets the terms of all nodes. If exponentials are not shared, the maximum of each row is bounded. If an image's
  // maxima are not usable, or bound_row returns false for one of its rows, its order remains score_first, and the
  // maxima of its rows are searched.
  void set_terms(const NodeNorms<T>& norms, const Pool& pool) {
    const int64_t batch = grid_.sizes().batch, d = features_.width();
    Buffer<Maxima> maxima(batch);
    Buffer<T> most_biased(batch * d);
    find_maxima(norms, pool, maxima, most_biased);
    Buffer<char> unbounded(grid_.blocks());  // whether bound_row returned false for a row of the block
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

  // Sets w_j of (15), multiplied by 2^half, and the terms of a shared exponential, (14). The weight is computed from
  // the rounded |g_j|^2 / 2 that is in the exponent, so that its rounding error cancels. Where operands are rounded to
  // bfloat16 terms, weights are powers of two, so that weighted states are rounded as states are. The rest of the
  // weight's logarithm is added to column_j, and to row_j, so that exponents stay symmetric: along a row, that is a
  // constant factor.
  void set_shared(int64_t j, T half_norm, double max_logarithm) {
    const double logarithm = features_.bias[j] + half_norm - max_logarithm;
    const double in_weight = Unit::kPack == 1 ? logarithm : std::rint(logarithm);
    weight[j] = static_cast<T>(std::exp2(in_weight + range.half));  // (15)
    column[j] = -half_norm;                                         // (14)
    column[j] += static_cast<T>(logarithm - in_weight);
    row[j] = column[j];
  }

  // Sets row_i from two bounds of the row's maximum. Returns false if the bounds are too far apart, or if row_i is too
  // large for an accurate exponent. If possible, the lower bound is subtracted. It is often close to the maximum: then
  // the exponents of the largest exponentials are near 0 and have small rounding errors. In float32, normal numbers
  // reach from 2^-126 to 2^128, and the largest exponential of a row must be
  //
  //   at least 2^-82   2^20 terms below 2^-126, which become 0, are then at most 2^-24 of the sum
  //   at most 2^98     the sum of 2^20 terms, times states of about 1, then stays below 2^128
  bool bound_row(int64_t i, const Maxima& max, const T* most_biased, const NodeNorms<T>& norms) {
    constexpr double kBelow = 82, kAbove = 98;
    const T* g_i = features_.g.data() + i * features_.stride;
    const double bias = features_.bias[i], half_norm = norms.half_norm[i];
    const double score = kLog2e<T> * dot<Unit, Terms>(g_i, most_biased, features_.width());
    const double cauchy_schwarz = kLog2e<T> * norms.length[i] * max.norm + max.prior;
    const double lower = std::max(bias + 2 * half_norm, score + max.bias);     // (17)
    const double upper = std::min(max.logarithm + half_norm, cauchy_schwarz);  // (18)
    row[i] = static_cast<T>(-std::max(lower, upper - kAbove));
    return upper - lower < kBelow + kAbove && is_small(row[i]);
  }

  // Whether rounding a row's term to float32 changes an exponent by at most 2^-4.
  static bool is_small(T term) { return std::abs(term) < T(1 << 20); }

  // Searches the maxima of rows that could not be bounded, by a sweep over all scores of their images.
  void search_rows(const Pool& pool) {
    constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();
    const auto done = [](ExponentOrder is) { return is != ExponentOrder::score_first; };
    if (std::all_of(order.data(), order.data() + grid_.sizes().batch, done)) return;
    // A block is the rows of some tiles and the columns of others, and two threads may compute them at the same time.
    // So each node has two maxima, one over either kind of tile.
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
