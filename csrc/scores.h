// What both passes share: the centred features, and the exponentials of a tile.
#pragma once

#include "grid.h"
#include "operands.h"

namespace difnet {
inline namespace DIFNET_ISA {

using Four = Simd<double, 4>;

// Numbers n .. n + 3 of a row; 0 beyond its end.
template <class T>
inline Four::Vector four(const T* row, int64_t n, int64_t count) {
  Four::Vector some = {};
  if (n >= count) return some;
  const T* from = row + n;
  if (n + 4 <= count) return Four::Vector{double(from[0]), double(from[1]), double(from[2]), double(from[3])};
  for (int lane = 0; n + lane < count; ++lane) some[lane] = from[lane];
  return some;
}

// The same of what their parts hold.
template <class A, int Parts>
inline Four::Vector four_held(const typename A::Number* row, int64_t n, int64_t count) {
  if constexpr (A::kPair == 1) return four(row, n, count);
  typename A::Number some[4] = {};
  for (int lane = 0; lane < std::min<int64_t>(4, count - n); ++lane) some[lane] = held<A, Parts>(row[n + lane]);
  return four(some, 0, 4);
}

template <size_t K>
struct Terms {
  Four::Vector of[K];
};

// The sums of the K vectors of term(n) for n = 0, 4, 8 and so on, which must be 0 from `count` on, each in eight partial sums,
// so that additions do not wait for each other.
template <size_t K, class F>
inline std::array<double, K> sums_of(int64_t count, const F& term) {
  Four::Vector sums[K][2] = {};
  for (int64_t n = 0; n < count; n += 8)
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const Terms<K> terms = term(n + 4 * half);
#pragma GCC unroll 3
      for (size_t s = 0; s < K; ++s) sums[s][half] += terms.of[s];
    }
  std::array<double, K> total;
  for (size_t s = 0; s < K; ++s) {
    const Four::Vector x = sums[s][0], y = sums[s][1];
    total[s] = ((x[0] + x[1]) + (x[2] + x[3])) + ((y[0] + y[1]) + (y[2] + y[3]));
  }
  return total;
}

// What the parts of x hold times y, summed.
template <class A, int Parts>
inline double dot(const typename A::Number* x, const typename A::Number* y, int64_t count) {
  return sums_of<1>(count, [&](int64_t n) {
    return Terms<1>{{four_held<A, Parts>(x, n, count) * four(y, n, count)}};
  })[0];
}

// Centred features G (math.md, section 3) and the terms that turn scores into exponents of 2, L being log2(e):
//
//   P_ij is proportional to 2^(L g_i . g_j + column_j + row_i) weight_j.
//
// Where an image allows it ("shared"), row_i = column_i = -L |g_i|^2 / 2, so that the exponential is exp(-|g_i - g_j|^2
// / 2), the same for (i, j) and (j, i), and weight_j = exp(bias_j + |g_j|^2 / 2 - top). Elsewhere column is the bias,
// weight_j what rounding the bias lost, row is what keeps the exponents of a row in range, and (i, j) and (j, i) take an
// exponential each, times a factor of the row.
template <class A, int Parts>
struct Scores {
  using T = typename A::Number;
  using S = Simd<T, A::kWidth>;
  using Vector = typename S::Vector;
  static constexpr T kLog2e = static_cast<T>(1.4426950408889634);
  // Results in bfloat16 need no more of their exponentials.
  static constexpr int kDegree = A::kPair == 1 ? 6 : Parts == 1 ? 3 : 5;

  Grid grid;
  int64_t width;
  Factor<A, Parts> features;
  Buffer<T> centred, centre, row, column, weight, factor, lowest;
  Buffer<double> bias;  // double: the weight's exponent is a difference of larger numbers
  // How exponents are added up: with terms so large that rounding would do harm in another order; with smaller ones; or with
  // one exponential for (i, j) and (j, i).
  enum class Form : char { far, near, shared };
  Buffer<Form> form;

  bool shared(int64_t b) const { return form[b] == Form::shared; }
  bool removed(int64_t node) const { return bias[node] == -std::numeric_limits<double>::infinity(); }

  int64_t node(int64_t b, int64_t block) const { return b * grid.padded + block * kEdge; }
  int64_t block_of(int64_t b, int64_t block) const { return b * grid.blocks + block; }

  Scores(const Sizes& sizes, const Array& feature, const Array& node_bias, const Pool& pool)
      : grid(sizes), width(sizes.width) {
    const int64_t nodes = sizes.batch * grid.padded;
    features = Factor<A, Parts>(nodes, width, 1);
    centred = Buffer<T>(nodes * width, Fill::nothing);
    centre = Buffer<T>(sizes.batch * width);
    bias = Buffer<double>(nodes);
    row = Buffer<T>(nodes);
    column = Buffer<T>(nodes);
    weight = Buffer<T>(nodes);
    factor = Buffer<T>(nodes, Fill::nothing);
    lowest = Buffer<T>(nodes, Fill::nothing);
    std::fill(factor + 0, factor + nodes, T(1));
    std::fill(lowest + 0, lowest + nodes, kLowestPower<T>);
    form = Buffer<Form>(sizes.batch);
    grid.each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      for (int i = 0; i < grid.nodes_in(block); ++i)
        read_row(feature, b, grid.first_node(block) + i, width, centred + (node(b, block) + i) * width);
    });
    // Products of bfloat16 features are exact; centring would round the features again.
    if (A::kPair == 1 || feature.type != Type::bfloat16) find_centre(pool);
    const Bounds bounds{Buffer<double>(nodes), Buffer<double>(nodes)};
    subtract_centre(node_bias, bounds, pool);
    choose_form(bounds, pool);
    find_rows(pool);
  }

  // Where a row's sum is known, the row's exponentials are divided by its power of two, so that no product leaves the range
  // of numbers on its way to a gradient; returns what is left of the sum. After the exponential: it must have been rounded
  // as it was when it was summed. What the division would make subnormal becomes 0.
  T take_up(int64_t b, int64_t node, T row_sum) const {
    if (form[b] != Form::near || !std::isfinite(row_sum)) return row_sum;
    int exponent;
    row_sum = std::frexp(row_sum, &exponent);
    factor[node] = std::ldexp(T(1), -exponent);
    lowest[node] = kLowestPower<T> + std::max(exponent, 0);
    return row_sum;
  }

  // Exponentials of `columns` columns from `first` on of the tile (I, J): in `ij` for rows of I and columns of J, and in
  // `ji`, if it is not null, at the same places those of row j and column i. Divided as take_up says, or not.
  template <bool Divided>
  void exponentials(
      int64_t b, int64_t I, int64_t J, int first, int columns, Strip<A, Parts>& ij, Strip<A, Parts>* ji) const {
    const Vector log2e = S::broadcast(kLog2e);
    // The column's term and the score first; or both terms first, which are rounded at the size of the score alone; or
    // as in find_rows, bit by bit, where rounding may shift exponents by hundreds.
    if (shared(b))
      each_exponential<Divided>(b, I, J, first, columns, ij, ji, [&](Vector score, Vector of_column, Vector of_row) {
        return (score * log2e + of_column) + of_row;
      });
    else if (form[b] == Form::near)
      each_exponential<Divided>(b, I, J, first, columns, ij, ji, [&](Vector score, Vector of_column, Vector of_row) {
        return score * log2e + (of_column + of_row);
      });
    else
      each_exponential<Divided>(b, I, J, first, columns, ij, ji, [&](Vector score, Vector of_column, Vector of_row) {
        return (S::opaque(score * log2e) + of_column) + of_row;
      });
  }

 private:
  // Of each node, what bounds its scores: |g_i + centre|, and the bias without the part that g_j . centre has in it.
  struct Bounds {
    Buffer<double> length, prior;
  };

  template <bool Divided, class Exponent>
  void each_exponential(
      int64_t b, int64_t I, int64_t J, int first, int columns, Strip<A, Parts>& ij, Strip<A, Parts>* ji,
      const Exponent& exponent) const {
    const T *row_i = row + node(b, I), *row_j = row + node(b, J) + first;
    const T *column_i = column + node(b, I), *column_j = column + node(b, J) + first;
    const T *factor_i = factor + node(b, I), *factor_j = factor + node(b, J) + first;
    const T *lowest_i = lowest + node(b, I), *lowest_j = lowest + node(b, J) + first;
    each_score(b, I, J, first, columns, [&](int block_i, int block_j, const T* scores) {
      const PowerOfTwo<T, A::kWidth, kDegree> power;
      each_two_rows<A>(block_i, block_j, scores, [&](int i, int j, Vector one, Vector two) {
        const Vector of_j = S::load(column_j + j), row_1 = S::broadcast(row_i[i]), row_2 = S::broadcast(row_i[i + 1]);
        const Vector ij_1 = exponent(one, of_j, row_1), ij_2 = exponent(two, of_j, row_2);
        if (ji == nullptr) return ij.set(i, j, power(ij_1), power(ij_2));
        const Vector of_1 = S::broadcast(column_i[i]), of_2 = S::broadcast(column_i[i + 1]), from_j = S::load(row_j + j);
        const Vector ji_1 = exponent(one, of_1, from_j), ji_2 = exponent(two, of_2, from_j);
        if constexpr (Divided) {
          const auto divided = [&](Vector x, int n) {
            return power(x, S::broadcast(lowest_i[n])) * S::broadcast(factor_i[n]);
          };
          ij.set(i, j, divided(ij_1, i), divided(ij_2, i + 1));
          const Vector low = S::load(lowest_j + j), by = S::load(factor_j + j);
          ji->set(i, j, power(ji_1, low) * by, power(ji_2, low) * by);
        } else {
          ij.set(i, j, power(ij_1), power(ij_2));
          ji->set(i, j, power(ji_1), power(ji_2));
        }
      });
    });
  }

  template <class Visit>
  void each_score(int64_t b, int64_t I, int64_t J, int first, int columns, const Visit& visit) const {
    features.product(block_of(b, I), block_of(b, J), {0}, {0}, grid.nodes_in(I), first, columns, visit);
  }

  // The mean of an image's rows, or zero where that does not make them shorter. Sums over an image are sums of its
  // blocks' sums, in order, whoever computed them.
  void find_centre(const Pool& pool) {
    const int64_t batch = grid.sizes.batch, blocks = grid.blocks;
    Buffer<double> sums(batch * blocks * width), lengths(batch * blocks * 2);
    grid.each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      double* sum = sums + block_of(b, block) * width;
      const T* from = centred + node(b, block) * width;
      for (int i = 0; i < grid.nodes_in(block); ++i, from += width)
        for (int64_t c = 0; c < width; ++c) sum[c] += from[c];
    });
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t c = 0; c < width; ++c) {
        double sum = 0;
        for (int64_t block = 0; block < blocks; ++block) sum += sums[block_of(b, block) * width + c];
        centre[b * width + c] = static_cast<T>(sum / grid.sizes.nodes);
      }
    grid.each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const T *from = centred + node(b, block) * width, *mean = centre + b * width;
      double* sum = lengths + block_of(b, block) * 2;
      for (int i = 0; i < grid.nodes_in(block); ++i, from += width) {
        const auto squares = sums_of<2>(width, [&](int64_t n) {
          const Four::Vector plain = four(from, n, width), moved = plain - four(mean, n, width);
          return Terms<2>{{plain * plain, moved * moved}};
        });
        for (int n = 0; n < 2; ++n) sum[n] += std::sqrt(squares[n]);
      }
    });
    for (int64_t b = 0; b < batch; ++b) {
      double plain = 0, moved = 0;
      for (int64_t block = 0; block < blocks; ++block) {
        plain += lengths[block_of(b, block) * 2];
        moved += lengths[block_of(b, block) * 2 + 1];
      }
      // Also where a feature is not finite: it must not reach all rows through the centre.
      if (!(moved <= plain)) std::fill_n(centre + b * width, width, T(0));
    }
  }

  void subtract_centre(const Array& node_bias, const Bounds& bounds, const Pool& pool) {
    grid.each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const T* mean = centre + b * width;
      const bool moved = std::any_of(mean, mean + width, [](T value) { return value != 0; });
      T* x = centred + node(b, block) * width;
      for (int i = 0; i < grid.nodes_in(block); ++i, x += width) {
        double prior = 0;
        if (moved)  // not where features may be infinite
          for (int64_t c = 0; c < width; ++c) x[c] -= mean[c];
        // Of what is multiplied, so that a node's score with itself cancels: g . g, |g + centre|^2, g . centre.
        const auto [squares, length, of_centre] = sums_of<3>(width, [&](int64_t n) {
          const Four::Vector g = four_held<A, Parts>(x, n, width), centre = four(mean, n, width);
          const Four::Vector whole = g + centre;
          return Terms<3>{{g * g, whole * whole, moved ? g * centre : Four::Vector{}}};
        });
        double of_all = of_centre;  // the centre times all of x
        if (A::kPair > 1 && moved)
          of_all = sums_of<1>(width, [&](int64_t n) { return Terms<1>{{four(x, n, width) * four(mean, n, width)}}; })[0];
        if (node_bias.data != nullptr) read_row(node_bias, b, grid.first_node(block) + i, 1, &prior);
        const int64_t n = node(b, block) + i;
        bias[n] = kLog2e * (of_all + prior);
        column[n] = static_cast<T>(-kLog2e * (squares / 2));
        bounds.length[n] = std::sqrt(length);
        bounds.prior[n] = kLog2e * (of_all - of_centre + prior);
      }
      features.set(block_of(b, block), grid.nodes_in(block), 0, centred + node(b, block) * width, width);
    });
  }

  // Images are shared whose weights keep to the range of numbers, and whose norms to that where they have digits left. The
  // next best are those whose rows' largest exponents are known well enough before any score is.
  void choose_form(const Bounds& bounds, const Pool& pool) {
    constexpr double kSpread = 60 * kLog2e, kNorm = 1e4 * kLog2e;
    constexpr double infinity = std::numeric_limits<double>::infinity();
    // Of an image: the largest of the nodes' logarithms, |g| and priors, and the row of the node with the largest bias.
    struct Image {
      double top, longest, prior, bias;
      bool usable;
    };
    const int64_t batch = grid.sizes.batch;
    Buffer<Image> images(batch);
    Buffer<T> favoured(batch * width);
    for_each(pool, batch, [&](int64_t b) {
      Image image{-infinity, 0, -infinity, -infinity, true};
      double bottom = infinity;
      int64_t most = node(b, 0);
      each_node(b, [&](int64_t i) {
        const double logarithm = bias[i] - column[i];
        image.usable &= logarithm < infinity && -column[i] < kNorm;
        image.top = std::max(image.top, logarithm);
        image.longest = std::max<double>(image.longest, std::sqrt(-2 * column[i] / kLog2e));
        image.prior = std::max(image.prior, bounds.prior[i]);
        bottom = std::min(bottom, logarithm);
        if (bias[i] > bias[most]) most = i;
      });
      image.usable &= image.top > -infinity;
      image.bias = bias[most];
      for (int64_t c = 0; c < width; ++c) favoured[b * width + c] = held<A, Parts>(centred[most * width + c]);
      form[b] = image.usable && image.top - bottom < kSpread ? Form::shared : Form::far;
      images[b] = image;
    });

    Buffer<char> apart(batch * grid.blocks);  // whether a row of the block has bounds too far apart
    grid.each_block(pool, [&](int64_t b, int64_t block, int64_t) {
      const Image& image = images[b];
      const int64_t start = node(b, block), end = start + grid.nodes_in(block);
      for (int64_t i = start; i < end; ++i)
        if (shared(b)) {
          // What rounding the column to T lost, the weight makes good. Where numbers are rounded to bfloat16, weights are
          // powers of two, so that states and weighted states are rounded alike, and the rest is in the exponent.
          const double logarithm = bias[i] - column[i] - image.top;
          const double whole = A::kPair == 1 ? logarithm : std::rint(logarithm);
          weight[i] = static_cast<T>(std::exp2(whole));
          column[i] += static_cast<T>(logarithm - whole);
          row[i] = column[i];
        } else {
          // A row's largest exponent is that of the node itself, or of the one with the largest bias, or more. Of
          // g_i . g_j + bias_j, which is |g_i|^2 / 2 and the logarithm of j less |g_i - g_j|^2 / 2, and
          // (g_i + centre) . g_j and the prior, there are two upper bounds.
          const T *x = centred + i * width, *other = favoured + b * width;
          const double score = kLog2e * dot<A, Parts>(x, other, width);
          const double least = std::max(bias[i] - 2 * column[i], score + image.bias);
          const double most =
              std::min(image.top - column[i], kLog2e * bounds.length[i] * image.longest + image.prior);
          if (!find_row(i, least, most)) apart[block_of(b, block)] = 1;
          column[i] = static_cast<T>(bias[i]);
          const double lost = bias[i] - column[i];
          weight[i] = A::kPair == 1 && std::abs(lost) < 1 ? static_cast<T>(std::exp2(lost)) : T(1);
        }
      if (shared(b)) return;  // exponentials of padding are finite, and what they are multiplied with is 0
      // Exponentials of padding are 0.
      constexpr T nothing = -std::numeric_limits<T>::infinity();
      std::fill_n(column + end, kEdge - grid.nodes_in(block), nothing);
      std::fill_n(row + end, kEdge - grid.nodes_in(block), nothing);
    });
    for (int64_t b = 0; b < batch; ++b) {
      const char* of = apart + b * grid.blocks;
      if (!shared(b) && images[b].usable && std::all_of(of, of + grid.blocks, [](char is) { return is == 0; }))
        form[b] = Form::near;
    }
  }

  // Sets row i by bounds of its largest exponent; false where that leaves the range of numbers too little room, or takes too
  // large a term. Exponents are counted from the lower bound, which is often close: small ones are rounded less. In float32
  // exponentials are normal numbers from 2^-126 to 2^128. A largest of 2^-82 at least leaves out what is no part of a row's
  // digits, be it the sum of a million; one of 2^98 at most leaves room for as long a sum, of states of 1 or so.
  bool find_row(int64_t i, double least, double most) const {
    constexpr double kBelow = 82, kAbove = 98;
    row[i] = static_cast<T>(-std::max(least, most - kAbove));
    return most - least < kBelow + kAbove && is_near(row[i]);
  }

  // Whether rounding moves the term by 2^-4 at most, and exponents as little.
  static bool is_near(T term) { return std::abs(term) < T(1 << 20); }

  // visit(i) for the place of every node of an image.
  template <class Visit>
  void each_node(int64_t b, const Visit& visit) const {
    for (int64_t block = 0; block < grid.blocks; ++block)
      for (int i = 0; i < grid.nodes_in(block); ++i) visit(node(b, block) + i);
  }

  // For images of which too little is known before: `row` becomes minus the largest exponent of a row.
  void find_rows(const Pool& pool) {
    constexpr T infinity = std::numeric_limits<T>::infinity();
    if (std::all_of(form + 0, form + grid.sizes.batch, [](Form is) { return is != Form::far; })) return;
    const int64_t nodes = grid.sizes.batch * grid.padded;
    Buffer<T> by_row(nodes, Fill::nothing), by_column(nodes, Fill::nothing);
    for (T* top : {by_row + 0, by_column + 0}) std::fill(top, top + nodes, -infinity);
    grid.each_pair(pool, [&](int64_t b, int64_t I, int64_t J) {
      if (form[b] != Form::far) return;
      const typename A::Session session;
      const T* column_i = column + node(b, I);
      T *top_i = by_row + node(b, I), *top_j = by_column + node(b, J);
      alignas(64) T scores[kEdge * A::kStrip];
      for (int first = 0; first < grid.nodes_in(J); first += A::kStrip) {
        const int columns = std::min(A::kStrip, grid.nodes_in(J) - first);
        const T* column_j = column + node(b, J) + first;
        each_score(b, I, J, first, columns, [&](int i, int j, const T* from) {
          for (int r = 0; r < A::kRows; ++r)
            std::copy_n(from + r * A::kPanel, A::kPanel, scores + (i + r) * A::kStrip + j);
        });
        for (int i = 0; i < grid.nodes_in(I); ++i) {
          Vector most = S::broadcast(-infinity);
          for (int j = 0; j < columns; j += A::kWidth) {
            const Vector score = S::opaque(S::load(scores + i * A::kStrip + j) * kLog2e);
            const Vector mine = score + S::load(column_j + j), other = score + S::broadcast(column_i[i]);
            const Vector old = S::load(top_j + first + j);
            most = mine > most ? mine : most;
            if (I != J) S::store(top_j + first + j, other > old ? other : old);
          }
          for (int lane = 0; lane < A::kWidth; ++lane) top_i[i] = std::max(top_i[i], static_cast<T>(most[lane]));
        }
      }
    });
    for (int64_t b = 0; b < grid.sizes.batch; ++b)
      if (form[b] == Form::far) {
        bool near = true;
        each_node(b, [&](int64_t i) {
          // A row of removed nodes only has no maximum: its weights are 0, its result 0 / 0.
          const T top = std::max(by_row[i], by_column[i]);
          row[i] = top == -infinity ? T(0) : -top;
          near &= is_near(row[i]);
        });
        if (near) form[b] = Form::near;
      }
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
