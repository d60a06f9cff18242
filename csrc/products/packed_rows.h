// The packed operands of C = X Y^T: a row of numbers for each node.
#pragma once

#include "../memory/buffer.h"
#include "terms.h"

namespace difnet {
inline namespace DIFNET_ISA {

// A row has one or more groups of numbers, each padded to kDepthMultiple. Any group of a row of X can be multiplied by
// any group of a row of Y.
template <class Unit, int Terms>
class PackedRows {
 public:
  using Element = typename Unit::Element;
  static_assert(kChunk % Unit::kDepthMultiple == 0, "the last chunk of a group must cover its padding");

  PackedRows(int64_t nodes, int64_t numbers, int groups)
      : group_depth_(round_up(numbers, Unit::kDepthMultiple) / Unit::kPack),
        groups_(groups),
        depth_(group_depth_ * groups * Terms),
        depth_major_(nodes * depth_ * Unit::kPack, Fill::uninitialized),
        node_major_(Unit::kLeftNodeMajor ? nodes * depth_ * Unit::kPack : 0, Fill::uninitialized) {}

  // Packs a group of the rows of a block. The first `count` nodes have `numbers` each in `rows`, `stride` apart; the
  // other rows are 0.
  void pack(int64_t block, int count, int group, const typename Unit::Number* rows, int64_t stride, int64_t numbers) {
    if constexpr (Unit::kPack == 1) {
      static_assert(
          Terms == 1 && Unit::kDepthMultiple == 1 && !Unit::kLeftNodeMajor,
          "without padding and terms, packing is a transposition");
      transpose(
          rows, stride, numbers, count, depth_major_.data() + (block * depth_ + group * group_depth_) * kBlockSize);
    } else {
      for (int i = 0; i < kBlockSize; ++i)
        for (int64_t c = 0; c < numbers; c += kChunk) {
          const int64_t now = i < count ? std::min<int64_t>(kChunk, numbers - c) : 0;
          const int64_t elements = std::min<int64_t>(kChunk / Unit::kPack, group_depth_ - c / Unit::kPack);
          alignas(64) uint16_t terms[Terms][kChunk];
          split<Terms>(rows + i * stride + c, now, terms);
          for (int t = 0; t < Terms; ++t) {
            const int64_t m = (t * groups_ + group) * group_depth_ + c / Unit::kPack;
            uint16_t* to = depth_major_.data() + ((block * depth_ + m) * kBlockSize + i) * Unit::kPack;
            for (int64_t e = 0; e < elements; ++e)
              std::memcpy(to + e * kBlockSize * Unit::kPack, terms[t] + e * Unit::kPack, sizeof(Element));
            if constexpr (Unit::kLeftNodeMajor)
              std::copy_n(
                  terms[t], elements * Unit::kPack,
                  node_major_.data() + ((block * kBlockSize + i) * depth_ + m) * Unit::kPack);
          }
        }
    }
  }

  // The numbers of the first group of a block if they are stored as they are, without terms: a row for each number.
  const Stored<Unit>* depth_major(int64_t block) const { return depth_major_.data() + block * depth_ * kBlockSize; }

  // Unit::multiply_transposed of a strip, summed over the pairs of groups (left[n], right[n]).
  template <int Pairs, class Visit>
  void multiply(const Strip& strip, const int (&left)[Pairs], const int (&right)[Pairs], const Visit& visit) const {
    DepthRange ranges[Pairs * Terms * (Terms + 1) / 2];
    int count = 0;
    for (int n = 0; n < Pairs; ++n)
      for (int t = 0; t < Terms; ++t)
        for (int u = 0; t + u < Terms; ++u)
          ranges[count++] = {
              (t * groups_ + left[n]) * group_depth_, (u * groups_ + right[n]) * group_depth_, group_depth_};
    const Element* x = elements(Unit::kLeftNodeMajor ? node_major_ : depth_major_) + strip.I * depth_ * kBlockSize;
    const Element* y = elements(depth_major_) + strip.J * depth_ * kBlockSize + strip.first;
    Unit::multiply_transposed(x, depth_, y, ranges, count, strip.rows, strip.columns, visit);
  }

 private:
  static const Element* elements(const Buffer<Stored<Unit>>& buffer) {
    return reinterpret_cast<const Element*>(buffer.data());
  }

  const int64_t group_depth_, groups_, depth_;  // group_depth_ and depth_ count elements
  Buffer<Stored<Unit>> depth_major_, node_major_;
};

}  // namespace DIFNET_ISA
}  // namespace difnet
