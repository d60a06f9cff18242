// The choice of the instruction set: the best that CPU and operating system support, or the one that DIFNET_CPU_ISA
// names.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "targets/targets.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace difnet {
namespace {

#if defined(__x86_64__)
// Each feature is a bit of CPUID, and bits of XCR0 that the operating system sets if it saves the feature's registers.
// __builtin_cpu_supports is not used: compilers know different names, and the Clang of Zig reports no feature.
enum Register { eax, ebx, ecx, edx };
constexpr uint64_t kYmm = 0x6, kZmm = kYmm | 0xe0, kTiles = 0x60000;
struct Feature {
  unsigned leaf, subleaf;
  Register reg;
  int bit;
  uint64_t xcr0;
};
constexpr Feature avx2{7, 0, ebx, 5, kYmm}, fma{1, 0, ecx, 12, kYmm};
constexpr Feature avx512f{7, 0, ebx, 16, kZmm}, avx512dq{7, 0, ebx, 17, kZmm}, avx512bw{7, 0, ebx, 30, kZmm};
constexpr Feature avx512vl{7, 0, ebx, 31, kZmm}, avx512bf16{7, 1, eax, 5, kZmm};
constexpr Feature amx_bf16{7, 0, edx, 22, kTiles}, amx_tile{7, 0, edx, 24, kTiles};
constexpr Feature osxsave{1, 0, ecx, 27, 0};  // whether XCR0 can be read

bool cpu_has(const Feature& feature) {
  unsigned registers[4];
  if (!__get_cpuid_count(
          feature.leaf, feature.subleaf, &registers[eax], &registers[ebx], &registers[ecx], &registers[edx]))
    return false;
  return registers[feature.reg] >> feature.bit & 1;
}

bool supported(const Feature& feature) {
  if (!cpu_has(osxsave) || !cpu_has(feature)) return false;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
#if defined(__APPLE__)
  low |= kZmm;  // macOS enables these bits at a process's first use of AVX-512
#endif
  return (low & feature.xcr0) == feature.xcr0;
}

// Whether this process may use AMX's tiles, and they multiply correctly. Linux gives a process access on request.
bool can_use_amx_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return supported(amx_bf16) && supported(amx_tile) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 &&
         amx_multiplies_correctly();
#else
  return false;
#endif
}
#endif

// Whether a set can be used, given that its features are supported.
bool usable([[maybe_unused]] const Kernels& kernels) {
#if defined(__x86_64__)
  if (&kernels == &amx_kernels) return can_use_amx_tiles();
#endif
  return true;
}

}  // namespace

#define DIFNET_AND_SUPPORTED(feature) and supported(feature)
#define DIFNET_ADD_IF_SUPPORTED(set) \
  if (true DIFNET_FEATURES_##set(DIFNET_AND_SUPPORTED) && usable(set##_kernels)) found.push_back(&set##_kernels);

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> available = [] {
    std::vector<const Kernels*> found;
    DIFNET_FOR_EACH_TARGET(DIFNET_ADD_IF_SUPPORTED)
    return found;
  }();
  return available;
}

const Kernels& chosen_kernels() {
  const char* asked = std::getenv("DIFNET_CPU_ISA");
  if (asked == nullptr || *asked == '\0') return *available_kernels().front();
#if defined(DIFNET_TEST_TARGETS)
  if (asked == std::string(amx_model_kernels.name)) return amx_model_kernels;
#endif
  std::string names;
  for (const Kernels* kernels : available_kernels()) {
    if (asked == std::string(kernels->name)) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("DIFNET_CPU_ISA=" + std::string(asked) + " cannot run here; expected one of " + names);
}

}  // namespace difnet
