// What the registration calls: one walk on plain arrays, forward and backward.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace difnet {

enum class Type { float64, float32, bfloat16, float16 };

// A strided array of up to three axes (B, N, columns) to read from.
struct Array {
  const void* data = nullptr;
  Type type = Type::float32;
  int64_t strides[3] = {0, 0, 0};
};

struct Sizes {
  int64_t batch, nodes, width, classes;
};

// A pool of threads, which runs body(begin, end) over parts of [0, count). Bodies do not throw and do not allocate.
using Body = void (*)(void* context, int64_t begin, int64_t end);
struct Pool {
  int threads;
  void (*run)(int64_t count, Body body, void* context);
};

// What float32 products may be made of: float32, several bfloat16 numbers each, or one.
enum class Precision { highest, high, medium };

struct Forward {
  Sizes sizes;
  Array feature, state, seed, node_bias;  // node_bias.data may be null
  double mu, beta;
  Precision precision;
  // Contiguous (B, N, k), (B, N, k), (B, N), in the type of state. The row sum stands where other backends keep its
  // logarithm.
  void *new_state, *z, *row_sum;
  Pool pool;
};

struct Backward {
  Sizes sizes;
  Array grad, feature, state, seed, z, row_sum, node_bias;
  double mu, beta;
  Precision precision;  // that of the forward
  // Contiguous; null where not asked for. grad_feature is (B, N, d) in the type of feature, the rest
  // in that of state.
  void *grad_feature, *grad_state, *grad_seed, *grad_node_bias;
  double *grad_mu, *grad_beta;
  Pool pool;
};

// Memory on a cache line's boundary; throws std::bad_alloc.
void* allocate(size_t bytes);
void release(void* memory, size_t bytes) noexcept;

// One set of kernels for each instruction set; they throw std::bad_alloc.
struct Kernels {
  const char* name;
  void (*forward)(const Forward&);
  void (*backward)(const Backward&);
};

extern const Kernels portable_kernels, amx_model_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels, avx512_bf16_kernels, amx_kernels;
// Whether a product on AMX, which must be there, is that of the model that tests run on.
bool amx_agrees_with_its_model();
#endif

// Those that can run here, the best first.
const std::vector<const Kernels*>& available_kernels();

// The best of them, or the one that DIFNET_CPU_ISA names. Throws std::invalid_argument with the names that can run here
// when it is not one of them.
const Kernels& chosen_kernels();

}  // namespace difnet
