// Which instruction set runs: the widest that CPU and operating system support, or the one asked for.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "walk.h"

namespace difnet {
namespace {

// Those that can run here, the best first.
std::vector<const Kernels*> available() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw")) {
    if (__builtin_cpu_supports("avx512bf16")) found.push_back(&avx512_bf16_kernels);
    found.push_back(&avx512_kernels);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    found.push_back(&avx2_kernels);
#endif
  found.push_back(&portable_kernels);
  return found;
}

}  // namespace

const Kernels& chosen_kernels() {
  static const std::vector<const Kernels*> found = available();
  const char* asked = std::getenv("DIFNET_CPU_ISA");
  if (asked == nullptr || *asked == '\0') return *found.front();
  std::string names;
  for (const Kernels* kernels : found) {
    if (kernels->name == std::string(asked)) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  throw std::invalid_argument("DIFNET_CPU_ISA=" + std::string(asked) + " cannot run here; expected one of " + names);
}

}  // namespace difnet
