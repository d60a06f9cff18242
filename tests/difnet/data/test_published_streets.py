"""CamVid's copies, Cityscapes and ADE20K, in miniature."""

import shutil
from pathlib import Path

import numpy as np
import pytest
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

FRAMES = {
    "train": {"0001TP_006690": (0, 3, 10, 11), "0006R0_f00930": (1, 8, 3, 0)},
    "val": {"0016E5_07959": (3, 0, 8, 11), "0016E5_07961": (1, 5, 11)},
}


def frames(split: str) -> dict[str, np.ndarray]:
    """Labels with SegNet's numbers: 11 is void."""
    return {name: regions(numbers, seed) for seed, (name, numbers) in enumerate(FRAMES[split].items())}


def with_void(labels: dict[str, np.ndarray], stored: int) -> dict[str, np.ndarray]:
    return {name: np.where(label == stored, 255, label).astype(np.uint8) for name, label in labels.items()}


def make_segnet(root, void: int = 11):
    for split in FRAMES:
        for seed, (name, label) in enumerate(frames(split).items()):
            write_image(root / split / f"{name}.png", seed)
            label = np.where(label == 11, void, label).astype(np.uint8)
            write_label(root / f"{split}annot" / f"{name}.png", label)
    return root


@pytest.mark.parametrize("void", [11, 255])
@pytest.mark.parametrize("inside", ["", "CamVid"])
def test_segnet_copy_of_camvid(tmp_path, void, inside):
    """Trap 18: void is 11 in SegNet's copy and 255 in another."""
    make_segnet(tmp_path / inside, void)
    for split in FRAMES:
        assert same(labels_of("camvid", tmp_path, split), with_void(frames(split), 11))
    dataset = create_dataset("camvid", tmp_path, "train", reading=Reading(subset=True))
    assert len(dataset.classes) == 11
    assert (dataset.classes[3], dataset.classes[10]) == ("road", "bicyclist")
    assert dataset.palette[3].tolist() == [128, 64, 128]
    assert "; 11, 255 are void: " in " ".join(dataset.check().notes)


def test_segnet_copy_trains(tmp_path):
    root = make_segnet(tmp_path / "data")
    record = train_and_evaluate("camvid", root, tmp_path / "run", "--subset", "True")
    assert len(record["iou"]) == 11


@pytest.mark.parametrize(
    "text",
    [
        "/SegNet/CamVid/train/{0}.png /SegNet/CamVid/trainannot/{0}.png\n",
        "/SegNet/CamVid/train/{0}.png /SegNet/CamVid/trainannot/{0}.png ",
        "{0}.png\n",
        "{0}\n",
        "C:\\data\\train\\{0}.png C:\\data\\trainannot\\{0}.png\r\n",
    ],
)
def test_lists_with_paths_of_another_machine(tmp_path, text):
    root = make_segnet(tmp_path)
    (root / "train.txt").write_text("".join(text.format(name) for name in FRAMES["train"]))
    assert same(labels_of("camvid", root), with_void(frames("train"), 11))
    (root / "train.txt").write_text(text.format("0006R0_f00930"))
    assert [*labels_of("camvid", root)] == ["0006R0_f00930"]
    assert f"train.txt does not name 1 image(s) of {root / 'train'}: 0001TP_006690" in notes_of(
        "camvid", root
    )


def test_lists_of_camvid_that_do_not_fit(tmp_path):
    root = make_segnet(tmp_path)
    (root / "train.txt").write_text("a.png b.png c.png\n")
    assert "train.txt has 3 fields on line 1" in refusal("camvid", root)
    write_lines(root / "train.txt", ["0001TP_006690.png", "0001TP_000001.png"])
    assert "train.txt names 2 images, and " in (message := refusal("camvid", root))
    assert f"{root / 'train'} lacks 1 of them (0001TP_000001)" in message
    (root / "train.txt").unlink()
    (root / "trainannot/0001TP_006690.png").unlink()
    assert f"image {root / 'train/0001TP_006690.png'} has no label" in refusal("camvid", root)


def test_numbers_that_segnet_does_not_have(tmp_path):
    root = make_segnet(tmp_path)
    path = write_label(root / "valannot/0016E5_07961.png", regions((1, 12, 11)))
    assert f"{path} holds label value(s) 12 which SegNet's labels of CamVid do not have" in refusal(
        "camvid", root, "val"
    )


# The original colours with the class of the eleven, typed from class_dict.csv and lih627/CamVid's README.
MERGED = {
    (128, 128, 128): 0,
    **dict.fromkeys([(0, 128, 64), (128, 0, 0), (64, 192, 0), (64, 0, 64), (192, 0, 128)], 1),
    **dict.fromkeys([(192, 192, 128), (0, 0, 64)], 2),
    **dict.fromkeys([(128, 64, 128), (128, 0, 192), (192, 0, 64)], 3),
    **dict.fromkeys([(0, 0, 192), (64, 192, 128), (128, 128, 192)], 4),
    **dict.fromkeys([(128, 128, 0), (192, 192, 0)], 5),
    **dict.fromkeys([(192, 128, 128), (128, 128, 64), (0, 64, 64)], 6),
    (64, 64, 128): 7,
    **dict.fromkeys([(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)], 8),
    **dict.fromkeys([(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)], 9),
    **dict.fromkeys([(0, 128, 192), (192, 0, 192)], 10),
    (0, 0, 0): 255,
}
COLOURS = np.array([*MERGED], np.uint8)
CSV = """name,r,g,b
Bicyclist,0,128, 192
Bridge,0, 128, 64
Building,128, 0, 0
SUVPickupTruck,64, 128,192
MotorcycleScooter,192, 0, 192
Void,0, 0, 0
Wall,64, 192, 0"""


def original(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours that all occur, and the eleven classes."""
    places = (
        np.random.default_rng(seed).permutation(np.arange(SIZE[0] * SIZE[1]) % len(COLOURS)).reshape(SIZE)
    )
    return COLOURS[places], np.array([*MERGED.values()], np.uint8)[places]


def make_suite(root):
    """The layout of the Semantic Segmentation Suite, and of Kaggle."""
    for split in FRAMES:
        for seed, name in enumerate(FRAMES[split]):
            write_image(root / split / f"{name}.png", seed)
            write_label(root / f"{split}_labels" / f"{name}_L.png", original(seed)[0])
    (root / "class_dict.csv").write_text(CSV)
    return root


def make_original(root, images="701_StillsRaw_full", labels="LabeledApproved_full"):
    """The original download, in which all frames are in one folder."""
    for split in FRAMES:
        for seed, name in enumerate(FRAMES[split]):
            write_image(root / images / f"{name}.png", seed)
            write_label(root / labels / f"{name}_L.png", original(seed)[0])
    return root


def merged(split: str) -> dict[str, np.ndarray]:
    return {name: original(seed)[1] for seed, name in enumerate(FRAMES[split])}


def test_colours_of_camvid_become_eleven_classes(tmp_path):
    assert len(MERGED) == 32
    root = make_suite(tmp_path)
    for split in FRAMES:
        assert same(labels_of("camvid", root, split), merged(split))
    assert notes_of("camvid", root) == ""
    notes = create_dataset("camvid", root, "train", reading=Reading(subset=True)).check().notes
    assert "; black is void: " in " ".join(notes)


def test_colours_of_camvid_train(tmp_path):
    root = make_suite(tmp_path / "data")
    train_and_evaluate("camvid", root, tmp_path / "run", "--subset", "True")


@pytest.mark.parametrize("name", ["MotorcycleScooter", "MotorcycycleScooter"])
def test_both_spellings_and_orders_of_the_table(tmp_path, name):
    """Trap 18: blanks after some commas, two spellings, and Void first or next to last change nothing."""
    root = make_suite(tmp_path)
    lines = ["Void,0,0,0", *CSV.replace("MotorcycleScooter", name).splitlines()[1:5], f"{name},192, 0, 192"]
    write_lines(root / "class_dict.csv", ["name,r,g,b", *lines])
    assert same(labels_of("camvid", root), merged("train"))
    (root / "class_dict.csv").unlink()
    write_lines(root / "label_colors.txt", ["0 0 0\t\tVoid", f"192 0 192\t{name}"])
    assert same(labels_of("camvid", root), merged("train"))


def test_tables_that_are_not_that_of_camvid(tmp_path):
    root = make_suite(tmp_path)
    path = root / "class_dict.csv"
    path.write_text(CSV.replace("0,128, 192", "0,128,92"))
    assert f"{path} has colours that CamVid does not have (Bicyclist (0, 128, 92))" in notes_of(
        "camvid", root
    )
    assert same(labels_of("camvid", root), merged("train"))
    path.write_text("name,r,g,b\nRoad,64,0,128\n")
    assert "calls the colour (64, 0, 128) Road, and it is Car in CamVid" in refusal("camvid", root)


def test_colours_that_are_not_in_the_list(tmp_path):
    """Trap 18: Seq05VD_f02610_L.png has blended colours."""
    root = make_suite(tmp_path)
    colours, expected = original(0)
    colours[2, 5:9] = (128, 128, 77)  # nearest: (128, 128, 64), Misc_Text
    expected[2, 5:9] = 6
    path = write_label(root / "train_labels/0001TP_006690_L.png", colours)
    message = refusal("camvid", root)
    assert message.startswith(
        f"{path}: 4 of 768 pixels (0.52 %) have 1 colour(s) that are not in CamVid's 32 colours"
    )
    assert "--snap-colours" in message
    assert same(labels_of("camvid", root, snap_colours=True), merged("train") | {"0001TP_006690": expected})


@pytest.mark.parametrize(
    "form", ["/SegNet/CamVid/{1}/{0}.png /SegNet/CamVid/{1}annot/{0}.png", "{0}.png", "{0}"]
)
def test_original_download_with_lists(tmp_path, form):
    root = make_original(tmp_path)
    for split in FRAMES:
        write_lines(root / f"{split}.txt", [form.format(name, split) for name in FRAMES[split]])
    for split in FRAMES:
        assert same(labels_of("camvid", root, split), merged(split))


def test_original_download_trains(tmp_path):
    root = make_original(tmp_path / "data")
    for split in FRAMES:
        write_lines(root / f"{split}.txt", [*FRAMES[split]])
    train_and_evaluate("camvid", root, tmp_path / "run", "--subset", "True")


def test_original_download_without_lists_is_refused(tmp_path):
    root = make_original(tmp_path)
    message = refusal("camvid", root)
    assert (
        f"{root} does not say which frames of 701_StillsRaw_full belong to train: {root / 'train.txt'} is"
        in message
    )
    assert "put SegNet's train.txt and val.txt there" in message


def test_the_copy_with_its_own_lists_of_grey_labels(tmp_path):
    for split in FRAMES:
        for seed, (name, label) in enumerate(frames(split).items()):
            write_image(tmp_path / "CamVid_RGB" / f"{name}.png", seed)
            write_label(tmp_path / "CamVidGray" / f"{name}_L.png", with_void({name: label}, 11)[name])
        lines = [f"CamVid_RGB/{name}.png CamVidGray/{name}_L.png" for name in FRAMES[split]]
        write_lines(tmp_path / f"camvid_{split}.txt", lines)
    for split in FRAMES:
        assert same(labels_of("camvid", tmp_path, split), with_void(frames(split), 11))


def test_two_labels_of_one_frame(tmp_path):
    root = make_suite(tmp_path)
    write_label(root / "train_labels/0001TP_006690.png", original(0)[0])
    assert "are labels of one image; keep one of them" in refusal("camvid", root)


def test_layout_of_this_package_is_counted_too(data_root):
    classes = "sky building pole road pavement tree sign_symbol fence car pedestrian bicyclist"
    (data_root / "classes.txt").write_text(classes.replace(" ", "\n"))
    assert len(create_dataset("camvid", data_root, "train", reading=Reading(subset=True))) == 8
    message = refusal("camvid", data_root, subset=None)
    assert message.startswith(
        f"{data_root / 'images/train'} gives 8 images for train, and the published set has 367;"
    )


@pytest.mark.parametrize("make", [make_segnet, make_suite])
@pytest.mark.parametrize(("split", "published"), [("train", 367), ("val", 101)])
def test_camvid_counts(tmp_path, make, split, published):
    root = make(tmp_path)
    message = refusal("camvid", root, split, subset=None)
    assert message.startswith(
        f"{root / split} gives 2 images for {split}, and the published set has {published}; "
    )
    assert "--subset" in message


def test_a_folder_without_camvid(tmp_path):
    assert f"{tmp_path} holds no copy of CamVid; the data are read from images/train" in refusal(
        "camvid", tmp_path
    )


# Official numbers with their class: road 7, building 11, pole 17, polegroup 18, train 31, bicycle 33.
TRAIN_IDS = {7: 0, 11: 2, 17: 5, 18: 255, 31: 16, 33: 18, 3: 255, 0: 255, 30: 255}
STREETS = {
    "train": {"aachen/aachen_000000_000019": (7, 17, 18, 3), "ulm/ulm_000001_000019": (33, 7, 31, 0)},
    "val": {"munster/munster_000000_000019": (11, 7, 30, 3)},
}


def make_cityscapes(root, kinds=("labelIds",)):
    for split in STREETS:
        for seed, (name, numbers) in enumerate(STREETS[split].items()):
            write_image(root / "leftImg8bit" / split / f"{name}_leftImg8bit.png", seed)
            ids = regions(numbers, seed)
            for kind in kinds:
                label = {
                    "labelIds": lambda ids=ids: ids,
                    "labelTrainIds": lambda ids=ids: np.vectorize(TRAIN_IDS.get)(ids).astype(np.uint8),
                    "color": lambda ids=ids: np.dstack([ids, ids, ids, np.full_like(ids, 255)]),
                    "instanceIds": lambda ids=ids: ids.astype(np.uint16) * 1000,
                }[kind]()
                write_label(root / "gtFine" / split / f"{name}_gtFine_{kind}.png", label)
            write_lines(root / "gtFine" / split / f"{name}_gtFine_polygons.json", ["{}"])
    return root


def cities(split: str) -> dict[str, np.ndarray]:
    return {
        f"{name}_leftImg8bit": np.vectorize(TRAIN_IDS.get)(regions(numbers, seed)).astype(np.uint8)
        for seed, (name, numbers) in enumerate(STREETS[split].items())
    }


@pytest.mark.parametrize(
    "kinds",
    [
        ("labelIds", "color", "instanceIds"),
        ("labelIds", "labelTrainIds"),
        ("labelTrainIds", "color"),
    ],
)
def test_cityscapes(tmp_path, kinds):
    root = make_cityscapes(tmp_path, kinds)
    for split in STREETS:
        assert same(labels_of("cityscapes", root, split), cities(split))
    dataset = create_dataset("cityscapes", root, "train", reading=Reading(subset=True))
    assert len(dataset.classes) == 19
    assert (dataset.classes[5], dataset.classes[16], dataset.classes[18]) == ("pole", "train", "bicycle")
    assert dataset.palette[18].tolist() == [119, 11, 32]
    endings = {Path(item.label.files[0]).stem.rpartition("_")[2] for item in dataset.items}
    assert endings == {kinds[0]}
    assert ("2 labels are labelTrainIds" in notes_of("cityscapes", root)) == (kinds[0] == "labelTrainIds")


def test_cityscapes_trains(tmp_path):
    root = make_cityscapes(tmp_path / "data")
    record = train_and_evaluate("cityscapes", root, tmp_path / "run", "--subset", "True")
    assert len(record["iou"]) == 19


def test_colours_of_cityscapes_alone_are_refused(tmp_path):
    """Trap 14: the colours cannot be turned into classes."""
    root = make_cityscapes(tmp_path, ("color", "instanceIds"))
    message = refusal("cityscapes", root)
    assert "has only _gtFine_color.png for 2 of 2 images (aachen/aachen_000000_000019" in message
    assert "its colours do not tell the classes apart (pole and polegroup" in message
    assert "add _gtFine_labelIds.png from the archive gtFine_trainvaltest" in message


@pytest.mark.parametrize(
    "sign", ["label_colors.txt", "dataset_meta.json", "gtFine/label_colors.txt", "gtFine/dataset_meta.json"]
)
def test_exports_that_are_called_cityscapes_are_refused(tmp_path, sign):
    """Trap 14: the numbers of an annotation tool's export are positions in its own list."""
    root = make_cityscapes(tmp_path)
    write_lines(root / sign, ["0 0 0 background", "128 64 128 road"])
    message = refusal("cityscapes", root)
    assert message.startswith(f"{root / sign} shows that this is an annotation tool's export")
    assert "export it as 'Segmentation mask 1.1' and use --dataset folder" in message


def test_numbers_that_cityscapes_does_not_have(tmp_path):
    root = make_cityscapes(tmp_path)
    path = write_label(
        root / "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png", regions((7, 34, 0))
    )
    assert f"{path} holds label value(s) 34 which labelIds of Cityscapes do not have" in refusal(
        "cityscapes", root, "val"
    )
    path.unlink()
    path = path.with_name("munster_000000_000019_gtFine_labelTrainIds.png")
    write_label(path, regions((7, 19, 255)))
    assert f"{path} holds label value(s) 19 which labelTrainIds of Cityscapes do not have" in refusal(
        "cityscapes", root, "val"
    )


def test_parts_of_cityscapes_that_are_missing(tmp_path):
    root = make_cityscapes(tmp_path)
    label = root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"
    label.unlink()
    assert "for 1 of 2 images (ulm/ulm_000001_000019)" in refusal("cityscapes", root)
    (root / "leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png").unlink()
    write_label(label, regions((7, 11, 0)))
    assert "lacks the images of 1 labels" in refusal("cityscapes", root)
    shutil.rmtree(root / "gtFine/val")
    assert f"folder {root / 'gtFine/val'} is missing; the data are read from" in refusal(
        "cityscapes", root, "val"
    )


@pytest.mark.parametrize(("split", "found", "published"), [("train", 2, 2975), ("val", 1, 500)])
def test_cityscapes_counts(tmp_path, split, found, published):
    root = make_cityscapes(tmp_path)
    message = refusal("cityscapes", root, split, subset=None)
    source = root / "leftImg8bit" / split
    assert message.startswith(
        f"{source} gives {found} images for {split}, and the published set has {published}; "
    )
    assert "--subset" in message


PARTS = {"train": "training", "val": "validation"}
ROOMS = {
    "train": {"ADE_train_00000001": (1, 150, 7, 0), "ADE_train_00000002": (12, 1, 255)},
    "val": {"ADE_val_00000001": (150, 12, 255, 0)},
}


def make_ade20k(base):
    for split, part in PARTS.items():
        for seed, (name, numbers) in enumerate(ROOMS[split].items()):
            write_image(base / "images" / part / f"{name}.jpg", seed)
            write_label(base / "annotations" / part / f"{name}.png", regions(numbers, seed))
    return base


def rooms(split: str) -> dict[str, np.ndarray]:
    """The labels by hand: 1 is class 0, 12 is class 11, 150 is class 149; 0 and 255 are void."""
    classes = {0: 255, 1: 0, 7: 6, 12: 11, 150: 149, 255: 255}
    return {
        name: np.vectorize(classes.get)(regions(numbers, seed)).astype(np.uint8)
        for seed, (name, numbers) in enumerate(ROOMS[split].items())
    }


@pytest.mark.parametrize("inside", ["", "ADEChallengeData2016"])
def test_ade20k(tmp_path, inside):
    """Trap 16: 0 is void and the rest moves down by one, but 255 stays 255."""
    make_ade20k(tmp_path / inside)
    for split in ROOMS:
        assert same(labels_of("ade20k", tmp_path, split), rooms(split))
    dataset = create_dataset("ade20k", tmp_path, "train", reading=Reading(subset=True))
    assert len(dataset.classes) == len({*dataset.classes}) == 150
    assert [dataset.classes[number - 1] for number in (1, 7, 12, 150)] == ["wall", "road", "sidewalk", "flag"]
    assert dataset.palette[[0, 149]].tolist() == [[120, 120, 120], [92, 0, 255]]
    assert "; 0, 255 are void: " in " ".join(dataset.check().notes)


def test_ade20k_trains(tmp_path):
    root = make_ade20k(tmp_path / "data")
    record = train_and_evaluate("ade20k", root, tmp_path / "run", "--subset", "True")
    assert len(record["iou"]) == 150


def test_names_of_ade20k_are_compared(tmp_path):
    root = make_ade20k(tmp_path)
    names = create_dataset("ade20k", root, "val", reading=Reading(subset=True)).classes
    lines = [f"{number}\t0.1\t5\t2\t{name}, another word " for number, name in enumerate(names, start=1)]
    path = root / "objectInfo150.txt"
    write_lines(path, ["Idx\tRatio\tTrain\tVal\tName", *lines, ""])
    assert same(labels_of("ade20k", root), rooms("train"))
    lines[5], lines[6] = lines[6].replace("7\t", "6\t", 1), lines[5].replace("6\t", "7\t", 1)
    write_lines(path, ["Idx\tRatio\tTrain\tVal\tName", *lines])
    assert f"{path} names class 6 'road', and it is 'ceiling' in ADE20K's scene parsing" in refusal(
        "ade20k", root
    )
    path.write_bytes(b"\xff\xfe\xff")
    assert f"{path} cannot be read" in refusal("ade20k", root)


@pytest.mark.parametrize(
    "label",
    [
        "images/training/a/abbey/ADE_train_00000970_seg.png",
        "ADE20K_2021_17_01/images/ADE/training/urban/street/ADE_train_00000970_seg.png",
    ],
)
def test_full_ade20k_is_refused(tmp_path, label):
    path = write_label(tmp_path / label, np.full((*SIZE, 3), (20, 30, 1), np.uint8))
    write_image(path.with_name("ADE_train_00000970.jpg"))
    message = refusal("ade20k", tmp_path)
    assert message.startswith(f"{path} belongs to the full ADE20K")
    assert "take the scene parsing archive ADEChallengeData2016" in message


def test_ade20k_that_does_not_pair_up(tmp_path):
    root = make_ade20k(tmp_path)
    path = root / "annotations/training/ADE_train_00000002.png"
    write_label(path, np.full((*SIZE, 3), 7, np.uint8))
    assert f"{path} has mode RGB, and the labels of this set are grey or palette PNGs" in refusal(
        "ade20k", root
    )
    write_label(path, regions((1, 151, 0)))
    assert "holds label value(s) 151 which ADE20K's scene parsing labels do not have" in refusal(
        "ade20k", root
    )
    path.unlink()
    assert f"image {root / 'images/training/ADE_train_00000002.jpg'} has no label" in refusal("ade20k", root)


@pytest.mark.parametrize(("split", "found", "published"), [("train", 2, 20210), ("val", 1, 2000)])
def test_ade20k_counts(tmp_path, split, found, published):
    root = make_ade20k(tmp_path)
    message = refusal("ade20k", root, split, subset=None)
    source = root / "images" / PARTS[split]
    assert message.startswith(
        f"{source} gives {found} images for {split}, and the published set has {published}; "
    )
    assert "--subset" in message


@pytest.mark.parametrize("name", ["voc", "voc-aug", "context", "cityscapes", "ade20k", "camvid"])
def test_published_sets_take_no_other_options(tmp_path, name):
    with pytest.raises(ValueError, match="--void-value is for --dataset folder"):
        create_dataset(name, tmp_path, "train", reading=Reading(void_value=(0,)))
