#!/usr/bin/env bash
# matplotlib reads a grey PNG of 2 or 4 bits as numbers up to 85 or 17, where it promises 0 to 1.
#
# Packages:  matplotlib 3.11.2, Pillow 13.0.0, pypng 0.20220715.0, numpy 2.4.6
# Date:      2026-11-29
# Behaviour: plt.imread returns PNGs as floats from 0 to 1, so a label is usually recovered by a multiplication with the largest
#            value. For grey of 2 and 4 bits it divides by 3 and by 15, but Pillow has already stretched the pixels to 0..255.
#            Class 1 of a label of 4 bits becomes 1.13, class 15 becomes 17; both look like white where numbers are clipped at 1.
#            Grey of 1 bit and of 8 bits is right.
# Output:    1 bit: largest 1 | 2 bits: largest 85 | 4 bits: largest 17 | 8 bits: largest 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  matplotlib==3.11.2 pillow==13.0.0 pypng==0.20220715.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import png

largest = {}
for bits in (1, 2, 4, 8):
    path = Path(sys.argv[1]) / f"{bits}.png"
    with path.open("wb") as file:
        png.Writer(2**bits, 1, greyscale=True, bitdepth=bits).write(file, [range(2**bits)])
    assert [list(row) for row in png.Reader(filename=str(path)).read()[2]] == [list(range(2**bits))]
    largest[bits] = float(plt.imread(path).max())
print(
    " | ".join(f"{bits} bit{'s' if bits > 1 else ''}: largest {value:g}" for bits, value in largest.items())
)
assert largest == {1: 1, 2: 85, 4: 17, 8: 1}, largest
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
echo "as described"
