#!/usr/bin/env bash
# In Datumaro's KITTI export, annotations with ids of 256 and more come back as other classes.
#
# Packages:  datumaro 1.13.12, Pillow 12.3.0, numpy 2.4.6
# Date:      2026-11-29
# Behaviour: The instance image of KITTI holds 256 times the class plus the instance in each pixel. Datumaro adds the whole
#            id of the annotation, and ids of a COCO file count through all its images. From 256 on, the id raises the class, by
#            one for each 256; no warning is given. The import reads classes from this image alone, although the image
#            beside it, "semantic", has the right ones.
# Output:    COCO:  id 1 car, id 255 car, id 256 car, id 600 car
#            KITTI: car, car, tree, sky; semantic: car, car, car, car
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datumaro==1.13.12 pillow==12.3.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import numpy as np
from datumaro import Dataset
from datumaro.components.annotation import AnnotationType
from PIL import Image

CLASSES = ["road", "car", "tree", "sky"]
IDS = [1, 255, 256, 600]
HEIGHT, WIDTH = 4, 2 * len(IDS)
coco, kitti = (Path(sys.argv[1]) / name for name in ("coco", "kitti"))
(coco / "images/train").mkdir(parents=True)
(coco / "annotations").mkdir()
Image.new("RGB", (WIDTH, HEIGHT)).save(coco / "images/train/a.png")
annotations = []
for place, number in enumerate(IDS):  # a car of two columns each
    x = 2 * place
    corners = [x, 0, x + 2, 0, x + 2, HEIGHT, x, HEIGHT]
    annotations.append(
        {
            "id": number,
            "image_id": 1,
            "category_id": 1 + CLASSES.index("car"),
            "segmentation": [corners],
            "bbox": [x, 0, 2, HEIGHT],
            "area": 2 * HEIGHT,
            "iscrowd": 0,
        }
    )
content = {
    "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
    "categories": [{"id": 1 + index, "name": name} for index, name in enumerate(CLASSES)],
    "annotations": annotations,
}
(coco / "annotations/instances_train.json").write_text(json.dumps(content))


def columns(dataset):
    """The class of each annotation, from left to right."""
    classes = dataset.categories()[AnnotationType.label]
    (item,) = dataset
    masks = [annotation for annotation in item.annotations if annotation.type == AnnotationType.mask]
    masks.sort(key=lambda mask: int(np.asarray(mask.image).any(0).argmax()))
    return [classes[mask.label].name for mask in masks]


dataset = Dataset.import_from(str(coco), "coco_instances")
dataset.transform("polygons_to_masks")
before = columns(dataset)
dataset.export(str(kitti), "kitti_segmentation", save_media=True)
after = columns(Dataset.import_from(str(kitti), "kitti_segmentation"))
semantic = [CLASSES[value] for value in np.asarray(Image.open(kitti / "train/semantic/a.png"))[0, ::2]]
print("COCO: ", ", ".join(f"id {number} {name}" for number, name in zip(IDS, before, strict=True)))
print("KITTI:", ", ".join(after) + "; semantic:", ", ".join(semantic))
assert before == semantic == ["car"] * 4, (before, semantic)
assert after == ["car", "car", "tree", "sky"], after
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
echo "as described"
