#if defined(__x86_64__)
#include "target.h"
DIFNET_TARGET("avx2,fma,f16c")
#define DIFNET_ISA avx2
#include "kernels.h"

namespace difnet {
extern const Kernels avx2_kernels{"avx2", forward<32>, backward<32>};
}
DIFNET_TARGET_END
#endif
