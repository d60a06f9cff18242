"""Exports of mask files: CVAT's masks and CamVid, Roboflow, and images and masks in two folders."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import train_and_evaluate

from difnet.data import DataError, create_dataset
from difnet.data.exports.formats import format_of
from difnet.data.items.colours import voc_colours
from difnet.data.options import Reading

SIZE = (32, 48)
CAR, BLACK, ROAD = (0, 0, 142), (0, 0, 0), (128, 64, 128)
SHADES = np.array([[200, 60, 60], [60, 60, 200], [230, 230, 120]], np.float64)


def drawing(number: int = 0) -> np.ndarray:
    """Class indices (32, 48) without a symmetry; each number has another."""
    label = np.zeros(SIZE, np.uint8)
    label[20 - number :] = 2
    label[5 : 14 + number, 3 : 12 + 2 * number] = 1
    return label


def picture(label: np.ndarray) -> Image.Image:
    """A photograph of what the label shows: no colour in it means a class."""
    noise = np.random.default_rng(int(label.sum())).normal(0, 12, (*label.shape, 3))
    return Image.fromarray(np.clip(SHADES[label] + noise, 0, 255).astype(np.uint8))


def save(image: Image.Image, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def folder(root: Path, split: str = "train", **reading):
    return create_dataset("folder", root, split, reading=Reading(**reading))


def labels(root: Path, split: str = "train", **reading) -> dict[str, np.ndarray]:
    data = folder(root, split, **reading)
    return {data.item_name(index): data.read(index)[1].numpy() for index in range(len(data))}


def assert_labels(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, label in expected.items():
        assert np.array_equal(found[name], label), name


def problem(root: Path, kind: type[Exception] = DataError, split: str = "train", **reading) -> str:
    with pytest.raises(kind) as caught:
        folder(root, split, **reading).check()
    return str(caught.value)


def assert_unused(root: Path, tool: str, **reading) -> None:
    """Check that each of these options is refused."""
    for option, value in reading.items():
        expected = f"--{option.replace('_', '-')} changes nothing in how {tool} is read; leave it out"
        assert problem(root, ValueError, **{option: value}) == expected


# The lines are sorted by name, so the background is in the middle: car 0, background 1, road 2 would be wrong
# for a reader that expects it first.
LABELMAP = "# label:color_rgb:parts:actions\nCar:0,0,142::\nbackground:0,0,0::\nwet road:128,64,128::\n"
COLOURS = np.array([CAR, BLACK, ROAD], np.uint8)


def cvat(
    root: Path,
    lists: Mapping[str, Sequence[str]],
    bare: Sequence[str] = (),
    labelmap: str = LABELMAP,
    colours: np.ndarray = COLOURS,
) -> dict[str, np.ndarray]:
    """Write an export of CVAT, in which the images of `bare` have no annotation; return all labels."""
    write(root / "labelmap.txt", labelmap)
    drawn = {}
    for title, names in lists.items():
        write(root / "ImageSets/Segmentation" / f"{title}.txt", "".join(f"{name}\n" for name in names))
        for name in names:
            if name not in drawn:
                drawn[name] = drawing(len(drawn))
    for name, label in drawn.items():
        save(picture(label), root / "JPEGImages" / f"{name}.jpg")
        if name not in bare:
            for kind in ("SegmentationClass", "SegmentationObject"):
                save(Image.fromarray(colours[label]), root / kind / f"{name}.png")
    return drawn


NAMES = {"Train": ["b.01.x", "a/b c/2", "a/1"], "Validation": ["z", "y 1"]}


def test_cvat_masks(tmp_path):
    root = tmp_path / "data"
    drawn = cvat(root, NAMES)
    assert format_of(root) == "CVAT segmentation masks 1.1"
    data = folder(root)
    assert data.classes == ["Car", "background", "wet road"]
    assert data.palette.tolist() == COLOURS.tolist()
    assert data.void_text == "no colour"
    assert data.notes == [
        f"{root} is read as CVAT segmentation masks",
        f"class 1 (background) of {root / 'labelmap.txt'} is the background, because its colour is (0, 0, 0)",
    ]
    for split, title in (("train", "Train"), ("val", "Validation")):
        assert_labels(labels(root, split), {name: drawn[name] for name in NAMES[title]})
    record = train_and_evaluate("folder", root, tmp_path / "run")
    assert list(record["iou"]) == data.classes
    assert_unused(
        root,
        "CVAT segmentation masks",
        void_value=(0,),
        label_offset=1,
        colours="voc",
        unannotated="void",
    )


def test_cvat_images_without_annotation(tmp_path):
    drawn = cvat(tmp_path, NAMES, bare=["a/1", "z"])
    for unlabelled in (None, "refuse"):
        message = problem(tmp_path, unlabelled=unlabelled)
        assert "2 image(s) have no annotation (a/1, z)" in message
        assert "--unlabelled background" in message
        assert "--unlabelled skip" in message
    background = np.ones(SIZE, np.uint8)
    found = labels(tmp_path, unlabelled="background")
    assert_labels(found, {name: drawn[name] for name in NAMES["Train"][:2]} | {"a/1": background})
    assert_labels(labels(tmp_path, "val", unlabelled="background"), {"z": background, "y 1": drawn["y 1"]})
    assert_labels(labels(tmp_path, "val", unlabelled="skip"), {"y 1": drawn["y 1"]})
    notes = folder(tmp_path, unlabelled="skip").notes
    assert "2 image(s) without annotation are left out (a/1, z)" in notes
    notes = folder(tmp_path, unlabelled="background").notes
    assert "2 image(s) without annotation are background everywhere (a/1, z)" in notes


def test_cvat_background_of_another_colour(tmp_path):
    """A label that the user called background keeps its own colour, which all other pixels take then."""
    text = LABELMAP.replace("background:0,0,0", "background:9,200,7")
    colours = np.array([CAR, (9, 200, 7), ROAD], np.uint8)
    drawn = cvat(tmp_path, NAMES, ["z"], text, colours)
    assert_labels(
        labels(tmp_path, "val", unlabelled="background"),
        {"z": np.ones(SIZE, np.uint8), "y 1": drawn["y 1"]},
    )
    assert any(
        note.endswith("is the background, because it is called so, and no class is black")
        for note in folder(tmp_path, unlabelled="skip").notes
    )


def test_cvat_background_beside_a_label_of_the_same_name(tmp_path):
    """CVAT adds its own black background if the user's is not lower case; the black one counts."""
    text = "Background:9,200,7::\nbackground:0,0,0::\nroad:128,64,128::\n"
    cvat(tmp_path, NAMES, ["z"], text, np.array([(9, 200, 7), BLACK, ROAD], np.uint8))
    assert (labels(tmp_path, "val", unlabelled="background")["z"] == 1).all()


@pytest.mark.parametrize(
    ("text", "colours", "reason"),
    [
        ("IGNORE:0,0,0::\ncar:0,0,142::\nroad:128,64,128::\n", [CAR, BLACK, ROAD], "'IGNORE' in "),
        ("car:0,0,142::\npark:1,2,3::\nroad:128,64,128::\n", [CAR, (1, 2, 3), ROAD], "no class in "),
    ],
)
def test_cvat_without_a_class_for_background(tmp_path, text, colours, reason):
    drawn = cvat(tmp_path, NAMES, ["z"], text, np.array(colours, np.uint8))
    message = problem(tmp_path, unlabelled="background")
    assert f"1 image(s) have no annotation (z), and they cannot be background, because {reason}" in message
    assert message.endswith("give --unlabelled skip")
    found = labels(tmp_path, unlabelled="skip")["a/1"]
    if reason.startswith("'IGNORE'"):  # void, so that road is class 1
        assert np.array_equal(found, np.array([0, 255, 1], np.uint8)[drawn["a/1"]])
        assert folder(tmp_path, unlabelled="skip").void_text == f"IGNORE in {tmp_path / 'labelmap.txt'}"
    else:
        assert np.array_equal(found, drawn["a/1"])


def test_cvat_lists(tmp_path):
    """One list divides nothing; a list of all images leaves those of the others where they are."""
    names = [f"frame_{number:06d}" for number in range(6)]
    cvat(tmp_path / "one", {"default": names})
    data = [folder(tmp_path / "one", split, val_share=0.3) for split in ("train", "val")]
    parts = [{it.item_name(index) for index in range(len(it))} for it in data]
    assert min(map(len, parts)) > 0
    assert parts[0] | parts[1] == set(names)
    assert not parts[0] & parts[1]
    assert any("the export is not divided" in note for note in data[0].notes)
    root = tmp_path / "three"
    drawn = cvat(root, {"trainval": names, "train": names[:3], "val": names[3:5]})
    expected = {name: drawn[name] for name in [*names[:3], names[5]]}
    assert_labels(labels(root), expected)
    assert list(labels(root, "val")) == names[3:5]
    write(root / "ImageSets/Segmentation/val.txt", "\n".join(names[2:5]))
    assert f"val.txt both list {names[2]}; keep each image in one split" in problem(root)


def test_cvat_without_images(tmp_path):
    cvat(tmp_path, NAMES)
    for path in tmp_path.glob("JPEGImages/**/*.jpg"):
        path.unlink()
    expected = f"{tmp_path / 'JPEGImages'} holds no image; tick 'Save images' in CVAT and export again"
    assert problem(tmp_path).startswith(expected)
    for path in sorted(tmp_path.glob("JPEGImages/**/*"), reverse=True):
        path.rmdir()
    (tmp_path / "JPEGImages").rmdir()
    assert problem(tmp_path).startswith(expected)


def test_cvat_without_masks(tmp_path):
    """Nobody means an export of background only."""
    drawn = cvat(tmp_path, NAMES)
    expected = f"{tmp_path / 'SegmentationClass'} holds no mask of the 5 listed images (a/1, a/b c/2, b.01.x,"
    for name in drawn:
        (tmp_path / "SegmentationClass" / f"{name}.png").unlink()
    save(Image.fromarray(COLOURS[drawing(8)]), tmp_path / "SegmentationClass/other.png")
    for unlabelled in ("background", "skip", "refuse"):
        assert problem(tmp_path, unlabelled=unlabelled).startswith(expected)
    shutil.rmtree(tmp_path / "SegmentationClass")
    assert problem(tmp_path, unlabelled="background").startswith(expected)


def test_cvat_images_that_do_not_fit_the_lists(tmp_path):
    drawn = cvat(tmp_path, NAMES)
    images = tmp_path / "JPEGImages"
    save(picture(drawing(7)), images / "points only.jpg")
    save(Image.fromarray(COLOURS[drawing(8)]), tmp_path / "SegmentationClass/gone.png")
    notes = folder(tmp_path).notes
    assert any(
        note.startswith("1 image(s) are in no list and not used (points only); CVAT") for note in notes
    )
    assert "1 mask(s) are in no list and not used (gone)" in notes
    assert list(labels(tmp_path)) == NAMES["Train"]
    (images / "z.jpg").rename(images / "Z.jpg")
    (images / "a/1.jpg").unlink()
    message = problem(tmp_path)
    assert "CVAT segmentation masks in " in message
    assert "2 item(s) cannot be used" in message
    assert f"a/1 is listed and has no image in {images}; copy it there, or remove it from the list" in message
    assert f"z is listed and has no image in {images}; rename {images / 'Z.jpg'}, whose name is" in message
    (images / "Z.jpg").rename(images / "z.webp")  # an image may have any ending
    save(picture(drawn["a/1"]), images / "a/1.PNG")
    assert_labels(labels(tmp_path), {name: drawn[name] for name in NAMES["Train"]})
    save(picture(drawn["a/1"]), images / "a/1.jpg")
    assert "share the name 'a/1'; keep one of them" in problem(tmp_path)


def test_cvat_masks_of_turned_images(tmp_path):
    """CVAT shows an image as its EXIF tag says, and labels what it shows."""
    cvat(tmp_path, NAMES)
    label = drawing(3)
    exif = Image.Exif()
    exif[274] = 6  # the stored pixels are turned by 90 degrees clockwise to be shown
    stored = picture(label).transpose(Image.Transpose.ROTATE_90)
    save(stored, tmp_path / "JPEGImages/a/1.jpg", exif=exif)
    save(Image.fromarray(COLOURS[label]), tmp_path / "SegmentationClass/a/1.png")
    data = folder(tmp_path)
    image, found = data.read(2)
    assert image.shape == (3, *SIZE)
    assert np.array_equal(found.numpy(), label)


def test_cvat_colours_that_labelmap_lacks(tmp_path):
    cvat(tmp_path, NAMES)
    pixels = COLOURS[drawing(5)]
    pixels[4, 5:8] = (0, 0, 140)
    save(Image.fromarray(pixels), tmp_path / "SegmentationClass/b.01.x.png")
    message = problem(tmp_path)
    assert "b.01.x.png: 3 of 1536 pixels" in message
    assert "(0, 0, 140) 3 times, 2 levels from Car" in message
    pixels[4, 5:8] = CAR
    expected = (pixels == CAR).all(-1)
    assert np.array_equal(labels(tmp_path, snap_colours=True)["b.01.x"] == 0, expected)
    write(tmp_path / "labelmap.txt", LABELMAP + "twin:0,0,142::\n")
    assert "gives Car, twin the same colour (0, 0, 142)" in problem(tmp_path)


def test_cvat_lists_that_cannot_be_read(tmp_path):
    cvat(tmp_path, NAMES)
    path = tmp_path / "ImageSets/Segmentation/Train.txt"
    path.write_bytes("a/1\r\nb.01.x\r\n".encode("utf-8-sig"))
    assert list(labels(tmp_path)) == ["a/1", "b.01.x"]
    path.write_bytes("ä\n".encode("latin-1"))
    assert f"{path} cannot be read" in problem(tmp_path)
    for path in tmp_path.glob("ImageSets/Segmentation/*.txt"):
        path.unlink()
    assert f"{tmp_path / 'ImageSets/Segmentation'} lists no image" in problem(tmp_path)


def camvid(
    root: Path,
    lists: Mapping[str, Sequence[str]],
    bare: Sequence[str] = (),
    table: str = "0 0 142 car\n128 64 128 wet road\n",
    quoted: bool = True,
) -> dict[str, np.ndarray]:
    """Write CVAT's CamVid: background is class 0 and not in the table; return the labels by image path."""
    write(root / "label_colors.txt", table)
    colours = np.array([BLACK, CAR, ROAD], np.uint8)
    drawn = {}
    for subset, names in lists.items():
        lines = []
        for name in names:
            image, mask = f"{subset}/{name}.jpg", f"{subset}annot/{name}.png"
            label = drawn[f"{subset}/{name}"] = drawing(len(drawn))
            save(picture(label), root / image)
            if name in bare:
                mask = ""
            else:
                save(Image.fromarray(colours[label]), root / mask)
            blank = quoted and (" " in image or " " in mask)
            lines.append(f'"/{image}" "{mask}"' if blank else f"/{image} {mask}")
        write(root / f"{subset}.txt", "\n".join(lines) + "\n")
    return drawn


SEQUENCES = {"train": ["0001.a", "left eye/x y", "0003"], "valid": ["0001.a", "v"]}


def test_cvat_camvid(tmp_path):
    root = tmp_path / "data"
    drawn = camvid(root, SEQUENCES)
    assert format_of(root) == "CVAT CamVid 1.0"
    data = folder(root)
    assert data.classes == ["background", "car", "wet road"]
    assert data.palette.tolist() == [[*BLACK], [*CAR], [*ROAD]]
    assert data.notes[1].startswith(f"{root / 'label_colors.txt'} does not name the black of pixels without")
    for split, subset in (("train", "train"), ("val", "valid")):
        expected = {name: label for name, label in drawn.items() if name.startswith(subset)}
        assert_labels(labels(root, split), expected)
    train_and_evaluate("folder", root, tmp_path / "run")
    assert_unused(
        root, "CVAT CamVid", colours="voc", void_value=(11,), label_offset=1, unannotated="background"
    )


def test_camvid_images_without_annotation(tmp_path):
    drawn = camvid(tmp_path, SEQUENCES, bare=["v", "left eye/x y"])
    assert "2 image(s) have no annotation (train/left eye/x y, valid/v)" in problem(tmp_path)
    found = labels(tmp_path, "val", unlabelled="background")
    assert_labels(found, {"valid/0001.a": drawn["valid/0001.a"], "valid/v": np.zeros(SIZE, np.uint8)})
    assert list(labels(tmp_path, unlabelled="skip")) == ["train/0001.a", "train/0003"]


def test_camvid_lists_of_earlier_versions(tmp_path):
    """They did not quote paths with blanks."""
    drawn = camvid(tmp_path, SEQUENCES, bare=["v"], quoted=False)
    expected = {name: label for name, label in drawn.items() if name.startswith("train")}
    assert_labels(labels(tmp_path, unlabelled="skip"), expected)
    write(tmp_path / "train.txt", "/elsewhere/a b.jpg c d.png\n")
    assert "has the line '/elsewhere/a b.jpg c d.png', which is not the path of an image" in problem(tmp_path)


def test_camvid_background_in_the_table(tmp_path):
    """A background that the user made is in the table, also one of another colour, and then none is added."""
    camvid(tmp_path, SEQUENCES, ["v"], "0 0 142 car\n0 0 0 nothing\n128 64 128 road\n")
    assert folder(tmp_path, unlabelled="skip").classes == ["car", "nothing", "road"]
    assert (labels(tmp_path, "val", unlabelled="background")["valid/v"] == 1).all()
    write(tmp_path / "label_colors.txt", "0 0 142 car\n9 200 7 background\n128 64 128 road\n")
    for path in tmp_path.glob("*annot/**/*.png"):
        pixels = np.array(Image.open(path))
        pixels[(pixels == BLACK).all(-1)] = (9, 200, 7)
        Image.fromarray(pixels).save(path)
    assert folder(tmp_path, unlabelled="skip").classes == ["car", "background", "road"]
    assert (labels(tmp_path, "val", unlabelled="background")["valid/v"] == 1).all()


def test_camvid_and_roboflow_without_masks(tmp_path):
    camvid(tmp_path / "camvid", SEQUENCES, bare=["0001.a", "left eye/x y", "0003", "v"])
    roboflow(tmp_path / "roboflow", EXPORTED)
    for path in tmp_path.glob("roboflow/*/*_mask.png"):
        path.unlink()
    for root, count in (("camvid", 5), ("roboflow", 6)):
        message = problem(tmp_path / root, unlabelled="background")
        assert f"none of the {count} images has a mask (" in message
        assert str(tmp_path / root) in message


def test_camvid_missing_files(tmp_path):
    camvid(tmp_path, SEQUENCES)
    (tmp_path / "train/0003.jpg").unlink()
    (tmp_path / "trainannot/0001.a.png").unlink()
    message = problem(tmp_path)
    assert "2 item(s) cannot be used" in message
    assert f"{tmp_path / 'train/0003.jpg'} is listed and missing" in message
    assert (
        f"{tmp_path / 'trainannot/0001.a.png'} is listed as the mask of train/0001.a.jpg and missing"
        in message
    )
    for path in tmp_path.glob("[tv]*/**/*.jpg"):
        path.unlink()
    assert "holds none of the 5 images" in problem(tmp_path)
    assert "tick 'Save images' in CVAT" in problem(tmp_path)
    assert "if these are the published images of CamVid, use --dataset camvid" in problem(tmp_path)


def test_camvid_images_that_share_a_mask(tmp_path):
    camvid(tmp_path, SEQUENCES)
    save(picture(drawing(9)), tmp_path / "train/0003.png")
    with (tmp_path / "train.txt").open("a") as file:
        file.write("/train/0003.png trainannot/0003.png\n")
    assert "0003.png share a name and so a mask; keep one of them" in problem(tmp_path)


def test_cityscapes_of_cvat_is_not_camvid(tmp_path):
    """It has a table of the same name."""
    camvid(tmp_path, SEQUENCES)
    (tmp_path / "gtFine").mkdir()
    assert format_of(tmp_path) is None
    (tmp_path / "gtFine").rmdir()
    assert format_of(tmp_path) == "CVAT CamVid 1.0"
    for subset in SEQUENCES:
        (tmp_path / f"{subset}.txt").unlink()
    assert format_of(tmp_path) is None


CSV = "Pixel Value, Class\n0, background\n1, Car park\n2, road\n3, objects"
HASH = "_jpg.rf.0123456789abcdef0123456789abcdef"
EXPORTED = {
    "train": [f"a.b{HASH}", f"c d{HASH}", f"e_mask{HASH}"],
    "valid": [f"a.b{HASH}", "v"],
    "test": ["t"],
}


def roboflow(root: Path, splits: Mapping[str, Sequence[str]], ending: str = "jpg") -> dict[str, np.ndarray]:
    """Write an export of Roboflow; return the labels by their path."""
    write(root / "README.roboflow.txt", "exported\n")
    drawn = {}
    for split, names in splits.items():
        write(root / split / "_classes.csv", CSV)
        for name in names:
            label = drawn[f"{split}/{name}"] = drawing(len(drawn))
            save(picture(label), root / split / f"{name}.{ending}")
            save(Image.fromarray(label), root / split / f"{name}_mask.png")
    return drawn


def test_roboflow(tmp_path):
    root = tmp_path / "data"
    drawn = roboflow(root, EXPORTED)
    assert format_of(root) == "Roboflow semantic segmentation masks"
    data = folder(root)
    assert data.classes == ["background", "Car park", "road", "objects"]
    assert data.void_text == "no number"
    for split, title in (("train", "train"), ("val", "valid")):
        expected = {name: drawn[f"{title}/{name}"] for name in EXPORTED[title]}
        assert_labels(labels(root, split), expected)
    assert [it.name for it in data.splits["test"]] == ["t"]
    train_and_evaluate("folder", root, tmp_path / "run")
    assert_unused(
        root,
        "Roboflow semantic segmentation masks",
        void_value=(0,),
        label_offset=1,
        colours="voc",
        snap_colours=True,
        unannotated="void",
    )


def test_roboflow_png_images(tmp_path):
    """Images and masks have the same ending, and an image may be called like a mask."""
    names = {"train": ["a", "b_mask", "c", "c_mask"], "valid": ["a_mask", "d_mask_mask"]}
    drawn = roboflow(tmp_path, names, "png")
    # The mask of c would be c_mask.png, which is an image: c has no mask then.
    assert "1 image(s) have no annotation (c);" in problem(tmp_path)
    found = labels(tmp_path, unlabelled="background")
    expected = {name: drawn[f"train/{name}"] for name in ("a", "b_mask", "c_mask")}
    assert_labels(
        found,
        {"a": drawn["train/a"], "b_mask": drawn["train/b_mask"]}
        | {"c": np.zeros(SIZE, np.uint8), "c_mask": expected["c_mask"]},
    )
    assert_labels(
        labels(tmp_path, "val", unlabelled="skip"),
        {name: drawn[f"valid/{name}"] for name in names["valid"]},
    )


def test_roboflow_jpeg_images_that_are_called_like_masks(tmp_path):
    names = {"train": ["cat", "cat_mask"], "valid": ["a"]}
    drawn = roboflow(tmp_path, names)
    assert_labels(labels(tmp_path), {name: drawn[f"train/{name}"] for name in names["train"]})


def test_roboflow_images_without_mask(tmp_path):
    drawn = roboflow(tmp_path, EXPORTED)
    (tmp_path / "valid/v_mask.png").unlink()
    assert "1 image(s) have no annotation (v); annotate them" in problem(tmp_path)
    assert (labels(tmp_path, "val", unlabelled="background")["v"] == 0).all()
    only = f"a.b{HASH}"
    assert_labels(labels(tmp_path, "val", unlabelled="skip"), {only: drawn[f"valid/{only}"]})
    for split in EXPORTED:
        write(tmp_path / split / "_classes.csv", CSV.replace("background", "sky"))
    assert "class 0 of" in problem(tmp_path, unlabelled="background")
    assert "is 'sky' and not background; give --unlabelled skip" in problem(tmp_path, unlabelled="background")


def test_roboflow_masks_without_image(tmp_path):
    roboflow(tmp_path, EXPORTED)
    (tmp_path / f"train/c d{HASH}.jpg").unlink()
    for unlabelled in ("refuse", "skip", "background"):
        message = problem(tmp_path, unlabelled=unlabelled)
        assert f"mask {tmp_path / 'train' / f'c d{HASH}_mask.png'} has no image; add it there" in message
    save(picture(drawing()), tmp_path / f"train/c d{HASH}.jpg")
    save(picture(drawing()), tmp_path / f"train/c d{HASH}.webp")
    assert f"share the name 'c d{HASH}'; keep one of them" in problem(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("filename, Car, road\na.jpg, 0, 1\n", "has the columns filename, Car, road, as Roboflow's classif"),
        ("", "has the columns (none)"),
        (CSV.replace("2, road", "3, road"), "has the row '3, road' where '2, NAME' is expected"),
        (CSV.replace("2, road", "2,"), "has the row '2, ' where '2, NAME' is expected"),
        (CSV.replace("2, road", "two, road"), "has the row 'two, road' where '2, NAME' is expected"),
        (CSV.replace("2, road", "2, Car park"), "names Car park more than once"),
        ("Pixel Value, Class\n0, background\n", "names 1 class(es); it must name 2 to 255"),
    ],
)
def test_roboflow_lists_of_classes(tmp_path, text, words):
    roboflow(tmp_path, EXPORTED)
    write(tmp_path / "train/_classes.csv", text)
    message = problem(tmp_path)
    assert message.startswith(f"{tmp_path / 'train/_classes.csv'} ")
    assert words in message
    if "columns" in message:
        assert message.endswith("export the data set as Semantic Segmentation Masks")


def test_roboflow_lists_that_differ(tmp_path):
    roboflow(tmp_path, EXPORTED)
    write(tmp_path / "test/_classes.csv", CSV.replace("road", "Road"))
    message = problem(tmp_path)
    assert message.startswith(
        f"{tmp_path / 'test/_classes.csv'} names background, Car park, Road, objects, and "
    )
    write(tmp_path / "test/_classes.csv", CSV.replace(", ", ",") + "\r\n")
    assert len(folder(tmp_path)) == 3


def test_roboflow_numbers_outside_the_list(tmp_path):
    roboflow(tmp_path, EXPORTED)
    label = drawing()
    label[3, 4], label[3, 5] = 4, 255
    save(Image.fromarray(label), tmp_path / "valid/v_mask.png")
    message = problem(tmp_path, split="val")
    assert f"{tmp_path / 'valid/v_mask.png'} holds label value(s) 4, 255 outside the 4 classes of" in message
    assert f"{tmp_path / 'train/_classes.csv'} (0 to 3); correct the mask" in message


def pairs(
    root: Path, folders: tuple[str, str], names: Sequence[str], numbers: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Write images and masks of numbers in two folders; return the labels."""
    drawn = {}
    for name in names:
        label = drawn[name] = drawing(len(drawn))
        save(picture(label), root / folders[0] / f"{name}.jpg")
        mask = Image.fromarray(label if numbers is None else numbers[label])
        mask.putpalette(np.array(voc_colours(), np.uint8).tobytes())
        save(mask, root / folders[1] / f"{name}.png")
    return drawn


VIEWS = [f"day {number}/view.{number}" for number in range(5)]


def all_labels(root: Path, **reading) -> dict[str, np.ndarray]:
    return labels(root, **reading) | labels(root, "val", **reading)


@pytest.mark.parametrize("masks", ["SegmentationClass", "SegmentationClassPNG"])
def test_folders_of_labelme2voc(tmp_path, masks):
    root = tmp_path / "data"
    drawn = pairs(root, ("JPEGImages", masks), VIEWS)
    write(root / "class_names.txt", "_background_\ncar\nroad")
    (root / "SegmentationClassVisualization").mkdir()
    if masks == "SegmentationClassPNG":
        (root / "SegmentationClass").mkdir()
        np.save(root / "SegmentationClass/view.0.npy", drawn[VIEWS[0]])
    label = drawn[VIEWS[0]]
    label[:3, :5] = 255
    save(Image.fromarray(label), root / masks / f"{VIEWS[0]}.png")
    assert format_of(root) == "images and masks in two folders"
    data = folder(root)
    assert data.classes == ["_background_", "car", "road"]
    found = all_labels(root)
    assert_labels({name: found[name] for name in VIEWS}, drawn)
    assert any("the export is not divided: " in note for note in data.notes)
    write(root / "class_names.txt", "__ignore__\n_background_\ncar\nroad")
    assert folder(root).classes == ["_background_", "car", "road"]
    if masks == "SegmentationClass":
        train_and_evaluate("folder", root, tmp_path / "run", "--val-share", "0.4")


def test_pairs_of_numbers_with_options(tmp_path):
    drawn = pairs(tmp_path, ("images", "masks"), VIEWS, np.array([0, 1, 2], np.uint8) + 1)
    write(tmp_path / "classes.txt", "background\ncar\nroad\n")
    found = all_labels(tmp_path, label_offset=1, void_value=(0,))
    assert_labels({name: found[name] for name in VIEWS}, drawn)
    assert "outside the 3 classes (0 to 2, 255 = void)" in problem(tmp_path)
    assert "--void-value 2 is also the number of class 'road'" in problem(
        tmp_path, ValueError, void_value=(2,)
    )
    assert_unused(tmp_path, "images and masks in two folders", unannotated="void")


def test_pairs_of_colours(tmp_path):
    drawn = pairs(tmp_path, ("images", "labels"), VIEWS)
    write(tmp_path / "class_dict.csv", "name,r,g,b\nroad,128,64,128\ncar,0,0,142\nbackground, 0,0,0\n")
    for name, label in drawn.items():
        save(
            Image.fromarray(np.array([BLACK, CAR, ROAD], np.uint8)[label]),
            tmp_path / "labels" / f"{name}.png",
        )
    data = folder(tmp_path)
    assert data.classes == ["road", "car", "background"]
    assert data.palette.tolist() == [[*ROAD], [*CAR], [*BLACK]]
    found = all_labels(tmp_path)
    renumbered = np.array([2, 1, 0], np.uint8)
    assert_labels({name: found[name] for name in VIEWS}, {n: renumbered[it] for n, it in drawn.items()})


def test_pairs_without_mask(tmp_path):
    drawn = pairs(tmp_path, ("images", "masks"), VIEWS)
    write(tmp_path / "labels.txt", "car\nbackground\nroad\n")
    (tmp_path / "masks" / f"{VIEWS[3]}.png").unlink()
    assert f"image {tmp_path / 'images' / VIEWS[3]}.jpg has no label; add" in problem(tmp_path)
    found = all_labels(tmp_path, unlabelled="background")
    drawn[VIEWS[3]] = np.ones(SIZE, np.uint8)
    assert_labels({name: found[name] for name in VIEWS}, drawn)
    assert set(all_labels(tmp_path, unlabelled="skip")) == {*VIEWS} - {VIEWS[3]}
    write(tmp_path / "labels.txt", "car\nsky\nroad\n")
    assert "because no class is called background; give" in problem(tmp_path, unlabelled="background")
    save(Image.fromarray(drawing()), tmp_path / "masks/alone.png")
    assert f"label {tmp_path / 'masks/alone.png'} has no image" in problem(tmp_path, unlabelled="skip")


def test_pairs_whose_names_differ(tmp_path):
    """Without a pair, --unlabelled would call all images not annotated."""
    drawn = pairs(tmp_path, ("images", "masks"), VIEWS)
    write(tmp_path / "classes.txt", "background\ncar\nroad\n")
    for name in drawn:
        (tmp_path / "masks" / f"{name}.png").rename(tmp_path / "masks" / f"{name}_mask.png")
    for unlabelled in ("background", "skip"):
        message = problem(tmp_path, unlabelled=unlabelled)
        assert message.startswith(f"no image in {tmp_path / 'images'} has a mask of its name in ")
        assert (
            f"({tmp_path / 'images' / VIEWS[0]}.jpg and {tmp_path / 'masks' / VIEWS[0]}_mask.png)" in message
        )


def test_pairs_that_lists_divide(tmp_path):
    """VOC's layout with a list of classes; the lists count, and not a digest of the names."""
    drawn = pairs(tmp_path, ("JPEGImages", "SegmentationClass"), VIEWS)
    write(tmp_path / "classes.txt", "background\ncar\nroad\n")
    lists = tmp_path / "ImageSets/Segmentation"
    write(lists / "train.txt", f"{VIEWS[3]}\n{VIEWS[0]}\n")
    write(lists / "val.txt", f"{VIEWS[2]}\n")
    write(lists / "trainval.txt", "".join(f"{VIEWS[number]}\n" for number in (0, 2, 3)))
    (tmp_path / "SegmentationClass" / f"{VIEWS[4]}.png").unlink()  # VOC has many images without a mask
    assert format_of(tmp_path) == "images and masks in two folders"
    assert_labels(labels(tmp_path), {name: drawn[name] for name in (VIEWS[3], VIEWS[0])})
    assert_labels(labels(tmp_path, "val"), {VIEWS[2]: drawn[VIEWS[2]]})
    notes = folder(tmp_path).notes
    assert not any("not divided" in note for note in notes)
    assert f"2 image(s) are in no list of {lists} and not used ({VIEWS[1]}, {VIEWS[4]})" in notes
    assert f"1 mask(s) are in no list of {lists} and not used ({VIEWS[1]})" in notes
    write(lists / "val.txt", "gone\n")
    assert f"{lists} lists 1 image(s) that are not there (gone); add them" in problem(tmp_path)
    write(lists / "val.txt", f"{VIEWS[0]}\n")
    assert f"val.txt both list {VIEWS[0]}; keep each image in one split" in problem(tmp_path)
    write(lists / "val.txt", f"{VIEWS[4]}\n")
    assert f"image {tmp_path / 'JPEGImages' / VIEWS[4]}.jpg has no label" in problem(tmp_path)
    found = labels(tmp_path, "val", unlabelled="background")
    assert_labels(found, {VIEWS[4]: np.zeros(SIZE, np.uint8)})


def test_pairs_in_linked_folders(tmp_path):
    drawn = pairs(tmp_path / "elsewhere", ("images", "masks"), VIEWS)
    root = tmp_path / "root"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
        (root / kind / "link").symlink_to(tmp_path / "elsewhere" / kind)
        (root / kind / "back").symlink_to(root / kind)
    write(root / "classes.txt", "background\ncar\nroad\n")
    assert format_of(root) == "images and masks in two folders"
    assert set(all_labels(root)) == {f"link/{name}" for name in drawn}


def test_pairs_are_not_mistaken(tmp_path):
    """Masks of two kinds are refused; divided folders and labels that are no pictures are something else."""
    pairs(tmp_path, ("images", "masks"), VIEWS)
    assert format_of(tmp_path) is None  # nothing says what the numbers mean
    write(tmp_path / "classes.txt", "background\ncar\nroad\n")
    assert format_of(tmp_path) == "images and masks in two folders"
    pairs(tmp_path, ("images", "labels"), VIEWS)
    assert "both hold pictures, so it is not clear which to read" in problem(tmp_path)
    other = tmp_path / "other"
    write(other / "classes.txt", "background\ncar\nroad\n")
    save(picture(drawing()), other / "images/a.jpg")
    write(other / "labels/a.txt", "0 0.5 0.5 0.1 0.1\n")
    assert format_of(other) is None
    assert "folder " in problem(other)
    divided = tmp_path / "divided"
    pairs(divided, ("images", "labels"), ["train/a", "train/b", "val/c"])
    write(divided / "classes.txt", "background\ncar\nroad\n")
    assert format_of(divided) is None
    assert list(labels(divided)) == ["a", "b"]
