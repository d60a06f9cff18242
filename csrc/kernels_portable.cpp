#define DIFNET_ISA portable
#include "kernels.h"

namespace difnet {
extern const Kernels portable_kernels{"portable", forward<16>, backward<16>};
}
