"""Label Studio: the JSON export with polygons, rectangles, ellipses and brush masks; the brush export."""

import base64
import json
import pickle

import numpy as np
import pytest
from PIL import Image
from small_runs import train_and_evaluate

from difnet.data import DataError
from difnet.data.errors import VOID
from difnet.data.exports.formats import format_of, read_export
from difnet.data.exports.parsing.label_studio_files import address_of, image_path
from difnet.data.exports.parsing.label_studio_rle import BrokenStream, painted, unpack
from difnet.data.items.item import Picture
from difnet.data.options import Reading, UnusedOption

SIZE = (40, 50)  # 1 % is 0.4 rows and 0.5 columns


def bits(value, count):
    return format(value, f"0{count}b")


def packed(values, lengths=(3, 4, 8, 16), word=8, blocks=True, number=None):
    """Pack values as the editor does: runs as one packet, the rest in blocks or one by one."""
    values = np.asarray(values).reshape(-1).tolist()
    text = bits(len(values) if number is None else number, 32) + bits(word - 1, 5)
    text += "".join(bits(length - 1, 4) for length in lengths)
    start = 0
    while start < len(values):
        stop = start + 1
        same = stop < len(values) and values[stop] == values[start]
        longest = 2 ** lengths[3]
        while stop < len(values) and stop - start < longest:
            if same and values[stop] != values[start]:
                break
            ends = stop + 1 < len(values) and values[stop + 1] == values[stop]
            if not same and (ends or not blocks):
                break
            stop += 1
        kind = next(kind for kind, length in enumerate(lengths) if stop - start <= 2**length)
        text += str(int(same)) + bits(kind, 2) + bits(stop - start - 1, lengths[kind])
        text += "".join(bits(value, word) for value in values[start : start + 1 if same else stop])
        start = stop
    text += "0" * (-len(text) % 8)
    return bytes(int(text[place : place + 8], 2) for place in range(0, len(text), 8))


def rgba(opacity, colour=(255, 90, 7)):
    """The pixels of a brush mask, of which only the opacity says what was painted."""
    layers = [np.where(opacity > 0, shade, 0) for shade in colour]
    return np.stack([*layers, opacity], -1).astype(np.uint8)


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize(("lengths", "word"), [((3, 4, 8, 16), 8), ((1, 2, 5, 9), 8), ((16, 1, 1, 16), 3)])
def test_stream_is_unpacked(blocks, lengths, word):
    rng = np.random.default_rng(1)
    values = np.concatenate(
        [rng.integers(0, 2**word, 700), np.full(900, 5), rng.integers(0, 2, 60), np.full(70000, 1), [7, 7, 0]]
    )
    stream = packed(values, lengths, word, blocks)
    assert np.array_equal(unpack(stream), values)
    assert np.array_equal(unpack(stream + b"\0"), values)  # padding may fill a whole byte


def test_stream_of_the_publisher():
    """The example in the tests of label-studio-sdk."""
    stream = bytes([0, 0, 0, 18, 57, 27, 252, 96, 32, 1, 0, 6, 0, 40, 0, 192, 3, 128, 17, 56, 32])
    assert unpack(stream).tolist() == [1] * 4 + [2, 3, 5, 6, 7, 8] + [4] * 8


def test_broken_streams():
    stream = packed(np.arange(64) % 7)
    with pytest.raises(BrokenStream, match="has only 3 bytes"):
        unpack(stream[:3])
    with pytest.raises(BrokenStream, match="ends before all of its 64 values"):
        unpack(stream[:-6])
    with pytest.raises(BrokenStream, match="ends before all of its 4000000000 values"):
        unpack(packed(np.arange(64) % 7, number=4_000_000_000))
    with pytest.raises(BrokenStream, match="holds more than the 60 values"):
        unpack(packed(np.arange(64) % 7, number=60))
    with pytest.raises(BrokenStream, match="has values of 9 bits"):
        unpack(packed(np.arange(64), word=9))


def test_which_pixels_count_as_painted():
    assert painted(np.array([0, 1, 127, 128, 254, 255], np.uint8)).tolist() == [False] * 3 + [True] * 3
    assert painted(np.array([0, 1, 1], np.uint8)).tolist() == [False, True, True]
    assert painted(np.array([[0, 2, 1]], np.uint8)).tolist() == [[False, False, False]]


def result(kind, value, labels=None, size=SIZE, **more):
    labels = {} if labels is None else {kind: labels}
    content = {
        **{"original_width": size[1], "original_height": size[0], "image_rotation": 0},
        **{"value": value | labels, "id": "x1", "from_name": "tag", "to_name": "image", "type": kind},
    }
    return content | more


def rectangle(label, x, y, width, height, rotation=0, **more):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": rotation}
    return result("rectanglelabels", value, [label], **more)


def polygon(label, points, **more):
    return result("polygonlabels", {"points": points, "closed": True}, [label], **more)


def brush(label, opacity, **more):
    value = {"format": "rle", "rle": list(packed(rgba(opacity)))}
    return result("brushlabels", value, [label], size=opacity.shape, **more)


BOX = [[20, 25], [60, 25], [60, 75], [20, 75]]  # columns 10 to 29, rows 10 to 29


def save_image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(list(str(path).encode())).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def task(number, address, *annotations, key="image"):
    annotations = [
        it if isinstance(it, dict) else {"id": 10 * number + place, "was_cancelled": False, "result": it}
        for place, it in enumerate(annotations)
    ]
    return {"id": number, "annotations": annotations, "data": {key: address, "note": "x"}, "project": 1}


def export(root, *tasks, name="project-1.json"):
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(list(tasks)), encoding="utf-8")
    return root


def simple(root, *results):
    """An export of one image, a.jpg."""
    save_image(root / "a.jpg")
    return export(root, task(1, "/data/upload/1/4d5e6f70-a.jpg", list(results)))


def drawn(root, name="a", size=SIZE, orientation=1, **reading):
    found = read_export(root, Reading(**reading))
    item = next(item for items in found.splits.values() for item in items if item.name == name)
    label = pickle.loads(pickle.dumps(item.label))
    return label.read(Picture(item.image, size, orientation)).classes


def refusal(root, **reading):
    with pytest.raises(DataError) as caught:
        read_export(root, Reading(**reading))
    return str(caught.value)


def boxes(*parts, start=0, size=SIZE):
    """A label of boxes: (index, top, bottom, left, right), without row `bottom` and column `right`."""
    label = np.full(size, start, np.uint8)
    for index, top, bottom, left, right in parts:
        label[top:bottom, left:right] = index
    return label


def test_percent_of_width_and_height_and_later_regions_cover_earlier_ones(tmp_path):
    simple(tmp_path, polygon("tree", BOX), rectangle("car", 50, 50, 50, 50), rectangle("Bus", 0, 0, 100, 10))
    assert format_of(tmp_path) == "Label Studio's JSON export"
    found = read_export(tmp_path, Reading())
    assert found.classes == ["background", "Bus", "car", "tree"]
    assert found.notes == []
    parts = (3, 10, 30, 10, 30), (2, 20, 40, 25, 50), (1, 0, 4, 0, 50)
    assert np.array_equal(drawn(tmp_path), boxes(*parts))
    void = [(index - 1, *box) for index, *box in parts]
    assert np.array_equal(drawn(tmp_path, unannotated="void"), boxes(*void, start=VOID))
    assert read_export(tmp_path, Reading(unannotated="void")).void_text == "pixels that no region covers"
    (tmp_path / "classes.txt").write_text("car\ntree\nbackground\nBus\n")
    assert read_export(tmp_path, Reading()).classes == ["car", "tree", "background", "Bus"]
    order = [(1, *parts[0][1:]), (0, *parts[1][1:]), (3, *parts[2][1:])]
    assert np.array_equal(drawn(tmp_path), boxes(*order, start=2))


def test_turned_rectangle(tmp_path):
    """Turned clockwise by 90 degrees about its corner (20, 8) in pixels: down and to the left from there."""
    simple(tmp_path, rectangle("car", 40, 20, 24, 10, rotation=90))
    assert np.array_equal(drawn(tmp_path), boxes((1, 8, 20, 16, 20)))
    simple(tmp_path, rectangle("car", 40, 50, 20, 20, rotation=30))
    x, y = np.meshgrid(np.arange(50) + 0.5 - 20, np.arange(40) + 0.5 - 20)
    cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
    along, across = x * cos + y * sin, y * cos - x * sin
    assert np.array_equal(drawn(tmp_path), (along > 0) & (along < 10) & (across > 0) & (across < 8))


@pytest.mark.parametrize("rotation", [0, 30])
def test_ellipse(tmp_path, rotation):
    value = {"x": 50, "y": 50, "radiusX": 30, "radiusY": 15, "rotation": rotation}
    simple(tmp_path, result("ellipselabels", value, ["pond"]))
    x, y = np.meshgrid(np.arange(50) + 0.5 - 25, np.arange(40) + 0.5 - 20)
    cos, sin = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    distance = np.hypot((x * cos + y * sin) / 15, (y * cos - x * sin) / 6)
    label = drawn(tmp_path)
    assert (label[distance < 0.99] == 1).all()
    assert (label[distance > 1.0] == 0).all()


def test_brush_masks_with_smooth_edges(tmp_path):
    opacity = np.zeros(SIZE, int)
    opacity[5:20, 12:40] = 255
    opacity[5] = np.arange(50) + 100
    imported = np.zeros(SIZE, int)
    imported[15:30, 2:20] = 1
    simple(tmp_path, brush("road", opacity), brush("car", imported))
    expected = np.zeros(SIZE, int)
    expected[opacity > 127] = 2
    expected[imported == 1] = 1
    assert set(opacity[5]) > {127, 128}
    assert np.array_equal(drawn(tmp_path), expected)


def test_damaged_brush_mask(tmp_path):
    whole = brush("road", np.ones(SIZE, int))
    other = brush("road", np.ones((40, 49), int)) | {"original_width": 50}
    for entry, words in (
        (
            whole | {"value": whole["value"] | {"rle": whole["value"]["rle"][:-4]}},
            "ends before all of its 8000",
        ),
        (other, "has 7840 values, expected 8000"),
    ):
        simple(tmp_path, entry)
        with pytest.raises(DataError) as caught:
            drawn(tmp_path)
        assert f"{tmp_path / 'project-1.json'}, task 1, result 1: its brush mask {words}" in str(caught.value)
    simple(tmp_path, whole | {"value": whole["value"] | {"rle": [1, 256]}})
    assert "holds rle = [1, 256], expected a list of bytes" in refusal(tmp_path)


def save_mask(path, opacity):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(opacity.astype(np.uint8)).save(path)


def test_brush_export_is_joined_with_the_json_file(tmp_path):
    """One file a region; controls and labels hold dashes and slashes, and their names may be equal."""
    masks = []
    for place in range(4):
        mask = np.zeros(SIZE, int)
        mask[5 + 4 * place : 15 + 4 * place, 5:40] = 255
        mask[5 + 4 * place] = 100
        masks.append(mask)
    labels = ("a/b", "c-0", "a/b", "c")
    results = [result("brushlabels", {"format": "rle"}, [label], from_name="my-tag") for label in labels]
    save_image(tmp_path / "a.jpg")
    export(tmp_path, task(7, "a.jpg", [results[0]], results))
    names = ("my-tag-a-b-0", "my-tag-c-0-0", "my-tag-a-b-1", "my-tag-c-0")
    for name, mask in zip(names, masks, strict=True):
        save_mask(tmp_path / "masks" / f"task-7-annotation-71-by-me@x.org-{name}.png", mask)
    save_mask(tmp_path / "masks" / "task-7-annotation-70-by-1-my-tag-a-b-0.png", masks[3])
    found = read_export(tmp_path, Reading())
    assert found.classes == ["background", "a/b", "c", "c-0"]
    assert found.notes == [
        "1 tasks have several annotations: the newest (or newest ground truth) counts",
        "1 file(s) of the brush export are not read: the JSON file holds the masks that count",
    ]
    expected = np.zeros(SIZE, int)
    for index, mask in zip((1, 3, 1, 2), masks, strict=True):
        expected[mask == 255] = index
    assert np.array_equal(drawn(tmp_path), expected)
    (item,) = found.splits[""]
    assert [path.name for path in item.label.files][:2] == [
        "project-1.json",
        "task-7-annotation-71-by-me@x.org-my-tag-a-b-0.png",
    ]
    save_mask(item.label.files[2], masks[0][:-1])
    with pytest.raises(
        DataError, match=r"my-tag-c-0-0.png is 50x39, and .* is a region of an image of 50x40"
    ):
        drawn(tmp_path)
    item.label.files[2].unlink()
    assert "task 7, result 2 is a brush region without its mask (rle)" in refusal(tmp_path)


def test_masks_without_a_json_file_are_refused(tmp_path):
    save_mask(tmp_path / "task-7-annotation-71-by-1-tag-car-0.png", np.zeros(SIZE))
    assert format_of(tmp_path) == "Label Studio's JSON export"
    assert "but masks, which do not name their image; export the project as JSON too" in refusal(tmp_path)
    short = [{"image": "a.jpg", "id": 7, "annotator": 1, "annotation_id": 71, "lead_time": 3}]
    (tmp_path / "min.json").write_text(json.dumps(short))
    assert f"but {tmp_path / 'min.json'} (JSON-MIN)" in refusal(tmp_path)


def test_which_annotation_counts(tmp_path):
    def annotation(label, **more):
        return {"id": 1, "was_cancelled": False, "result": [polygon(label, BOX)]} | more

    def label_of(*annotations):
        save_image(tmp_path / "a.jpg")
        export(tmp_path, task(1, "a.jpg", *annotations))
        return read_export(tmp_path, Reading()).classes[1]

    old, new = "2024-01-02T10:00:00Z", "2024-03-01T09:00:00Z"
    assert label_of(annotation("one"), annotation("two")) == "two"
    assert label_of(annotation("one", created_at=new), annotation("two", created_at=old)) == "one"
    assert label_of(annotation("one"), annotation("two", was_cancelled=True)) == "one"
    assert label_of(annotation("one", ground_truth=True), annotation("two", created_at=new)) == "one"


def test_tasks_without_annotation(tmp_path):
    for name in "abcd":
        save_image(tmp_path / f"{name}.jpg")
    save_image(tmp_path / "lone.jpg")
    skipped = {"id": 5, "was_cancelled": True, "result": [polygon("tree", BOX)]}
    choice = result("choices", {"choices": ["sunny"]})
    point = result("keypointlabels", {"x": 1, "y": 2, "width": 1}, ["tree"])
    text = result("textarea", {"x": 1, "y": 2, "width": 1, "height": 5, "text": ["3"]})
    export(
        tmp_path,
        task(1, "a.jpg", [polygon("tree", BOX), choice, point, text, choice]),
        task(2, "b.jpg"),
        task(3, "c.jpg", [choice, point]),
        task(4, "d.jpg", skipped),
    )
    message = refusal(tmp_path)
    assert "2 image(s) have no annotation (b.jpg, lone.jpg) and 1 image(s) have only results" in message
    assert "of the kind choices, keypointlabels, which cover no area here (c.jpg);" in message
    found = read_export(tmp_path, Reading(unlabelled="skip"))
    assert [item.name for item in found.splits[""]] == ["a"]
    assert found.notes == [
        "1 task(s) that were skipped in Label Studio are left out",
        "results that cover no area are not read: choices (3), keypointlabels (2), textarea (1)",
        "2 image(s) without annotation are left out (b.jpg, lone.jpg)",
        "1 image(s) have only results of the kind choices, keypointlabels, which cover no area here, and are "
        "left out (c.jpg)",
    ]
    found = read_export(tmp_path, Reading(unlabelled="background", unannotated="void"))
    assert [item.name for item in found.splits[""]] == ["a", "b", "c", "lone"]
    for name in ("b", "c", "lone"):
        assert not drawn(tmp_path, name, unlabelled="background", unannotated="void").any()
    expected = boxes((1, 10, 30, 10, 30), start=VOID)
    assert np.array_equal(drawn(tmp_path, "a", unlabelled="background", unannotated="void"), expected)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/upload/1/4d5e6f70-a%20b.jpg", "/data/upload/1/4d5e6f70-a b.jpg"),
        ("/data/local-files/?d=sub/a+b%26c.jpg", "sub/a+b&c.jpg"),
        ("/data/local-files/?d=sub%5Ca.jpg", "sub/a.jpg"),
        ("s3://bucket/sub/a.jpg", "/sub/a.jpg"),
        ("https://x.org/sub/a%23.jpg?X-Amz-Signature=9", "/sub/a#.jpg"),
        ("C:\\pictures\\a.jpg", "C:/pictures/a.jpg"),
        ("s3://bucket/sub/a#1.jpg", "/sub/a#1.jpg"),
        ("gs://bucket/x#/a.jpg", "/x#/a.jpg"),
        ("/data/local-files/?d=sub/a#1.jpg", "sub/a#1.jpg"),
        ("https://x.org/sub/a.jpg#page=2", "/sub/a.jpg"),
        ("https://x.org/sub/a.jpg?key=3#top", "/sub/a.jpg"),
        ("sub/100%25 a#1.jpg", "sub/100%25 a#1.jpg"),
        ("/tasks/3/resolve/?fileuri=" + base64.b64encode(b"s3://b/x/a.jpg").decode().rstrip("="), "/x/a.jpg"),
        ("http://[a.jpg", "http:/[a.jpg"),
    ],
)
def test_path_in_an_address(address, path):
    assert str(image_path(address)) == path


def test_address_of_a_task():
    assert address_of({"picture": "x/a.jpg", "text": "hello", "n": 3}, "t") == "x/a.jpg"
    assert address_of({"thumb": "x/b.jpg", "image": "x/a.jpg"}, "t") == "x/a.jpg"
    with pytest.raises(DataError, match=r"t has several images in its data \(one, two\)"):
        address_of({"one": "x/b.jpg", "two": "x/a.jpg"}, "t")
    with pytest.raises(
        DataError,
        match=r't has no address in its data that ends like the name of an image \(pages: \["a.jpg"\], '
        r'text: "hello"\); correct the address in the file',
    ):
        address_of({"text": "hello", "pages": ["a.jpg"]}, "t")


def test_images_are_found_by_their_names(tmp_path):
    addresses = {
        "/data/upload/3/4d5e6f70-street_1_final.jpg": "in/street 1 (final).jpg",
        "/data/upload/3/12ab34cd-own.jpg": "in/12ab34cd-own.jpg",
        "/data/local-files/?d=x/site1/cam.jpg": "in/site1/cam.jpg",
        "/data/local-files/?d=x/site2/cam.jpg": "in/site2/cam.jpg",
        "s3://bucket/dashed-name.jpg": "dashed-name.jpg",
    }
    for path in addresses.values():
        save_image(tmp_path / path)
    export(tmp_path, *(task(n, it, [polygon("tree", BOX)]) for n, it in enumerate(addresses)))
    found = read_export(tmp_path, Reading())
    assert {str(item.image.relative_to(tmp_path)) for item in found.splits[""]} == set(addresses.values())
    assert "in/site1/cam" in {item.name for item in found.splits[""]}
    more = [task(8, "/data/upload/3/4d5e6f70-cam.jpg", [polygon("tree", BOX)]), task(9, "x/lost.jpg", [])]
    export(tmp_path, *more)
    message = refusal(tmp_path)
    assert "task 8 annotates /data/upload/3/4d5e6f70-cam.jpg, which may be " in message
    assert "rename it to 4d5e6f70-cam.jpg" in message
    assert f"task 9 annotates x/lost.jpg, and {tmp_path} holds no lost.jpg; put the image there" in message


def test_image_of_another_folder_is_not_taken(tmp_path):
    """cam_a/0001.jpg is missing, and cam_b/0001.jpg is another picture."""
    for name in ("cam_a/0002.jpg", "cam_b/0001.jpg", "cam_b/left/0003.jpg"):
        save_image(tmp_path / name)
    for address in ("/data/local-files/?d=x/cam_a/0001.jpg", "s3://bucket/cam_a/0001.jpg", "cam_a/0001.jpg"):
        export(tmp_path, task(1, address, [polygon("tree", BOX)]))
        message = refusal(tmp_path, unlabelled="skip")
        assert f"{tmp_path} holds only {tmp_path / 'cam_b' / '0001.jpg'}, which may be another im" in message
        assert "cam_a there" in message
    export(tmp_path, task(1, "/data/local-files/?d=cam_a/left/0003.jpg", [polygon("tree", BOX)]))
    assert "put the image that is meant into a folder cam_a there" in refusal(tmp_path, unlabelled="skip")


def test_image_in_a_folder_of_another_name_is_taken_with_a_note(tmp_path):
    save_image(tmp_path / "pictures" / "0001.jpg")
    save_image(tmp_path / "0002.jpg")
    addresses = ("s3://bucket/old/0001.jpg", "s3://bucket/old/0002.jpg")
    export(tmp_path, *(task(n, it, [polygon("tree", BOX)]) for n, it in enumerate(addresses)))
    found = read_export(tmp_path, Reading())
    assert [item.name for item in found.splits[""]] == ["0002", "pictures/0001"]
    assert found.notes == [
        "1 task(s) name an image of another folder, and the one of that name is taken: /old/0001.jpg is "
        "pictures/0001.jpg"
    ]
    save_image(tmp_path / "upload" / "other.jpg")  # the folders of an upload say nothing
    uploads = (f"/data/upload/1/4d5e6f70-{n}.jpg" for n in ("0001", "0002", "other"))
    export(tmp_path, *(task(n, it, [polygon("tree", BOX)]) for n, it in enumerate(uploads)))
    assert read_export(tmp_path, Reading()).notes == []


def test_image_whose_name_holds_a_number_sign(tmp_path):
    save_image(tmp_path / "a#1.jpg")
    export(tmp_path, task(1, "s3://bucket/a#1.jpg", [polygon("tree", BOX)]))
    assert [item.name for item in read_export(tmp_path, Reading()).splits[""]] == ["a#1"]


@pytest.mark.parametrize("option", ["void_value", "label_offset", "colours", "snap_colours"])
def test_options_that_change_nothing_are_refused(tmp_path, option):
    values = {"void_value": (0,), "label_offset": 1, "colours": "voc", "snap_colours": True}
    simple(tmp_path, polygon("tree", BOX))
    with pytest.raises(
        UnusedOption, match=f"--{option.replace('_', '-')} changes nothing in how Label Studio"
    ):
        read_export(tmp_path, Reading(**{option: values[option]}))


def test_classes_that_look_the_same_as_the_background(tmp_path):
    simple(tmp_path, polygon("background ", BOX), polygon("tree", BOX))
    assert f"{tmp_path} has several classes called 'background'" in refusal(tmp_path)


def test_foreign_files_and_links_do_not_hide_the_export(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.json").write_text("{}")
    (tmp_path / "self").symlink_to(tmp_path)
    simple(tmp_path / "elsewhere" / "deep", polygon("tree", BOX))
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    for folder in (tmp_path, root):
        assert format_of(folder) == "Label Studio's JSON export"


def test_formats_that_are_not_read_are_named_with_the_one_to_choose(tmp_path):
    single = {"id": 1, "result": [polygon("tree", BOX)], "task": {"data": {"image": "a.jpg"}}}
    via = {"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": [], "file_attributes": {}}}
    project = {"_via_settings": {}, "_via_img_metadata": {}}
    for name, content, words in (
        (
            "1.json",
            json.dumps(single),
            "is a single task of Label Studio, so export the whole project as JSON",
        ),
        ("1", json.dumps(task(1, "a.jpg", [polygon("tree", BOX)])), "is a single task of Label Studio"),
        ("via_region_data.json", json.dumps(via), "is VIA's own format, so export the annotations in COCO's"),
        ("via_project.json", json.dumps(project), "is VIA's own format"),
        (
            "annotations.xml",
            "<annotations/>",
            "is CVAT's own format, so export the task as 'Segmentation mask",
        ),
    ):
        root = tmp_path / name
        save_image(root / "a.jpg")
        (root / name).with_suffix(".xml" if name.endswith("xml") else ".json").write_text(content)
        message = refusal(root)
        assert words in message
        assert "holds neither classes.txt" in message
    for name in ("JPEGImages", "SegmentationClass", "ImageSets"):
        (tmp_path / "voc" / name).mkdir(parents=True)
    assert "it has the layout of PASCAL VOC, so use --dataset voc" in refusal(tmp_path / "voc")


def test_splits_and_two_tasks_for_one_image(tmp_path):
    for name in ("train/a.jpg", "b.jpg", "c.jpg"):
        save_image(tmp_path / name)
    export(tmp_path, task(1, "a.jpg", [polygon("tree", BOX)]))
    export(tmp_path / "val", task(2, "b.jpg", [polygon("tree", BOX)]))
    export(tmp_path, task(3, "c.jpg", [polygon("tree", BOX)]), name="test.json")
    (tmp_path / "other.json").write_text("{}")
    found = read_export(tmp_path, Reading())
    assert {split: [item.name for item in items] for split, items in found.splits.items()} == {
        "train": ["train/a"],
        "val": ["b"],
        "test": ["c"],
    }
    assert found.notes == ["1 JSON file(s) are not those of Label Studio's projects: other.json"]
    export(tmp_path, task(4, "x/c.jpg", [polygon("tree", BOX)]), name="again.json")
    message = refusal(tmp_path)
    assert f"{tmp_path / 'test.json'} annotates {tmp_path / 'c.jpg'}, which another task" in message
    assert "again.json annotates too; keep the newest export" in message


def test_regions_of_a_separate_list_of_labels(tmp_path):
    """A tag Labels beside tags Polygon and Brush: each region occurs twice, once with its label."""
    points = {"points": BOX}
    simple(
        tmp_path,
        result("polygon", points, id="r1"),
        result("labels", points, ["tree"], id="r1"),
        result("labels", {"start": 1, "end": 3}, ["word"], id="r2"),
    )
    found = read_export(tmp_path, Reading())
    assert found.classes == ["background", "tree"]
    assert found.notes == ["results that cover no area are not read: labels (1)"]
    assert np.array_equal(drawn(tmp_path), boxes((1, 10, 30, 10, 30)))
    simple(tmp_path, result("polygon", points, id="r1"))
    assert "task 1, result 1 (polygon) has the labels []" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            polygon("tree", BOX, image_rotation=90),
            "was drawn on the image turned by 90 degrees; turn it back",
        ),
        (
            result("polygonlabels", {"points": BOX}, ["a", "b"]),
            'has the labels ["a", "b"], and a region must',
        ),
        (polygon("tree", [[1, 2], [3, "4"]]), 'has the point [3, "4"], expected [x, y] in percent'),
        (polygon("tree", [[1, 2], [3, 1e9]]), "expected [x, y] in percent"),
        (polygon("tree", 3), "holds points = 3, expected a list"),
        (rectangle("car", 1, 2, None, 4), "holds width = null, expected a number"),
        (rectangle("car", 1, 2, 1e9, 4), "holds width = 1e+09, far from any image"),
        (polygon("tree", BOX, original_width="50"), 'holds original_width = "50", expected a whole number'),
        (polygon("tree", BOX, original_width=0), "has an image of 0x40 pixels"),
        (result("brushlabels", {"format": "rle"}, ["tree"]), "is a brush region without its mask"),
        (result("bitmasklabels", {"imageDataURL": "x"}, ["tree"]), "is a bitmask, which is not read"),
        ({"id": 3}, "lacks type"),
        (7, "holds 7 in place of an object"),
    ],
)
def test_bad_results_are_refused(tmp_path, entry, words):
    simple(tmp_path, polygon("tree", BOX), entry)
    message = refusal(tmp_path)
    assert f"{tmp_path / 'project-1.json'}, task 1, result 2" in message
    assert words in message


def test_bad_files_are_refused(tmp_path):
    save_image(tmp_path / "a.jpg")
    text = json.dumps([task(1, "a.jpg", [polygon("tree", BOX)])])
    (tmp_path / "cut.json").write_text(text[:-20])
    assert f"{tmp_path / 'cut.json'} holds no JSON" in refusal(tmp_path)
    (tmp_path / "cut.json").unlink()
    bad = [{"id": 4, "annotations": {}}, 3, task(5, "a.jpg", {"result": 3}), {"id": 6, "annotations": []}]
    export(tmp_path, *bad, {"id": 7, "annotations": [2], "data": {"image": "a.jpg"}})
    message = refusal(tmp_path)
    assert "5 item(s) cannot be used" in message
    for words in (
        "task 4 holds annotations = {}, expected a list",
        "task 2 holds 3 in place of an object",
        "task 5 holds result = 3, expected a list",
        "task 6 lacks data",
        "task 7 holds 2 in place of an object",
    ):
        assert words in message
    export(tmp_path, task(1, "a.jpg", [polygon("tree", BOX), polygon("car", BOX, original_width=51)]))
    assert "task 1 has regions on images of different sizes [(40, 50), (40, 51)]" in refusal(tmp_path)


def test_image_of_another_size(tmp_path):
    simple(tmp_path, polygon("tree", BOX))
    with pytest.raises(
        DataError, match=r"drawn on an image of 50x40 pixels, and .* is 40x50 .*probably lost"
    ):
        drawn(tmp_path, size=(50, 40))
    with pytest.raises(DataError, match=r"before the turn by the EXIF tag \(Orientation 8\)"):
        drawn(tmp_path, size=(50, 40), orientation=8)
    with pytest.raises(DataError, match=r"is 100x80 .* put the image there that was annotated"):
        drawn(tmp_path, size=(80, 100))


def test_training_on_polygons_and_masks(tmp_path):
    root = tmp_path / "data"
    opacity = np.zeros((40, 56), int)
    opacity[10:36, 30:50] = 255
    tasks = []
    for number, name in enumerate(("train/a", "train/b", "val/c")):
        save_image(root / f"{name}.jpg", (40, 56))
        box = polygon("tree", BOX, size=(40, 56))
        tasks.append(task(number, f"/data/local-files/?d={name}.jpg", [box, brush("road", opacity)]))
    export(root, *tasks)
    record = train_and_evaluate("folder", root, tmp_path / "run")
    assert list(record["iou"]) == ["background", "road", "tree"]


def test_training_on_the_brush_export(tmp_path):
    root = tmp_path / "data"
    tasks = []
    for number, name in enumerate(("train/a", "train/b", "val/c")):
        save_image(root / f"{name}.jpg", (40, 56))
        regions = [result("brushlabels", {}, [label], size=(40, 56)) for label in ("road", "tree")]
        tasks.append(task(number, f"{name}.jpg", regions))
        for place, label in enumerate(("road", "tree")):
            mask = np.zeros((40, 56))
            mask[10 * place : 25 + 10 * place, 8:40] = 255
            save_mask(root / f"task-{number}-annotation-{10 * number}-by-1-tag-{label}-0.png", mask)
    export(root, *tasks)
    record = train_and_evaluate("folder", root, tmp_path / "run")
    assert list(record["iou"]) == ["background", "road", "tree"]
