// Powers of two by which the backward scales rows of exponentials.
#pragma once

#include "../memory/buffer.h"
#include "../simd/exp2.h"

namespace difnet {
inline namespace DIFNET_ISA {

// The backward knows the sum of each row. It divides the row's exponentials by the power of two in the sum, so that no
// product on the way to a gradient leaves the range of T. The division comes after the exponential, so
// that exponents are rounded as they were in the forward. Quotients that would be subnormal become 0.
template <class T>
struct RowScale {
  explicit RowScale(int64_t places) : factor(places, Fill::uninitialized), min_exponent(places, Fill::uninitialized) {
    std::fill_n(factor.data(), places, T(1));
    std::fill_n(min_exponent.data(), places, kMinNormalExponent<T>);
  }

  // Sets the row's factor. Returns the sum divided by its power of two, which is in [1/2, 1).
  T normalise(int64_t place, T row_sum) {
    if (!std::isfinite(row_sum)) return row_sum;
    int exponent;
    row_sum = std::frexp(row_sum, &exponent);
    factor[place] = std::ldexp(T(1), -exponent);
    min_exponent[place] = kMinNormalExponent<T> + std::max(exponent, 0);
    return row_sum;
  }

  const T* factor_at(int64_t place) const { return factor.data() + place; }
  const T* min_exponent_at(int64_t place) const { return min_exponent.data() + place; }

  Buffer<T> factor, min_exponent;  // of each place; exponentials below 2^min_exponent are 0
};

// The forward does not scale rows.
struct NoRowScale {
  static std::nullptr_t factor_at(int64_t) { return nullptr; }
  static std::nullptr_t min_exponent_at(int64_t) { return nullptr; }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
