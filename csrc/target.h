// Compiles all functions that follow for an instruction set, so that one build has no flags that differ by file.
#pragma once

// Headers of the standard library come first: their functions stay portable, whichever copy the linker keeps.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define DIFNET_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define DIFNET_TARGET(features) \
  DIFNET_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define DIFNET_TARGET_END _Pragma("clang attribute pop")
#else
#define DIFNET_TARGET(features) _Pragma("GCC push_options") DIFNET_PRAGMA(GCC target(features))
#define DIFNET_TARGET_END _Pragma("GCC pop_options")
#endif
