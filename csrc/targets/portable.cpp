// The baseline of the architecture: SSE2 on x86-64, NEON on AArch64.
#define DIFNET_ISA portable
#include "targets.h"

DIFNET_TARGET_BEGIN
#include "kernels.h"

namespace difnet {
const Kernels portable_kernels{"portable", forward, backward};
}
DIFNET_TARGET_END
