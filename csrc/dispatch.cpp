// Which instruction set runs: the widest that CPU and operating system support, or the one asked for.
#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "walk.h"

namespace difnet {
namespace {

#if defined(__x86_64__)
// Linux lets a process use AMX's tiles once it has asked for them.
bool may_use_amx() {
#if defined(__linux__)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool has_bf16 = d >> 22 & 1, has_tiles = d >> 24 & 1;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return has_bf16 && has_tiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 &&
         amx_agrees_with_its_model();
#else
  return false;
#endif
}
#endif

}  // namespace

const std::vector<const Kernels*>& available_kernels() {
  static const std::vector<const Kernels*> found = [] {
    std::vector<const Kernels*> kernels;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw")) {
      if (__builtin_cpu_supports("avx512bf16")) {
        if (may_use_amx()) kernels.push_back(&amx_kernels);
        kernels.push_back(&avx512_bf16_kernels);
      }
      kernels.push_back(&avx512_kernels);
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
      kernels.push_back(&avx2_kernels);
#endif
    kernels.push_back(&portable_kernels);
    return kernels;
  }();
  return found;
}

const Kernels& chosen_kernels() {
  const char* asked = std::getenv("DIFNET_CPU_ISA");
  if (asked == nullptr || *asked == '\0') return *available_kernels().front();
  if (asked == std::string(amx_model_kernels.name)) return amx_model_kernels;
  std::string names;
  for (const Kernels* kernels : available_kernels()) {
    if (asked == std::string(kernels->name)) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("DIFNET_CPU_ISA=" + std::string(asked) + " cannot run here; expected one of " + names);
}

}  // namespace difnet
