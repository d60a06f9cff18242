// AVX-512 BF16 with AMX's tiles. Their instructions are written in assembly, so that compilers need not know them.
#define DIFNET_ISA amx
#include "targets.h"

#if defined(__x86_64__)
DIFNET_TARGET_BEGIN
#include "../products/matrix_unit.h"
#include "kernels.h"

namespace difnet {
namespace {

// Eight tiles of 16 rows of 64 bytes. The calling thread may use them while the object lives.
class AmxTiles {
 public:
  AmxTiles() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } const configuration;
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int Tile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(Tile));
  }
  template <int Tile>
  static void load(const void* from, int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(row_bytes), "i"(Tile) : "memory");
  }
  template <int Tile>
  static void store(void* to, int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(row_bytes), "i"(Tile) : "memory");
  }
  // C += A B. A holds 16 rows of 16 pairs, B a row of 16 columns for each pair, C 16 rows of 16 float32 numbers.
  template <int C, int A, int B>
  static void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};

using Unit = MatrixUnit<AmxTiles>;

}  // namespace

bool amx_multiplies_correctly() {
  constexpr int kSize = 32, kDepth = 64;
  int x[kSize][kDepth], y[kDepth][kSize];
  // Packed as the unit reads them: pairs along the depth, side by side.
  uint16_t packed_x[kSize][kDepth / 2][2], packed_y[kDepth / 2][kSize][2];
  for (int i = 0; i < kSize; ++i)
    for (int m = 0; m < kDepth; ++m) {
      x[i][m] = (i * kDepth + m) * 7 % 31 - 15;
      y[m][i] = (i * kDepth + m) * 11 % 29 - 14;
      packed_x[i][m / 2][m % 2] = to_bfloat16(static_cast<float>(x[i][m]));
      packed_y[m / 2][i][m % 2] = to_bfloat16(static_cast<float>(y[m][i]));
    }
  float sums[kSize][kSize] = {};
  {
    const AmxTiles session;
    Unit::multiply_accumulate(
        reinterpret_cast<const uint32_t*>(packed_x), kDepth / 2, reinterpret_cast<const uint32_t*>(packed_y), kSize,
        kDepth / 2, kSize, sums[0], kSize, kSize);
  }
  for (int i = 0; i < kSize; ++i)
    for (int j = 0; j < kSize; ++j) {
      int sum = 0;
      for (int m = 0; m < kDepth; ++m) sum += x[i][m] * y[m][j];
      if (sums[i][j] != static_cast<float>(sum)) return false;  // sums of small integers are exact in any order
    }
  return true;
}

const Kernels amx_kernels{"amx", forward_in_bfloat16<Unit, 2>, backward_in_bfloat16<Unit, 2>};
}  // namespace difnet
DIFNET_TARGET_END
#endif
