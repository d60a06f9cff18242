#!/usr/bin/env bash
# In programs built by the Clang of the ziglang package, __builtin_cpu_supports finds no CPU feature at all.
#
# Packages:  ziglang 0.17.1 (Clang 22.1.8), Python 3.11, an x86-64 CPU
# Date:      2026-11-28
# Behaviour: `python -m ziglang c++` is a Clang that pip installs. Programs that choose kernels by CPU feature ask
#            __builtin_cpu_supports, after __builtin_cpu_init, as GCC and Clang document it. Built with ziglang they compile
#            and link without a warning, and every answer is no, even for sse2, which each x86-64 CPU has. So they run their
#            slowest kernels, and tests of the other kernels test nothing. The instruction CPUID, asked directly, is right.
# Output:    __builtin_cpu_supports("sse2") 0, CPUID 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ziglang==0.17.1
cat > "$folder/main.cpp" <<'CPP'
#include <cpuid.h>

#include <cstdio>

int main() {
  unsigned a, b, c, d;
  __get_cpuid(1, &a, &b, &c, &d);
  __builtin_cpu_init();
  std::printf("__builtin_cpu_supports(\"sse2\") %d, CPUID %d\n", __builtin_cpu_supports("sse2") != 0, d >> 26 & 1);
}
CPP
ZIG_LOCAL_CACHE_DIR="$folder/cache" ZIG_GLOBAL_CACHE_DIR="$folder/cache" \
  "$folder/venv/bin/python" -m ziglang c++ "$folder/main.cpp" -o "$folder/main"
"$folder/main" | tee "$folder/output"
grep -qx '__builtin_cpu_supports("sse2") 0, CPUID 1' "$folder/output"
echo "as described"
