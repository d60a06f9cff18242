#define DIFNET_ISA portable
#define DIFNET_VECTOR_BYTES 16
#include "kernels.h"

namespace difnet {
extern const Kernels portable_kernels{"portable", forward, backward};
}
