import numpy as np
import pytest
import torch
from PIL import Image

from difnet import create_model, save_model
from difnet.explain import explain, heat_map, main, node_of

PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("difnet18", 3, walk_sources=(0, 4)).eval()


@pytest.fixture
def arguments(model, tmp_path):
    save_model(
        model, tmp_path / "best.safetensors", metadata={"palette": PALETTE, "classes": ["a", "b", "c"]}
    )
    pixels = np.random.default_rng(0).integers(0, 256, (33, 49, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    return [
        "--checkpoint",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
        str(tmp_path / "street.png"),
        "--point",
    ]


@pytest.mark.parametrize(
    ("point", "node"), [((0, 0), 0), ((48, 0), 6), ((0, 32), 28), ((48, 32), 34), ((24, 16), 17)]
)
def test_node_of_a_pixel(point, node):
    assert node_of(point, (33, 49), (5, 7)) == node


def test_maps_are_rows_of_the_transition_matrix(model):
    image = torch.rand(3, 33, 49)
    maps, lines = explain(model, image, (30, 20))
    assert list(maps) == ["importance", "walk1", "walk2", "before", "after"]
    assert {tuple(values.shape) for values in maps.values()} == {(33, 49)}
    node = node_of((30, 20), (33, 49), (5, 7))
    with torch.no_grad():
        details = model(image[None], details=True)
        for number, (embedding, _) in enumerate(details.transitions, 1):
            transition = (embedding[0] @ embedding[0].T).softmax(-1)
            row = model.upsample(transition[node].view(1, 1, 5, 7), (33, 49))[0, 0]
            torch.testing.assert_close(maps[f"walk{number}"], row, rtol=1e-4, atol=1e-6)
    assert torch.equal(maps["after"], details.logits[0].argmax(0))
    assert torch.equal(maps["before"], model.upsample(details.seed, (33, 49))[0].argmax(0))
    assert lines[0].startswith("walk 1 (image): mu 0.500, beta 0.500")
    assert lines[1].startswith("walk 2 (block 4)")


def test_heat_map_is_brightest_where_the_row_is_largest():
    values = torch.zeros(4, 5)
    values[2, 3], values[0, 0] = 0.2, 0.1
    pixels = np.asarray(heat_map(torch.zeros(3, 4, 5), values))
    assert pixels[2, 3].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == [255, 128, 0]
    assert not pixels[3].any()


def test_command_writes_pictures(arguments, tmp_path, capsys):
    assert main([*arguments, "30,20"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        f"street.{part}.png" for part in ("importance", "walk1", "walk2", "before", "after", "all")
    }
    with Image.open(tmp_path / "out" / "street.walk2.png") as picture:
        assert picture.size == (49, 33)
    assert "pixel 30,20:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("point", "message"), [("49,0", "outside the image of width 49"), ("3", "as x,y"), ("a,b", "as x,y")]
)
def test_bad_point_is_an_error_of_one_line(arguments, capsys, point, message):
    assert main([*arguments, point]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_photographs_are_turned_by_their_exif_tag(arguments, tmp_path, capsys):
    with Image.open(tmp_path / "street.png") as picture:
        exif = picture.getexif()
        exif[0x0112] = 6  # a quarter turn
        picture.save(tmp_path / "street.png", exif=exif)
    assert main([*arguments, "20,48"]) == 0
    with Image.open(tmp_path / "out" / "street.walk1.png") as picture:
        assert picture.size == (33, 49)


def test_missing_picture_is_an_error_of_one_line(arguments, tmp_path, capsys):
    (tmp_path / "street.png").unlink()
    assert main([*arguments, "0,0"]) == 1
    assert "street.png cannot be read" in capsys.readouterr().err


def test_model_without_walks_is_an_error_of_one_line(arguments, tmp_path, capsys):
    save_model(create_model("simdeeplab18", 3), tmp_path / "best.safetensors", metadata={"palette": PALETTE})
    assert main([*arguments, "0,0"]) == 1
    assert "'simdeeplab18' has no walks to explain" in capsys.readouterr().err
