// The accumulators of sums over nodes: one row of sums for each node.
#pragma once

#include "packed_values.h"

namespace difnet {
inline namespace DIFNET_ISA {

// A block has two arrays of sums: one for the tiles of which it is the rows, and one for those of which it is the
// columns. A pair of blocks (I, J) adds to the first of I and to the second of J. A sum is the total of both.
template <class Unit>
class Accumulators {
 public:
  using Number = typename Unit::Number;

  // `with_columns` says whether there are pairs of different blocks.
  Accumulators(int64_t nodes, int64_t values, bool with_columns)
      : columns_(round_up(values, Unit::kColumnMultiple)),
        rows_(round_up(values, Unit::kRowMultiple)),
        values_(values),
        of_rows_(nodes * columns_),
        of_columns_(with_columns ? nodes * rows_ : 0),
        with_columns_(with_columns) {}

  // The sums of all values of the nodes of a block: node i has those from i * stride() on. It adds up both arrays, so
  // it is called once for a block, after the last pair.
  const Number* total(int64_t block) {
    Number* rows = of_rows_.data() + block * kBlockSize * columns_;
    if (with_columns_) add_transposed(of_columns_.data() + block * rows_ * kBlockSize, values_, rows, columns_);
    return rows;
  }
  int64_t stride() const { return columns_; }

  // Adds weights times the values of J's nodes to the sums of I.
  template <int Terms>
  void add_to_rows(
      const Strip& strip, const PackedWeights<Unit, Terms>& weights, const PackedValues<Unit, Terms>& values) {
    for (int t = 0; t < Terms; ++t)
      for (int u = 0; t + u < Terms; ++u)
        Unit::multiply_accumulate(
            weights.left(t), Unit::kStrip / Unit::kPack,
            values.node_major(u, strip.J) + strip.first / Unit::kPack * columns_, columns_,
            (strip.columns + Unit::kPack - 1) / Unit::kPack, strip.rows,
            of_rows_.data() + strip.I * kBlockSize * columns_, columns_, values_);
  }

  // Adds the transposed weights times the values of I's nodes to the sums of J.
  template <int Terms>
  void add_to_columns(
      const Strip& strip, const PackedWeights<Unit, Terms>& weights, const PackedValues<Unit, Terms>& values) {
    for (int t = 0; t < Terms; ++t)
      for (int u = 0; t + u < Terms; ++u)
        Unit::multiply_accumulate(
            values.value_major(t, strip.I), kBlockSize / Unit::kPack, weights.right(u), Unit::kStrip,
            (strip.rows + Unit::kPack - 1) / Unit::kPack, static_cast<int>(values_),
            of_columns_.data() + strip.J * rows_ * kBlockSize + strip.first, kBlockSize, strip.columns);
  }

 private:
  const int64_t columns_, rows_, values_;
  Buffer<Number> of_rows_, of_columns_;
  const bool with_columns_;
};

}  // namespace DIFNET_ISA
}  // namespace difnet
