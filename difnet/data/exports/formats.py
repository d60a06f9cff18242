"""All formats of exports that are read."""

from pathlib import Path

from difnet.data.errors import DataError
from difnet.data.exports import coco, coco_panoptic, label_studio, labelme, supervisely
from difnet.data.exports.export import Export, Format
from difnet.data.exports.masks import cvat_camvid, cvat_masks, labelme_folders, plain_pairs, roboflow
from difnet.data.files.json_files import ends_of, some_json_files
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
            f"known: {', '.join(FORMATS)}{_hint(root)}"
        )
    export = FORMATS[name].read(root, reading)
    if not name.startswith(("labelme", "Label Studio")) and labelme.recognise(root):
        export.notes.append(
            f"{root} also holds JSON files of labelme, which are not read; move them to a folder of their "
            "own, with their images, to read them"
        )
    return export


def _hint(root: Path) -> str:
    """What to do with files that look like a known format which cannot be read; empty if there are none."""
    if all((root / name).is_dir() for name in ("JPEGImages", "SegmentationClass", "ImageSets")):
        return (
            "; it has the layout of PASCAL VOC, so use --dataset voc, or write the names of the classes into "
            f"{root / 'classes.txt'} if they are others"
        )
    if (root / "annotations.xml").is_file():
        return (
            f"; {root / 'annotations.xml'} is CVAT's own format, so export the task as 'Segmentation mask "
            "1.1' with 'Save images' in place of it"
        )
    for path in some_json_files(root):
        text = ends_of(path)
        if path.name == "via_region_data.json" or '"_via_' in text or '"region_attributes"' in text:
            return (
                f"; {path} is VIA's own format, so export the annotations in COCO's format from VIA instead"
            )
        tasks = '"data"' in text and ('"annotations"' in text or '"task"' in text)
        if text.startswith("{") and '"result"' in text and tasks:
            return (
                f"; {path} is a single task of Label Studio, so export the whole project as JSON, which is a "
                "list of tasks"
            )
    return ""
