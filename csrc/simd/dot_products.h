// Sums of products along the rows of arrays, in float64.
#pragma once

#include "simd.h"

namespace difnet {
inline namespace DIFNET_ISA {

using Double4 = Simd<double, 4>;

// Numbers n .. n + 3 of a row of `count`; 0 beyond its end. `whole` is std::true_type if none is beyond.
template <class T, class Whole = std::false_type>
inline Vec<Double4> load4(const T* row, int64_t n, int64_t count, Whole whole = {}) {
  if (whole || n + 4 <= count) return __builtin_convertvector(LoadU(Simd<T, 4>(), row + n), Vec<Double4>);
  Vec<Double4> some = {};
  for (int lane = 0; n + lane < count; ++lane) some[lane] = row[n + lane];
  return some;
}

template <size_t K>
struct Factors {
  Vec<Double4> x[K], y[K];
};

// K sums of `count` products x y. factors(n, whole) returns the factors n .. n + 3 of all sums, and 0 from `count` on;
// `whole` is std::true_type if all are below. Each sum is computed as eight partial sums, so that additions do not wait
// for each other.
template <size_t K, class F>
inline std::array<double, K> dot_products(int64_t count, const F& factors) {
  Vec<Double4> sums[K][2] = {};
  const auto add = [&](int64_t n, auto whole) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const Factors<K> now = factors(n + 4 * half, whole);
#pragma GCC unroll 3
      for (size_t s = 0; s < K; ++s) sums[s][half] = MulAdd(now.x[s], now.y[s], sums[s][half]);
    }
  };
  int64_t n = 0;
  for (; n + 8 <= count; n += 8) add(n, std::true_type());
  if (n < count) add(n, std::false_type());
  std::array<double, K> totals;
  for (size_t s = 0; s < K; ++s) {
    const Vec<Double4> a = sums[s][0], b = sums[s][1];
    totals[s] = ((a[0] + a[1]) + (a[2] + a[3])) + ((b[0] + b[1]) + (b[2] + b[3]));
  }
  return totals;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
