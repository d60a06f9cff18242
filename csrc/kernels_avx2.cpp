#if defined(__x86_64__)
#include "target.h"
DIFNET_TARGET("avx2,fma,f16c")
#define DIFNET_ISA avx2
#define DIFNET_VECTOR_BYTES 32
#include "kernels.h"

namespace difnet {
extern const Kernels avx2_kernels{"avx2", forward, backward};
}
DIFNET_TARGET_END
#endif
