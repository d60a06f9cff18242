// AMX's tiles emulated by loops: tests run the whole data flow of the matrix unit on it where there is no AMX. Built
// only for tests, and chosen only by name.
#if defined(DIFNET_TEST_TARGETS)
#define DIFNET_ISA amx_model
#include "targets.h"

DIFNET_TARGET_BEGIN
#include "../products/matrix_unit.h"
#include "kernels.h"

namespace difnet {
namespace {

alignas(64) thread_local uint16_t tiles[8][16][32];

// Emulates AmxTiles of amx.cpp, one function for each instruction.
class ModelTiles {
 public:
  ModelTiles() {}  // Without it, compilers would report a session that only marks a scope as an unused variable.
  ~ModelTiles() {}

  template <int Tile>
  static void zero() {
    std::memset(tiles[Tile], 0, sizeof tiles[Tile]);
  }
  template <int Tile>
  static void load(const void* from, int64_t row_bytes) {
    for (int row = 0; row < 16; ++row)
      std::memcpy(tiles[Tile][row], static_cast<const char*>(from) + row * row_bytes, 64);
  }
  template <int Tile>
  static void store(void* to, int64_t row_bytes) {
    for (int row = 0; row < 16; ++row) std::memcpy(static_cast<char*>(to) + row * row_bytes, tiles[Tile][row], 64);
  }
  template <int C, int A, int B>
  static void dot() {
    for (int row = 0; row < 16; ++row)
      for (int pair = 0; pair < 16; ++pair)
        for (int column = 0; column < 16; ++column) {
          const uint16_t *a = tiles[A][row] + 2 * pair, *b = tiles[B][pair] + 2 * column;
          float sum;
          std::memcpy(&sum, tiles[C][row] + 2 * column, sizeof sum);
          sum += from_bfloat16(a[0]) * from_bfloat16(b[0]);
          sum += from_bfloat16(a[1]) * from_bfloat16(b[1]);
          std::memcpy(tiles[C][row] + 2 * column, &sum, sizeof sum);
        }
  }
};

using Unit = MatrixUnit<ModelTiles>;

}  // namespace

const Kernels amx_model_kernels{"amx-model", forward_in_bfloat16<Unit, 2>, backward_in_bfloat16<Unit, 2>};
}  // namespace difnet
DIFNET_TARGET_END
#endif
