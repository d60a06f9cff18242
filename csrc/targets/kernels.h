// The forward and the backward of an instruction set: the choice of the products that a call uses, and the division of
// a call into batches of images. The file of each set includes it.
#pragma once

#include "../passes/walk_backward.h"
#include "../passes/walk_forward.h"
#include "../products/vector_unit.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Waking another thread and waiting for it, some times in a call, takes about as long as this many multiply-adds. A
// call with fewer is computed by the thread that makes it. tests/native/check.cpp sets less, so that small calls have
// several threads too.
#if !defined(DIFNET_WORTH_A_THREAD)
#define DIFNET_WORTH_A_THREAD (int64_t{1} << 20)
#endif

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

// The call for `count` images from `first` on.
inline Forward images_of(Forward call, int64_t first, int64_t count) {
  const int64_t nodes = call.sizes.nodes, classes = call.sizes.classes;
  for (Array* array : {&call.feature, &call.state, &call.seed, &call.node_bias}) skip_images(*array, first);
  for (void** result : {&call.new_state, &call.z}) skip_images(*result, call.state.type, first, nodes * classes);
  skip_images(call.row_sum, call.state.type, first, nodes);
  call.sizes.batch = count;
  return call;
}
inline Backward images_of(Backward call, int64_t first, int64_t count) {
  const int64_t nodes = call.sizes.nodes, width = call.sizes.width, classes = call.sizes.classes;
  for (Array* array : {&call.grad, &call.feature, &call.state, &call.seed, &call.z, &call.row_sum, &call.node_bias})
    skip_images(*array, first);
  for (void** result : {&call.grad_state, &call.grad_seed})
    skip_images(*result, call.state.type, first, nodes * classes);
  skip_images(call.grad_feature, call.feature.type, first, nodes * width);
  skip_images(call.grad_node_bias, call.state.type, first, nodes);
  call.grad_mu += first, call.grad_beta += first;
  call.sizes.batch = count;
  return call;
}

// Runs the whole body on the calling thread.
inline void run_here(int64_t count, Body body, void* context) { body(context, 0, count); }

// walk(batch) for batches of images, one after the other. A batch has only as many images as give every thread enough
// groups of blocks: so scratch memory is small, and stays in the caches. Batches have about equal sizes, so that the
// last one does not leave threads without work.
template <class Call, class Walk>
void for_each_batch(const Call& call, const Walk& walk) {
  const int64_t batch = call.sizes.batch, blocks = (call.sizes.nodes + kBlockSize - 1) / kBlockSize;
  const int64_t enough = (kGroupsPerThread * call.pool.threads + blocks - 1) / blocks;
  const int64_t batches = std::max<int64_t>(batch / enough, 1), images = (batch + batches - 1) / batches;
  for (int64_t first = 0; first < batch; first += images) walk(images_of(call, first, std::min(images, batch - first)));
}

// Divides the work of a call among threads. Where many small images share equally among the threads, each thread takes
// images of its own: threads then wait for each other only once. Elsewhere they share the blocks of a batch.
template <class Call, class Walk>
void divide(Call call, const Walk& walk) {
  constexpr int64_t kWorthAThread = DIFNET_WORTH_A_THREAD, kFewBlocks = 8;
  const int64_t batch = call.sizes.batch, nodes = call.sizes.nodes;
  const int64_t work =
      batch * nodes * nodes * (call.sizes.width + call.sizes.classes) * (std::is_same_v<Call, Forward> ? 1 : 3);
  const int64_t threads = std::clamp<int64_t>(work / kWorthAThread, 1, call.pool.threads);
  const int64_t images = (batch + threads - 1) / threads;
  call.pool.threads = static_cast<int>(threads);
  if (threads == 1) {
    call.pool.run = run_here;
    return for_each_batch(call, walk);
  }
  if (nodes > kFewBlocks * kBlockSize || 8 * images * threads > 9 * batch) return for_each_batch(call, walk);
  const Pool pool = call.pool;
  call.pool = {1, run_here};
  std::atomic<bool> out_of_memory{false};
  for_each(pool, threads, [&](int64_t thread) {
    const int64_t first = thread * images, count = std::min(images, batch - first);
    if (count <= 0) return;
    try {
      for_each_batch(images_of(call, first, count), walk);
    } catch (const std::bad_alloc&) {  // an exception must not leave the function that a thread of the pool runs
      out_of_memory = true;
    }
  });
  if (out_of_memory) throw std::bad_alloc();
}

template <class Unit, int Terms>
void forward_of(const Forward& call) {
  divide(call, [](const Forward& part) { walk_forward<Unit, Terms>(part); });
}

// The gradients of mu and beta are those of each image, added up in order: sums do not depend on how a call is divided.
template <class Unit, int Terms>
void backward_of(Backward call) {
  Buffer<double> grad_mu(call.sizes.batch), grad_beta(call.sizes.batch);
  double *const sum_mu = std::exchange(call.grad_mu, grad_mu.data()), *const sum_beta = std::exchange(
                                                                          call.grad_beta, grad_beta.data());
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
