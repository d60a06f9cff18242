// Arithmetic without subnormal numbers.
#pragma once

#include "../targets/targets.h"

namespace difnet {
inline namespace DIFNET_ISA {

enum class Subnormal { results, results_and_operands };

// While an object lives, its thread computes with 0 in place of subnormal numbers (x86 only): of results, or of
// operands too. On many CPUs such a number makes an instruction take a hundred cycles or more. Where one node has
// nearly all weight, or where the gradients of an image differ much in size, most exponentials times gradients are that
// small.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  explicit FlushSubnormals(Subnormal numbers) : before_(_mm_getcsr()) {
    constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x40;
    _mm_setcsr(before_ | kFlushToZero | (numbers == Subnormal::results_and_operands ? kDenormalsAreZero : 0));
  }
  ~FlushSubnormals() { _mm_setcsr(before_); }
#else
  explicit FlushSubnormals(Subnormal) {}
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

#if defined(__x86_64__)

 private:
  const unsigned before_;
#endif
};

}  // namespace DIFNET_ISA
}  // namespace difnet
