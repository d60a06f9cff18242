#!/usr/bin/env bash
# GCC's _tile_loadconfig (AMX) reads eight bytes as far as the optimiser knows: the rest of a configuration is dropped.
#
# Packages:  cpp-12 and libgcc-12-dev 12.2.0-14+deb12u1 (GCC 12.2 of Debian 12)
# Date:      2026-11-28
# Behaviour: LDTILECFG reads 64 bytes. GCC's intrinsic declares the operand of its assembly as one pointer, 8 bytes. If a
#            local configuration is used for nothing else, the stores to the columns and rows of tiles are dead, and
#            -O2 deletes them. The instruction then loads a configuration that was never written in full.
#            Without optimisation the stores remain. Assembly with the whole structure as its
#            operand keeps them at every level.
# Output:    -O0 intrinsic: columns stored True, rows stored True
#            -O2 intrinsic: columns stored False, rows stored False
#            -O2 assembly: columns stored True, rows stored True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
version=12.2.0-14+deb12u1
apt-get download -qq -o APT::Sandbox::User=root "cpp-12=$version" "libgcc-12-dev=$version" libisl23 libmpc3 libmpfr6 > /dev/null
for package in *.deb; do dpkg -x "$package" root; done
gcc=root/usr/lib/gcc/x86_64-linux-gnu/12
export LD_LIBRARY_PATH="$folder/root/usr/lib/x86_64-linux-gnu"
cat > configure.c <<'C'
#include <amxtileintrin.h>

void configure(void) {
  struct {
    unsigned char palette, start, reserved[14];
    unsigned short columns[16];
    unsigned char rows[16];
  } configuration = {.palette = 1, .columns = {51}, .rows = {13}};
#ifdef ASSEMBLY
  __asm__ volatile("ldtilecfg %0" ::"m"(configuration));
#else
  _tile_loadconfig(&configuration);
#endif
}
C
# The header may be included only by immintrin.h.
sed -i 's/^#if !defined _IMMINTRIN_H_INCLUDED/#if 0/' "$gcc/include/amxtileintrin.h"
found() {
  "$gcc/cc1" -quiet -mamx-tile -isystem "$gcc/include" "${@:2}" configure.c -o configure.s
  has() { grep -qE "mov[bwlq]?\s+\\\$$1," configure.s && echo True || echo False; }
  echo "$1: columns stored $(has 51), rows stored $(has 13)" | tee -a output
}
found "-O0 intrinsic" -O0
found "-O2 intrinsic" -O2
found "-O2 assembly" -O2 -DASSEMBLY
diff output - <<'EXPECTED'
-O0 intrinsic: columns stored True, rows stored True
-O2 intrinsic: columns stored False, rows stored False
-O2 assembly: columns stored True, rows stored True
EXPECTED
echo "as described"
