// Vectors of W numbers by the compilers' vector extensions, and 2^x on them: one source for every instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "target.h"

namespace difnet {
inline namespace DIFNET_ISA {

constexpr size_t kVectorBytes = DIFNET_VECTOR_BYTES;  // of the instruction set
// The constraint of a vector register.
#if defined(__x86_64__)
#define DIFNET_REGISTER "v"
#elif defined(__aarch64__)
#define DIFNET_REGISTER "w"
#endif

template <class T, int W>
struct Simd {
  static constexpr int width = W;
  typedef T Vector __attribute__((vector_size(W * sizeof(T)), may_alias));
  // For loads and stores at any address.
  typedef T Unaligned __attribute__((vector_size(W * sizeof(T)), aligned(alignof(T)), may_alias));

  static Vector load(const T* from) { return *reinterpret_cast<const Unaligned*>(from); }
  static void store(T* to, Vector value) { *reinterpret_cast<Unaligned*>(to) = value; }
  static Vector broadcast(T value) { return value - Vector{}; }
  // The same, in a register, as far as compilers know some other number: neither recomputed nor fused with what follows.
  static Vector opaque(Vector value) {
#if defined(DIFNET_REGISTER)
    if constexpr (sizeof value == kVectorBytes)
      asm("" : "+" DIFNET_REGISTER(value));
    else
#endif
      asm("" : "+m"(value));
    return value;
  }
};

// Coefficients of 2^x on [-1/2, 1/2] that make the largest relative error least: 7e-5, 7e-8 and 2e-9.
template <int Degree>
struct Coefficients;
template <>
struct Coefficients<3> {
  static constexpr float values[] = {0.999928073535f, 0.693260985454f, 0.242611122224f, 0.0551716690926f};
};
template <>
struct Coefficients<5> {
  static constexpr float values[] = {1.00000007165f,   0.693146967065f,  0.24022119724f,
                                     0.0555071327288f, 0.00967554133102f, 0.00132764721678f};
};
template <>
struct Coefficients<6> {
  static constexpr float values[] = {1.00000000055f,    0.693147205737f,   0.240226468906f,   0.05550328777f,
                                     0.00961848895652f, 0.00133999312095f, 0.000153458121587f};
};

// The smallest x for which 2^x is a normal number.
template <class T>
constexpr T kLowestPower = std::numeric_limits<T>::min_exponent - 1;

// 2^x for x < 127, with a polynomial of the given degree. Below `lowest`, where results, or what becomes of them, are not
// normal numbers, it is exactly 0: arithmetic on subnormal numbers is slow, and they are no part of a row's digits.
// NaN stays NaN; -inf gives 0.
template <class T, int W, int Degree>
class PowerOfTwo;

template <int W, int Degree>
class PowerOfTwo<float, W, Degree> {
 public:
  using Vector = typename Simd<float, W>::Vector;

  // Constants are held in registers: read from memory each time they would take longer than the arithmetic.
  PowerOfTwo() : lowest_(hold(kLowestPower<float>)), magic_(hold(12582912.0f)) {
#pragma GCC unroll 8
    for (int i = 0; i <= Degree; ++i) c_[i] = hold(Coefficients<Degree>::values[i]);
  }

  Vector operator()(Vector x) const { return (*this)(x, lowest_); }

  Vector operator()(Vector x, Vector lowest) const {
#if defined(DIFNET_HAS_AVX512)
    if constexpr (W == 16) {
      const __m512 y = (__m512)x, r = _mm512_reduce_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      const __mmask16 normal = _mm512_cmp_ps_mask(y, (__m512)lowest, _CMP_NLT_UQ);
      return (Vector)_mm512_maskz_scalef_ps(normal, (__m512)polynomial((Vector)r), _mm512_sub_ps(y, r));
    }
#endif
    typedef uint32_t Integers __attribute__((vector_size(W * sizeof(uint32_t))));
    const auto low = x < lowest;  // false for NaN
    x = low ? lowest : x;
    // x = n + r with |r| <= 1/2; adding 1.5 * 2^23 rounds n to the low bits of the mantissa.
    const Vector shifted = x + magic_, r = x - (shifted - magic_);
    Integers exponent;
    std::memcpy(&exponent, &shifted, sizeof exponent);
    exponent = (exponent + 127) << 23;  // only the low bits of the mantissa survive the shift
    Vector power;
    std::memcpy(&power, &exponent, sizeof power);
    const Vector result = polynomial(r) * power;
    return low ? Vector{} : result;
  }

 private:
  Vector polynomial(Vector r) const {
    Vector p = c_[Degree];
#pragma GCC unroll 8
    for (int i = Degree - 1; i >= 0; --i) p = p * r + c_[i];
    return p;
  }

  static Vector hold(float value) {
    const Vector vector = Simd<float, W>::broadcast(value);
    return sizeof vector == kVectorBytes ? Simd<float, W>::opaque(vector) : vector;
  }

  Vector lowest_, magic_, c_[Degree + 1];
};

// float64 is here to be exact, not fast.
template <int W, int Degree>
class PowerOfTwo<double, W, Degree> {
 public:
  using Vector = typename Simd<double, W>::Vector;
  Vector operator()(Vector x) const { return (*this)(x, Simd<double, W>::broadcast(kLowestPower<double>)); }

  Vector operator()(Vector x, Vector lowest) const {
    for (int lane = 0; lane < W; ++lane) x[lane] = x[lane] < lowest[lane] ? 0.0 : std::exp2(x[lane]);
    return x;
  }
};

}  // namespace DIFNET_ISA
}  // namespace difnet
