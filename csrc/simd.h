// Vectors of W numbers by the compilers' vector extensions, and exp on them: one source for every instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace difnet {
inline namespace DIFNET_ISA {

template <class T, int W>
struct Simd {
  static constexpr int width = W;
  typedef T Vector __attribute__((vector_size(W * sizeof(T)), may_alias));
  // For loads and stores at any address.
  typedef T Unaligned __attribute__((vector_size(W * sizeof(T)), aligned(alignof(T)), may_alias));

  static Vector load(const T* from) { return *reinterpret_cast<const Unaligned*>(from); }
  static void store(T* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
  static Vector broadcast(T value) { return value - Vector{}; }
};

// exp(x) for x <= 0 or so, to about one unit in the last place. Results under 2e-38, the smallest normal numbers, are
// exactly 0: arithmetic on subnormal numbers is slow, and beside a row sum of at least 1 they change nothing.
// NaN stays NaN; -inf gives 0.
template <int W>
inline typename Simd<float, W>::Vector exp(typename Simd<float, W>::Vector x) {
  using Vector = typename Simd<float, W>::Vector;
  typedef int32_t Integers __attribute__((vector_size(W * sizeof(int32_t))));
  const auto low = x < -87.0f;  // false for NaN
  x = low ? Vector{} - 87.0f : x;
  // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds n to the low bits of the mantissa.
  const Vector shifted = x * 1.44269504088896341f + 12582912.0f;
  const Vector n = shifted - 12582912.0f;
  const Vector r = (x - n * 0.693145751953125f) - n * 1.42860682030941723e-6f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  Integers exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = (exponent + 127) << 23;  // only the low bits of the mantissa survive the shift
  Vector power;
  std::memcpy(&power, &exponent, sizeof power);
  const Vector result = p * power;
  return low ? Vector{} : result;
}

// float64 is here to be exact, not fast.
template <int W>
inline typename Simd<double, W>::Vector exp(typename Simd<double, W>::Vector x) {
  for (int lane = 0; lane < W; ++lane) x[lane] = x[lane] < -708.0 ? 0.0 : std::exp(x[lane]);
  return x;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
