// The range of shared exponentials, weights and sums, in powers of two.
#pragma once

#include "../memory/buffer.h"

namespace difnet {
inline namespace DIFNET_ISA {

// A shared exponential is at most 1 and a weight is at most 1, (15). Both are multiplied by powers of two, so that all
// of T's range serves them. With N = 2^n nodes and the largest power 2^m of T (m = 126 in float32),
//
//   exponentials are at most 2^half, weights at most 2^half, and row sums at most 2^(2 half + n) <= 2^m.
//
// The least weight is 2^-spread times the largest, and so is the least row sum, because it contains the node's own
// weight. What is lost in a sum of N terms must stay below its rounding error, 2^-digits: then exponentials are needed
// down to 2^(-spread - digits - n), and the backward's quotients of a gradient and a row sum up to 2^spread. max_spread
// keeps both in the range of T.
template <class T>
struct SharedRange {
  explicit SharedRange(int64_t nodes) {
    int n = 0;
    while (int64_t{1} << n < nodes) ++n;
    half = (kLargest - n) / 2;
    const int of_exponentials = half + kLargest - kDigits - n;
    const int of_quotients = 2 * (kLargest - n) - kQuotient - half;
    max_spread = std::min(of_exponentials, of_quotients);
  }

  static constexpr int kDigits = std::numeric_limits<T>::digits, kLargest = std::numeric_limits<T>::max_exponent - 2;
  // The backward multiplies the reciprocals of row sums, and so all its sums, by 2^kQuotient. Gradients down to 2^-30
  // (float32) of the largest of their image then keep their digits, whatever the row sum is.
  static constexpr int kQuotient = kDigits + 6;

  int half;        // exponentials and weights are multiplied by 2^half
  int max_spread;  // the binary logarithm of the largest ratio of two weights
};

}  // namespace DIFNET_ISA
}  // namespace difnet
