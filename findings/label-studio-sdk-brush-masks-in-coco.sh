#!/usr/bin/env bash
# Label Studio's COCO export of brush masks loses a row and a column of each mask, and thin strokes with their whole image.
#
# Packages:  label-studio-sdk 2.1.2, pycocotools 2.0.11, Pillow 13.0.0, numpy 2.2.6
# Date:      2026-11-29
# Behaviour: The converter exports the same brush annotations as PNG and as COCO. For COCO it writes contours by OpenCV, whose
#            points are the centres of the outermost pixels; readers of COCO take them as corners, so pycocotools gets (w - 1) x
#            (h - 1) pixels of w x h. "area" is the smaller number, while "bbox" holds the full size. A stroke one pixel wide has
#            a contour of two points and is left out; if its image has nothing else, that is not in the file either. Only
#            outer contours are written, so holes are filled. The PNG has each pixel.
# Output:    square: PNG 36 pixels, COCO 25 pixels, area 25, bbox [2, 2, 6, 6]
#            ring:   PNG 48 pixels, COCO 49 pixels, area 49, bbox [2, 2, 8, 8]
#            stroke: PNG 7 pixels, COCO: no such image
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  label-studio-sdk==2.1.2 pycocotools==2.0.11 pillow==13.0.0 numpy==2.2.6 opencv-python-headless==4.12.0.88
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import numpy as np
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import image2annotation
from PIL import Image
from pycocotools import mask as coco_mask

SIZE = 12
CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="road"/></BrushLabels></View>"""
folder = Path(sys.argv[1])

masks = {name: np.zeros((SIZE, SIZE), np.uint8) for name in ("square", "ring", "stroke")}
masks["square"][2:8, 2:8] = 255
masks["ring"][2:10, 2:10] = 255
masks["ring"][4:8, 4:8] = 0
masks["stroke"][5, 2:9] = 255

tasks = []
for number, (name, mask) in enumerate(masks.items()):
    Image.fromarray(mask).save(folder / f"{name}.png")
    annotation = image2annotation(str(folder / f"{name}.png"), "road", "brush", "image")
    annotation |= {"id": number, "completed_by": 1}
    tasks.append({"id": number, "data": {"image": f"{name}.png"}, "annotations": [annotation]})
(folder / "tasks.json").write_text(json.dumps(tasks))
for kind in ("png", "coco"):
    (folder / kind).mkdir()
    Converter(CONFIG, None).convert(
        str(folder / "tasks.json"), str(folder / kind), f"BRUSH_TO_{kind.upper()}", is_dir=False
    )

coco = json.loads((folder / "coco/result_coco.json").read_text())
images = {image["file_name"]: image["id"] for image in coco["images"]}
seen = {}
for number, name in enumerate(masks):
    (png,) = (folder / "png").glob(f"task-{number}-*.png")
    exported = np.asarray(Image.open(png)) > 0
    assert (exported == (masks[name] > 0)).all()
    line = f"{name + ':':7} PNG {exported.sum()} pixels, COCO"
    if f"{name}.png" in images:
        (annotation,) = (a for a in coco["annotations"] if a["image_id"] == images[f"{name}.png"])
        pixels = coco_mask.decode(coco_mask.frPyObjects(annotation["segmentation"], SIZE, SIZE)).sum()
        print(f"{line} {pixels} pixels, area {annotation['area']}, bbox {annotation['bbox']}")
        seen[name] = pixels, annotation["area"], annotation["bbox"]
    else:
        print(f"{line}: no such image")
assert seen == {"square": (25, 25, [2, 2, 6, 6]), "ring": (49, 49, [2, 2, 8, 8])}, seen
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
echo "as described"
