// The forward and the backward of an instruction set: the choice of the products that a call uses, and the division of
// a call into batches of images. The file of each set includes it.
#pragma once

#include "../passes/walk_backward.h"
#include "../passes/walk_forward.h"
#include "../products/vector_unit.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Products in the type of the states, on vectors as wide as the registers.
template <class T>
using PlainUnit = VectorUnit<MulAddLanes<T, kVectorBytes / sizeof(T)>>;

// Moves a pointer to the results of image `first`; `size` numbers of a type are the result of one image.
inline void skip_images(void*& result, Type type, int64_t first, int64_t size) {
  if (result != nullptr) result = static_cast<char*>(result) + first * size * bytes_of(type);
}
inline void skip_images(Array& array, int64_t first) {
  if (array.data != nullptr)
    array.data = static_cast<const char*>(array.data) + first * array.strides[0] * bytes_of(array.type);
}

// The call for the images from `first` on.
inline Forward skip_images(Forward call, int64_t first) {
  const auto [batch, nodes, width, classes] = call.sizes;
  for (Array* array : {&call.feature, &call.state, &call.seed, &call.node_bias}) skip_images(*array, first);
  for (void** result : {&call.new_state, &call.z}) skip_images(*result, call.state.type, first, nodes * classes);
  skip_images(call.row_sum, call.state.type, first, nodes);
  return call;
}
inline Backward skip_images(Backward call, int64_t first) {
  const auto [batch, nodes, width, classes] = call.sizes;
  for (Array* array :
       {&call.grad, &call.feature, &call.state, &call.seed, &call.z, &call.row_sum, &call.node_bias})
    skip_images(*array, first);
  for (void** result : {&call.grad_state, &call.grad_seed})
    skip_images(*result, call.state.type, first, nodes * classes);
  skip_images(call.grad_feature, call.feature.type, first, nodes * width);
  skip_images(call.grad_node_bias, call.state.type, first, nodes);
  return call;
}

// walk(batch) for batches of images, one after the other. A batch has only as many images as give every thread enough
// groups of blocks: so scratch memory is small, and stays in the caches. Batches have about equal sizes, so that the last
// one does not leave threads without work. A call that one thread finishes sooner than others are woken gets no others.
template <class Call, class Walk>
void for_each_batch(Call call, const Walk& walk) {
  // One thread makes about as many multiply-adds while another is woken some times and waited for.
  constexpr int64_t kWorthAThread = int64_t{1} << 21;
  const auto [batch, nodes, width, classes] = call.sizes;
  const int64_t work = batch * nodes * nodes * (width + classes) * (std::is_same_v<Call, Forward> ? 1 : 3);
  call.pool.threads = static_cast<int>(std::clamp<int64_t>(work / kWorthAThread, 1, call.pool.threads));
  if (call.pool.threads == 1)
    call.pool.run = [](int64_t count, Body body, void* context) { body(context, 0, count); };
  const int64_t blocks = (nodes + kBlockSize - 1) / kBlockSize;
  const int64_t enough = (kGroupsPerThread * call.pool.threads + blocks - 1) / blocks;
  const int64_t batches = std::max<int64_t>(batch / enough, 1), images = (batch + batches - 1) / batches;
  for (int64_t first = 0; first < batch; first += images) {
    Call part = skip_images(call, first);
    part.sizes.batch = std::min(images, batch - first);
    walk(part);
  }
}

template <class Unit, int Terms>
void forward_of(const Forward& call) {
  for_each_batch(call, [](const Forward& part) { walk_forward<Unit, Terms>(part); });
}
template <class Unit, int Terms>
void backward_of(const Backward& call) {
  if (call.grad_mu != nullptr) *call.grad_mu = 0;
  if (call.grad_beta != nullptr) *call.grad_beta = 0;
  for_each_batch(call, [](const Backward& part) { walk_backward<Unit, Terms>(part); });
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
