// The kernels of one instruction set: included by one file for each, compiled for that set. DIFNET_ISA names
// an inline namespace, so that the linker never takes a function compiled for one set in place of another's.
#pragma once

#include "walk_backward.h"

namespace difnet {
inline namespace DIFNET_ISA {

template <class T>
using Plain = Registers<MultiplyAdd<T, kVectorBytes / sizeof(T)>>;

// Arithmetic in the features' own type, float32 at least.
inline void forward(const Forward& call) {
  call.state.type == Type::float64 ? walk_forward<Plain<double>, 1>(call) : walk_forward<Plain<float>, 1>(call);
}

inline void backward(const Backward& call) {
  call.state.type == Type::float64 ? walk_backward<Plain<double>, 1>(call) : walk_backward<Plain<float>, 1>(call);
}

// In how many bfloat16 numbers a call's operands may be held; 0 where float32 is asked for.
inline int parts(const Array& feature, Precision precision) {
  if (feature.type == Type::bfloat16) return 1;
  if (feature.type != Type::float32 || precision == Precision::highest) return 0;
  return precision == Precision::medium ? 1 : 2;
}

}  // namespace DIFNET_ISA
}  // namespace difnet
