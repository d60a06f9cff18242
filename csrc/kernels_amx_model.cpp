// For tests on machines without AMX; never chosen unless asked for by name.
#define DIFNET_ISA amx_model
#define DIFNET_VECTOR_BYTES 16
#include "matrix_unit.h"

namespace difnet {
extern const Kernels amx_model_kernels{"amx-model", forward_on<ModelTiles>, backward_on<ModelTiles>};
}
