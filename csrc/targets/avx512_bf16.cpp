// AVX-512 with vdpbf16ps. One bfloat16 term only: three products of two terms would take longer than one in float32.
#define DIFNET_ISA avx512_bf16
#include "targets.h"

#if defined(__x86_64__)
DIFNET_TARGET_BEGIN
#include "kernels.h"

namespace difnet {
using Bf16Unit = VectorUnit<DotBf16Lanes>;
const Kernels avx512_bf16_kernels{"avx512_bf16", forward_in_bfloat16<Bf16Unit, 1>, backward_in_bfloat16<Bf16Unit, 1>};
}  // namespace difnet
DIFNET_TARGET_END
#endif
