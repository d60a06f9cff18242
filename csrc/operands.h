// The operands of a tile's products, in the layouts that the products of an arithmetic A (Registers of gemm.h,
// MatrixUnit of matrix_unit.h) read. With Parts = 2 a number is held as the sum of two bfloat16 numbers, and a product
// is a sum of three; the fourth, of both rests, is below the rounding of the others.
#pragma once

#include <type_traits>

#include "gemm.h"
#include "memory.h"

namespace difnet {
inline namespace DIFNET_ISA {

// visit(i, j, row i, row i + 1) for every vector of two rows of a product's block that starts at row i0, column j0.
template <class A, class Visit>
inline void each_two_rows(int i0, int j0, const typename A::Number* block, const Visit& visit) {
  using S = Simd<typename A::Number, A::kWidth>;
  for (int r = 0; r < A::kRows; r += 2, block += 2 * A::kPanel)
#pragma GCC unroll 3
    for (int n = 0; n < A::kPanel; n += A::kWidth)
      visit(i0 + r, j0 + n, S::load(block + n), S::load(block + A::kPanel + n));
}

// Column c of `count` rows, kEdge at most, as row c of `to`, and 0 beyond them. By vectors, a cache line at a time: stores of
// single numbers would soon have to wait for the memory that they go to.
template <class T>
inline void transpose(const T* from, int64_t columns, int count, T* to) {
  using S = Simd<T, 32 / sizeof(T)>;
  static_assert(kEdge % (2 * S::width) == 0, "the last vectors must reach to the end");
  for (int first = 0; first < kEdge; first += 2 * S::width)
    for (int64_t c = 0; c < columns; ++c)
#pragma GCC unroll 2
      for (int i = first; i < first + 2 * S::width; i += S::width) {
        typename S::Vector numbers = {};
        if (i + S::width <= count) {
#pragma GCC unroll 8
          for (int lane = 0; lane < S::width; ++lane) numbers[lane] = from[(i + lane) * columns + c];
        } else {
          for (int lane = 0; i + lane < count; ++lane) numbers[lane] = from[(i + lane) * columns + c];
        }
        S::store(to + c * kEdge + i, numbers);
      }
}

// What elements of A are made of: the numbers themselves, or halves of pairs.
template <class A>
using Scalar = std::conditional_t<A::kPair == 1, typename A::Number, uint16_t>;

// Numbers are turned into bfloat16 parts this many at a time, on the stack; a multiple of what operands are padded to.
constexpr int kChunk = 64;

// The bfloat16 parts of `count` numbers, kChunk at most: part p of number c is parts[p][c], and 0 beyond them.
template <int Parts>
inline void split(const float* from, int64_t count, uint16_t (&parts)[Parts][kChunk]) {
  alignas(64) float rest[kChunk] = {};
  if (count == kChunk)
    std::memcpy(rest, from, sizeof rest);  // of known length: vectors
  else
    std::copy_n(from, count, rest);
  for (int part = 0; part < Parts; ++part)
    for (int c = 0; c < kChunk; ++c) {
      parts[part][c] = to_bfloat16(rest[c]);
      const float left = rest[c] - from_bfloat16(parts[part][c]);
      rest[c] = std::abs(left) < std::numeric_limits<float>::infinity() ? left : 0;  // infinity is held by one part
    }
}

// What is left of a number when its parts are added up.
template <class A, int Parts>
inline typename A::Number held(typename A::Number value) {
  if constexpr (A::kPair == 1) {
    return value;
  } else {
    float sum = 0;
    for (int part = 0; part < Parts; ++part) sum += from_bfloat16(to_bfloat16(value - sum));
    return sum;
  }
}

// A row of numbers for each node, multiplied with other rows over its length. A row consists of one or two groups of
// numbers, each padded to what A sums at a time.
template <class A, int Parts>
class Factor {
 public:
  using Element = typename A::Element;
  static_assert(kChunk % A::kDepth == 0, "the last chunk of a group must reach to its end");

  Factor() = default;
  Factor(int64_t nodes, int64_t numbers, int groups)
      : group_(round_up(numbers, A::kDepth) / A::kPair),
        groups_(groups),
        depth_(group_ * groups * Parts),
        by_depth_(nodes * depth_ * A::kPair, Fill::nothing),
        by_row_(A::kLeftByRow ? nodes * depth_ * A::kPair : 0, Fill::nothing) {}

  // A group of the rows of a block, whose first `count` nodes have `numbers` each in `rows`; the rest is 0.
  void set(int64_t block, int count, int group, const typename A::Number* rows, int64_t numbers) {
    if constexpr (A::kPair == 1) {
      static_assert(Parts == 1 && A::kDepth == 1 && !A::kLeftByRow, "there is no padding and no other layout");
      transpose(rows, numbers, count, by_depth_ + (block * depth_ + group * group_) * kEdge);
    } else {
      for (int i = 0; i < kEdge; ++i)
        for (int64_t c = 0; c < numbers; c += kChunk) {
          const int64_t now = i < count ? std::min<int64_t>(kChunk, numbers - c) : 0;
          const int64_t elements = std::min<int64_t>(kChunk / A::kPair, group_ - c / A::kPair);
          alignas(64) uint16_t parts[Parts][kChunk];
          split<Parts>(rows + i * numbers + c, now, parts);
          for (int part = 0; part < Parts; ++part) {
            const int64_t element = (part * groups_ + group) * group_ + c / A::kPair;
            uint16_t* to = by_depth_ + ((block * depth_ + element) * kEdge + i) * A::kPair;
            for (int64_t e = 0; e < elements; ++e)
              std::memcpy(to + e * kEdge * A::kPair, parts[part] + e * A::kPair, sizeof(Element));
            if constexpr (A::kLeftByRow)
              std::copy_n(parts[part], elements * A::kPair, by_row_ + ((block * kEdge + i) * depth_ + element) * A::kPair);
          }
        }
    }
  }

  // A::product of blocks I and J for the columns from `first` on, summed over pairs of groups (left[n], right[n]).
  template <int Pairs, class Visit>
  void product(
      int64_t I, int64_t J, const int (&left)[Pairs], const int (&right)[Pairs], int rows, int first, int columns,
      const Visit& visit) const {
    Segment segments[Pairs * Parts * (Parts + 1) / 2];
    int count = 0;
    for (int n = 0; n < Pairs; ++n)
      for (int p = 0; p < Parts; ++p)
        for (int q = 0; p + q < Parts; ++q)
          segments[count++] = {(p * groups_ + left[n]) * group_, (q * groups_ + right[n]) * group_, group_};
    const Element* x = elements(A::kLeftByRow ? by_row_ : by_depth_) + I * depth_ * kEdge;
    A::product(x, depth_, elements(by_depth_) + J * depth_ * kEdge + first, segments, count, rows, columns, visit);
  }

 private:
  static const Element* elements(const Buffer<Scalar<A>>& buffer) { return reinterpret_cast<const Element*>(buffer + 0); }

  int64_t group_ = 0, groups_ = 0, depth_ = 0;  // of which group_ and depth_ count elements
  Buffer<Scalar<A>> by_depth_, by_row_;
};

// A row of numbers for each node, summed over nodes with the entries of a tile as weights.
template <class A, int Parts>
class Summand {
 public:
  using Element = typename A::Element;
  static_assert(kChunk % A::kColumns == 0 && kChunk % A::kLeftRows == 0, "the last chunk must reach to the end");

  Summand() = default;
  Summand(int64_t nodes, int64_t numbers)
      : columns_(round_up(numbers, A::kColumns)),
        rows_(round_up(numbers, A::kLeftRows)),
        size_(nodes),
        by_node_(nodes * columns_ * Parts, Fill::nothing),
        by_number_(nodes * rows_ * Parts, Fill::nothing) {}

  int64_t columns() const { return columns_; }

  // The rows of a block, whose first `count` nodes have `numbers` each in `rows`; the rest is 0.
  void set(int64_t block, int count, const typename A::Number* rows, int64_t numbers) {
    if constexpr (A::kPair == 1) {
      static_assert(Parts == 1 && A::kLeftRows == 1, "numbers are not padded by node");
      transpose(rows, numbers, count, by_number_ + block * kEdge * rows_);
      auto* to = by_node_ + block * kEdge * columns_;
      for (int i = 0; i < kEdge; ++i, to += columns_) {
        const int64_t now = i < count ? numbers : 0;
        std::copy_n(rows + i * numbers, now, to);
        std::fill(to + now, to + columns_, typename A::Number(0));
      }
    } else {
      for (int i = 0; i < kEdge; i += A::kPair)
        for (int64_t c = 0; c < numbers; c += kChunk) {
          alignas(64) uint16_t parts[A::kPair][Parts][kChunk] = {};
          for (int half = 0; half < std::min(A::kPair, count - i); ++half)
            split<Parts>(rows + (i + half) * numbers + c, std::min<int64_t>(kChunk, numbers - c), parts[half]);
          for (int part = 0; part < Parts; ++part) {
            alignas(64) uint16_t elements[kChunk * A::kPair];
            for (int n = 0; n < kChunk; ++n)
              for (int half = 0; half < A::kPair; ++half) elements[n * A::kPair + half] = parts[half][part][n];
            uint16_t* by_node = by_node_ + (part * size_ + block * kEdge + i) * columns_ + c * A::kPair;
            std::copy_n(elements, std::min<int64_t>(kChunk, columns_ - c) * A::kPair, by_node);
            uint16_t* by_number = by_number_ + (part * size_ + block * kEdge) * rows_ + c * kEdge + i;
            for (int64_t n = 0; n < std::min<int64_t>(kChunk, rows_ - c); ++n)
              std::memcpy(by_number + n * kEdge, elements + n * A::kPair, sizeof(Element));
          }
        }
    }
  }

  // Elements (node, number), rows of columns().
  const Element* by_node(int part, int64_t block) const {
    return reinterpret_cast<const Element*>(by_node_ + (part * size_ + block * kEdge) * columns_);
  }
  // Elements (number, node), rows of kEdge nodes.
  const Element* by_number(int part, int64_t block) const {
    return reinterpret_cast<const Element*>(by_number_ + (part * size_ + block * kEdge) * rows_);
  }

 private:
  int64_t columns_ = 0, rows_ = 0, size_ = 0;
  Buffer<Scalar<A>> by_node_, by_number_;
};

// Some columns of a tile of numbers, as weights for the summands of the columns' and of the rows' nodes.
template <class A, int Parts, int Pair = A::kPair>
struct Strip;

template <class A, int Parts>
struct Strip<A, Parts, 1> {
  using S = Simd<typename A::Number, A::kWidth>;
  alignas(64) typename A::Number values[kEdge * A::kStrip];

  // Rows i and i + 1 of a vector of columns.
  void set(int i, int j, typename S::Vector first, typename S::Vector second) {
    S::store(values + i * A::kStrip + j, first);
    S::store(values + (i + 1) * A::kStrip + j, second);
  }
  typename S::Vector get(int i, int j) const { return S::load(values + i * A::kStrip + j); }
  const typename A::Element* left(int) const { return values; }   // (row, column)
  const typename A::Element* right(int) const { return values; }  // (row, column)
};

template <class A, int Parts>
struct Strip<A, Parts, 2> {
  using S = Simd<float, 16>;
  alignas(64) uint16_t rows[Parts][kEdge * A::kStrip];   // pairs along the columns
  alignas(64) uint16_t pairs[Parts][kEdge * A::kStrip];  // pairs along the rows

  void set(int i, int j, S::Vector first, S::Vector second) {
#pragma GCC unroll 2
    for (int part = 0; part < Parts; ++part) {
      const Rounded rounded = round_rows(first, second);
      std::memcpy(rows[part] + i * A::kStrip + j, &rounded.rows, 32);
      std::memcpy(rows[part] + (i + 1) * A::kStrip + j, reinterpret_cast<const char*>(&rounded.rows) + 32, 32);
      std::memcpy(pairs[part] + i * A::kStrip + 2 * j, &rounded.pairs, 64);
      if (part + 1 < Parts) {
        first = first - widen(rows[part] + i * A::kStrip + j);
        second = second - widen(rows[part] + (i + 1) * A::kStrip + j);
      }
    }
  }
  S::Vector get(int i, int j) const {
    S::Vector sum = widen(rows[0] + i * A::kStrip + j);
    for (int part = 1; part < Parts; ++part) sum += widen(rows[part] + i * A::kStrip + j);
    return sum;
  }
  const uint32_t* left(int part) const { return reinterpret_cast<const uint32_t*>(rows[part]); }
  const uint32_t* right(int part) const { return reinterpret_cast<const uint32_t*>(pairs[part]); }
};

// Sums over nodes for each node: what its block gets as the rows of a tile and what as the columns, apart.
template <class A>
class Sums {
 public:
  using Number = typename A::Number;

  Sums() = default;
  Sums(int64_t nodes, int64_t numbers)
      : columns_(round_up(numbers, A::kColumns)),
        rows_(round_up(numbers, A::kLeftRows)),
        numbers_(numbers),
        by_node_(nodes * columns_),
        by_number_(nodes * rows_) {}

  Number get(int64_t block, int i, int64_t place) const {
    return by_node_[(block * kEdge + i) * columns_ + place] + by_number_[(block * rows_ + place) * kEdge + i];
  }

  // Adds, for the strip of tile (I, J) that starts at column `first`, the summands of J's nodes to the rows of I ...
  template <int Parts>
  void add_to_rows(
      int64_t I, int64_t J, const Strip<A, Parts>& strip, const Summand<A, Parts>& summand, int rows, int first,
      int columns) {
    for (int p = 0; p < Parts; ++p)
      for (int q = 0; p + q < Parts; ++q)
        A::add(
            strip.left(p), A::kStrip / A::kPair, summand.by_node(q, J) + first / A::kPair * columns_, columns_,
            (columns + A::kPair - 1) / A::kPair, rows, by_node_ + I * kEdge * columns_, columns_, numbers_);
  }
  // ... and those of I's nodes to the columns of J.
  template <int Parts>
  void add_to_columns(
      int64_t I, int64_t J, const Strip<A, Parts>& strip, const Summand<A, Parts>& summand, int rows, int first,
      int columns) {
    for (int p = 0; p < Parts; ++p)
      for (int q = 0; p + q < Parts; ++q)
        A::add(
            summand.by_number(p, I), kEdge / A::kPair, strip.right(q), A::kStrip, (rows + A::kPair - 1) / A::kPair,
            static_cast<int>(numbers_), by_number_ + J * rows_ * kEdge + first, kEdge, columns);
  }

 private:
  int64_t columns_ = 0, rows_ = 0, numbers_ = 0;
  Buffer<Number> by_node_, by_number_;
};

}  // namespace DIFNET_ISA
}  // namespace difnet
