// The forward and the backward of an instruction set, and the choice of the products that a call uses. The file of each
// set includes it.
#pragma once

#include "../passes/walk_backward.h"
#include "../passes/walk_forward.h"
#include "../products/vector_unit.h"
#include "division.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Products in the type of the states, on vectors as wide as the registers.
template <class T>
using PlainUnit = VectorUnit<MulAddLanes<T, kVectorBytes / sizeof(T)>>;

template <class Unit, int Terms>
void forward_of(const Forward& call) {
  divide(call, [](const Forward& part) { walk_forward<Unit, Terms>(part); });
}

// The gradients of mu and beta are those of each image, added up in order: sums do not depend on how a call is divided.
template <class Unit, int Terms>
void backward_of(Backward call) {
  Buffer<double> grad_mu(call.sizes.batch), grad_beta(call.sizes.batch);
  double* const sum_mu = std::exchange(call.grad_mu, grad_mu.data());
  double* const sum_beta = std::exchange(call.grad_beta, grad_beta.data());
  divide(call, [](const Backward& part) { walk_backward<Unit, Terms>(part); });
  const auto add_up = [&](double* sum, const Buffer<double>& terms) {
    if (sum != nullptr) *sum = std::accumulate(terms.data(), terms.data() + call.sizes.batch, 0.0);
  };
  add_up(sum_mu, grad_mu);
  add_up(sum_beta, grad_beta);
}

inline void forward(const Forward& call) {
  call.state.type == Type::float64 ? forward_of<PlainUnit<double>, 1>(call) : forward_of<PlainUnit<float>, 1>(call);
}

inline void backward(const Backward& call) {
  call.state.type == Type::float64 ? backward_of<PlainUnit<double>, 1>(call) : backward_of<PlainUnit<float>, 1>(call);
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
  if (terms == 1) return forward_of<Unit, 1>(call);
  if constexpr (MaxTerms == 2)
    if (terms == 2) return forward_of<Unit, 2>(call);
  forward(call);
}

template <class Unit, int MaxTerms>
void backward_in_bfloat16(const Backward& call) {
  const int terms = bfloat16_terms(call.feature, call.precision);
  if (terms == 1) return backward_of<Unit, 1>(call);
  if constexpr (MaxTerms == 2)
    if (terms == 2) return backward_of<Unit, 2>(call);
  backward(call);
}

}  // namespace DIFNET_ISA
}  // namespace difnet
