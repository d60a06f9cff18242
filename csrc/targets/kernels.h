// The forward and the backward of an instruction set, and the choice of the products that a call uses. The file of each
// set includes it.
#pragma once

#include "../passes/walk_backward.h"
#include "../passes/walk_forward.h"
#include "../products/vector_unit.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Products in the type of the states, on vectors as wide as the registers.
template <class T>
using PlainUnit = VectorUnit<MulAddLanes<T, kVectorBytes / sizeof(T)>>;

inline void forward(const Forward& call) {
  call.state.type == Type::float64 ? walk_forward<PlainUnit<double>, 1>(call) : walk_forward<PlainUnit<float>, 1>(call);
}

inline void backward(const Backward& call) {
  call.state.type == Type::float64 ? walk_backward<PlainUnit<double>, 1>(call)
                                   : walk_backward<PlainUnit<float>, 1>(call);
}

// How many bfloat16 terms an operand of a call's products may be rounded to; 0 if it may not be rounded.
inline int bfloat16_terms(const Array& feature, Precision precision) {
  if (feature.type == Type::bfloat16) return 1;
  if (feature.type != Type::float32 || precision == Precision::highest) return 0;
  return precision == Precision::medium ? 1 : 2;
}

// Products of bfloat16 terms on `Unit` if the call allows them with at most MaxTerms terms; otherwise products in the
// states' type.
template <class Unit, int MaxTerms>
void forward_in_bfloat16(const Forward& call) {
  const int terms = bfloat16_terms(call.feature, call.precision);
  if (terms == 1) return walk_forward<Unit, 1>(call);
  if constexpr (MaxTerms == 2)
    if (terms == 2) return walk_forward<Unit, 2>(call);
  forward(call);
}

template <class Unit, int MaxTerms>
void backward_in_bfloat16(const Backward& call) {
  const int terms = bfloat16_terms(call.feature, call.precision);
  if (terms == 1) return walk_backward<Unit, 1>(call);
  if constexpr (MaxTerms == 2)
    if (terms == 2) return walk_backward<Unit, 2>(call);
  backward(call);
}

}  // namespace DIFNET_ISA
}  // namespace difnet
