// Factors of the rows of exponentials in the backward.
#pragma once

#include "../memory/buffer.h"
#include "../simd/exp2.h"

namespace difnet {
inline namespace DIFNET_ISA {

// The backward knows the sum of each row, and divides the row's exponentials by the sum's power of two: then no product
// on the way to a gradient leaves the range of T. They are divided after the exponential, so that exponents are rounded
// as they were in the forward. What the division would make subnormal becomes 0.
template <class T>
struct RowScale {
  explicit RowScale(int64_t places) : factor(places, Fill::uninitialized), min_exponent(places, Fill::uninitialized) {
    std::fill_n(factor.data(), places, T(1));
    std::fill_n(min_exponent.data(), places, kMinNormalExponent<T>);
  }

  // Divides the row by the power of two in its sum. Returns what is left of the sum.
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

// The forward's, which divides nothing.
struct NoRowScale {
  static std::nullptr_t factor_at(int64_t) { return nullptr; }
  static std::nullptr_t min_exponent_at(int64_t) { return nullptr; }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
