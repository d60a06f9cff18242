"""All formats of exports that are read."""

from pathlib import Path

from difnet.data.errors import DataError
from difnet.data.exports import coco, coco_panoptic, label_studio, labelme, supervisely
from difnet.data.exports.export import Export, Format
from difnet.data.exports.masks import cvat_camvid, cvat_masks, labelme_folders, plain_pairs, roboflow
from difnet.data.options import Reading

FORMATS: dict[str, Format] = {
    "CVAT segmentation masks 1.1": cvat_masks,
    "CVAT CamVid 1.0": cvat_camvid,
    "Roboflow semantic segmentation masks": roboflow,
    "COCO panoptic segments": coco_panoptic,
    "COCO annotations": coco,
    "a Supervisely project": supervisely,
    "labelme's JSON files": labelme,
    "labelme's folders of img.png and label.png": labelme_folders,
    "Label Studio's JSON export": label_studio,
    "images and masks in two folders": plain_pairs,
}
"""The modules that read one format each, by what they read."""


def format_of(root: Path) -> str | None:
    """Name the format of the export in `root`; None if there is none that is known."""
    return next((name for name, module in FORMATS.items() if module.recognise(root)), None)


def read_export(root: Path, reading: Reading) -> Export:
    """Recognise and read the export in `root`.

    Raises:
        DataError: the folder holds no known export, or one that cannot be used.
    """
    name = format_of(root)
    if name is None:
        raise DataError(
            f"{root} holds neither classes.txt with images/train and labels/train, nor an export that is "
            f"known: {', '.join(FORMATS)}"
        )
    return FORMATS[name].read(root, reading)
