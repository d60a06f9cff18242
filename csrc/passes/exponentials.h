// The exponentials of a strip. P_ij is an exponential times weight_j, divided by row_sum_i; the weights are in the
// packed values of nodes.
#pragma once

#include "../products/packed_values.h"
#include "row_max.h"
#include "row_scale.h"

namespace difnet {
inline namespace DIFNET_ISA {

template <class Unit, int Terms>
class Exponentials {
 public:
  using T = typename Unit::Number;
  using Weights = PackedWeights<Unit, Terms>;

  Exponentials(const Sizes& sizes, const Array& feature, const Array& node_bias, const Pool& pool)
      : Exponentials(sizes, feature, node_bias, pool, NodeNorms<T>(Grid(sizes).places())) {}

  const CentredFeatures<Unit, Terms> features;
  const ExponentTerms<Unit, Terms> terms;

  bool shared(int64_t b) const { return terms.order[b] == ExponentOrder::shared; }

  // Computes the exponentials of a strip. Entry (i, j) of `ij` is that of P_ij, and entry (i, j) of `ji` is that of
  // P_ji; `ji` is null if they are shared. `scale` is a RowScale or NoRowScale; shared exponentials have no factors of
  // rows.
  template <class Scale>
  void compute(const Strip& strip, const Scale& scale, Weights& ij, Weights* ji) const {
    constexpr D d;
    const Vec<D> log2e = Set(d, kLog2e<T>);
    switch (terms.order[strip.b]) {
      case ExponentOrder::shared:
        return compute_with(
            [&](Vec<D> score, Vec<D> column, Vec<D> row) { return MulAdd(score, log2e, column) + row; },  // (14)
            strip, scale, ij, nullptr);
      case ExponentOrder::terms_first:
        return compute_with(
            [&](Vec<D> score, Vec<D> column, Vec<D> row) { return MulAdd(score, log2e, column + row); },  // (2), (12)
            strip, scale, ij, ji);
      case ExponentOrder::score_first:
        return compute_with(
            [&](Vec<D> score, Vec<D> column, Vec<D> row) { return (score * log2e + column) + row; },  // (2), (12)
            strip, scale, ij, ji);
    }
  }

 private:
  using D = Simd<T, Unit::kLanes>;
  // The error of the polynomial is below that of rounding its result to T, to two bfloat16 terms, or to one.
  static constexpr int kDegree = Unit::kPack == 1 ? 6 : Terms == 1 ? 3 : 5;

  Exponentials(const Sizes& sizes, const Array& feature, const Array& node_bias, const Pool& pool, NodeNorms<T>&& norms)
      : features(sizes, feature, node_bias, pool, norms), terms(features, norms, pool) {}

  // exponent(score, column_j, row_i) adds up the exponent of P_ij.
  template <class Exponent, class Scale>
  void compute_with(const Exponent& exponent, const Strip& strip, const Scale& scale, Weights& ij, Weights* ji) const {
    constexpr D d;
    constexpr bool kScaled = std::is_same_v<Scale, RowScale<T>>;
    const int64_t place_i = strip.I * kBlockSize, place_j = strip.J * kBlockSize + strip.first;
    const T *row_i = terms.row.data() + place_i, *row_j = terms.row.data() + place_j;
    const T *column_i = terms.column.data() + place_i, *column_j = terms.column.data() + place_j;
    const auto factor_i = scale.factor_at(place_i), factor_j = scale.factor_at(place_j);
    const auto min_i = scale.min_exponent_at(place_i), min_j = scale.min_exponent_at(place_j);
    features.for_each_score(strip, [&](int i0, int j0, const T* scores) {
      const Exp2<T, Unit::kLanes, kDegree> exp2(terms.range.half);
      for_each_two_rows<Unit>(i0, j0, scores, [&](int i, int j, Vec<D> score_0, Vec<D> score_1) {
        const Vec<D> of_j = LoadU(d, column_j + j);
        const Vec<D> ij_0 = exponent(score_0, of_j, Set(d, row_i[i]));
        const Vec<D> ij_1 = exponent(score_1, of_j, Set(d, row_i[i + 1]));
        if (ji == nullptr) return ij.set(i, j, exp2.scaled(ij_0), exp2.scaled(ij_1));
        const Vec<D> of_row_j = LoadU(d, row_j + j);
        const Vec<D> ji_0 = exponent(score_0, Set(d, column_i[i]), of_row_j);
        const Vec<D> ji_1 = exponent(score_1, Set(d, column_i[i + 1]), of_row_j);
        if constexpr (kScaled) {
          const auto scaled_row = [&](Vec<D> x, int n) { return exp2(x, Set(d, min_i[n])) * Set(d, factor_i[n]); };
          ij.set(i, j, scaled_row(ij_0, i), scaled_row(ij_1, i + 1));
          const Vec<D> min = LoadU(d, min_j + j), factor = LoadU(d, factor_j + j);
          ji->set(i, j, exp2(ji_0, min) * factor, exp2(ji_1, min) * factor);
        } else {
          ij.set(i, j, exp2(ij_0), exp2(ij_1));
          ji->set(i, j, exp2(ji_0), exp2(ji_1));
        }
      });
    });
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
