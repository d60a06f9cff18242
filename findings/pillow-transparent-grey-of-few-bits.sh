#!/usr/bin/env bash
# Pillow never makes a pixel transparent where a grey PNG of 2 or 4 bits names its transparent value.
#
# Packages:  Pillow 13.0.0
# Date:      2026-11-27
# Behaviour: The tRNS chunk of a grey PNG holds one stored value: pixels of that value are transparent (PNG
#            specification, 11.3.2.1). Pillow stretches the pixels of 2 and 4 bits to 0..255 as it reads them, by the
#            factors 85 and 17, and then looks for the value as stored. Value 1 of 4 bits becomes 17 and is not found,
#            so the picture stays opaque. With 1 bit and with 8 bits the pixel is transparent.
# Output:    1 bit: 1 transparent | 2 bits: 0 transparent | 4 bits: 0 transparent | 8 bits: 1 transparent
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0
cat > "$folder/run.py" <<'PYTHON'
import io
import struct
import zlib

from PIL import Image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey(values, bits, transparent):
    """A PNG of one row."""
    packed = "".join(f"{value:0{bits}b}" for value in values)
    packed += "0" * (-len(packed) % 8)
    row = b"\0" + bytes(int(packed[i : i + 8], 2) for i in range(0, len(packed), 8))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", transparent))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )


counts = {}
for bits in (1, 2, 4, 8):
    picture = Image.open(io.BytesIO(grey(range(min(2**bits, 4)), bits, transparent=1)))
    alpha = picture.convert("RGBA").getchannel("A")
    counts[bits] = sum(value == 0 for value in alpha.tobytes())
print(" | ".join(f"{bits} bit{'s' if bits > 1 else ''}: {n} transparent" for bits, n in counts.items()))
assert counts == {1: 1, 2: 0, 4: 0, 8: 1}, counts
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
echo "as described"
