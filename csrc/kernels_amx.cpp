#if defined(__x86_64__)
#include "target.h"
DIFNET_TARGET("avx512bf16,avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,f16c")
#define DIFNET_ISA amx
#define DIFNET_VECTOR_BYTES 64
#define DIFNET_HAS_AVX512
#define DIFNET_HAS_AVX512_BF16
#include "matrix_unit.h"

namespace difnet {
namespace {

// The product of two blocks of small whole numbers, which is exact in any order.
template <class Tiles>
void product_of_whole_numbers(float* sums) {
  const Tiles session;
  uint16_t x[32 * 64], y[64 * 32];
  for (int n = 0; n < 32 * 64; ++n) {
    x[n] = to_bfloat16(static_cast<float>(n * 7 % 31 - 15));
    y[n] = to_bfloat16(static_cast<float>(n * 11 % 29 - 14));
  }
  const auto* left = reinterpret_cast<const uint32_t*>(x);
  const auto* right = reinterpret_cast<const uint32_t*>(y);
  MatrixUnit<Tiles>::add(left, 32, right, 32, 32, 32, sums, 32, 32);
}

}  // namespace

bool amx_agrees_with_its_model() {
  float by_unit[32 * 32] = {}, by_model[32 * 32] = {};
  product_of_whole_numbers<AmxTiles>(by_unit);
  product_of_whole_numbers<ModelTiles>(by_model);
  return std::memcmp(by_unit, by_model, sizeof by_unit) == 0;
}

extern const Kernels amx_kernels{"amx", forward_on<AmxTiles>, backward_on<AmxTiles>};
}  // namespace difnet
DIFNET_TARGET_END
#endif
