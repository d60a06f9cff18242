#if defined(__x86_64__)
#include "target.h"
DIFNET_TARGET("avx512bf16,avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#define DIFNET_ISA avx512_bf16
#define DIFNET_VECTOR_BYTES 64
#define DIFNET_HAS_AVX512
#define DIFNET_HAS_AVX512_BF16
#include "kernels.h"

namespace difnet {
namespace {

// Three products of parts would take longer than one in float32, so "high" is float32.
void forward_bf16(const Forward& call) {
  parts(call.feature, call.precision) == 1 ? walk_forward<Registers<DotBf16>, 1>(call) : forward(call);
}

void backward_bf16(const Backward& call) {
  parts(call.feature, call.precision) == 1 ? walk_backward<Registers<DotBf16>, 1>(call) : backward(call);
}

}  // namespace

extern const Kernels avx512_bf16_kernels{"avx512_bf16", forward_bf16, backward_bf16};
}  // namespace difnet
DIFNET_TARGET_END
#endif
