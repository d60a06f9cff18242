#if defined(__x86_64__)
#include "target.h"
DIFNET_TARGET("avx512bf16,avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#define DIFNET_ISA amx
#define DIFNET_VECTOR_BYTES 64
#define DIFNET_HAS_AVX512_BF16
#include "matrix_unit.h"

namespace difnet {
extern const Kernels amx_kernels{"amx", forward_on<AmxTiles>, backward_on<AmxTiles>};
}
DIFNET_TARGET_END
#endif
