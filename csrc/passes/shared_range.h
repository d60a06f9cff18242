// The range of shared exponentials, weights and sums, in powers of two.
#pragma once

#include "../memory/buffer.h"

namespace difnet {
inline namespace DIFNET_ISA {

// A shared exponential is at most 1, and so is a weight, (15). Both are multiplied by 2^half, so that all of T's range
// serves them. Let 2^kLargest be the largest power of two of T, and let 2^n be at least the number of terms of any sum:
// N nodes, or 2 k classes. Row sums are at most 2^(2 half + n), which must not exceed 2^kLargest.
//
// Let 2^-spread be the ratio of the least weight and the largest. The least row sum is 2^(2 half - spread), because it
// contains the node's own weight. The spread may be as large as two conditions allow:
//
// - Exponentials below T's range are left out. N of them must be smaller than the rounding error of the least row sum:
//   2^n 2^-kLargest 2^half <= 2^-kDigits 2^(2 half - spread).
// - The backward multiplies exponentials by gradients of about 1 and by reciprocals of row sums, which it multiplies by
//   2^kQuotient. A sum of such products must stay in range: 2^n 2^half 2^(kQuotient + spread - 2 half) <= 2^kLargest.
template <class T>
struct SharedRange {
  SharedRange(int64_t nodes, int64_t classes) {
    int n = 0;
    while (int64_t{1} << n < std::max(nodes, 2 * classes)) ++n;
    half = (kLargest - n) / 2;
    constexpr int kReserve = 2;  // for numbers of about 1, and for weights that are rounded to powers of two
    max_spread = std::min(kLargest - kDigits, kLargest - kQuotient) + half - n - kReserve;
  }

  static constexpr int kDigits = std::numeric_limits<T>::digits, kLargest = std::numeric_limits<T>::max_exponent - 2;
  // Gradients down to 2^-30 (float32) of the largest of their image keep their digits, whatever the row sum is.
  static constexpr int kQuotient = kDigits + 6;

  int half;        // exponentials and weights are multiplied by 2^half
  int max_spread;  // the binary logarithm of the largest ratio of two weights
};

}  // namespace DIFNET_ISA
}  // namespace difnet
