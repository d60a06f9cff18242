// The division of a call: among threads, and into batches of images.
#pragma once

#include "../passes/grid.h"

namespace difnet {
inline namespace DIFNET_ISA {

// Waking another thread and waiting for it, some times in a call, takes about as long as this many multiply-adds. A
// call with fewer is computed by the thread that makes it. The Makefile sets less for tests/native/check.cpp, so that
// small calls have several threads too.
#if !defined(DIFNET_WORTH_A_THREAD)
#define DIFNET_WORTH_A_THREAD (int64_t{1} << 20)
#endif

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
  constexpr int64_t kForwards = std::is_same_v<Call, Forward> ? 1 : 3;  // a backward is about as much work as three
  const int64_t batch = call.sizes.batch, nodes = call.sizes.nodes;
  const int64_t multiply_adds = kForwards * batch * nodes * nodes * (call.sizes.width + call.sizes.classes);
  const int64_t threads = std::clamp<int64_t>(multiply_adds / kWorthAThread, 1, call.pool.threads);
  const int64_t images = (batch + threads - 1) / threads;
  call.pool.threads = static_cast<int>(threads);
  if (threads == 1) {
    call.pool.run = run_here;
    return for_each_batch(call, walk);
  }
  // The busiest thread may have an eighth more images than an equal share.
  const bool equal = 8 * images * threads <= 9 * batch;
  if (nodes > kFewBlocks * kBlockSize || !equal) return for_each_batch(call, walk);
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

}  // namespace DIFNET_ISA
}  // namespace difnet
