#if defined(__x86_64__)
#include "target.h"
DIFNET_TARGET("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#define DIFNET_ISA avx512
#define DIFNET_VECTOR_BYTES 64
#define DIFNET_HAS_AVX512
#include "kernels.h"

namespace difnet {
extern const Kernels avx512_kernels{"avx512", forward, backward};
}
DIFNET_TARGET_END
#endif
