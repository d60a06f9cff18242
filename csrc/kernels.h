// The kernels of one instruction set: included by one file for each, compiled with that set's flags. DIFNET_ISA names
// an inline namespace, so that the linker never takes a function compiled for one set in place of another's.
#pragma once

#include "walk_backward.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Bytes is the width of a vector.
template <int Bytes>
void forward(const Forward& call) {
  call.state.type == Type::float64 ? walk_forward<double, Bytes / 8>(call) : walk_forward<float, Bytes / 4>(call);
}

template <int Bytes>
void backward(const Backward& call) {
  call.state.type == Type::float64 ? walk_backward<double, Bytes / 8>(call) : walk_backward<float, Bytes / 4>(call);
}

}  // namespace DIFNET_ISA
}  // namespace difnet
