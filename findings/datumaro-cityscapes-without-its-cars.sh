#!/usr/bin/env bash
# Datumaro imports Cityscapes as published without its cars and persons, and with train ids without its road.
#
# Packages:  datumaro 1.13.12, cityscapesScripts 2.3.0, Pillow 12.3.0, numpy 2.4.6
# Date:      2026-11-29
# Behaviour: Cityscapes has, for each image, labelIds (a class in each pixel) and instanceIds, where a car or person that stands
#            alone is 1000 times its class plus a number. The import "cityscapes" detects the folder and reads instanceIds alone,
#            but looks in it for the bare numbers of classes. All other pixels are without annotation, with no word about it.
#            What is left of "car" are the groups of cars that have no instances. Where the script of Cityscapes has made
#            labelTrainIds, the import reads these instead: cars and persons are there, but class 0, the road, is not.
# Output:    labelIds: road 176, sky 210, person 14, car 112
#            Datumaro: road 176, sky 210, car 16
#            Datumaro, with labelTrainIds: sky 210, person 14, car 112
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  datumaro==1.13.12 cityscapesscripts==2.3.0 pillow==12.3.0 numpy==2.4.6
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from cityscapesscripts.preparation.json2instanceImg import json2instanceImg
from cityscapesscripts.preparation.json2labelImg import json2labelImg
from datumaro import Dataset, Environment
from datumaro.components.annotation import AnnotationType
from PIL import Image

WIDTH, HEIGHT = 32, 16
NAME = "aachen_000000_000019"
BOXES = [
    ("road", 0, 8, 31, 15),
    ("sky", 0, 0, 31, 7),
    ("car", 2, 6, 9, 11),
    ("car", 12, 6, 19, 11),
    ("person", 24, 5, 25, 11),
    ("cargroup", 27, 6, 30, 9),
]
root = Path(sys.argv[1]) / "cityscapes"
labels, pictures = root / "gtFine/train/aachen", root / "leftImg8bit/train/aachen"
labels.mkdir(parents=True)
pictures.mkdir(parents=True)
Image.new("RGB", (WIDTH, HEIGHT)).save(pictures / f"{NAME}_leftImg8bit.png")
objects = [{"label": name, "polygon": [[x, y], [X, y], [X, Y], [x, Y]]} for name, x, y, X, Y in BOXES]
stem = f"{labels}/{NAME}_gtFine"
Path(f"{stem}_polygons.json").write_text(
    json.dumps({"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": objects})
)
json2labelImg(f"{stem}_polygons.json", f"{stem}_labelIds.png", "ids")
json2labelImg(f"{stem}_polygons.json", f"{stem}_color.png", "color")
json2instanceImg(f"{stem}_polygons.json", f"{stem}_instanceIds.png", "ids")

values, counts = np.unique(np.asarray(Image.open(f"{stem}_labelIds.png")), return_counts=True)
truth = {id2label[value].name: count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
assert truth == {"road": 176, "sky": 210, "person": 14, "car": 112}, truth


def imported():
    assert Environment().detect_dataset(str(root)) == ["cityscapes"]
    dataset = Dataset.import_from(str(root), "cityscapes")
    classes = dataset.categories()[AnnotationType.label]
    (item,) = dataset
    return {classes[mask.label].name: int(mask.image.sum()) for mask in item.annotations}


published = imported()
json2labelImg(f"{stem}_polygons.json", f"{stem}_labelTrainIds.png", "trainIds")
trained = imported()
for source, pixels in (
    ("labelIds", truth),
    ("Datumaro", published),
    ("Datumaro, with labelTrainIds", trained),
):
    print(f"{source}:", ", ".join(f"{name} {count}" for name, count in pixels.items()))
assert published == {"road": 176, "sky": 210, "car": 16}, published
assert trained == {"sky": 210, "person": 14, "car": 112}, trained
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
echo "as described"
