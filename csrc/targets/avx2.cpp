#define DIFNET_ISA avx2
#include "targets.h"

#if defined(__x86_64__)
DIFNET_TARGET_BEGIN
#include "kernels.h"

namespace difnet {
const Kernels avx2_kernels{"avx2", forward, backward};
}
DIFNET_TARGET_END
#endif
