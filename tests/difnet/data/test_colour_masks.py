"""Masks whose colours mean classes: colour tables, and what is read by them in the layout of this package."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import train_and_evaluate

from difnet.data import DataError, create_dataset
from difnet.data.files.disk import read_image
from difnet.data.items.colours import ColourLabel, ColourTable, voc_colours
from difnet.data.items.item import Picture
from difnet.data.items.tables import Entry, read_table, table_of
from difnet.data.options import Reading

SKY, ROAD, LIGHT = (70, 130, 180), (128, 64, 128), (250, 170, 30)
ENTRIES = [("sky", SKY), ("wet road", ROAD), ("traffic light", LIGHT)]
CVAT = """# label:color_rgb:parts:actions
sky:70,130,180::
wet road:128,64,128:a,b:c
traffic light:250,170,30::
"""


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "text",
    [
        CVAT,
        CVAT.replace("\n", "\r\n"),
        "sky:70:130:180::\nwet road:128:64:128::\ntraffic light:250:170:30::",
        "sky:70,130,180:: # color index 0\nwet road : 128, 64, 128 ::\n\ntraffic light:250,170,30::\n",
        "70 130 180 sky\n128 64 128\twet road\n250  170 30 \t traffic light",
        "70 130 180 \"sky\"\n128 64 128 'wet road'\n250 170 30 traffic light\n",
        "name,r,g,b\nsky,70,130, 180\nwet road, 128,64,128\ntraffic light,250, 170, 30",
        '"name","r","g","b"\n"sky","70","130","180"\n"wet road",128,64,128\n"traffic light",250,170,30\n',
        " Name; Red; Green; Blue\nsky;70;130;180\nwet road;128;64;128\ntraffic light;250;170;30\n",
        "id,r,g,b,class\n7,70,130,180,sky\n8,128,64,128,wet road\n9,250,170,30,traffic light\n",
        "sky,70,130,180\nwet road,128,64,128,255\ntraffic light,250,170,30\n",
        "name\tr\tg\tb\nsky\t70\t130\t180\nwet road\t128\t64\t128\ntraffic light\t250\t170\t30\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_kinds_of_colour_tables(tmp_path, text, encoding):
    assert read_table(write(tmp_path / "table.txt", text, encoding)) == ENTRIES


def test_names_in_a_csv_may_hold_commas_and_colons(tmp_path):
    text = 'name,r,g,b\n"road, wet",1,2,3\nroad: dry,4,5,6\n1 2 3 go,7,8,9\n"road\u2028side",9,9,9\n'
    names = [name for name, _ in read_table(write(tmp_path / "table.csv", text))]
    assert names == ["road, wet", "road: dry", "1 2 3 go", "road\u2028side"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sky:70,130::\nroad:1,2,3::", "has 'sky:70,130::' on line 1, which gives no name its colour"),
        ("# x\n\nroad:side:1,2,3::\n", "has 'road:side:1,2,3::' on line 3"),
        ("sky,1,2\nroad,1,2,3", "has 'sky,1,2' on line 1"),
        ("sky,1,2,3\nroad,1,2,256", "has 'road,1,2,256' on line 2"),
        ("sky,1,2,3\nroad,1,2,-6", "numbers from 0 to 255"),
        ("name,r,g,b\nsky,1,2,3\nroad,1,2,٣", "on line 3"),
        ("1 2 3 sky\n4 5 6\n", "has '4 5 6' on line 2"),
        (",1,2,3\n", "has ',1,2,3' on line 1"),
        ("name,r,g,b\n", "names 0 colours; write one line name,r,g,b for each class"),
        ("# nothing\n", "names 0 colours"),
        ("sky,1,2,3\nroad,1,2,4\nsky,1,2,5\n", "names sky more than once; make the names distinct"),
        ("tree,1,2,3\nt\u200bree,1,2,4\n", "more than once"),
        (
            "sky:1,2,3::\nroad:::\ncar:: :\n",
            "gives no colour to road, car; write it between the first two colons",
        ),
    ],
)
def test_lines_that_are_no_colours(tmp_path, text, words):
    path = write(tmp_path / "table.txt", text)
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path} ")
    assert words in str(caught.value)


def test_table_that_cannot_be_read(tmp_path):
    path = write(tmp_path / "table.txt", "sky,1,2,3\nMüll,4,5,6\n", "latin-1")
    with pytest.raises(DataError, match=r"table.txt cannot be read .*; save the colour table as UTF-8"):
        read_table(path)
    with pytest.raises(DataError, match=r"gone\.txt does not exist; name a file with a colour table, or voc"):
        read_table(tmp_path / "gone.txt")


def test_table_without_any_colour_has_those_of_voc(tmp_path):
    table = read_table(write(tmp_path / "labelmap.txt", "background:::\nboat::hull:\ncar:::\nbus:::\n"))
    assert table == [
        ("background", (0, 0, 0)),
        ("boat", (128, 0, 0)),
        ("car", (0, 128, 0)),
        ("bus", (128, 128, 0)),
    ]
    assert voc_colours()[255] == (224, 224, 192)
    assert len(set(voc_colours())) == 256


def test_two_names_of_one_colour_are_refused(tmp_path):
    path = write(tmp_path / "labelmap.txt", "sky:1,2,3::\nroad:4,5,6::\ncar:1,2,3::\n")
    with pytest.raises(DataError, match=r"labelmap.txt gives sky, car the same colour \(1, 2, 3\), so their"):
        table_of(read_table(path), path)


def test_order_void_and_class_list():
    entries = [
        Entry(*it) for it in (("road", ROAD), ("Void", (0, 0, 0)), ("sky", SKY), ("ignore", (9, 9, 9)))
    ]
    classes, table = table_of(entries, "table")
    assert (classes, table.indices) == (["road", "sky"], (0, 255, 1, 255))
    assert table.palette.tolist() == [list(ROAD), list(SKY)]
    assert table.void_text == "Void, ignore in table"
    classes, table = table_of(entries, "table", ["sky", "Void", "road"])
    assert (classes, table.indices) == (["sky", "Void", "road"], (2, 1, 0, 255))
    assert table.palette.tolist() == [list(SKY), [0, 0, 0], list(ROAD)]
    with pytest.raises(DataError, match="table gives no colour to tree; add a line for each class"):
        table_of(entries, "table", ["sky", "tree", "road"])
    with pytest.raises(DataError, match="table has colours for road, which the class list does not name"):
        table_of(entries, "table", ["sky", "Void"])
    with pytest.raises(DataError, match="colours for 1 class"):
        table_of(entries[:2], "table")
    many = [Entry(f"c{index}", (index // 256, index % 256, 7)) for index in range(256)]
    assert table_of(many[:255], "table")[1].indices == tuple(range(255))
    with pytest.raises(DataError, match="table has colours for 256 class"):
        table_of(many, "table")


TABLE = ColourTable(
    "the table", (SKY, ROAD, LIGHT, (0, 0, 0)), (0, 1, 2, 255), ("sky", "road", "light", "void")
)
COLOURS = np.zeros((256, 3), np.uint8)
COLOURS[:3] = SKY, ROAD, LIGHT


def drawing(shift: int = 0, void: bool = True) -> np.ndarray:
    """Class indices (30, 44) without a symmetry: right is 1, a block is 2, the upper edge is void."""
    label = np.zeros((30, 44), np.uint8)
    label[:, 20 + shift :] = 1
    label[9:21, 4 + shift : 14 + shift] = 2
    if void:
        label[:2] = 255
    return label


def painted(label: np.ndarray) -> Image.Image:
    return Image.fromarray(COLOURS[label])


def read(path: Path, table: ColourTable = TABLE, *, snap: bool = False) -> np.ndarray:
    return ColourLabel(path, table, snap).read(Picture(path, (30, 44))).classes


def refusal(path: Path, table: ColourTable = TABLE, *, snap: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        read(path, table, snap=snap)
    return str(caught.value)


def test_rgb_rgba_and_palette_pictures(tmp_path):
    label = drawing()
    painted(label).save(tmp_path / "rgb.png")
    painted(label).convert("RGBA").save(tmp_path / "rgba.png")
    # The numbers of this palette picture are not those of the classes.
    numbers = np.select([label == 0, label == 1, label == 2], [7, 3, 0], 5).astype(np.uint8)
    palette = np.full((256, 3), 255, np.uint8)
    palette[[7, 3, 0, 5]] = SKY, ROAD, LIGHT, (0, 0, 0)
    picture = Image.fromarray(numbers, "P")
    picture.putpalette(palette.tobytes())
    picture.save(tmp_path / "palette.png")
    painted(label).save(tmp_path / "map.bmp")
    for path in tmp_path.iterdir():
        found = read(path)
        assert found.dtype == np.uint8
        assert np.array_equal(found, label), path


def test_colours_near_those_of_the_table(tmp_path):
    label = drawing()
    pixels = COLOURS[label]
    pixels[5, :7] = (73, 128, 180)  # 3 levels from sky
    pixels[6, :2] = (128, 64, 118)  # 10 levels from road
    pixels[7, 0] = (255, 255, 255)
    pixels[8, 0] = (0, 0, 1)
    Image.fromarray(pixels).save(tmp_path / "edges.png")
    message = refusal(tmp_path / "edges.png")
    assert message.startswith(
        f"{tmp_path / 'edges.png'}: 11 of 1320 pixels (0.83 %) have 4 colour(s) that are not in the table "
        "((73, 128, 180) 7 times, 3 levels from sky; (128, 64, 118) 2 times, 10 levels from road; "
        "(0, 0, 1) 1 times, 1 levels from void); "
    )
    assert "give --snap-colours to take the nearest colour" in message
    expected = label.copy()
    expected[6, :2] = 1
    expected[7, 0] = 0  # (255, 255, 255) is nearer to sky than to light
    expected[8, 0] = 255
    assert np.array_equal(read(tmp_path / "edges.png", snap=True), expected)


@pytest.mark.parametrize(
    "text",
    [
        "#light:250,170,30::\nsky:70,130,180::\nroad:128,64,128::",
        "sky,70,130,180\nroad,128,64,128\n#light,250,170,30",
    ],
)
def test_a_name_that_begins_with_a_number_sign_is_no_class(tmp_path, text):
    """The line is a comment, and the pixels of its colour show that something is missing."""
    path = write(tmp_path / "labelmap.txt", text)
    classes, table = table_of(read_table(path), path)
    assert classes == ["sky", "road"]
    painted(drawing(void=False)).save(tmp_path / "mask.png")
    message = refusal(tmp_path / "mask.png", table)
    assert message.startswith(
        f"{tmp_path / 'mask.png'}: 120 of 1320 pixels (9.1 %) have 1 colour(s) that are "
    )
    assert f"not in {path} ((250, 170, 30) 120 times" in message


def test_the_first_colour_of_the_table_wins_a_tie(tmp_path):
    Image.fromarray(np.full((2, 3, 3), (10, 12, 10), np.uint8)).save(tmp_path / "tie.png")
    for colours in (((10, 10, 10), (10, 14, 10)), ((10, 14, 10), (10, 10, 10))):
        assert not read(tmp_path / "tie.png", ColourTable("t", colours, (0, 1), ("a", "b")), snap=True).any()


def test_jpeg_masks_need_snapping(tmp_path):
    label = drawing(void=False)
    painted(label).save(tmp_path / "mask.jpg", quality=95, subsampling=0)
    assert "levels from " in refusal(tmp_path / "mask.jpg")
    assert (read(tmp_path / "mask.jpg", snap=True) == label).mean() > 0.98


def test_masks_of_numbers_are_not_read_as_colours(tmp_path):
    """Snapping would make all of their dark pixels one class."""
    label = drawing()
    Image.fromarray(label).save(tmp_path / "numbers.png")
    for snap in (False, True):
        message = refusal(tmp_path / "numbers.png", snap=snap)
        assert (
            "is grey with the levels 0, 1, 2, 255, which are class numbers and no colours of the table"
            in message
        )
        assert "write the class names into classes.txt" in message
    table = ColourTable("t", ((0, 0, 0), (255, 255, 255)), (1, 0), ("ground", "block"))
    Image.fromarray(np.uint8(label == 2) * 255).save(tmp_path / "white.png")
    assert np.array_equal(read(tmp_path / "white.png", table), label != 2)
    Image.fromarray(np.uint8(label == 2) * 240).save(tmp_path / "light.png")
    assert np.array_equal(read(tmp_path / "light.png", table, snap=True), label != 2)


def test_transparent_and_deep_masks_are_refused(tmp_path):
    seen = painted(drawing()).convert("RGBA")
    seen.putpixel((4, 3), (*SKY, 254))
    seen.save(tmp_path / "glass.png")
    assert "is transparent in places, where it has no colour" in refusal(tmp_path / "glass.png", snap=True)
    Image.fromarray(drawing().astype(np.uint16) * 256).save(tmp_path / "deep.png")
    assert "more than 8 bits a sample" in refusal(tmp_path / "deep.png", snap=True)


def test_a_label_is_small_when_it_is_sent_to_another_process(tmp_path):
    painted(drawing()).save(tmp_path / "mask.png")
    label = ColourLabel(tmp_path / "mask.png", TABLE)
    first = label.read(Picture(tmp_path, (30, 44))).classes
    sent = pickle.dumps(label)
    assert len(sent) < 2000
    assert np.array_equal(pickle.loads(sent).read(Picture(tmp_path, (30, 44))).classes, first)


def make_folder(root: Path, ending: str = "png", **save) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for index in range(count):
            label = drawing(index)
            for kind in ("images", "labels"):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(COLOURS[label] // 2 + 60).save(root / "images" / split / f"v{index}.jpg")
            painted(label).save(root / "labels" / split / f"v{index}.{ending}", **save)
    return root


def folder(root: Path, split: str = "train", **reading):
    return create_dataset("folder", root, split, reading=Reading(**reading))


def problem(root: Path, kind: type[Exception] = DataError, **reading) -> str:
    with pytest.raises(kind) as caught:
        folder(root, **reading).check()
    return str(caught.value)


NAMED = "road:128,64,128::\nignored:0,0,0::\nlight:250,170,30::\nsky:70,130,180::\n"


def test_folder_with_labelmap(tmp_path):
    """The table alone names the classes, in its order: road, light, sky."""
    root = make_folder(tmp_path / "data")
    write(root / "labelmap.txt", NAMED)
    data = folder(root)
    assert data.classes == ["road", "light", "sky"]
    assert data.palette.tolist() == [list(ROAD), list(LIGHT), list(SKY)]
    renumbered = np.full(256, 255, np.uint8)
    renumbered[:3] = 2, 0, 1
    for index in range(3):
        assert np.array_equal(data.read(index)[1].numpy(), renumbered[drawing(index)])
    assert f"ignored in {root / 'labelmap.txt'} is void: 6.7 %" in data.check().notes[-1]
    train_and_evaluate("folder", root, tmp_path / "run")


def test_folder_with_class_dict_and_jpeg_masks(tmp_path):
    root = make_folder(tmp_path / "data", "jpg", quality=95, subsampling=0)
    write(
        root / "class_dict.csv",
        "name, r, g, b\nsky,70,130,180\nroad, 128,64,128\nlight,250, 170,30\nVoid,0,0,0",
    )
    assert "are not in" in problem(root)
    data = folder(root, snap_colours=True)
    assert data.classes == ["sky", "road", "light"]
    assert (data.read(1)[1].numpy() == drawing(1)).mean() > 0.97
    train_and_evaluate("folder", root, tmp_path / "run", "--snap-colours")


def test_folder_with_class_list_and_table(tmp_path):
    """The class list numbers the classes, the table explains the colours."""
    root = make_folder(tmp_path)
    write(root / "labelmap.txt", NAMED)
    write(root / "classes.txt", "light\nsky\nroad\n")
    data = folder(root, "val")
    renumbered = np.full(256, 255, np.uint8)
    renumbered[:3] = 1, 2, 0
    assert np.array_equal(data.read(1)[1].numpy(), renumbered[drawing(1)])
    write(root / "classes.txt", "light\nsky\n")
    assert "has colours for road, which the class list does not name" in problem(root)


def test_folder_with_colours_of_voc(tmp_path):
    root = make_folder(tmp_path)
    write(root / "classes.txt", "background\naeroplane\nbicycle\n")
    for path in root.glob("labels/*/*.png"):
        pixels = np.asarray(Image.open(path))
        label = np.full((30, 44), 255, np.uint8)
        for index in range(3):
            label[(pixels == COLOURS[index]).all(-1)] = index
        mask = Image.fromarray(label)
        mask.putpalette(np.array(voc_colours(), np.uint8).tobytes())
        mask.convert("RGB").save(path)
    assert "label is a palette or grey PNG" in problem(root)
    data = folder(root, colours="voc")
    assert np.array_equal(data.read(2)[1].numpy(), drawing(2))
    assert data.palette.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert "void in VOC's colours is void: 6.7 %" in data.check().notes[-1]
    (root / "classes.txt").unlink()
    assert "--colours voc takes the names of the classes from classes.txt" in problem(root, colours="voc")


def test_folder_with_a_table_elsewhere(tmp_path):
    """Palette pictures count by their colours if --colours asks for it, else by their numbers."""
    root = make_folder(tmp_path / "data")
    write(root / "classes.txt", "sky\nroad\nlight\n")
    table = write(tmp_path / "table.csv", "light,250,170,30\nsky,70,130,180\nvoid,0,0,0\nroad,128,64,128\n")
    for path in root.glob("labels/*/*.png"):
        numbers = Image.open(path).quantize(4)
        numbers.save(path)
    assert Image.open(root / "labels/train/v0.png").mode == "P"
    data = folder(root, colours=str(table))
    assert np.array_equal(data.read(1)[1].numpy(), drawing(1))
    missing = tmp_path / "vox"
    assert problem(root, colours=str(missing)).startswith(f"{missing} does not exist")


def test_other_files_beside_masks_of_numbers_are_not_read(tmp_path):
    root = make_folder(tmp_path)
    write(root / "classes.txt", "sky\nroad\nlight\n")
    write(root / "classes.csv", "id,label\n0,sky\n1,road\n2,light\n")
    for path in root.glob("labels/*/*.png"):
        Image.fromarray(drawing(int(path.stem[1]))).save(path)
    assert np.array_equal(folder(root).read(2)[1].numpy(), drawing(2))
    painted(drawing()).save(root / "labels/train/v0.png")
    assert f"{root / 'classes.csv'} has 'id,label' on line 1" in problem(root)


def test_table_alone_and_masks_of_numbers(tmp_path):
    """Whether the numbers would count from the first class or the first line is not known."""
    root = make_folder(tmp_path)
    write(root / "class_dict.csv", "Void,0,0,0\nsky,70,130,180\nroad,128,64,128\nlight,250,170,30\n")
    Image.fromarray(drawing()).save(root / "labels/train/v1.png")
    assert "v1.png is grey with the levels 0, 1, 2, 255, which are class numbers" in problem(root)


@pytest.mark.parametrize(("option", "value"), [("void_value", (0,)), ("label_offset", 1)])
def test_numbers_of_classes_are_no_option_for_colours(tmp_path, option, value):
    root = make_folder(tmp_path)
    write(root / "labelmap.txt", NAMED)
    message = problem(root, ValueError, **{option: value})
    start = f"--{option.replace('_', '-')} is for masks of numbers, and not for masks that are read by colour"
    assert message.startswith(start)


def test_a_changed_table_changes_what_is_known_of_an_item(tmp_path):
    root = make_folder(tmp_path)
    write(root / "labelmap.txt", NAMED)
    before = folder(root).stamp(0)
    assert folder(root).stamp(0) == before
    write(root / "labelmap.txt", NAMED + "\n# one line more\n")
    assert folder(root).stamp(0) != before


def test_images_of_the_tests_differ_from_their_masks(tmp_path):
    """Otherwise a label that is read from the image would pass."""
    root = make_folder(tmp_path)
    image = read_image(root / "images/train/v0.jpg").permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - COLOURS[drawing()]).max() > 40
