#!/usr/bin/env bash
# Pillow reads a 16-bit RGB TIFF that is stored plane after plane as a picture of other bytes.
#
# Packages:  Pillow 13.0.0, tifffile 2026.3.3, numpy 2.4.6
# Date:      2026-11-27
# Behaviour: TIFF allows colours pixel after pixel (contiguous) or plane after plane (separate). Pillow has no mode for
#            16-bit RGB and gives the high byte of contiguous samples. It opens the same picture in planes too, without
#            a word, but takes the bytes of a plane one by one: a constant colour comes out as stripes of high and low
#            bytes.
# Output:    13.0.0 2026.3.3 contig RGB [[16, 32, 48], [16, 32, 48], [16, 32, 48]]
#            13.0.0 2026.3.3 separate RGB [[128, 128, 128], [16, 32, 48], [128, 128, 128]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6 tifffile==2026.3.3
cat > "$folder/run.py" <<'PYTHON'
import sys

import numpy as np
import PIL
import tifffile
from PIL import Image

folder = sys.argv[1]
picture = np.broadcast_to(np.array([0x1080, 0x2080, 0x3080], np.uint16), (4, 6, 3)).copy()
found = {}
for layout, data in (("contig", picture), ("separate", np.moveaxis(picture, -1, 0).copy())):
    path = f"{folder}/{layout}.tif"
    tifffile.imwrite(path, data, photometric="rgb", planarconfig=layout, metadata=None)
    opened = Image.open(path)
    found[layout] = opened.mode, np.array(opened)[0, :3].tolist()
    print(PIL.__version__, tifffile.__version__, layout, *found[layout])
assert found["contig"] == ("RGB", [[16, 32, 48]] * 3), found
assert found["separate"] == ("RGB", [[128, 128, 128], [16, 32, 48], [128, 128, 128]]), found
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
echo "as described"
