"""COCO's JSON files: instances and stuff with polygons and run lengths, and panoptic segments."""

import json
import pickle
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from small_runs import train_and_evaluate

from difnet.data import DataError, create_dataset
from difnet.data.exports.coco import read
from difnet.data.exports.formats import format_of
from difnet.data.exports.parsing.coco_search import find_json
from difnet.data.exports.parsing.coco_shapes import run_lengths
from difnet.data.options import Reading

HEIGHT, WIDTH = 24, 34

CATEGORIES = [{"id": 7, "name": "kite"}, {"id": 3, "name": "road"}, {"id": 90, "name": "sky"}]
"""Not contiguous and not sorted: the classes are background, road, kite, sky."""


def box(left: int, top: int, right: int, bottom: int) -> list[float]:
    """A polygon that covers the columns left to right - 1 and the rows top to bottom - 1."""
    return [float(it) for it in (left, top, right, top, right, bottom, left, bottom)]


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths of a mask, column by column, the first one outside; counted pixel by pixel."""
    counts, inside = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != inside:
            counts.append(0)
            inside = pixel
        counts[-1] += 1
    return counts


def packed_runs(lengths: list[int]) -> str:
    """COCO's string of up to three run lengths: 5 bits a character, the lowest first, the highest a sign."""
    text = ""
    for length in lengths:
        while length > 15:
            text += chr(48 + 32 + length % 32)
            length //= 32
        text += chr(48 + length)
    return text


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def content(images: list[str], annotations: list[dict], categories: list[dict] = CATEGORIES) -> dict:
    """A JSON file of images with the ids 5, 6, ...; `annotations` get ids from 100 on."""
    return {
        "info": {"year": 2026},
        "licenses": [],
        "images": [
            {"id": 5 + number, "file_name": name, "width": WIDTH, "height": HEIGHT}
            for number, name in enumerate(images)
        ],
        "annotations": [
            {"id": 100 + number, "iscrowd": 0, "bbox": [0, 0, 1, 1], "area": 1.0} | annotation
            for number, annotation in enumerate(annotations)
        ],
        "categories": categories,
    }


def write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def shapes_of(images: int) -> list[dict]:
    """For each image: sky above, a road below, and a kite in the sky."""
    found = []
    for image in range(5, 5 + images):
        kite = np.zeros((HEIGHT, WIDTH), np.uint8)
        kite[3:7, 5 + image : 9 + image] = 1
        found += [
            {"image_id": image, "category_id": 90, "segmentation": [box(0, 0, WIDTH, 10)]},
            {"image_id": image, "category_id": 3, "segmentation": [box(2, 14, 30, HEIGHT)]},
            {
                "image_id": image,
                "category_id": 7,
                "iscrowd": 1,
                "segmentation": {"counts": runs(kite), "size": [HEIGHT, WIDTH]},
            },
        ]
    return found


def label_of(image: int) -> np.ndarray:
    """The label of an image of `shapes_of`."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[:10] = 3
    label[14:, 2:30] = 1
    label[3:7, 5 + image : 9 + image] = 2
    return label


def make_coco(root: Path) -> Path:
    """COCO's own layout."""
    for split, count in (("train", 3), ("val", 2)):
        names = [f"{number:012}.jpg" for number in range(count)]
        write_json(root / f"annotations/instances_{split}2017.json", content(names, shapes_of(count)))
        write_json(root / f"annotations/captions_{split}2017.json", {"images": [], "annotations": []})
        for number, name in enumerate(names):
            write_image(root / f"{split}2017" / name, number)
    return root


def single(root: Path, annotations: list[dict], categories: list[dict] = CATEGORIES) -> Path:
    """One JSON file beside two images, of which each has the given annotations."""
    every = [it | {"image_id": image} for image in (5, 6) for it in annotations]
    write_json(root / "result.json", content(["images/a.png", "images/b.png"], every, categories))
    for number, name in enumerate("ab"):
        write_image(root / f"images/{name}.png", number)
    return root


def first_label(root: Path, **reading) -> np.ndarray:
    return create_dataset("folder", root, "train", reading=Reading(**reading)).read(0)[1].numpy()


def problem(root: Path, **reading) -> str:
    with pytest.raises(DataError) as caught:
        create_dataset("folder", root, "train", reading=Reading(**reading)).check()
    return str(caught.value)


def test_coco_layout(tmp_path):
    root = make_coco(tmp_path)
    train, val = (create_dataset("folder", root, split) for split in ("train", "val"))
    assert train.classes == ["background", "road", "kite", "sky"]
    assert [train.item_name(index) for index in range(3)] == [f"{number:012}" for number in range(3)]
    assert len(val) == 2
    for index in range(3):
        image, label = train.read(index)
        assert label.dtype == torch.uint8
        assert np.array_equal(label.numpy(), label_of(5 + index))
        assert image.shape == (3, HEIGHT, WIDTH)
    assert train.check().pixels.tolist() == [
        sum(int((label_of(image) == index).sum()) for image in (5, 6, 7)) for index in range(4)
    ]


def test_training_on_coco(tmp_path):
    train_and_evaluate("folder", make_coco(tmp_path / "data"), tmp_path / "run")


def make_roboflow(root: Path) -> Path:
    """Roboflow's layout, with its category 0 that groups the others, and names with dots."""
    categories = [
        {"id": 0, "name": "things", "supercategory": "none"},
        {"id": 1, "name": "kite", "supercategory": "things"},
        {"id": 2, "name": "road", "supercategory": "things"},
    ]
    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        names = [f"v1.{number}_jpg.rf.{number:032x}.jpg" for number in range(count)]
        shapes = [
            {"image_id": 5 + image, "category_id": category, "segmentation": [box(*corners)]}
            for image in range(count)
            for category, corners in ((2, (3, 12, 30, 20)), (1, (4 + image, 2, 9, 8)))
        ]
        write_json(root / split / "_annotations.coco.json", content(names, shapes, categories))
        for number, name in enumerate(names):
            write_image(root / split / name, number)
    (root / "README.roboflow.txt").write_text("exported\n")
    return root


def test_roboflow_layout(tmp_path):
    root = make_roboflow(tmp_path / "data")
    val = create_dataset("folder", root, "val")
    assert len(val) == 2
    assert val.classes == ["background", "kite", "road"]
    assert any("category 0 (things) groups the others" in note for note in val.notes)
    assert val.item_name(1) == f"v1.1_jpg.rf.{1:032x}"
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[12:20, 3:30] = 2
    expected[2:8, 5:9] = 1
    assert np.array_equal(val.read(1)[1].numpy(), expected)
    train_and_evaluate("folder", root, tmp_path / "run")


def test_a_category_0_with_annotations_is_a_class(tmp_path):
    categories = [{"id": 0, "name": "dog", "supercategory": "dog"}, {"id": 1, "name": "cat"}]
    root = single(tmp_path, [{"category_id": 0, "segmentation": [box(3, 4, 20, 9)]}], categories)
    dataset = create_dataset("folder", root, "train")
    assert dataset.classes == ["background", "dog", "cat"]
    assert dataset.read(0)[1].numpy()[4:9, 3:20].tolist() == [[1] * 17] * 5


def make_cvat(root: Path) -> Path:
    """CVAT's layout: one file, sub-folders in the names, masks as run lengths with iscrowd 1."""
    names = [f"day 1/v1.{number}.png" for number in range(4)]
    write_json(root / "annotations/instances_default.json", content(names, shapes_of(4)))
    for number, name in enumerate(names):
        write_image(root / "images/default" / name, number)
    return root


def test_cvat_layout_and_its_brush_masks(tmp_path):
    """Trap 9: skipping iscrowd would remove every brush mask."""
    root = make_cvat(tmp_path / "data")
    splits = [create_dataset("folder", root, split) for split in ("train", "val")]
    found = {
        split.item_name(index): split.read(index)[1].numpy()
        for split in splits
        for index in range(len(split))
    }
    assert sorted(found) == [f"day 1/v1.{number}" for number in range(4)]
    for number in range(4):
        assert np.array_equal(found[f"day 1/v1.{number}"], label_of(5 + number))
    assert any("is not divided" in note for note in splits[0].notes)
    train_and_evaluate("folder", root, tmp_path / "run")


def test_single_json_beside_images(tmp_path):
    root = single(tmp_path / "data", shapes_of(1))
    assert np.array_equal(first_label(root), label_of(5))
    for number in range(2, 5):
        write_image(root / f"images/{number}.png", number)
    names = ["images/a.png", "images/b.png", *(f"images\\{number}.png" for number in range(2, 5))]
    write_json(root / "result.json", content(names, shapes_of(5)))
    train_and_evaluate("folder", root, tmp_path / "run")


def test_fiftyone_layout(tmp_path):
    write_json(tmp_path / "labels.json", content(["a.png", "b.png"], shapes_of(2)))
    for name in "ab":
        write_image(tmp_path / f"data/{name}.png")
    assert first_label(tmp_path).max() == 3


def test_uncovered_pixels_as_void(tmp_path):
    root = single(tmp_path, shapes_of(1))
    dataset = create_dataset("folder", root, "train", reading=Reading(unannotated="void"))
    expected = label_of(5).astype(int) - 1
    expected[expected < 0] = 255
    assert dataset.classes == ["road", "kite", "sky"]
    assert np.array_equal(dataset.read(0)[1].numpy(), expected)
    assert any("what no annotation covers is void" in note for note in dataset.check().notes)


def test_class_called_background_is_the_ground(tmp_path):
    categories = [{"id": 1, "name": "road"}, {"id": 2, "name": "Background"}]
    root = single(tmp_path, [{"category_id": 1, "segmentation": [box(3, 4, 20, 9)]}], categories)
    expected = np.ones((HEIGHT, WIDTH), np.uint8)
    expected[4:9, 3:20] = 0
    assert create_dataset("folder", root, "train").classes == ["road", "Background"]
    assert np.array_equal(first_label(root), expected)


def test_compressed_run_lengths(tmp_path):
    rng = np.random.default_rng(3)
    mask = (rng.random((HEIGHT, WIDTH)) < 0.3).astype(np.uint8)
    stored = coco_mask.encode(np.asfortranarray(mask))
    segmentation = {"counts": stored["counts"].decode(), "size": [HEIGHT, WIDTH]}
    root = single(tmp_path, [{"category_id": 7, "segmentation": segmentation}])
    assert np.array_equal(first_label(root), mask * 2)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_strings_of_run_lengths_decode_as_counted(share):
    mask = (np.random.default_rng(1).random((301, 257)) < share).astype(np.uint8)
    text = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    assert run_lengths(text, "here").tolist() == runs(mask)


def test_several_polygons_of_an_annotation(tmp_path):
    polygons = [box(1, 2, 6, 20), box(9, 3, 12, 8)]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:20, 1:6] = 1
    expected[3:8, 9:12] = 1
    root = single(tmp_path, [{"category_id": 3, "segmentation": polygons}])
    assert np.array_equal(first_label(root), expected)


def test_polygon_beyond_the_image_is_cut(tmp_path):
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[20:, 30:] = 1
    root = single(tmp_path, [{"category_id": 3, "segmentation": [box(30, 20, 90, 70)]}])
    assert np.array_equal(first_label(root), expected)


def test_the_smaller_annotation_is_seen_in_either_order(tmp_path):
    large = {"category_id": 3, "segmentation": [box(2, 2, 30, 20)]}
    small = {"category_id": 7, "segmentation": [box(10, 5, 32, 12)]}
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:20, 2:30] = 1
    expected[5:12, 10:32] = 2
    for name, order in (("one", [large, small]), ("two", [small, large])):
        assert np.array_equal(first_label(single(tmp_path / name, order)), expected)


def test_of_equal_annotations_the_later_one_is_seen(tmp_path):
    one, two = ({"category_id": it, "segmentation": [box(2, 2, 30, 20)]} for it in (90, 3))
    assert first_label(single(tmp_path / "one", [one, two]))[5, 5] == 1
    assert first_label(single(tmp_path / "two", [two, one]))[5, 5] == 3


def test_labels_pickle_and_are_cheap(tmp_path):
    dataset = create_dataset("folder", make_coco(tmp_path), "train")
    label = dataset.items[1].label
    copy = pickle.loads(pickle.dumps(label))
    assert copy == label
    assert label.files == (tmp_path / "annotations/instances_train2017.json",)
    assert len(pickle.dumps(label)) < 3000


def test_changed_json_changes_the_stamp(tmp_path):
    root = single(tmp_path, shapes_of(1))
    before = create_dataset("folder", root, "train").stamp(0)
    write_json(root / "result.json", content(["images/a.png", "images/b.png"], shapes_of(2), [*CATEGORIES]))
    assert create_dataset("folder", root, "train").stamp(0) != before


def test_images_without_annotation(tmp_path):
    root = make_coco(tmp_path)
    write_json(
        root / "annotations/instances_train2017.json",
        content([f"{number:012}.jpg" for number in range(3)], shapes_of(2)),
    )
    message = problem(root)
    assert "1 image(s) have no annotation" in message
    assert "000000000002.jpg" in message
    assert "--unlabelled background" in message
    assert len(create_dataset("folder", root, "train", reading=Reading(unlabelled="skip"))) == 2
    dataset = create_dataset("folder", root, "train", reading=Reading(unlabelled="background"))
    assert len(dataset) == 3
    assert not dataset.read(2)[1].numpy().any()
    assert np.array_equal(dataset.read(1)[1].numpy(), label_of(6))


def test_missing_images_are_counted(tmp_path):
    root = make_coco(tmp_path)
    (root / "train2017" / f"{1:012}.jpg").unlink()
    message = problem(root)
    assert "1 of 3 images are missing (000000000001.jpg)" in message
    shutil.rmtree(root / "train2017")
    assert "3 of 3 images are missing" in problem(root)


def test_boxes_are_noted_and_alone_refused(tmp_path):
    box_only = {"category_id": 7, "segmentation": []}
    root = single(tmp_path / "some", [*shapes_of(1), box_only])
    dataset = create_dataset("folder", root, "train")
    assert any("2 annotation(s) are boxes" in note for note in dataset.notes)
    assert dataset.void_text == "nothing"
    assert np.array_equal(dataset.read(0)[1].numpy(), label_of(5))
    assert "are boxes without a segmentation; annotate" in problem(single(tmp_path / "all", [box_only]))


def test_instances_win_over_stuff_beside_them(tmp_path):
    root = make_coco(tmp_path)
    shutil.copy(root / "annotations/instances_val2017.json", root / "annotations/stuff_val2017.json")
    dataset = create_dataset("folder", root, "val")
    assert any("stuff_val2017.json are not read" in note for note in dataset.notes)
    assert len(dataset) == 2


SQUARE = np.ones((WIDTH, HEIGHT), np.uint8)


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], ("has a polygon of 4 numbers",)),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], ("polygon of 7 numbers",)),
        ([[]], ("polygon of 0 numbers",)),
        ([[1.0, 2.0, float("nan"), 4.0, 5.0, 6.0]], ("coordinate nan",)),
        ([[1.0, 2.0, 1e12, 4.0, 5.0, 6.0]], ("coordinate 1000000000000.0",)),
        (
            [["a", "b", "c", "d", "e", "f"]],
            ("has the segmentation", "expected a list of polygons"),
        ),
        ([1.0, 2.0, 3.0], ("has the segmentation",)),
        ("text", ("has the segmentation",)),
        ({"counts": [1, 2]}, ("has the segmentation",)),
        ({"counts": [1.5, 2], "size": [HEIGHT, WIDTH]}, ("has the segmentation",)),
        ({"counts": runs(SQUARE), "size": [WIDTH, HEIGHT]}, ("for 24x34 pixels, and its image has 34x24",)),
        ({"counts": [10, 20], "size": [HEIGHT, WIDTH]}, ("run lengths of 30 pixels in all", "34x24 = 816")),
        ({"counts": [-16, 832], "size": [HEIGHT, WIDTH]}, ("a run length of -16,", "the file is damaged")),
        ({"counts": [0, 817], "size": [HEIGHT, WIDTH]}, ("a run length of 817,", "34x24 = 816")),
        # Modulo 2^64 these add up to 816.
        ({"counts": [2**62] * 4 + [816], "size": [HEIGHT, WIDTH]}, (f"a run length of {2**62},",)),
        ({"counts": packed_runs([2**58, 558]), "size": [HEIGHT, WIDTH]}, (f"a run length of {2**58},",)),
        ({"counts": [2**64], "size": [HEIGHT, WIDTH]}, ("has the segmentation",)),
        ([[9e5, 9e5, -9e5, -9e5, 9e5, -9e5, -9e5, 9e5]], ("outline is 7200000 pixels long",)),
        ({"counts": "[2", "size": [HEIGHT, WIDTH]}, ("the file is damaged",)),
        ({"counts": "\u00e9", "size": [HEIGHT, WIDTH]}, ("run lengths that cannot be decoded",)),
        (
            {"counts": "oooooooooooooooooooo0", "size": [HEIGHT, WIDTH]},
            ("run lengths that cannot be decoded",),
        ),
    ],
)
def test_bad_segmentations(tmp_path, segmentation, words):
    root = single(tmp_path, [{"category_id": 7, "segmentation": segmentation}])
    message = problem(root)
    assert re.search(rf"{tmp_path}/result.json: annotation 10[01] has ", message)
    for word in words:
        assert word in message


def change(root: Path, edit) -> Path:
    path = root / "result.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return root


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda data: data.pop("categories"), "lacks categories"),
        (lambda data: data.update(annotations={}), "annotations = {}, expected a list"),
        (lambda data: data["images"][0].pop("file_name"), "image number 0 lacks file_name"),
        (lambda data: data["images"][0].update(width="34"), 'image images/a.png holds width = "34"'),
        (lambda data: data["images"][0].update(width=0), "has the size 0x24"),
        (lambda data: data["images"][0].update(id=None), "has id = null"),
        (lambda data: data["images"][0].update(id=6), "images/b.png the same id 6"),
        (lambda data: data["images"].append({**data["images"][0], "id": 9}), "images/a.png the same name"),
        (lambda data: data["annotations"][0].update(image_id=99), "annotation 100 has image_id = 99"),
        (lambda data: data["annotations"][0].update(category_id=4), "annotation 100 has category_id = 4"),
        (lambda data: data["annotations"][0].update(category_id="kite"), 'category_id = "kite"'),
        (lambda data: data["annotations"].append(3), "annotation number"),
        (lambda data: data["categories"][0].update(id=3), "category id 3 twice"),
        (lambda data: data["categories"][0].update(name="sky "), "several classes called 'sky'"),
        (lambda data: data["categories"].append("x"), "category number 3"),
    ],
)
def test_bad_json_is_explained(tmp_path, edit, words):
    root = change(single(tmp_path, shapes_of(1)), edit)
    message = problem(root)
    assert str(root / "result.json") in message
    assert words in message


def test_cut_json(tmp_path):
    root = make_cvat(tmp_path)
    path = root / "annotations/instances_default.json"
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path} holds no JSON" in problem(root)


def test_one_class_and_void_is_refused(tmp_path):
    root = single(
        tmp_path, [{"category_id": 1, "segmentation": [box(3, 4, 20, 9)]}], [{"id": 1, "name": "road"}]
    )
    assert "gives 1 class(es) (road)" in problem(root, unannotated="void")


def test_splits_with_different_categories(tmp_path):
    root = make_coco(tmp_path)
    other = [{"id": 7, "name": "road"}, {"id": 3, "name": "kite"}, {"id": 90, "name": "sky"}]
    names = [f"{number:012}.jpg" for number in range(2)]
    write_json(root / "annotations/instances_val2017.json", content(names, shapes_of(2), other))
    assert "calls category 7 'road'" in problem(root)


def test_size_before_the_turn_by_exif_is_explained(tmp_path):
    """Trap 13: Label Studio writes the size of the stored pixels."""
    root = single(tmp_path, shapes_of(1))
    for name in "ab":
        exif = Image.Exif()
        exif[274] = 6
        Image.new("RGB", (WIDTH, HEIGHT), "red").save(root / f"images/{name}.png", exif=exif)
    message = problem(root)
    place = (
        r"image (5 says 34x24 pixels, and \S+/images/a|6 says 34x24 pixels, and \S+/images/b)\.png is 24x34"
    )
    assert re.search(f"{root}/result.json: {place}", message)
    assert "before the turn by the EXIF tag (Orientation 6)" in message
    assert "export them again with the size of the upright image" in message
    for name in "ab":
        Image.new("RGB", (HEIGHT, WIDTH), "red").save(root / f"images/{name}.png")
    assert "turned by 90 degrees it would fit" in problem(root)


def test_an_option_without_effect_is_refused(tmp_path):
    root = single(tmp_path, shapes_of(1))
    with pytest.raises(ValueError, match="--label-offset changes nothing"):
        create_dataset("folder", root, "train", reading=Reading(label_offset=1))


SEGMENTS = {70000: 90, 256: 3, 255: 7}
"""Number and category: each needs another byte."""


def make_panoptic(root: Path, folder: str = "annotations") -> Path:
    for split, count in (("train", 3), ("val", 2)):
        names = [f"{number:06}.jpg" for number in range(count)]
        annotations = []
        for number, name in enumerate(names):
            write_image(root / f"{split}2017" / name, number)
            ids = np.zeros((HEIGHT, WIDTH), np.int64)
            ids[:10], ids[14:, 2:], ids[3:7, 5 + number : 9] = 70000, 256, 255
            png = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            path = root / folder / f"panoptic_{split}2017/{number:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(png).save(path)
            segments = [{"id": it, "category_id": category} for it, category in SEGMENTS.items()]
            annotations.append({"image_id": 5 + number, "file_name": path.name, "segments_info": segments})
        data = content(names, annotations)
        write_json(root / folder / f"panoptic_{split}2017.json", data)
    return root


@pytest.mark.parametrize("folder", ["annotations", "."])
def test_panoptic_layout(tmp_path, folder):
    """Trap 20: a number is R + 256 G + 65536 B, which 8 bits cannot hold."""
    root = make_panoptic(tmp_path, folder)
    train = create_dataset("folder", root, "train")
    expected = np.full((HEIGHT, WIDTH), 255, np.uint8)
    expected[:10], expected[14:, 2:], expected[3:7, 6:9] = 2, 0, 1
    assert train.classes == ["road", "kite", "sky"]
    assert len(train) == 3
    assert np.array_equal(train.read(1)[1].numpy(), expected)
    background = create_dataset("folder", root, "train", reading=Reading(unannotated="background"))
    assert background.classes == ["background", "road", "kite", "sky"]
    assert np.array_equal(background.read(1)[1].numpy(), np.where(expected == 255, 0, expected + 1))
    assert any("; number 0 is void: " in note for note in train.check().notes)
    assert any("; nothing is void: 0.0 %" in note for note in background.check().notes)


def test_training_on_panoptic(tmp_path):
    train_and_evaluate("folder", make_panoptic(tmp_path / "data"), tmp_path / "run")


def test_panoptic_wins_over_instances(tmp_path):
    root = make_panoptic(make_coco(tmp_path))
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            write_image(root / f"{split}2017/{number:06}.jpg")
    assert format_of(root) == "COCO panoptic segments"


def test_unknown_segment(tmp_path):
    root = make_panoptic(tmp_path)
    path = root / "annotations/panoptic_train2017.json"
    data = json.loads(path.read_text())
    data["annotations"][1]["segments_info"].pop(0)
    path.write_text(json.dumps(data))
    message = problem(root)
    assert "000001.png has segment(s) 70000" in message
    assert "panoptic_train2017.json" in message


def test_missing_pngs_and_unknown_categories_of_segments(tmp_path):
    root = make_panoptic(tmp_path)
    path = root / "annotations/panoptic_train2017.json"
    data = json.loads(path.read_text())
    data["annotations"][1]["segments_info"][0]["category_id"] = 8
    path.write_text(json.dumps(data))
    assert "(000001.png) has a segment of category_id = 8" in problem(root)
    shutil.rmtree(root / "annotations/panoptic_val2017")
    data["annotations"][1]["segments_info"][0]["category_id"] = 90
    path.write_text(json.dumps(data))
    assert "2 of 2 PNGs are missing" in problem(root)
    assert "panoptic_val2017.zip" in problem(root)


def test_wrong_sizes_are_refused_before_anything_is_drawn(tmp_path, monkeypatch):
    root = change(single(tmp_path, shapes_of(1)), lambda data: data["images"][0].update(height=24000))
    change(root, lambda data: data["images"][1].update(height=24000))
    monkeypatch.setattr("difnet.data.exports.parsing.coco_shapes.np", None)
    with pytest.raises(DataError, match=r"image [56] says 34x24000 pixels.*put the image there that was"):
        create_dataset("folder", root, "train").read(0)


def test_an_image_in_two_files_is_refused(tmp_path):
    root = single(tmp_path, shapes_of(1))
    write_json(root / "old.json", content(["images/c.png", "images/../images/b.png"], shapes_of(2)))
    write_image(root / "images/c.png")
    message = problem(root)
    assert f"{root}/old.json and {root}/result.json both list 1 image(s) ({root}/images/b.png)" in message
    assert "keep the newer one" in message


def test_images_with_boxes_only_are_counted_apart(tmp_path):
    annotations = [
        *shapes_of(1),
        {"image_id": 6, "category_id": 7, "segmentation": []},
        {"image_id": 6, "category_id": 7},
    ]
    names = ["images/a.png", "images/b.png", "images/c.png"]
    write_json(tmp_path / "result.json", content(names, annotations))
    for name in names:
        write_image(tmp_path / name)
    message = problem(tmp_path)
    assert (
        f"1 image(s) have no annotation ({tmp_path}/images/c.png) and 1 image(s) have only boxes" in message
    )
    assert f"which cover no area here ({tmp_path}/images/b.png); annotate them with polygons" in message
    dataset = create_dataset("folder", tmp_path, "train", reading=Reading(unlabelled="background"))
    assert any("have only boxes, which cover no area here, and are background" in it for it in dataset.notes)


def many_images(count: int) -> dict:
    """A file whose first and last 64 KiB show nothing of what is between."""
    data = content([f"{number:0100}.png" for number in range(count)], shapes_of(count))
    more = [{"id": 100 + number, "name": f"c{number}"} for number in range(100)]
    return data | {"categories": CATEGORIES + more}


@pytest.mark.parametrize(
    "order",
    [
        ("annotations", "categories", "images"),
        ("annotations", "images", "categories"),
        ("categories", "annotations", "images"),
        ("categories", "images", "annotations"),
        ("images", "annotations", "categories"),
        ("images", "categories", "annotations"),
    ],
)
def test_large_files_are_recognised_in_any_order(tmp_path, order):
    data = many_images(1500)
    path = tmp_path / "export.json"
    write_json(path, {key: data[key] for key in order})
    assert all(len(json.dumps(data[key])) > 140_000 for key in ("images", "annotations"))
    assert format_of(tmp_path) == "COCO annotations"


def test_a_large_first_annotation_is_recognised(tmp_path):
    """The beginning of the file shows no other member of an annotation than its segmentation."""
    data = many_images(1500)
    first = {"segmentation": [[1.5] * 20_000], "id": 100, "image_id": 5, "category_id": 3}
    data["annotations"] = [first]
    write_json(tmp_path / "export.json", {key: data[key] for key in ("annotations", "categories", "images")})
    assert format_of(tmp_path) == "COCO annotations"


@pytest.mark.parametrize("name", ["stuff_1", "instances_1", "panoptic_1", "a.coco"])
def test_content_decides_before_names(tmp_path, name):
    write_image(tmp_path / "a.png")
    shape = {"label": "kite", "points": [[1, 1], [5, 1], [5, 5]], "shape_type": "polygon"}
    labelme = {"version": "5.0.1", "flags": {}, "shapes": [shape], "imagePath": "a.png", "imageData": None}
    write_json(tmp_path / f"{name}.json", labelme | {"imageHeight": HEIGHT, "imageWidth": WIDTH})
    assert format_of(tmp_path) == "labelme's JSON files"


def test_panoptic_segments_under_the_name_of_instances(tmp_path):
    root = make_panoptic(tmp_path)
    for split in ("train", "val"):
        for ending in ("", ".json"):
            path = root / f"annotations/panoptic_{split}2017{ending}"
            path.rename(path.with_name(f"instances_{split}2017{ending}"))
    dataset = create_dataset("folder", root, "val")
    assert format_of(root) == "COCO panoptic segments"
    assert np.unique(dataset.read(0)[1].numpy()).tolist() == [0, 1, 2, 255]


def test_of_many_json_files_a_few_are_opened(tmp_path, monkeypatch):
    for number in range(400):
        (tmp_path / f"{'stuff_' * (number % 2)}{number:03}.json").write_text('{"shapes": []}')
    opened = []
    monkeypatch.setattr(
        "difnet.data.exports.parsing.coco_search.ends_of", lambda path: opened.append(path) or "{}"
    )
    assert find_json(tmp_path) == {}
    assert len(opened) == 100


def test_all_of_many_files_are_read(tmp_path):
    for number in range(60):
        write_json(tmp_path / f"instances_{number}.json", content([f"{number}.png"], shapes_of(1)))
        write_image(tmp_path / f"{number}.png")
    splits = [create_dataset("folder", tmp_path, split) for split in ("train", "val")]
    assert sum(map(len, splits)) == 60


def test_a_list_of_classes_that_is_not_read_is_noted(tmp_path):
    root = single(tmp_path, shapes_of(1))
    (root / "classes.txt").write_text("kite\nsky\nroad\n")
    dataset = create_dataset("folder", root, "train")
    assert dataset.classes == ["background", "road", "kite", "sky"]
    assert any("classes.txt is not read: the classes are background, road" in note for note in dataset.notes)
    (root / "classes.txt").write_text("road\nkite\nsky\n")
    assert not any("classes.txt" in note for note in create_dataset("folder", root, "train").notes)


def test_a_list_of_classes_beside_panoptic_segments_is_noted(tmp_path):
    root = make_panoptic(tmp_path)
    (root / "classes.txt").write_text("kite\nsky\nroad\n")
    notes = create_dataset("folder", root, "train").notes
    assert any("classes.txt is not read: the classes are road, kite, sky" in note for note in notes)


def test_names_in_one_file_say_the_splits(tmp_path):
    names = ["train/0.png", "images/val/0.png", "train/1.png", "val/1.png", "valid/2.png", "test/0.png"]
    write_json(tmp_path / "export.json", content(names, shapes_of(6)))
    for number, name in enumerate(names):
        write_image(tmp_path / name, number)
    train, val = (create_dataset("folder", tmp_path, split) for split in ("train", "val"))
    assert [train.item_name(index) for index in range(len(train))] == ["train/0", "train/1"]
    assert [val.item_name(index) for index in range(len(val))] == ["images/val/0", "val/1", "valid/2"]
    assert np.array_equal(train.read(1)[1].numpy(), label_of(7))
    assert np.array_equal(val.read(2)[1].numpy(), label_of(9))
    assert not any("not divided" in note for note in train.notes)


def test_names_that_say_one_split_do_not_divide(tmp_path):
    names = [f"val/{number}.png" for number in range(4)]
    write_json(tmp_path / "export.json", content(names, shapes_of(4)))
    for name in names:
        write_image(tmp_path / name)
    splits = [create_dataset("folder", tmp_path, split) for split in ("train", "val")]
    assert sum(map(len, splits)) == 4
    assert any("is not divided" in note for note in splits[0].notes)


@pytest.mark.parametrize("name", ["", ".", "/", "../"])
def test_names_that_name_no_file(tmp_path, name):
    root = change(single(tmp_path, shapes_of(1)), lambda data: data["images"][1].update(file_name=name))
    assert f'result.json, image number 1 has file_name = "{name}", which names no file' in problem(root)


@pytest.mark.parametrize("name", ["x" * 300, "y\0.png", "z\ud800.png"])
def test_names_that_no_file_can_have(tmp_path, name):
    root = change(single(tmp_path, shapes_of(1)), lambda data: data["images"][1].update(file_name=name))
    message = problem(root)
    assert f"1 of 2 images are missing ({name[0]}" in message
    assert len(message.encode()) < 1500
    panoptic = make_panoptic(tmp_path / "panoptic")
    path = panoptic / "annotations/panoptic_train2017.json"
    data = json.loads(path.read_text())
    data["annotations"][1]["file_name"] = name
    path.write_text(json.dumps(data))
    message = problem(panoptic)
    assert "1 of 3 PNGs are missing" in message
    assert message.encode()


def test_images_that_no_file_lists_are_noted(tmp_path):
    root = make_coco(tmp_path)
    write_image(root / "train2017/more.png")
    write_image(root / "val2017/new/a.jpg")
    (root / "val2017/notes.txt").write_text("no image")
    notes = [note for note in create_dataset("folder", root, "train").notes if "are in no list" in note]
    assert len(notes) == 1
    assert notes[0].startswith("2 image(s) are in no list and not used (")
    assert f"{root}/train2017/more.png, {root}/val2017/new/a.jpg" in notes[0]


@pytest.mark.parametrize("folder", ["images/", ""])
def test_other_pictures_in_the_root_are_not_called_unlisted(tmp_path, folder):
    write_json(tmp_path / "result.json", content([f"{folder}a.png", f"{folder}b.png"], shapes_of(2)))
    for name in (f"{folder}a.png", f"{folder}b.png", "masks/a.png"):
        write_image(tmp_path / name)
    assert not any("in no list" in note for note in create_dataset("folder", tmp_path, "train").notes)
    write_image(tmp_path / f"{folder}c.png")
    notes = create_dataset("folder", tmp_path, "train").notes
    assert any(f"1 image(s) are in no list and not used ({tmp_path}/{folder}c.png)" in it for it in notes)


def test_reading_takes_little_more_memory_than_the_files(tmp_path):
    count = 60
    names = [f"{number}.png" for number in range(count)]
    for split in ("train", "val"):
        polygon = np.random.default_rng(1).uniform(0, 20, 4000).tolist()
        shapes = [
            {"image_id": image, "category_id": 3, "segmentation": [polygon]} for image in range(5, 5 + count)
        ]
        write_json(tmp_path / f"annotations/instances_{split}.json", content(names, shapes))
        for name in names:
            write_image(tmp_path / split / name)
    size = (tmp_path / "annotations/instances_train.json").stat().st_size
    tracemalloc.start()
    try:
        read(tmp_path, Reading())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 4_000_000
    assert peak < 4 * size  # the text, its bytes, and 0.4 of it packed for each file
