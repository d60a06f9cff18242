#define DIFNET_ISA avx512
#include "targets.h"

#if defined(__x86_64__)
DIFNET_TARGET_BEGIN
#include "kernels.h"

namespace difnet {
const Kernels avx512_kernels{"avx512", forward, backward};
}
DIFNET_TARGET_END
#endif
