#!/usr/bin/env bash
# Pillow reads an uncompressed grey TIFF with a quarter turn right from a stream and wrong from its path.
#
# Packages:  Pillow 13.0.0 (11.0.0 shows the same), numpy 2.4.6
# Date:      2026-11-27
# Behaviour: A TIFF of one channel of 8 bits, uncompressed, has the tag Orientation 6 (a quarter turn). Image.open of an
#            open file gives the turned picture. Image.open of the path gives the stored bytes in order under the
#            turned shape: each row has the wrong length. Other orientations and compressed files agree.
# Output:    13.0.0 from a stream: right, from the path: wrong, first row of the path's array 0 1 2 3 4 5
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import sys

import numpy as np
import PIL
from PIL import Image

path = sys.argv[1]
stored = np.arange(24, dtype=np.uint8).reshape(6, 4)
exif = Image.Exif()
exif[0x0112] = 6
Image.fromarray(stored).save(path, exif=exif)
turned = np.rot90(stored, -1)
by_path = np.array(Image.open(path))
with open(path, "rb") as stream:
    by_stream = np.array(Image.open(stream))
right = {True: "right", False: "wrong"}
print(
    PIL.__version__,
    f"from a stream: {by_stream.shape} {right[np.array_equal(by_stream, turned)]},",
    f"from the path: {by_path.shape} {right[np.array_equal(by_path, turned)]}",
)
assert np.array_equal(by_stream, turned)
assert np.array_equal(by_path, np.rot90(stored.reshape(4, 6), -1))
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder/turned.tif"
echo "as described"
