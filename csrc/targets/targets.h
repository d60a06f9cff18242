// The instruction sets: the one list of their names, CPU features and properties. Each has a file in this folder, which
// defines DIFNET_ISA as the set's name, includes this header, and compiles all kernels between DIFNET_TARGET_BEGIN and
// DIFNET_TARGET_END. No file needs compiler flags of its own. DIFNET_ISA also names an inline namespace, so that the
// linker never takes a function that was compiled for one set in place of another's.
#pragma once

// Headers of the standard library come before DIFNET_TARGET_BEGIN: their functions are compiled for every CPU,
// whichever copy the linker keeps.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <numeric>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../walk.h"

// Sets that are chosen at run time, the best first.
#if defined(__x86_64__)
#define DIFNET_FOR_EACH_TARGET(SET) SET(amx) SET(avx512_bf16) SET(avx512) SET(avx2) SET(portable)
#else
#define DIFNET_FOR_EACH_TARGET(SET) SET(portable)
#endif

// CPU features beyond the architecture's baseline, by the names that GCC and Clang share; dispatch.cpp has their bits.
// The features of AMX are only in dispatch.cpp: its instructions are written in assembly, which compilers need not
// know.
#define DIFNET_FEATURES_portable(FEATURE)
#define DIFNET_FEATURES_amx_model(FEATURE)
#define DIFNET_FEATURES_avx2(FEATURE) FEATURE(avx2) FEATURE(fma)
#define DIFNET_FEATURES_avx512(FEATURE) \
  DIFNET_FEATURES_avx2(FEATURE) FEATURE(avx512f) FEATURE(avx512vl) FEATURE(avx512dq) FEATURE(avx512bw)
#define DIFNET_FEATURES_avx512_bf16(FEATURE) DIFNET_FEATURES_avx512(FEATURE) FEATURE(avx512bf16)
#define DIFNET_FEATURES_amx(FEATURE) DIFNET_FEATURES_avx512_bf16(FEATURE)

// Each level has the intrinsics of those below it.
#define DIFNET_LEVEL_portable 0
#define DIFNET_LEVEL_amx_model 0
#define DIFNET_LEVEL_avx2 1
#define DIFNET_LEVEL_avx512 2
#define DIFNET_LEVEL_avx512_bf16 3
#define DIFNET_LEVEL_amx 3

namespace difnet {
#define DIFNET_DECLARE(set) extern const Kernels set##_kernels;
DIFNET_FOR_EACH_TARGET(DIFNET_DECLARE)
// AMX's tiles emulated by loops: for tests, on every machine, chosen only by name.
#if defined(DIFNET_TEST_TARGETS)
DIFNET_DECLARE(amx_model)
#endif
#undef DIFNET_DECLARE

// Whether AMX, which must be there, multiplies whole numbers as plain loops do.
bool amx_multiplies_correctly();
}  // namespace difnet

#if defined(DIFNET_ISA)

#define DIFNET_CONCATENATE_(a, b) a##b
#define DIFNET_CONCATENATE(a, b) DIFNET_CONCATENATE_(a, b)
#define DIFNET_LEVEL DIFNET_CONCATENATE(DIFNET_LEVEL_, DIFNET_ISA)

#define DIFNET_HAS_AVX512_BF16 (DIFNET_LEVEL >= 3)
#define DIFNET_HAS_AVX512 (DIFNET_LEVEL >= 2)
#define DIFNET_HAS_AVX2 (DIFNET_LEVEL >= 1)
#if DIFNET_HAS_AVX512
#define DIFNET_VECTOR_BYTES 64
#elif DIFNET_HAS_AVX2
#define DIFNET_VECTOR_BYTES 32
#else
#define DIFNET_VECTOR_BYTES 16
#endif

#define DIFNET_PRAGMA_(text) _Pragma(#text)
#define DIFNET_PRAGMA(text) DIFNET_PRAGMA_(text)
#if defined(__x86_64__)
#define DIFNET_APPEND_FEATURE(feature) "," #feature
#define DIFNET_FEATURES "sse2" DIFNET_CONCATENATE(DIFNET_FEATURES_, DIFNET_ISA)(DIFNET_APPEND_FEATURE)
#if defined(__clang__)
#define DIFNET_TARGET_BEGIN \
  DIFNET_PRAGMA(clang attribute push(__attribute__((target(DIFNET_FEATURES))), apply_to = function))
#define DIFNET_TARGET_END _Pragma("clang attribute pop")
#else
#define DIFNET_TARGET_BEGIN _Pragma("GCC push_options") DIFNET_PRAGMA(GCC target(DIFNET_FEATURES))
#define DIFNET_TARGET_END _Pragma("GCC pop_options")
#endif
#else
#define DIFNET_TARGET_BEGIN
#define DIFNET_TARGET_END
#endif

#endif  // DIFNET_ISA
