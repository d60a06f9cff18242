"""Supervisely projects: masks, polygons with holes, and the layout of data sets."""

import base64
import io
import json
import pickle
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import train_and_evaluate

from difnet.data import DataError, create_dataset
from difnet.data.exports.formats import format_of
from difnet.data.options import Reading

HEIGHT, WIDTH = 24, 34
META = {
    "classes": [
        {"title": "road", "shape": "polygon", "color": "#804080"},
        {"title": "kite", "shape": "bitmap", "color": "#FF8000"},
        {"title": "sky", "shape": "any", "color": "#0080FF"},
    ],
    "tags": [],
}


def png(mask: np.ndarray, kind: str) -> bytes:
    """A mask as a PNG of one of the kinds that occur."""
    if kind == "palette":
        picture = Image.fromarray(mask.astype(np.uint8), "P")
        picture.putpalette([0, 0, 0, 255, 255, 255])
        options = {"transparency": 0}
    elif kind == "alpha":  # the colour is white where the mask is empty, too
        picture = Image.fromarray(np.stack([np.full_like(mask, 255)] * 3 + [mask * 255], -1).astype(np.uint8))
        options = {}
    else:
        picture, options = Image.fromarray((mask * {"grey": 255, "ones": 1}[kind]).astype(np.uint8)), {}
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


def bitmap(
    title: str, mask: np.ndarray, origin: list[int], kind: str = "palette", packed: bool = True
) -> dict:
    data = png(mask, kind)
    text = base64.b64encode(zlib.compress(data) if packed else data).decode()
    return {
        "classTitle": title,
        "geometryType": "bitmap",
        "bitmap": {"data": text, "origin": origin},
        "points": {"exterior": [], "interior": []},
    }


def figure(title: str, exterior: list, kind: str = "polygon", interior: list | None = None) -> dict:
    points = {"exterior": exterior, "interior": interior or []}
    return {"classTitle": title, "geometryType": kind, "points": points}


KITE = np.array([[1, 0, 0, 1, 1], [1, 1, 0, 0, 1]], np.uint8)


def objects_of(shift: int) -> list[dict]:
    """A road with a hole, sky, and a kite in it."""
    hole = [[10, 16], [13, 16], [13, 18], [10, 18]]
    return [
        figure("road", [[2, 14], [29, 14], [29, 22], [2, 22]], interior=[hole]),
        figure("sky", [[0, 0], [WIDTH - 1, 8]], "rectangle"),
        figure("kite", [[4, 4]], "point"),
        bitmap("kite", KITE, [5 + shift, 3]),
    ]


def label_of(shift: int) -> np.ndarray:
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[14:23, 2:30] = 1
    label[16:19, 10:14] = 0
    label[:9] = 3
    label[3:5, 5 + shift : 10 + shift][KITE == 1] = 2
    return label


def write_item(dataset: Path, name: str, objects: list[dict], suffix: str = ".json") -> None:
    for folder in ("img", "ann"):
        (dataset / folder).mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(name)).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(dataset / "img" / name)
    content = {"description": "", "tags": [], "size": {"height": HEIGHT, "width": WIDTH}, "objects": objects}
    (dataset / "ann" / f"{name}{suffix}").write_text(json.dumps(content))


def make_project(root: Path, train: str = "train", val: str = "val") -> Path:
    for folder, count in ((train, 3), (val, 2)):
        for number in range(count):
            write_item(root / folder, f"v1.{number}.png", objects_of(number))
    (root / "meta.json").write_text(json.dumps(META))
    return root


def problem(root: Path, **reading) -> str:
    with pytest.raises(DataError) as caught:
        create_dataset("folder", root, "train", reading=Reading(**reading)).check()
    return str(caught.value)


def test_project(tmp_path):
    root = make_project(tmp_path)
    train, val = (create_dataset("folder", root, split) for split in ("train", "val"))
    assert format_of(root) == "a Supervisely project"
    assert train.classes == ["background", "road", "kite", "sky"]
    assert train.palette.tolist() == [[0, 0, 0], [128, 64, 128], [255, 128, 0], [0, 128, 255]]
    assert [train.item_name(index) for index in range(3)] == ["v1.0", "v1.1", "v1.2"]
    assert len(val) == 2
    for index in range(3):
        assert np.array_equal(train.read(index)[1].numpy(), label_of(index))
    assert any("5 object(s) (5 x point) cover no area and are not drawn" in note for note in train.notes)
    label = pickle.loads(pickle.dumps(train.items[1].label))
    assert label == train.items[1].label
    assert label.files == (root / "train/ann/v1.1.png.json",)
    assert train.check().pixels.tolist() == [
        sum(int((label_of(shift) == index).sum()) for shift in range(3)) for index in range(4)
    ]


def test_training(tmp_path):
    train_and_evaluate("folder", make_project(tmp_path / "data"), tmp_path / "run")


def test_undivided_and_nested_data_sets(tmp_path):
    root = make_project(tmp_path / "data", "monday", "tuesday/datasets/noon")
    splits = [create_dataset("folder", root, split) for split in ("train", "val")]
    found = {
        split.item_name(index): split.read(index)[1].numpy()
        for split in splits
        for index in range(len(split))
    }
    names = [f"monday/v1.{number}" for number in range(3)]
    assert sorted(found) == names + [f"tuesday/datasets/noon/v1.{number}" for number in range(2)]
    assert np.array_equal(found["monday/v1.2"], label_of(2))
    train_and_evaluate("folder", root, tmp_path / "run")


def first_label(root: Path, objects: list[dict], **reading) -> np.ndarray:
    make_project(root)
    write_item(root / "train", "v1.0.png", objects)
    return create_dataset("folder", root, "train", reading=Reading(**reading)).read(0)[1].numpy()


@pytest.mark.parametrize("kind", ["palette", "alpha", "grey", "ones"])
@pytest.mark.parametrize("packed", [True, False])
def test_bitmaps_and_their_origin(tmp_path, kind, packed):
    """Trap 21: the origin is [x, y]."""
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:5, 20:25][KITE == 1] = 2
    assert np.array_equal(first_label(tmp_path, [bitmap("kite", KITE, [20, 3], kind, packed)]), expected)


def test_later_objects_hide_earlier_ones(tmp_path):
    large, small = (
        figure(title, [[2, 3], [x, y]], "rectangle") for title, x, y in (("road", 20, 15), ("sky", 9, 8))
    )
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:16, 2:21] = 1
    assert np.array_equal(first_label(tmp_path / "one", [small, large]), expected)
    expected[3:9, 2:10] = 3
    assert np.array_equal(first_label(tmp_path / "two", [large, small]), expected)


def test_uncovered_pixels_as_void(tmp_path):
    expected = label_of(0).astype(int) - 1
    expected[expected < 0] = 255
    assert np.array_equal(first_label(tmp_path, objects_of(0), unannotated="void"), expected)
    dataset = create_dataset("folder", tmp_path, "train", reading=Reading(unannotated="void"))
    assert dataset.classes == ["road", "kite", "sky"]
    assert dataset.palette.tolist() == [[128, 64, 128], [255, 128, 0], [0, 128, 255]]
    assert any("what no object covers is void: " in note for note in dataset.check().notes)
    background = create_dataset("folder", tmp_path, "train")
    assert background.void_text == "nothing"


def test_images_without_objects(tmp_path):
    root = make_project(tmp_path)
    write_item(root / "train", "v1.1.png", [figure("kite", [[4, 4]], "point")])
    write_item(root / "train", "v1.2.png", [])
    message = problem(root)
    assert re.search(r"1 image\(s\) have no annotation \([^,]*img/v1\.2\.png\)", message)
    assert re.search(r"1 image\(s\) have only figures of the kind point, .*\([^,]*img/v1\.1\.png\)", message)
    write_item(root / "train", "v1.2.png", objects_of(2))
    assert len(create_dataset("folder", root, "train", reading=Reading(unlabelled="skip"))) == 2
    dataset = create_dataset("folder", root, "train", reading=Reading(unlabelled="background"))
    assert [dataset.item_name(index) for index in range(3)] == ["v1.0", "v1.1", "v1.2"]
    assert not dataset.read(1)[1].numpy().any()
    assert any(
        "only figures of the kind point, which cover no area here, and are background" in note
        for note in dataset.notes
    )


def test_old_names_of_annotations(tmp_path):
    root = make_project(tmp_path)
    for number in range(3):
        (root / f"train/ann/v1.{number}.png.json").rename(root / f"train/ann/v1.{number}.json")
    dataset = create_dataset("folder", root, "train")
    assert np.array_equal(dataset.read(1)[1].numpy(), label_of(1))


def test_lone_images_and_annotations(tmp_path):
    root = make_project(tmp_path)
    (root / "train/ann/v1.1.png.json").unlink()
    assert re.search(r"ann lacks the annotations of 1 image\(s\) \(.*v1\.1\.png\)", problem(root))
    make_project(root)
    (root / "train/img/v1.1.png").unlink()
    assert re.search(r"img lacks the images of 1 annotation\(s\) \(.*v1\.1\.png\.json\)", problem(root))
    shutil.rmtree(root / "val/img")
    assert "lacks the images of" in problem(root)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (figure("cloud", [[1, 1], [5, 1], [5, 5]]), "has the class 'cloud', which meta.json does not list"),
        (figure("road", [[1, 1], [5, 1]]), "is a polygon of 2 point(s)"),
        (figure("road", [[1, 1], [5, 1], [5, "x"]]), 'has the point [5, "x"]'),
        (figure("road", [[1, 1], [5, 1], [5, 1e9]]), "has the point [5, 1000000000.0]"),
        (figure("road", [[1, 1], [5, 1], [5, float("nan")]]), "has the point [5, NaN]"),
        (figure("road", [[1, 1]], "rectangle"), "is a rectangle of 1 corner(s)"),
        (figure("road", [[1, 1], [5, 1], [5, 5]], interior=[3]), "has the point 3"),
        ({"classTitle": "road", "geometryType": "polygon"}, "lacks points"),
        ({"classTitle": "road"}, "lacks geometryType"),
        ({"geometryType": "bitmap"}, "lacks classTitle"),
        (4, "holds 4 in place of an object"),
        (bitmap("kite", KITE, [3, 20]) | {"bitmap": {"origin": [1, 1]}}, "lacks data"),
        (bitmap("kite", KITE, [3, 20]) | {"bitmap": {"origin": [1], "data": ""}}, "has the point [1]"),
        (bitmap("kite", KITE, [1, 1]) | {"bitmap": {"origin": [1, 1], "data": "???"}}, "cannot be decoded"),
        (
            bitmap("kite", KITE, [1, 1]) | {"bitmap": {"origin": [1, 1], "data": "aGVsbG8="}},
            "cannot be decoded",
        ),
        (bitmap("kite", KITE, [3, 23]), "a bitmap of 5x2 at x = 3, y = 23, beyond its image of 34x24"),
        (bitmap("kite", KITE, [-1, 3]), "a bitmap of 5x2 at x = -1, y = 3"),
    ],
)
def test_bad_objects(tmp_path, entry, words):
    root = make_project(tmp_path)
    write_item(root / "train", "v1.0.png", [objects_of(0)[0], entry])
    message = problem(root)
    assert f"{root / 'train/ann/v1.0.png.json'}, object 1 " in message
    assert words in message


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"classes": [{"title": "road"}, {"title": "road "}]}, "several classes called 'road'"),
        ({"classes": [{"title": "road"}, {"shape": "any"}]}, "class 1 lacks title"),
        ({"classes": 3}, "classes = 3, expected a list"),
        ({"classes": [{"title": f"class {number}"} for number in range(255)]}, "gives 256 class(es)"),
    ],
)
def test_bad_classes(tmp_path, meta, words):
    root = make_project(tmp_path)
    (root / "meta.json").write_text(json.dumps(meta))
    message = problem(root)
    assert str(root / "meta.json") in message
    assert words in message


def test_cut_annotation_and_bad_size(tmp_path):
    root = make_project(tmp_path)
    path = root / "train/ann/v1.0.png.json"
    text = path.read_text()
    path.write_text(text[:-9])
    assert f"{path} holds no JSON" in problem(root)
    path.write_text(text.replace('"height": 24', '"height": -24'))
    assert f"{path} has the size 34x-24" in problem(root)
    path.write_text(text.replace('"height": 24', '"height": 25'))
    message = problem(root)
    assert f"{path} says 34x25 pixels, and {root / 'train/img/v1.0.png'} is 34x24" in message
    assert "put the image there that was annotated" in message
    assert "nearest neighbour" not in message


def test_classes_without_colours(tmp_path):
    root = make_project(tmp_path)
    classes = [{"title": entry["title"], "color": "red"} for entry in META["classes"]]
    (root / "meta.json").write_text(json.dumps({"classes": classes}))
    palette = create_dataset("folder", root, "train").palette
    assert len({tuple(colour) for colour in palette.tolist()}) == 4


def soft(levels: np.ndarray, kind: str) -> dict:
    """An alpha mask: grey is its opacity, and 0 is marked as transparent; or its colours have an alpha."""
    picture, options = Image.fromarray(levels), {"transparency": 0}
    if kind == "alpha":
        picture, options = Image.fromarray(np.stack([np.full_like(levels, 255)] * 3 + [levels], -1)), {}
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    text = base64.b64encode(zlib.compress(stream.getvalue())).decode()
    return {
        "classTitle": "kite",
        "geometryType": "alpha_mask",
        "bitmap": {"data": text, "origin": [20, 3]},
    }


@pytest.mark.parametrize("kind", ["grey", "alpha"])
def test_alpha_masks_are_drawn_where_they_are_more_than_half_opaque(tmp_path, kind):
    levels = np.array([[0, 1, 127, 128, 255], [200, 90, 129, 0, 0]], np.uint8)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3, 23:25] = expected[4, 20] = expected[4, 22] = 2
    assert np.array_equal(first_label(tmp_path, [soft(levels, kind)]), expected)


def test_an_alpha_mask_that_is_nowhere_opaque_is_refused(tmp_path):
    root = make_project(tmp_path)
    write_item(root / "train", "v1.0.png", [soft(np.full((2, 5), 50, np.uint8), "grey")])
    assert "object 0 has an alpha mask that is nowhere more than half opaque (at most 50" in problem(root)


def test_figures_of_other_kinds_are_not_called_without_area(tmp_path):
    root = make_project(tmp_path)
    write_item(root / "train", "v1.0.png", [*objects_of(0), figure("road", [[1, 1]], "oriented_bbox")])
    dataset = create_dataset("folder", root, "train")
    notes = [note for note in dataset.notes if "oriented_bbox" in note]
    assert len(notes) == 1
    assert "1 object(s) (1 x oriented_bbox) are not drawn; if they belong to a class" in notes[0]
    assert np.array_equal(dataset.read(0)[1].numpy(), label_of(0))


def test_wrong_sizes_are_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    root = make_project(tmp_path)
    path = root / "train/ann/v1.0.png.json"
    path.write_text(path.read_text().replace('"height": 24', '"height": 24000'))
    monkeypatch.setattr("difnet.data.exports.supervisely.draw", None)
    dataset = create_dataset("folder", root, "train")
    with pytest.raises(DataError, match="says 34x24000 pixels"):
        dataset.read(0)


def test_a_bitmap_larger_than_its_image_is_not_unpacked(tmp_path, monkeypatch):
    root = make_project(tmp_path)
    write_item(root / "train", "v1.0.png", [bitmap("kite", np.ones((30, 40), np.uint8), [0, 0])])
    monkeypatch.setattr("difnet.data.exports.parsing.supervisely_shapes._opacity", None)
    assert "a bitmap of 40x30 at x = 0, y = 0, beyond its image of 34x24" in problem(root)


def test_an_annotation_is_parsed_once_a_label(tmp_path, monkeypatch):
    from difnet.data.exports import supervisely

    dataset = create_dataset("folder", make_project(tmp_path), "train")
    parsed = []
    read_json = supervisely.read_json
    monkeypatch.setattr(supervisely, "read_json", lambda path: parsed.append(path) or read_json(path))
    dataset.read(1)
    assert parsed == [tmp_path / "train/ann/v1.1.png.json"]


def test_size_before_the_turn_by_exif_is_explained(tmp_path):
    root = make_project(tmp_path)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (WIDTH, HEIGHT), "red").save(root / "train/img/v1.0.png", exif=exif)
    message = problem(root)
    assert "is 24x34 (after EXIF rotation); the former is the size of the stored pixels" in message
    assert "before the turn by the EXIF tag (Orientation 6)" in message
    Image.new("RGB", (HEIGHT, WIDTH), "red").save(root / "train/img/v1.0.png")
    assert "turned by 90 degrees it would fit" in problem(root)


def test_a_list_of_classes_that_is_not_read_is_noted(tmp_path):
    root = make_project(tmp_path)
    (root / "classes.txt").write_text("sky\nroad\nkite\n")
    notes = create_dataset("folder", root, "train").notes
    assert any(
        "classes.txt is not read: the classes are background, road, kite, sky, in the order of meta.json"
        in it
        for it in notes
    )
