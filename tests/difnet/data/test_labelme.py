"""labelme: JSON files beside images, and folders with label.png."""

import base64
import io
import json
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw
from small_runs import train_and_evaluate

from difnet.data import DataError, create_dataset
from difnet.data.errors import VOID
from difnet.data.exports import labelme
from difnet.data.exports.formats import format_of, read_export
from difnet.data.exports.masks import labelme_folders
from difnet.data.items.item import Picture
from difnet.data.options import Reading, UnusedOption

SIZE = (24, 32)
LEAF, STEM = [[4, 3], [20, 3], [20, 10], [4, 10]], [[10, 8], [13, 8], [13, 20], [10, 20]]


def save_image(path, size=SIZE, orientation=None):
    """Write a picture; `size` is (height, width) of the stored pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(str(path).encode())).integers(0, 255, (*size, 3), np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def shape(label, points, shape_type="polygon", **more):
    return {"label": label, "points": points, "group_id": None, "shape_type": shape_type, "flags": {}, **more}


def save_json(path, shapes, image=None, size=SIZE, **more):
    """Write a file as labelme 7 does; `more` replaces members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        **{"version": "7.1.0", "flags": {}, "shapes": shapes, "imagePath": image or f"{path.stem}.jpg"},
        **{"imageData": None, "imageHeight": size[0], "imageWidth": size[1]},
    }
    path.write_text(json.dumps(content | more), encoding="utf-8")


def add(root, name, shapes, **more):
    save_image(root / f"{name}.jpg")
    save_json(root / f"{name}.json", shapes, **more)


def mask_text(mask):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def drawn(root, name="a", size=SIZE, orientation=1, **reading):
    """Read the label of an image as the data set does."""
    export = read_export(root, Reading(**reading))
    item = next(item for items in export.splits.values() for item in items if item.name == name)
    label = pickle.loads(pickle.dumps(item.label))
    return label.read(Picture(item.image, size, orientation)).classes


def refusal(root, **reading):
    with pytest.raises(DataError) as caught:
        read_export(root, Reading(**reading))
    return str(caught.value)


def boxes(*parts, start=0):
    """A label of boxes: (index, top, bottom, left, right), the last row and column included."""
    label = np.full(SIZE, start, np.uint8)
    for index, top, bottom, left, right in parts:
        label[top : bottom + 1, left : right + 1] = index
    return label


def test_classes_are_those_of_all_files_and_later_shapes_cover_earlier_ones(tmp_path):
    add(tmp_path, "a", [shape("stem", STEM), shape("leaf", LEAF)])
    add(tmp_path, "b", [shape("leaf", LEAF), shape("stem", STEM), shape("Bud", [[30, 22]], "point")])
    assert format_of(tmp_path) == "labelme's JSON files"
    export = read_export(tmp_path, Reading())
    assert export.classes == ["background", "Bud", "leaf", "stem"]
    assert [item.name for item in export.splits[""]] == ["a", "b"]
    assert export.void_text == "no number"
    assert np.array_equal(drawn(tmp_path, "a"), boxes((3, 8, 20, 10, 13), (2, 3, 10, 4, 20)))
    label = drawn(tmp_path, "b")
    assert np.array_equal(label[:, :24], boxes((2, 3, 10, 4, 20), (3, 8, 20, 10, 13))[:, :24])
    assert label[22, 30] == 1
    uncovered = boxes((2, 8, 20, 10, 13), (1, 3, 10, 4, 20), start=VOID)
    assert np.array_equal(drawn(tmp_path, "a", unannotated="void"), uncovered)
    export = read_export(tmp_path, Reading(unannotated="void"))
    assert export.classes == ["Bud", "leaf", "stem"]
    assert export.void_text == "pixels that no shape covers"


def reference(kind, points):
    """What labelme 7 draws."""
    picture = Image.new("L", SIZE[::-1])
    pen = ImageDraw.Draw(picture)
    flat = [tuple(point) for point in points]
    if kind == "circle":
        radius = np.hypot(flat[0][0] - flat[1][0], flat[0][1] - flat[1][1])
        flat, kind = flat[:1], "circles"
    else:
        radius = 5
    if kind in ("circles", "point", "points"):
        for x, y in flat:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    elif kind in ("line", "linestrip"):
        pen.line(flat, fill=1, width=10, joint="curve" if kind == "linestrip" else None)
    else:
        pen.polygon(flat, fill=1, outline=1)
    return np.array(picture)


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        (None, [[2.3, 4.1], [28.8, 6], [15, 21.6]]),
        ("polygon", [[-20, 4], [50, 2], [15, 70]]),
        ("oriented_rectangle", [[8, 3], [20, 8], [17, 15], [5, 10]]),
        ("circle", [[14, 11], [19, 11]]),
        ("line", [[4, 5], [25, 17]]),
        ("linestrip", [[4, 4], [26, 4], [26, 20]]),
        ("point", [[17, 9]]),
        ("points", [[6, 6], [25, 15]]),
    ],
)
def test_every_kind_of_shape_is_drawn_as_labelme_does(tmp_path, kind, points):
    entry = shape("leaf", points, kind)
    if kind is None:
        del entry["shape_type"]  # as in old files
    add(tmp_path, "a", [entry])
    expected = reference(kind, points)
    assert 0 < expected.sum() < expected.size
    assert np.array_equal(drawn(tmp_path), expected)


@pytest.mark.parametrize("corners", [[[6, 4], [18, 9]], [[18, 9], [6, 4]], [[6, 9], [18, 4]]])
def test_rectangle_with_its_corners_in_any_order(tmp_path, corners):
    add(tmp_path, "a", [shape("leaf", corners, "rectangle")])
    assert np.array_equal(drawn(tmp_path), boxes((1, 4, 9, 6, 18)))


MASK = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 0]], np.uint8)


@pytest.mark.parametrize(
    ("points", "top", "left"),
    [
        ([[5, 7], [8, 9]], 7, 5),  # both corners belong to the box
        ([[4.6, 7.4], [8.2, 9.9]], 7, 5),  # rounded apart, the corners would make a box of another size
        ([[-2, -1], [1, 1]], -1, -2),
        ([[30, 22], [33, 24]], 22, 30),
    ],
)
@pytest.mark.parametrize("values", [1, 255, True])
def test_mask_is_a_picture_of_its_box(tmp_path, points, top, left, values):
    stored = MASK.astype(bool) if values is True else MASK * np.uint8(values)
    add(tmp_path, "a", [shape("leaf", LEAF), shape("stem", points, "mask", mask=mask_text(stored))])
    expected = boxes((1, 3, 10, 4, 20))
    for row, column in zip(*np.nonzero(MASK), strict=True):
        y, x = row + top, column + left
        if 0 <= y < SIZE[0] and 0 <= x < SIZE[1]:
            expected[y, x] = 2
    assert np.array_equal(drawn(tmp_path), expected)


def test_mask_that_is_larger_than_its_box_is_cut(tmp_path):
    """labelme draws the part inside the box, if the corners are whole numbers."""
    larger = np.ones((5, 7), np.uint8)
    larger[:3, :4] = MASK
    add(tmp_path, "a", [shape("leaf", [[5, 7], [8, 9]], "mask", mask=mask_text(larger))])
    expected = np.zeros(SIZE, np.uint8)
    expected[7:10, 5:9] = MASK
    assert np.array_equal(drawn(tmp_path), expected)


def test_ignore_is_void_and_labels_txt_gives_the_order(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF), shape("__ignore__", STEM)])
    assert read_export(tmp_path, Reading()).classes == ["background", "leaf"]
    assert read_export(tmp_path, Reading()).void_text == "the class __ignore__"
    assert np.array_equal(drawn(tmp_path), boxes((1, 3, 10, 4, 20), (VOID, 8, 20, 10, 13)))
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nstem\nleaf\n")
    assert read_export(tmp_path, Reading()).classes == ["_background_", "stem", "leaf"]
    assert np.array_equal(drawn(tmp_path), boxes((2, 3, 10, 4, 20), (VOID, 8, 20, 10, 13)))


def test_classes_txt_gives_the_order(tmp_path):
    for name in ("train/a", "train/b", "val/c"):
        add(tmp_path, name, [shape("leaf", LEAF), shape("Background", STEM)])
    (tmp_path / "classes.txt").write_text("stem\nleaf\nBackground\n")
    dataset = create_dataset("folder", tmp_path, "train")
    assert dataset.classes == ["stem", "leaf", "Background"]
    assert [dataset.item_name(index) for index in range(2)] == ["train/a", "train/b"]
    assert np.array_equal(dataset.read(0)[1].numpy(), boxes((1, 3, 10, 4, 20), (2, 8, 20, 10, 13), start=2))
    (tmp_path / "classes.txt").write_text("stem\nBackground\n")
    assert f"{tmp_path / 'classes.txt'} does not list 'leaf'" in refusal(tmp_path)


def test_image_path_with_backslashes_and_in_another_folder(tmp_path):
    save_image(tmp_path / "pictures" / "site 1" / "a.b.jpg")
    save_json(tmp_path / "json" / "x.json", [shape("leaf", LEAF)], "..\\pictures\\site 1\\a.b.jpg")
    export = read_export(tmp_path, Reading())
    (item,) = export.splits[""]
    assert item.name == "pictures/site 1/a.b"
    assert item.image == str(tmp_path / "pictures" / "site 1" / "a.b.jpg")
    assert export.notes == []


def test_image_outside_the_root(tmp_path):
    save_image(tmp_path / "pictures" / "a.jpg")
    save_json(tmp_path / "json" / "val" / "x.json", [shape("leaf", LEAF)], "../../pictures/a.jpg")
    (item,) = read_export(tmp_path / "json", Reading()).splits["val"]
    assert item.name == "val/x"
    assert item.image == str(tmp_path / "pictures" / "a.jpg")


def test_image_that_was_moved_beside_its_file_is_named(tmp_path):
    save_image(tmp_path / "a.jpg")
    save_json(tmp_path / "a.json", [shape("leaf", LEAF)], "C:\\Users\\me\\IMG_1.JPG")
    save_image(tmp_path / "c.jpg")
    save_json(tmp_path / "b.json", [shape("leaf", LEAF)], "../elsewhere/c.jpg")
    export = read_export(tmp_path, Reading())
    assert [(item.name, os.path.basename(item.label.path)) for item in export.splits[""]] == [
        ("a", "a.json"),
        ("c", "b.json"),
    ]
    assert export.notes == [
        "2 file(s) name an image that is not there and are paired with the one beside them (a.json, b.json)"
    ]


def test_image_that_is_only_in_the_json_file(tmp_path):
    save_image(tmp_path / "pictures" / "a.jpg")
    text = base64.b64encode((tmp_path / "pictures" / "a.jpg").read_bytes()).decode()
    save_json(tmp_path / "b.json", [shape("leaf", LEAF)], "x/b.jpg", imageData=text)
    save_json(tmp_path / "c.json", [shape("leaf", LEAF)], "x/c.jpg")
    save_json(tmp_path / "a.json", [shape("leaf", LEAF)], "pictures/a.jpg", imageData=text)
    message = refusal(tmp_path)
    assert (
        f"{tmp_path / 'b.json'} annotates the image {tmp_path / 'x' / 'b.jpg'}, which is missing; "
        f"save the picture that its imageData holds (in base64) as {tmp_path / 'b.jpg'}" in message
    )
    assert f"{tmp_path / 'x' / 'c.jpg'}, which is missing; put it there or beside the JSON file" in message
    assert "a.json" not in message


def test_file_that_names_itself_as_its_image(tmp_path):
    """So does an example of labelme, which has its image beside it and in imageData."""
    save_json(tmp_path / "a.json", [shape("leaf", LEAF)], "a.json", imageData="AAAA")
    path = tmp_path / "a.json"
    assert f"{path} annotates the image {path}, which is no image; save the picture" in refusal(tmp_path)
    assert f"as {tmp_path / 'a.jpg'}" in refusal(tmp_path)
    save_image(tmp_path / "a.jpg")
    (item,) = read_export(tmp_path, Reading()).splits[""]
    assert item.image == str(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "\0.jpg", "\ud800.jpg"])
def test_image_path_that_no_file_can_have(tmp_path, name):
    save_json(tmp_path / "a.json", [shape("leaf", LEAF)], name)
    message = refusal(tmp_path)
    assert f"{tmp_path / 'a.json'} annotates the image {tmp_path / name}, which is missing" in message


def test_images_without_shapes(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF)])
    add(tmp_path, "empty", [])
    save_image(tmp_path / "more" / "lone.jpg")
    message = refusal(tmp_path)
    assert "2 image(s) have no annotation (empty.jpg, more/lone.jpg)" in message
    assert "--unlabelled background" in message
    export = read_export(tmp_path, Reading(unlabelled="skip"))
    assert [item.name for item in export.splits[""]] == ["a"]
    assert export.notes == ["2 image(s) without annotation are left out (empty.jpg, more/lone.jpg)"]
    for name in ("empty", "more/lone"):
        assert not drawn(tmp_path, name, unlabelled="background").any()
        both = {"unlabelled": "background", "unannotated": "void"}
        assert not drawn(tmp_path, name, **both).any()
        assert np.array_equal(drawn(tmp_path, "a", **both), boxes((1, 3, 10, 4, 20), start=VOID))


def test_files_of_other_programs_are_named(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF)])
    (tmp_path / "z.json").write_text("[]")
    export = read_export(tmp_path, Reading())
    assert export.notes == [f"1 JSON file(s) in {tmp_path} are not labelme's and are not read: z.json"]


def test_quarter_turn_by_exif(tmp_path):
    """labelme shows and saves the turned picture, so the stored size is the upright one."""
    save_image(tmp_path / "a.jpg", (32, 24), orientation=6)
    save_json(tmp_path / "a.json", [shape("leaf", LEAF), shape("stem", STEM)])
    save_image(tmp_path / "b.jpg")
    save_json(tmp_path / "b.json", [shape("leaf", LEAF), shape("stem", STEM)])
    dataset = create_dataset("folder", tmp_path, "train")
    expected = boxes((1, 3, 10, 4, 20), (2, 8, 20, 10, 13))
    assert np.array_equal(dataset.read(0)[1].numpy(), expected)
    save_json(tmp_path / "a.json", [shape("leaf", LEAF)], size=(32, 24))
    with pytest.raises(
        DataError,
        match=r"a.json says that its image is 24x32, and .*a.jpg is 32x24 .*"
        r"before the turn by the EXIF tag \(Orientation 6\)",
    ):
        drawn(tmp_path, orientation=6)
    with pytest.raises(DataError, match="it has probably lost the EXIF tag"):
        drawn(tmp_path)
    with pytest.raises(DataError, match=r"is 24x32, and .* is 40x20 .*put back the image"):
        drawn(tmp_path, size=(20, 40))


def test_old_files_without_a_size(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF)], imageHeight=None, imageWidth=None)
    assert np.array_equal(drawn(tmp_path), boxes((1, 3, 10, 4, 20)))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (shape("leaf", [[1, 2]], "circle"), "shape 1 (circle) has 1 point(s), expected 2"),
        (shape("leaf", []), "shape 1 (polygon) has 0 point(s), expected at least 3"),
        (shape("leaf", [[1, 2], [3]]), "shape 1 has the point [3], expected [x, y]"),
        (shape("leaf", [[1, "2"]]), 'shape 1 has the point [1, "2"], expected [x, y]'),
        (shape("leaf", [[1, float("nan")]]), "shape 1 has the point [1, NaN], expected [x, y]"),
        (shape("leaf", [[1, 10**400], [2, 3]]), "expected [x, y]"),
        (shape("leaf", [[1, 1e12], [2, 3]]), "far from any image"),
        (shape("leaf", 3), "shape 1 holds points = 3, expected a list"),
        (
            shape("leaf", LEAF, "cuboid"),
            'shape_type = "cuboid", which labelme does not have; draw it as one of',
        ),
        (shape("leaf", LEAF, 7), "holds shape_type = 7, expected a text"),
        (shape("leaf", LEAF[:2], "mask"), "shape 1 lacks mask; draw the mask again"),
        (shape("leaf", LEAF[:2], "mask", mask="xx"), "has a mask that is no PNG in base64"),
        (
            shape("leaf", LEAF[:2], "mask", mask=mask_text(np.zeros((3, 4, 3), np.uint8))),
            "mask of 3 channels",
        ),
    ],
)
def test_bad_shapes_are_refused(tmp_path, entry, words):
    add(tmp_path, "a", [entry])
    with pytest.raises(DataError) as caught:
        drawn(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "a.json"))
    assert words in str(caught.value)


def test_bad_files_are_collected(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF)])
    for name in "bcdefg":
        save_image(tmp_path / f"{name}.jpg")
    (tmp_path / "b.json").write_text('{"shapes": [')
    save_json(tmp_path / "c.json", {"label": "leaf"})
    save_json(tmp_path / "d.json", [3])
    save_json(tmp_path / "e.json", [{"points": LEAF}])
    save_json(tmp_path / "f.json", [shape("leaf", LEAF)], imageHeight="24")
    (tmp_path / "g.json").write_bytes(b'{"shapes": [], "imagePath": "\xff"}')
    message = refusal(tmp_path)
    assert "6 item(s) cannot be used" in message
    for words in (
        "b.json holds no JSON",
        'c.json holds shapes = {"label": "leaf"}, expected a list',
        "d.json, shape 1 holds 3 in place of an object",
        "e.json, shape 1 lacks label",
        'f.json holds imageHeight = "24", expected a whole number',
        "g.json cannot be read",
    ):
        assert words in message


def test_two_files_for_one_image_and_two_images_of_one_name(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF)])
    save_json(tmp_path / "b.json", [shape("leaf", LEAF)], "a.jpg")
    assert f"{tmp_path / 'b.json'} and {tmp_path / 'a.json'} both annotate {tmp_path / 'a.jpg'}" in refusal(
        tmp_path
    )
    save_image(tmp_path / "a.png")
    save_json(tmp_path / "b.json", [shape("leaf", LEAF)], "a.png")
    assert "share the name 'a'" in refusal(tmp_path)


def test_names_that_look_the_same_are_refused(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF), shape("leaf ", STEM)])
    assert "the classes 'leaf' and 'leaf ', which look the same" in refusal(tmp_path)
    save_json(tmp_path / "a.json", [shape("leaf", LEAF), shape("background ", STEM)])
    assert f"{tmp_path} has several classes called 'background'" in refusal(tmp_path)
    assert read_export(tmp_path, Reading(unannotated="void")).classes == ["background ", "leaf"]


@pytest.mark.parametrize("option", ["void_value", "label_offset", "colours", "snap_colours"])
def test_options_that_change_nothing(tmp_path, option):
    values = {"void_value": (0,), "label_offset": 1, "colours": "voc", "snap_colours": True}
    add(tmp_path / "files", "a", [shape("leaf", LEAF)])
    add_folder(tmp_path / "folders", "a", ["_background_", "leaf"], boxes((1, 3, 10, 4, 20)))
    for root, tool in (("files", labelme._TOOL), ("folders", labelme_folders._TOOL)):
        with pytest.raises(UnusedOption) as caught:
            read_export(tmp_path / root, Reading(**{option: values[option]}))
        assert f"changes nothing in how {tool} is read" in str(caught.value)
    with pytest.raises(UnusedOption):
        read_export(tmp_path / "folders", Reading(unlabelled="skip"))


def test_label_that_changes_is_seen(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF)])
    (item,) = read_export(tmp_path, Reading()).splits[""]
    assert item.label.files == (str(tmp_path / "a.json"),)
    save_json(tmp_path / "a.json", [shape("stem", STEM)])
    with pytest.raises(DataError, match="has the new class 'stem'"):
        item.label.read(Picture(item.image, SIZE))


def test_recognition_of_large_and_foreign_files(tmp_path):
    assert not labelme.recognise(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert not labelme.recognise(tmp_path)
    save_json(tmp_path / "deep" / "b.json", [], imageData="A" * (3 << 20))
    assert labelme.recognise(tmp_path)
    (tmp_path / "deep" / "b.json").write_text('{"annotations": "' + "A" * (3 << 20) + '"}')
    assert not labelme.recognise(tmp_path)


def test_foreign_files_do_not_hide_those_of_labelme(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.json").write_text("{}")
    add(tmp_path / "deep" / "er", "a", [shape("leaf", LEAF)])
    assert labelme.recognise(tmp_path)
    for number in range(300):  # in the same folder, with names before and behind
        (tmp_path / "deep" / "er" / f"{'0z'[number % 2]}{number}.json").write_text("{}")
    assert labelme.recognise(tmp_path)
    assert read_export(tmp_path, Reading()).classes == ["background", "leaf"]


def test_linked_folders_and_links_that_lead_back(tmp_path):
    add(tmp_path / "elsewhere" / "files", "a", [shape("leaf", LEAF)])
    add_folder(tmp_path / "elsewhere" / "folders", "b", ["_background_", "leaf"], boxes((1, 3, 10, 4, 20)))
    for kind, name, module in (("files", "link/a", labelme), ("folders", "link/b", labelme_folders)):
        root = tmp_path / f"root of {kind}"
        root.mkdir()
        (root / "link").symlink_to(tmp_path / "elsewhere" / kind)
        (tmp_path / "elsewhere" / kind / "back").symlink_to(root)
        (root / "self").symlink_to(root)
        assert module.recognise(root)
        assert [item.name for item in read_export(root, Reading()).splits[""]] == [name]
    empty = tmp_path / "empty"
    for name in "abcdef":
        (empty / name).mkdir(parents=True)
        for number in range(6):
            (empty / name / f"{number}").symlink_to(empty)
    assert format_of(empty) is None


def test_json_files_beside_another_export_are_named(tmp_path):
    for name in ("train/a", "val/b"):
        save_image(tmp_path / f"{name}.png")
        Image.fromarray(boxes((1, 3, 10, 4, 20))).save(tmp_path / f"{name}_mask.png")
    for split in ("train", "valid"):
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, leaf\n")
    assert not any("labelme" in note for note in read_export(tmp_path, Reading()).notes)
    save_json(tmp_path / "train" / "a.json", [shape("leaf", LEAF)], "a.png")
    export = read_export(tmp_path, Reading())
    assert export.tool == "Roboflow semantic segmentation masks"
    assert export.notes[-1].startswith(f"{tmp_path} also holds JSON files of labelme, which are not read")


def test_training_on_json_files(tmp_path):
    root = tmp_path / "data"
    for name in ("train/a", "train/b", "images/val/c"):
        save_image(root / f"{name}.jpg", (40, 56))
        shapes = [
            shape("leaf", [[4, 4], [50, 30]], "rectangle"),
            shape("stem", [[30, 20], [40, 20]], "circle"),
        ]
        save_json(root / f"{name}.json", shapes, size=(40, 56))
    record = train_and_evaluate("folder", root, tmp_path / "run")
    assert list(record["iou"]) == ["background", "leaf", "stem"]


def add_folder(root, name, names, label, size=SIZE):
    save_image(root / name / "img.png", size)
    picture = Image.fromarray(label.astype(np.uint8)).convert("P")
    picture.putpalette(list(range(256)) * 3)
    picture.putdata(label.reshape(-1).tolist())
    picture.save(root / name / "label.png")
    save_image(root / name / "label_viz.png", size)
    (root / name / "label_names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def test_numbers_of_folders_differ_from_folder_to_folder(tmp_path):
    stored = boxes((1, 3, 10, 4, 20), (2, 8, 20, 10, 13))
    add_folder(tmp_path, "train/a_json", ["_background_", "leaf", "stem"], stored)
    add_folder(
        tmp_path, "train/b_json", ["_background_", "Bud", "__ignore__", "leaf"], stored + (stored == 2)
    )
    add_folder(tmp_path, "val/c_json", ["_background_", "stem", "leaf"], stored)
    assert format_of(tmp_path) == "labelme's folders of img.png and label.png"
    export = read_export(tmp_path, Reading())
    assert export.classes == ["_background_", "Bud", "leaf", "stem"]
    assert {split: [item.name for item in items] for split, items in export.splits.items()} == {
        "train": ["train/a_json", "train/b_json"],
        "val": ["val/c_json"],
    }
    assert export.void_text == "the class __ignore__"
    assert np.array_equal(drawn(tmp_path, "train/a_json"), boxes((2, 3, 10, 4, 20), (3, 8, 20, 10, 13)))
    assert np.array_equal(drawn(tmp_path, "train/b_json"), boxes((1, 3, 10, 4, 20), (2, 8, 20, 10, 13)))
    assert np.array_equal(drawn(tmp_path, "val/c_json"), boxes((3, 3, 10, 4, 20), (2, 8, 20, 10, 13)))
    export = read_export(tmp_path, Reading(unannotated="void"))
    assert export.classes == ["Bud", "leaf", "stem"]
    expected = boxes((1, 3, 10, 4, 20), (2, 8, 20, 10, 13), start=VOID)
    assert np.array_equal(drawn(tmp_path, "train/a_json", unannotated="void"), expected)
    (tmp_path / "labels.txt").write_text("__ignore__\nstem\nleaf\nBud\n")
    assert read_export(tmp_path, Reading()).classes == ["_background_", "stem", "leaf", "Bud"]
    assert np.array_equal(drawn(tmp_path, "train/a_json"), boxes((2, 3, 10, 4, 20), (1, 8, 20, 10, 13)))
    (tmp_path / "labels.txt").write_text("stem\nleaf\n_background_\nBud\n")
    expected = boxes((1, 3, 10, 4, 20), (0, 8, 20, 10, 13), start=2)
    assert np.array_equal(drawn(tmp_path, "train/a_json"), expected)


def test_void_of_ignored_pixels_in_folders(tmp_path):
    add_folder(
        tmp_path, "a", ["_background_", "__ignore__", "leaf"], boxes((1, 3, 10, 4, 20), (2, 12, 14, 0, 5))
    )
    expected = boxes((VOID, 3, 10, 4, 20), (1, 12, 14, 0, 5))
    assert np.array_equal(drawn(tmp_path), expected)
    (item,) = read_export(tmp_path, Reading()).splits[""]
    assert item.label.files == (str(tmp_path / "a/label.png"), str(tmp_path / "a/label_names.txt"))


def test_folders_beside_their_json_files_are_not_read_twice(tmp_path):
    add(tmp_path, "a", [shape("leaf", LEAF)])
    add_folder(tmp_path, "a_json", ["_background_", "leaf"], boxes((1, 3, 10, 4, 20)))
    assert labelme_folders.recognise(tmp_path) is False
    assert format_of(tmp_path) == "labelme's JSON files"
    assert [item.name for item in read_export(tmp_path, Reading()).splits[""]] == ["a"]


def test_bad_folders_are_collected(tmp_path):
    for name in "abc":
        add_folder(tmp_path, name, ["_background_", "leaf"], boxes((2, 3, 10, 4, 20)))
    with pytest.raises(
        DataError, match=r"label.png holds label value\(s\) 2 that label_names.txt .* \(0 to 1\)"
    ):
        drawn(tmp_path)
    (tmp_path / "b" / "img.png").unlink()
    (tmp_path / "c" / "label_names.txt").write_text("leaf\nleaf\n")
    message = refusal(tmp_path)
    assert f"{tmp_path / 'b'} has no img.png beside label.png" in message
    assert f"{tmp_path / 'c' / 'label_names.txt'} must hold one distinct name a line" in message
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "c" / "label_names.txt").write_text("_background_\n_background_\u200b\n")
    assert f"{tmp_path} has several classes called '_background_'" in refusal(tmp_path)
    (tmp_path / "c" / "label_names.txt").write_bytes(b"\xff\xfe\xfa")
    assert "c/label_names.txt cannot be read" in refusal(tmp_path)


def test_training_on_folders(tmp_path):
    label = np.zeros((40, 56), np.uint8)
    label[:, 20:40] = 1
    label[10:30, 30:] = 2
    root = tmp_path / "data"
    for name, names in (("train/a", "xyz"), ("train/b", "yxz"), ("val/c", "zxy")):
        add_folder(root, name, ["_background_", *names], label, (40, 56))
    record = train_and_evaluate("folder", root, tmp_path / "run")
    assert list(record["iou"]) == ["_background_", "x", "y", "z"]
