#!/usr/bin/env bash
# A COCO mask with a hole that supervision reads and writes comes back with the hole filled.
#
# Packages:  supervision 0.31.2, pycocotools 2.0.11, OpenCV 4.14.0, Pillow 13.0.0, numpy 2.4.6
# Date:      2026-11-29
# Behaviour: supervision writes masks with holes as RLE, unless the detection says iscrowd 0: then it writes polygons, and the
#            contour of the hole is one more polygon. All polygons of a COCO annotation add up, so the hole is filled. from_coco
#            sets iscrowd from the file on each detection, so each RLE mask with iscrowd 0 takes this way when from_coco
#            and as_coco follow each other. No warning is given, and "area" keeps the old number. With iscrowd 1 all pixels
#            come back.
# Output:    iscrowd 0: 60 pixels read, 2 polygons written, area 60, 64 pixels read again, by pycocotools 49
#            iscrowd 1: 60 pixels read, RLE written, area 60, 60 pixels read again, by pycocotools 60
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  supervision==0.31.2 pycocotools==2.0.11 pillow==13.0.0 numpy==2.4.6 opencv-python-headless==4.14.0.94
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
import warnings
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from supervision import DetectionDataset

warnings.simplefilter("error")
SIDE = 12
folder = Path(sys.argv[1])
(folder / "images").mkdir()
Image.new("RGB", (SIDE, SIDE)).save(folder / "images/a.png")
ring = np.zeros((SIDE, SIDE), int)
ring[2:10, 2:10] = 1
ring[5:7, 5:7] = 0
counts = [len(list(run)) for _, run in groupby(ring.ravel(order="F").tolist())]  # the first run is of zeros


def read(name):
    dataset = DetectionDataset.from_coco(str(folder / "images"), str(folder / name))
    ((_, _, detections),) = dataset
    return dataset, int(detections.mask.sum())


seen = {}
for crowd in (0, 1):
    annotation = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": {"counts": counts, "size": [SIDE, SIDE]},
        "bbox": [2, 2, 8, 8],
        "area": int(ring.sum()),
        "iscrowd": crowd,
    }
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIDE, "height": SIDE}],
        "categories": [{"id": 1, "name": "ring"}],
        "annotations": [annotation],
    }
    (folder / "before.json").write_text(json.dumps(content))
    dataset, before = read("before.json")
    dataset.as_coco(annotations_path=str(folder / "after.json"))
    _, after = read("after.json")
    (written,) = json.loads((folder / "after.json").read_text())["annotations"]
    shapes = written["segmentation"]
    kind = "RLE" if isinstance(shapes, dict) else f"{len(shapes)} polygons"
    parts = coco_mask.frPyObjects(shapes, SIDE, SIDE)
    other = int(coco_mask.area(parts if kind == "RLE" else coco_mask.merge(parts)))
    print(
        f"iscrowd {crowd}: {before} pixels read, {kind} written, area {written['area']:g}, "
        f"{after} pixels read again, by pycocotools {other}"
    )
    seen[crowd] = before, kind, written["area"], after, other
assert seen == {0: (60, "2 polygons", 60, 64, 49), 1: (60, "RLE", 60, 60, 60)}, seen
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
echo "as described"
