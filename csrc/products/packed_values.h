// The packed operands of C += X Y, which is summed over nodes: the values of nodes, and the weights of a strip.
#pragma once

#include "../memory/buffer.h"
#include "terms.h"

namespace difnet {
inline namespace DIFNET_ISA {

// A row of values for each node, in two layouts: node by node as the right operand of sums for the rows of a tile, and
// value by value as the left operand of sums for its columns.
template <class Unit, int Terms>
class PackedValues {
 public:
  using Element = typename Unit::Element;
  static_assert(
      kChunk % Unit::kColumnMultiple == 0 && kChunk % Unit::kRowMultiple == 0, "the last chunk must cover the padding");

  PackedValues(int64_t nodes, int64_t values)
      : columns_(round_up(values, Unit::kColumnMultiple)),
        rows_(round_up(values, Unit::kRowMultiple)),
        nodes_(nodes),
        node_major_(nodes * columns_ * Terms, Fill::uninitialized),
        value_major_(nodes * rows_ * Terms, Fill::uninitialized),
        by_node_(node_major_.data()),
        by_value_(value_major_.data()) {}

  // Values that are packed already, in both layouts, because the unit multiplies numbers as they are. The rows of
  // `node_major` are padded to kColumnMultiple.
  PackedValues(int64_t nodes, int64_t values, const Stored<Unit>* node_major, const Stored<Unit>* value_major)
      : columns_(round_up(values, Unit::kColumnMultiple)),
        rows_(values),
        nodes_(nodes),
        node_major_(0),
        value_major_(0),
        by_node_(node_major),
        by_value_(value_major) {
    static_assert(Unit::kPack == 1 && Unit::kRowMultiple == 1, "other units have terms, or pad the second layout");
  }

  // Packs the rows of a block. The first `count` nodes have `values` each in `rows`; the other rows are 0.
  void pack(int64_t block, int count, const typename Unit::Number* rows, int64_t stride, int64_t values) {
    if constexpr (Unit::kPack == 1) {
      static_assert(Terms == 1 && Unit::kRowMultiple == 1, "only rows of the node-major layout are padded");
      transpose(rows, stride, values, count, value_major_.data() + block * kBlockSize * rows_);
      auto* to = node_major_.data() + block * kBlockSize * columns_;
      for (int i = 0; i < kBlockSize; ++i, to += columns_) {
        const int64_t now = i < count ? values : 0;
        std::copy_n(rows + i * stride, now, to);
        std::fill(to + now, to + columns_, typename Unit::Number(0));
      }
    } else {
      for (int i = 0; i < kBlockSize; i += Unit::kPack)
        for (int64_t c = 0; c < values; c += kChunk) {
          alignas(64) uint16_t terms[Unit::kPack][Terms][kChunk] = {};
          for (int half = 0; half < std::min(Unit::kPack, count - i); ++half)
            split<Terms>(rows + (i + half) * stride + c, std::min<int64_t>(kChunk, values - c), terms[half]);
          for (int t = 0; t < Terms; ++t) {
            alignas(64) uint16_t elements[kChunk * Unit::kPack];
            for (int n = 0; n < kChunk; ++n)
              for (int half = 0; half < Unit::kPack; ++half) elements[n * Unit::kPack + half] = terms[half][t][n];
            uint16_t* by_node = node_major_.data() + (t * nodes_ + block * kBlockSize + i) * columns_ + c * Unit::kPack;
            std::copy_n(elements, std::min<int64_t>(kChunk, columns_ - c) * Unit::kPack, by_node);
            uint16_t* by_value = value_major_.data() + (t * nodes_ + block * kBlockSize) * rows_ + c * kBlockSize + i;
            for (int64_t n = 0; n < std::min<int64_t>(kChunk, rows_ - c); ++n)
              std::memcpy(by_value + n * kBlockSize, elements + n * Unit::kPack, sizeof(Element));
          }
        }
    }
  }

  // The values of a block, node by node: elements (node, value), in rows that are padded to kColumnMultiple values.
  const Element* node_major(int term, int64_t block) const {
    return reinterpret_cast<const Element*>(by_node_ + (term * nodes_ + block * kBlockSize) * columns_);
  }
  // The values of a block, value by value: elements (value, node), in rows of kBlockSize nodes.
  const Element* value_major(int term, int64_t block) const {
    return reinterpret_cast<const Element*>(by_value_ + (term * nodes_ + block * kBlockSize) * rows_);
  }

 private:
  const int64_t columns_, rows_, nodes_;
  Buffer<Stored<Unit>> node_major_, value_major_;
  const Stored<Unit>*by_node_, *by_value_;
};

// The entries of a strip, by which values are multiplied: exponentials, or entries of dS + dS^T.
template <class Unit, int Terms, int Pack = Unit::kPack>
class PackedWeights;

template <class Unit, int Terms>
class PackedWeights<Unit, Terms, 1> {
 public:
  using D = Simd<typename Unit::Number, Unit::kLanes>;

  // Stores a vector of row i and one of row i + 1, from column j on.
  void set(int i, int j, Vec<D> row_0, Vec<D> row_1) {
    StoreU(row_0, D(), values_ + i * Unit::kStrip + j);
    StoreU(row_1, D(), values_ + (i + 1) * Unit::kStrip + j);
  }
  Vec<D> get(int i, int j) const { return LoadU(D(), values_ + i * Unit::kStrip + j); }

  // The left operand of a sum over columns, and the right operand of a sum over rows.
  const typename Unit::Element* left(int) const { return values_; }
  const typename Unit::Element* right(int) const { return values_; }

 private:
  alignas(64) typename Unit::Number values_[kBlockSize * Unit::kStrip];
};

template <class Unit, int Terms>
class PackedWeights<Unit, Terms, 2> {
 public:
  using D = Simd<float, 16>;

  void set(int i, int j, Vec<D> row_0, Vec<D> row_1) {
#pragma GCC unroll 2
    for (int t = 0; t < Terms; ++t) {
      const RoundedRows rounded = round_rows(row_0, row_1);
      uint16_t *to_0 = left_[t] + i * Unit::kStrip + j, *to_1 = to_0 + Unit::kStrip;
      std::memcpy(to_0, &rounded.rows, 32);
      std::memcpy(to_1, reinterpret_cast<const char*>(&rounded.rows) + 32, 32);
      std::memcpy(right_[t] + i * Unit::kStrip + 2 * j, &rounded.pairs, 64);
      if (t + 1 < Terms) {
        row_0 = row_0 - PromoteTo(D(), to_0);
        row_1 = row_1 - PromoteTo(D(), to_1);
      }
    }
  }
  Vec<D> get(int i, int j) const {
    Vec<D> sum = PromoteTo(D(), left_[0] + i * Unit::kStrip + j);
    for (int t = 1; t < Terms; ++t) sum += PromoteTo(D(), left_[t] + i * Unit::kStrip + j);
    return sum;
  }

  const uint32_t* left(int term) const { return reinterpret_cast<const uint32_t*>(left_[term]); }
  const uint32_t* right(int term) const { return reinterpret_cast<const uint32_t*>(right_[term]); }

 private:
  alignas(64) uint16_t left_[Terms][kBlockSize * Unit::kStrip];   // pairs of columns
  alignas(64) uint16_t right_[Terms][kBlockSize * Unit::kStrip];  // pairs of rows
};

}  // namespace DIFNET_ISA
}  // namespace difnet
