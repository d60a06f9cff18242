// 2^x on vectors.
#pragma once

#include "simd.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Minimax polynomials: their largest relative errors from 2^x on [-1/2, 1/2] are 7e-5, 7e-8 and 2e-9.
template <int Degree>
struct Exp2Polynomial;
template <>
struct Exp2Polynomial<3> {
  static constexpr float coefficients[] = {0.999928073535f, 0.693260985454f, 0.242611122224f, 0.0551716690926f};
};
template <>
struct Exp2Polynomial<5> {
  static constexpr float coefficients[] = {1.00000007165f,   0.693146967065f,   0.24022119724f,
                                           0.0555071327288f, 0.00967554133102f, 0.00132764721678f};
};
template <>
struct Exp2Polynomial<6> {
  static constexpr float coefficients[] = {1.00000000055f,    0.693147205737f,   0.240226468906f,   0.05550328777f,
                                           0.00961848895652f, 0.00133999312095f, 0.000153458121587f};
};

// The smallest x for which 2^x is a normal number.
template <class T>
constexpr T kMinNormalExponent = std::numeric_limits<T>::min_exponent - 1;

// 2^x for x < 127, with a polynomial of the given degree. Below `lowest` the result is exactly 0: arithmetic on
// subnormal numbers is slow, and they are too small to change a row's sum. NaN stays NaN; -inf gives 0.
//
// `scaled` returns 2^(x + scale). In float32 it is faster, and returns 2^-125 where the result is smaller. The scale is
// an integer, which is added after the rounding of x, so that it costs no digits.
template <class T, int N, int Degree>
class Exp2;

template <int N, int Degree>
class Exp2<float, N, Degree> {
 public:
  using D = Simd<float, N>;

  // The constants stay in registers: reading them from memory each time took longer than the arithmetic.
  explicit Exp2(int scale = 0) {
    least_ = SetInRegister(D(), kMinNormalExponent<float> + 1 - scale);
    round_and_scale_ = SetInRegister(D(), 0x1.8p23f + scale);
#pragma GCC unroll 8
    for (int i = 0; i <= Degree; ++i) c_[i] = SetInRegister(D(), Exp2Polynomial<Degree>::coefficients[i]);
  }

  Vec<D> operator()(Vec<D> x) const { return (*this)(x, lowest_); }

  Vec<D> scaled(Vec<D> x) const {
    typedef uint32_t Integers __attribute__((vector_size(N * sizeof(uint32_t))));
    x = Max(least_, x);
    const Vec<D> shifted = x + round_and_scale_, p = polynomial(x - (shifted - round_and_scale_));
    Integers exponent, power;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    std::memcpy(&power, &p, sizeof power);
    power += exponent << 23;  // adds n and the scale to the exponent of the polynomial's value
    Vec<D> result;
    std::memcpy(&result, &power, sizeof result);
    return result;
  }

  Vec<D> operator()(Vec<D> x, Vec<D> lowest) const {
#if DIFNET_HAS_AVX512
    if constexpr (N == 16) {
      const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __mmask16 normal = _mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ);
      return _mm512_maskz_scalef_ps(normal, polynomial(r), _mm512_sub_ps(x, r));
    }
#endif
    typedef uint32_t Integers __attribute__((vector_size(N * sizeof(uint32_t))));
    const auto low = x < lowest;  // false for NaN
    x = IfThenElse(low, lowest, x);
    // x = n + r with |r| <= 1/2. Adding 1.5 * 2^23 rounds n into the low bits of the mantissa.
    const Vec<D> shifted = x + round_, r = x - (shifted - round_);
    Integers exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    exponent = (exponent + 127) << 23;  // only the low bits of the mantissa survive the shift
    Vec<D> power;
    std::memcpy(&power, &exponent, sizeof power);
    return IfThenZeroElse(low, polynomial(r) * power);
  }

 private:
  Vec<D> polynomial(Vec<D> r) const {
    Vec<D> p = c_[Degree];
#pragma GCC unroll 8
    for (int i = Degree - 1; i >= 0; --i) p = MulAdd(p, r, c_[i]);
    return p;
  }

  Vec<D> lowest_ = SetInRegister(D(), kMinNormalExponent<float>);
  Vec<D> round_ = SetInRegister(D(), 0x1.8p23f);
  Vec<D> least_, round_and_scale_;
  Vec<D> c_[Degree + 1];
};

// In float64, accuracy matters more than speed.
template <int N, int Degree>
class Exp2<double, N, Degree> {
 public:
  using D = Simd<double, N>;

  explicit Exp2(int scale = 0) : scale_(scale) {}

  Vec<D> operator()(Vec<D> x) const { return (*this)(x, Set(D(), kMinNormalExponent<double>)); }
  Vec<D> scaled(Vec<D> x) const {
    for (int lane = 0; lane < N; ++lane) {
      const double n = std::nearbyint(x[lane]);
      const bool tiny = n + scale_ <= kMinNormalExponent<double>;  // false for NaN
      // The exponent of NaN does not matter, but it cannot be converted to an integer.
      x[lane] = tiny ? 0.0 : std::ldexp(std::exp2(x[lane] - n), n == n ? static_cast<int>(n) + scale_ : 0);
    }
    return x;
  }

  Vec<D> operator()(Vec<D> x, Vec<D> lowest) const {
    for (int lane = 0; lane < N; ++lane) x[lane] = x[lane] < lowest[lane] ? 0.0 : std::exp2(x[lane]);
    return x;
  }

 private:
  const int scale_;
};

}  // namespace DIFNET_ISA
}  // namespace difnet
