// Vectors of N numbers by the compilers' vector extensions: one source for every instruction set. Functions have the
// names and the meaning of those of the Highway library; `d` is a tag that stands for the vector's type.
#pragma once

#include "../targets/targets.h"

namespace difnet {
inline namespace DIFNET_ISA {

constexpr size_t kVectorBytes = DIFNET_VECTOR_BYTES;  // of a register of the instruction set

template <class T, int N>
struct Simd {
  using Lane = T;
  static constexpr int kLanes = N;
  typedef T Vector __attribute__((vector_size(N * sizeof(T)), may_alias));
  typedef T Unaligned __attribute__((vector_size(N * sizeof(T)), aligned(alignof(T)), may_alias));
};

template <class D>
using Vec = typename D::Vector;

template <class D>
inline Vec<D> LoadU(D, const typename D::Lane* from) {
  return *reinterpret_cast<const typename D::Unaligned*>(from);
}

template <class D>
inline void StoreU(Vec<D> value, D, typename D::Lane* to) {
  *reinterpret_cast<typename D::Unaligned*>(to) = value;
}

template <class D>
inline Vec<D> Zero(D) {
  return Vec<D>{};
}

template <class D>
inline Vec<D> Set(D, typename D::Lane value) {
  return value - Vec<D>{};  // x - 0 is x for every x; x + 0 is not for x = -0, and would cost an addition
}

template <class Mask, class V>
inline V IfThenElse(Mask mask, V yes, V no) {
  return mask ? yes : no;
}

template <class Mask, class V>
inline V IfThenZeroElse(Mask mask, V no) {
  return mask ? V{} : no;
}

// b where either is NaN.
template <class V>
inline V Max(V a, V b) {
  return a > b ? a : b;
}

// a * b + c. It is rounded once if the instruction set has a fused multiply-add, and twice if not, because a call of
// fma() would be slow. Compilers fuse nothing else (-ffp-contract=off), so that results do not depend on the compiler.
#if DIFNET_HAS_AVX2
inline float MulAdd(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double MulAdd(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline __m128 MulAdd(__m128 a, __m128 b, __m128 c) { return _mm_fmadd_ps(a, b, c); }
inline __m128d MulAdd(__m128d a, __m128d b, __m128d c) { return _mm_fmadd_pd(a, b, c); }
inline __m256 MulAdd(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
inline __m256d MulAdd(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
#if DIFNET_HAS_AVX512
inline __m512 MulAdd(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
inline __m512d MulAdd(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
#endif
#elif defined(__aarch64__)
inline float MulAdd(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double MulAdd(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline Vec<Simd<float, 4>> MulAdd(Vec<Simd<float, 4>> a, Vec<Simd<float, 4>> b, Vec<Simd<float, 4>> c) {
  return (Vec<Simd<float, 4>>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
inline Vec<Simd<double, 2>> MulAdd(Vec<Simd<double, 2>> a, Vec<Simd<double, 2>> b, Vec<Simd<double, 2>> c) {
  return (Vec<Simd<double, 2>>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
template <class V>
inline V MulAdd(V a, V b, V c) {
  for (size_t lane = 0; lane < sizeof(V) / sizeof c[0]; ++lane) c[lane] = MulAdd(a[lane], b[lane], c[lane]);
  return c;
}
#else
template <class V>
inline V MulAdd(V a, V b, V c) {
  return a * b + c;
}
#endif

// A vector of copies of a constant. If the vector fills a register, its value is hidden from the compiler, so that it
// stays in the register instead of being read from memory at each use.
template <class D>
inline Vec<D> SetInRegister(D d, typename D::Lane constant) {
  Vec<D> value = Set(d, constant);
#if defined(__x86_64__)
  if constexpr (sizeof value == kVectorBytes) asm("" : "+v"(value));
#elif defined(__aarch64__)
  if constexpr (sizeof value == kVectorBytes) asm("" : "+w"(value));
#endif
  return value;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
