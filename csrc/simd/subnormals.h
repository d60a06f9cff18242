// Arithmetic without subnormal numbers.
#pragma once

#include "../targets/targets.h"

namespace difnet {
inline namespace DIFNET_ISA {

// While an object lives, results of its thread that would be subnormal are 0 (x86 only). On many CPUs an instruction
// that computes or reads a subnormal number takes a hundred cycles or more. Where one node has nearly all weight, or
// where the gradients of an image differ much in size, most exponentials times gradients are that small.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | kFlushToZero); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
#else
  FlushSubnormals() {}  // Without it, compilers would report an object that only marks a scope as an unused variable.
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

#if defined(__x86_64__)

 private:
  static constexpr unsigned kFlushToZero = 0x8000;
  const unsigned before_;
#endif
};

}  // namespace DIFNET_ISA
}  // namespace difnet
