// The interface of the compiled kernels: one walk on plain arrays, forward and backward. B images of N nodes, each node
// with d features and k classes; docs/math.md holds the equations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace difnet {

enum class Type { float64, float32, bfloat16, float16 };
inline int64_t bytes_of(Type type) { return type == Type::float64 ? 8 : type == Type::float32 ? 4 : 2; }

// A strided array of up to three axes (B, N, columns). Kernels only read from it.
struct Array {
  const void* data = nullptr;
  Type type = Type::float32;
  int64_t strides[3] = {0, 0, 0};  // in numbers, not in bytes
};

struct Sizes {
  int64_t batch = 0, nodes = 0, width = 0, classes = 0;  // B, N, d, k
};

// A pool of threads: `run` calls body(context, begin, end) for parts that cover [0, count). No exception leaves a body.
using Body = void (*)(void* context, int64_t begin, int64_t end);
struct Pool {
  int threads = 1;
  void (*run)(int64_t count, Body body, void* context) = nullptr;
};

// How float32 operands of products may be rounded: not at all, to a sum of two bfloat16 terms, or to one.
enum class Precision { highest, high, medium };

// The seed, the states and all that is computed from them are float64 where the feature is, and float32 elsewhere.
struct Forward {
  Sizes sizes;
  Array feature, state, seed, node_bias;  // node_bias.data may be null
  double mu = 0, beta = 0;
  Precision precision = Precision::highest;
  // Results, contiguous: (B, N, k), (B, N, k) and (B, N). row_sum is the sum of a row's exponentials after a shift of
  // their exponents that the kernels choose. The backward of the same kernels computes the shift again.
  void *new_state = nullptr, *z = nullptr, *row_sum = nullptr;
  Pool pool;
};

struct Backward {
  Sizes sizes;
  Array grad, feature, state, seed, z, row_sum, node_bias;
  double mu = 0, beta = 0;
  Precision precision = Precision::highest;  // that of the forward
  // Results, contiguous, null if not wanted. grad_feature (B, N, d) has the feature's type, the others the state's.
  void *grad_feature = nullptr, *grad_state = nullptr, *grad_seed = nullptr, *grad_node_bias = nullptr;
  double *grad_mu = nullptr, *grad_beta = nullptr;
  Pool pool;
};

// The kernels of one instruction set. Both throw std::bad_alloc.
struct Kernels {
  const char* name;
  void (*forward)(const Forward&);
  void (*backward)(const Backward&);
};

// The kernels that can run on this machine, the best first.
const std::vector<const Kernels*>& available_kernels();

// The best of them, or those that DIFNET_CPU_ISA names. Throws std::invalid_argument if that names no available
// kernels; the message lists the names that can be chosen.
const Kernels& chosen_kernels();

}  // namespace difnet
