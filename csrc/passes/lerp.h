// Linear interpolation, as in docs/math.md (4).
#pragma once

#include "../simd/simd.h"

namespace difnet {
inline namespace DIFNET_ISA {

// (1 - t) from + t to, exact at t = 0 and t = 1.
template <class T>
inline T lerp(T from, T to, T t) {
  return t < T(0.5) ? MulAdd(t, to - from, from) : MulAdd(t - 1, to - from, to);
}

}  // namespace DIFNET_ISA
}  // namespace difnet
