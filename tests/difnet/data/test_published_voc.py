"""Pascal VOC 2012, its augmented training set, and Pascal Context, in miniature."""

import pickle
import shutil

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image
from published_trees import (
    SIZE,
    labels_of,
    notes_of,
    refusal,
    regions,
    same,
    write_image,
    write_label,
    write_lines,
)
from small_runs import train_and_evaluate

from difnet.data import create_dataset
from difnet.data.options import Reading
from difnet.data.sets.context import ORDERS, canonical_classes
from difnet.data.sets.voc import CLASSES

# The first colours of VOC's palette and the last, from the documentation of its development kit.
VOC_COLOURS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 255: (224, 224, 192)}
TRAIN = {"2007_000032": (0, 1, 255), "2007_000039": (0, 2, 15, 255), "2008_000008": (2, 0, 1)}
VAL = {"2007_000033": (0, 15, 1, 255), "2007_000042": (0, 2, 255)}
ADDED = {"2008_000002": (15, 0, 2), "2009_000001": (1, 0, 15)}


def palette() -> list[tuple[int, int, int]]:
    return [VOC_COLOURS.get(number, (number, 7, 9)) for number in range(256)]


def in_colours(numbers: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    for number, colour in VOC_COLOURS.items():
        table[number] = colour
    return table[numbers]


def drawn(contents: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: regions(numbers, seed) for seed, (name, numbers) in enumerate(contents.items())}


@pytest.fixture
def voc(tmp_path):
    """VOC2012 with palette PNGs; the images of SBD are there too, as in the publisher's archive."""
    base = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    for seed, name in enumerate({**TRAIN, **VAL, **ADDED}):
        write_image(base / "JPEGImages" / f"{name}.jpg", seed)
    for split, contents in (("train", TRAIN), ("val", VAL)):
        write_lines(base / "ImageSets" / "Segmentation" / f"{split}.txt", [*contents])
        for name, label in drawn(contents).items():
            write_label(base / "SegmentationClass" / f"{name}.png", label, palette())
    return tmp_path / "data"


def add_aug(root, mode: str = "L", void: bool = True) -> None:
    """Write SegmentationClassAug for all images, with other labels than VOC's where VOC has its own."""
    for place, (name, label) in enumerate(drawn(ADDED | dict.fromkeys([*TRAIN, *VAL], (0, 2, 1))).items()):
        if void and name in ADDED:
            label[-1] = 255
        colours = palette() if mode == "P" or (mode == "mixed" and place % 2) else ()
        write_label(root / "VOCdevkit/VOC2012/SegmentationClassAug" / f"{name}.png", label, colours)


def write_mat(path, label: np.ndarray) -> None:
    """Write a file as SBD's release has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    edges = np.empty((20, 1), object)
    for place in range(20):
        edges[place, 0] = scipy.sparse.csc_matrix(label == place + 1)
    present = np.unique(label[label > 0]).astype(np.uint8)[:, None]
    struct = {"Boundaries": edges, "Segmentation": label, "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": struct}, do_compression=True)


def add_sbd(folder, **lists: list[str]) -> None:
    """Write SBD's release: .mat labels of all images, and its lists."""
    for name, label in drawn(ADDED | dict.fromkeys([*TRAIN, *VAL], (0, 2, 1))).items():
        write_mat(folder / "cls" / f"{name}.mat", label)
    for split, names in lists.items():
        write_lines(folder / f"{split}.txt", names)


@pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_read_from_each_root(voc, inside):
    dataset = create_dataset("voc", voc / inside, "train", reading=Reading(subset=True))
    assert len(dataset.classes) == 21
    assert (dataset.classes[0], dataset.classes[15], dataset.classes[20]) == (
        "background",
        "person",
        "tvmonitor",
    )
    assert dataset.palette[15].tolist() == [192, 128, 128]
    assert same(labels_of("voc", voc / inside), drawn(TRAIN))
    assert same(labels_of("voc", voc / inside, "val"), drawn(VAL))
    assert Image.open(voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png").mode == "P"


def test_voc_trains(voc, tmp_path):
    record = train_and_evaluate("voc", voc, tmp_path / "run", "--subset", "True")
    assert record["iou"].keys() == {*CLASSES}


def test_colour_coded_masks_of_voc_keep_void(voc):
    """Trap 17: a table of 21 colours that takes 0 for all others makes the void border background."""
    for name, label in drawn(TRAIN).items():
        write_label(voc / "VOCdevkit/VOC2012/SegmentationClass" / f"{name}.png", in_colours(label))
    found = labels_of("voc", voc)
    assert same(found, drawn(TRAIN))
    assert (found["2007_000032"][0] == 255).all()


def test_other_colours_and_numbers_are_refused(voc):
    path = voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png"
    write_label(path, np.full((*SIZE, 3), (128, 1, 0), np.uint8))
    assert "(128, 1, 0) 768 times, 1 levels from aeroplane" in refusal("voc", voc)
    write_label(path, regions((0, 21, 255)))
    assert f"{path} holds label value(s) 21 which VOC does not have (0 to 20 are its classes" in refusal(
        "voc", voc
    )


def test_a_palette_that_numbers_the_colours_otherwise_is_refused(voc):
    path = voc / "VOCdevkit/VOC2012/SegmentationClass/2007_000032.png"
    shuffled = [(128, 0, 0), (0, 0, 0), (0, 128, 0)]
    write_label(path, regions((0, 1, 2)), shuffled)
    message = refusal("voc", voc)
    assert (
        f"{path} stores the number 0 with the colour (128, 0, 0), which is another class in VOC's colours"
        in message
    )
    assert "save the mask as RGB" in message


@pytest.mark.parametrize(("split", "found", "published"), [("train", 3, "1464"), ("val", 2, "1449")])
def test_voc_counts(voc, split, found, published):
    source = voc / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{split}.txt"
    message = refusal("voc", voc, split, subset=None)
    assert message.startswith(
        f"{source} gives {found} images for {split}, and the published set has {published}; "
    )
    assert "--subset" in message


def test_listed_files_that_are_missing(voc):
    base = voc / "VOCdevkit/VOC2012"
    for name in ("2007_000032", "2008_000008"):
        (base / "SegmentationClass" / f"{name}.png").unlink()
    message = refusal("voc", voc)
    assert "train.txt names 3 images, and " in message
    assert "SegmentationClass lacks 2 of them (2007_000032, 2008_000008)" in message
    (base / "JPEGImages" / "2007_000042.jpg").unlink()
    assert "JPEGImages lacks 1 of them (2007_000042)" in refusal("voc", voc, "val")
    (base / "ImageSets/Segmentation/val.txt").unlink()
    assert "val.txt is missing; the data are read from" in refusal("voc", voc, "val")
    shutil.rmtree(base / "SegmentationClass")
    assert f"folder {base / 'SegmentationClass'} is missing" in refusal("voc", voc)
    shutil.rmtree(base / "JPEGImages")
    assert "holds no folder JPEGImages" in refusal("voc", voc)


def test_lists_that_cannot_be_used(voc):
    path = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"
    write_lines(path, ["2007_000032", "2007_000039 2008_000008"])
    assert "has '2007_000039 2008_000008' on line 2, which names 2007_000039, 2008_000008" in refusal(
        "voc", voc
    )
    write_lines(path, ["", " "])
    assert f"{path} is empty; write one image on each line" in refusal("voc", voc)
    path.write_bytes(b"2007_000032\n\xe9\n")
    assert f"{path} cannot be read" in refusal("voc", voc)
    write_lines(path, ["2008_000008", "2007_000032", "2008_000008"])
    assert notes_of("voc", voc) == f"{path} names 2008_000008 more than once; each is used once"
    assert [*labels_of("voc", voc)] == ["2007_000032", "2008_000008"]


def expected_aug(void: bool) -> dict[str, np.ndarray]:
    added = drawn(ADDED)
    if void:
        for label in added.values():
            label[-1] = 255
    return drawn(TRAIN) | added


@pytest.mark.parametrize("void", [True, False])
@pytest.mark.parametrize("mode", ["L", "P", "mixed"])
def test_segmentation_class_aug(voc, mode, void):
    """Trap 7: the folder exists with and without 255, in mode L, P, or both; VOC's own labels win."""
    add_aug(voc, mode, void)
    assert same(labels_of("voc-aug", voc), expected_aug(void))
    assert same(labels_of("voc-aug", voc, "val"), drawn(VAL))
    assert "3 labels are VOC's own" in notes_of("voc-aug", voc)
    assert f"2 are from {voc / 'VOCdevkit/VOC2012/SegmentationClassAug'}" in notes_of("voc-aug", voc)


def test_segmentation_class_aug_trains(voc, tmp_path):
    add_aug(voc, "mixed")
    assert train_and_evaluate("voc-aug", voc, tmp_path / "run", "--subset", "True")["iou"].keys() == {
        *CLASSES
    }


@pytest.mark.parametrize("name", ["trainaug.txt", "train_aug.txt"])
@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "/JPEGImages/{}.jpg /SegmentationClassAug/{}.png",
        "JPEGImages/{}.jpg SegmentationClassAug/{}.png",
        "{}.jpg",
    ],
)
def test_lists_of_the_augmented_set(voc, name, line):
    add_aug(voc)
    names = ["2009_000001", "2007_000032"]
    write_lines(
        voc / "VOCdevkit/VOC2012/ImageSets/Segmentation" / name, [line.format(it, it) for it in names]
    )
    expected = expected_aug(True)
    assert same(labels_of("voc-aug", voc), {it: expected[it] for it in sorted(names)})


SBD_LISTS = {"train": ["2008_000002", "2007_000032", "2007_000033"], "val": ["2009_000001", "2007_000042"]}


@pytest.mark.parametrize(
    "folder",
    ["SBD", "sbd", "benchmark_RELEASE/dataset", "VOCdevkit/SBD", "../SBD", "VOCdevkit/VOC2012/sbd/dataset"],
)
def test_sbd_release(voc, folder):
    """Trap 19: (VOC train and SBD train and SBD val) without VOC val; VOC's own labels win."""
    add_sbd(voc / folder, **SBD_LISTS)
    assert same(labels_of("voc-aug", voc), drawn(TRAIN) | drawn(ADDED))
    assert same(labels_of("voc-aug", voc / "VOCdevkit", "val"), drawn(VAL))


def test_sbd_release_trains(voc, tmp_path):
    add_sbd(voc / "SBD", **SBD_LISTS)
    assert train_and_evaluate("voc-aug", voc, tmp_path / "run", "--subset", "True")["iou"].keys() == {
        *CLASSES
    }


def test_labels_of_sbd_can_be_pickled_and_name_their_file(voc):
    add_sbd(voc / "SBD", **SBD_LISTS)
    dataset = create_dataset("voc-aug", voc, "train", reading=Reading(subset=True))
    item = dataset.items[2]
    assert item.name == "2008_000002"
    assert item.label.files == (str(voc / "SBD/cls/2008_000002.mat"),)
    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(again.read(2)[1].numpy(), drawn(ADDED)["2008_000002"])


def test_segmentation_class_aug_goes_before_sbd(voc):
    add_aug(voc, void=True)
    add_sbd(voc / "SBD", **SBD_LISTS)
    assert same(labels_of("voc-aug", voc), expected_aug(True))
    notes = notes_of("voc-aug", voc)
    assert (
        f"SegmentationClassAug and {voc / 'SBD'} are both there; the added labels are from the first" in notes
    )


def test_without_added_labels(voc):
    message = refusal("voc-aug", voc)
    assert "has no folder SegmentationClassAug, and no SBD release" in message
    assert "or use --dataset voc" in message


def test_the_other_training_list_is_refused(voc):
    """Trap 19: 11,127 images are another list, which leaves out seg11valid only."""
    add_aug(voc)
    path = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"
    write_lines(voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", [f"v{i}" for i in range(1449)])
    write_lines(path, [f"t{number}" for number in range(11127)])
    message = refusal("voc-aug", voc, subset=None)
    assert message.startswith(f"{path} gives 11127 images for train, and the published set has 10582; ")
    assert (
        "10582 images, which is VOC train and SBD without VOC 2012's val, and 11127, which leaves out"
        in message
    )
    assert "seg11valid" in message
    assert "--subset" in message


def test_training_images_of_the_validation_split_are_refused(voc):
    add_aug(voc)
    path = voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt"
    write_lines(path, [*TRAIN, *ADDED, "2007_000042"])
    message = refusal("voc-aug", voc)
    assert f"{path} names 1 image(s) of VOC's validation split (2007_000042)" in message


def test_counts_of_the_augmented_set(voc):
    add_sbd(voc / "SBD", **SBD_LISTS)
    write_lines(voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", [f"v{i}" for i in range(1449)])
    message = refusal("voc-aug", voc, subset=None)
    assert f"VOC's train.txt with {voc / 'SBD/train.txt'} and {voc / 'SBD/val.txt'}" in message
    assert "gives 7 images for train, and the published set has 10582" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not hold the struct GTcls"),
        (b"MATLAB 5.0 MAT-file, cut short", "does not hold the struct GTcls"),
        ({"GTinst": {"Segmentation": np.zeros(SIZE, np.uint8)}}, "does not hold the struct GTcls"),
        ({"GTcls": {"Categories": 1}}, "does not hold the struct GTcls"),
        ({"GTcls": {"Segmentation": "text"}}, "does not hold the struct GTcls"),
        ({"GTcls": {"Segmentation": np.full(SIZE, 0.5)}}, "type float64, and SBD has one whole number"),
        ({"GTcls": {"Segmentation": np.full((*SIZE, 2), 1)}}, "of shape (24, 32, 2)"),
        (
            {"GTcls": {"Segmentation": np.full(SIZE, -1, np.int16)}},
            "type int16, and SBD has one whole number",
        ),
        (
            {"GTcls": {"Segmentation": np.full(SIZE, 21, np.uint8)}},
            "holds label value(s) 21 which VOC does not",
        ),
        ({"GTcls": {"Segmentation": np.zeros((32, 24), np.uint8)}}, "is 24x32, its image"),
    ],
)
def test_damaged_mat_files(voc, content, words):
    add_sbd(voc / "SBD", **SBD_LISTS)
    path = voc / "SBD/cls/2009_000001.mat"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        scipy.io.savemat(path, content)
    message = refusal("voc-aug", voc)
    assert message.startswith(f"{path} ")
    assert words in message


# Numbers of classes in the authors' order and in that of PASCAL in Detail, from the two lists.
AUTHORS = {
    "background": 0,
    "aeroplane": 1,
    "bicycle": 2,
    "diningtable": 11,
    "curtain": 42,
    "bedcloth": 52,
    "wood": 59,
}
DETAIL = {
    "background": 0,
    "aeroplane": 1,
    "bicycle": 6,
    "diningtable": 50,
    "curtain": 22,
    "bedcloth": 4,
    "wood": 59,
}
SCENES = {
    "train": {
        "2008_000002": ("background", "bicycle", "curtain", "wood"),
        "2008_000003": ("bedcloth", "aeroplane", "background", "bicycle"),
    },
    "val": {"2008_000008": ("background", "diningtable", "bedcloth", "aeroplane")},
}


def context_labels(split: str, numbers: dict[str, int]) -> dict[str, np.ndarray]:
    return {
        name: regions([numbers[it] for it in names], seed)
        for seed, (name, names) in enumerate(SCENES[split].items())
    }


def make_context(
    root, numbers: dict[str, int], folder="SegmentationClassContext", lists="ImageSets/SegmentationContext"
):
    base = root / "VOCdevkit" / "VOC2010"
    for split in SCENES:
        write_lines(base / lists / f"{split}.txt", [*SCENES[split]])
        for seed, (name, label) in enumerate(context_labels(split, numbers).items()):
            write_image(base / "JPEGImages" / f"{name}.jpg", seed)
            write_label(base / folder / f"{name}.png", label)
    return root


def names_of(order: str) -> list[str]:
    """The 59 names of one of the two lists of the package."""
    return [line.split(": ")[1] for line in ORDERS[order].read_text().splitlines()][1:]


def test_the_two_orders_of_context():
    """Trap 6: two orders of the same classes; the lists are copied, and only one is alphabetical."""
    authors, detail = names_of("the authors'"), names_of("that of PASCAL in Detail")
    assert len(authors) == len(detail) == 59
    assert detail == sorted(detail)
    assert authors[:20] == list(CLASSES[1:])
    assert authors[20:] != sorted(authors[20:])
    same_name = {"diningtable": "table", "clothes": "cloth", "bedcloth": "bedclothes"}
    assert sorted(same_name.get(name, name) for name in authors) == detail
    assert [name for name in AUTHORS if canonical_classes().index(name) != AUTHORS[name]] == []
    numbers = {name: detail.index(same_name.get(name, name)) + 1 for name in AUTHORS if name != "background"}
    assert {"background": 0} | numbers == DETAIL


@pytest.mark.parametrize("folder", ["SegmentationClassContext", "59_context_labels"])
@pytest.mark.parametrize("lists", ["ImageSets/SegmentationContext", "ImageSets/Main", "."])
@pytest.mark.parametrize(
    ("order", "numbers"), [("the authors'", AUTHORS), ("that of PASCAL in Detail", DETAIL)]
)
def test_both_orders_give_the_same_classes(tmp_path, folder, lists, order, numbers):
    root = make_context(tmp_path, numbers, folder, lists)
    path = root / "VOCdevkit/VOC2010/59_labels.txt"
    write_lines(path, [f"{number}: {name}" for number, name in enumerate(names_of(order), start=1)])
    for split in SCENES:
        for inside in ("", "VOCdevkit", "VOCdevkit/VOC2010"):
            assert same(labels_of("context", root / inside, split), context_labels(split, AUTHORS))
    assert f"numbered in {order} order, as {path} lists the classes" in notes_of("context", root)


@pytest.mark.parametrize("numbers", [AUTHORS, DETAIL])
def test_context_without_a_class_list_is_refused(tmp_path, numbers):
    root = make_context(tmp_path, numbers)
    message = refusal("context", root)
    assert "can be numbered in two ways, which the labels do not show" in message
    for path in ORDERS.values():
        assert str(path) in message
    assert "--class-list" in message
    given = labels_of("context", root, class_list=[*ORDERS.values()][numbers is DETAIL])
    assert same(given, context_labels("train", AUTHORS))


def test_context_trains(tmp_path):
    root = make_context(tmp_path, DETAIL)
    options = ("--subset", "True", "--class-list", str(ORDERS["that of PASCAL in Detail"]))
    assert train_and_evaluate("context", root, tmp_path / "run", *options)["iou"].keys() == {
        *canonical_classes()
    }


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("classes.txt", lambda names: names),
        ("classes.txt", lambda names: ["background", *names]),
        ("classes-59.txt", lambda names: [f"{n}: {name}" for n, name in enumerate(["background", *names])]),
        ("classes.txt", lambda names: [name.replace("diningtable", "Dining table") for name in names]),
        (
            "59_labels.txt",
            lambda names: [{"clothes": "cloth", "bedcloth": "bedclothes"}.get(it, it) for it in names],
        ),
    ],
)
def test_forms_of_the_class_list(tmp_path, name, lines):
    root = make_context(tmp_path, AUTHORS)
    write_lines(root / "VOCdevkit/VOC2010" / name, lines(names_of("the authors'")))
    assert same(labels_of("context", root), context_labels("train", AUTHORS))


def test_class_lists_that_have_neither_order(tmp_path):
    root = make_context(tmp_path, AUTHORS)
    names = names_of("the authors'")
    path = tmp_path / "list.txt"
    write_lines(path, [*names[:40], *sorted(names[40:])])
    message = refusal("context", root, class_list=path)
    assert f"{path} has 'bedcloth' as class 41, where the authors' order has 'mouse'" in message
    write_lines(path, names[:-1])
    assert f"{path} names 59 classes with background, and Pascal Context has 60" in refusal(
        "context", root, class_list=path
    )
    write_lines(path, [f"{number}: {name}" for number, name in enumerate(names)])
    message = refusal("context", root, class_list=path)
    assert "has '0: aeroplane' on line 1, and the labels of Pascal Context hold 1 for that class" in message
    assert "cannot be read" in refusal("context", root, class_list=tmp_path / "nowhere.txt")
    write_lines(root / "classes.txt", names)
    write_lines(root / "VOCdevkit/classes.txt", names_of("that of PASCAL in Detail"))
    assert "the class lists have different orders" in refusal("context", root)
    assert same(labels_of("context", root, class_list=root / "classes.txt"), context_labels("train", AUTHORS))


def test_what_is_known_of_context_changes_with_the_order(tmp_path):
    root = make_context(tmp_path, AUTHORS)
    keys = set()
    for order in ORDERS:
        write_lines(root / "classes.txt", names_of(order))
        keys.add(create_dataset("context", root, "train", reading=Reading(subset=True)).reading_key())
    assert len(keys) == 2


def test_labels_whose_background_was_removed_are_refused(tmp_path):
    root = make_context(tmp_path, AUTHORS)
    write_lines(root / "classes.txt", names_of("the authors'"))
    path = root / "VOCdevkit/VOC2010/SegmentationClassContext/2008_000003.png"
    write_label(path, regions((0, 58, 255)))
    assert f"{path} holds label value(s) 255 which the 60 classes of Pascal Context do not have" in refusal(
        "context", root
    )
    write_label(path, np.zeros((*SIZE, 3), np.uint8))
    assert f"{path} has mode RGB, and the labels of this set are grey or palette PNGs" in refusal(
        "context", root
    )


@pytest.mark.parametrize(("split", "found", "published"), [("train", 2, "4998"), ("val", 1, "5105")])
def test_context_counts(tmp_path, split, found, published):
    root = make_context(tmp_path, AUTHORS)
    write_lines(root / "classes.txt", names_of("the authors'"))
    source = root / f"VOCdevkit/VOC2010/ImageSets/SegmentationContext/{split}.txt"
    message = refusal("context", root, split, subset=None)
    assert message.startswith(
        f"{source} gives {found} images for {split}, and the published set has {published}"
    )
    assert "--subset" in message


def test_parts_of_context_that_are_missing(tmp_path):
    root = make_context(tmp_path, AUTHORS)
    write_lines(root / "classes.txt", names_of("the authors'"))
    base = root / "VOCdevkit/VOC2010"
    (base / "JPEGImages/2008_000008.jpg").unlink()
    assert "JPEGImages lacks 1 of them (2008_000008)" in refusal("context", root, "val")
    shutil.rmtree(base / "ImageSets")
    assert "ImageSets/SegmentationContext/train.txt is missing" in refusal("context", root)
    shutil.rmtree(base / "SegmentationClassContext")
    assert "holds no folder SegmentationClassContext or 59_context_labels" in refusal("context", root)
    shutil.rmtree(base / "JPEGImages")
    assert "holds no folder JPEGImages" in refusal("context", root)
