"""tools/diffusion_pictures.py: which pixels count as changed, which images are chosen, what is drawn."""

import json

import diffusion_pictures as pictures
import numpy as np
import pytest
import torch
from PIL import Image

from difnet import create_model, save_model
from difnet.data.base import SegmentationDataset
from difnet.data.errors import VOID
from difnet.data.sets.scenes import Scenes

GREEN, RED, GREY = (list(colour) for colour in (pictures.CORRECTED, pictures.SPOILED, pictures.OTHER))
TRUTH = torch.tensor([[0, 0, 1], [1, 2, VOID]])
BEFORE = torch.tensor([[1, 0, 1], [1, 0, 0]])
AFTER = torch.tensor([[0, 1, 1], [0, 1, 1]])
# By hand: corrected | spoiled | right twice / spoiled | wrong twice, with another label | void.


def test_corrected_pixels_are_green_and_spoiled_ones_red():
    picture = np.array(pictures.draw_changes(BEFORE, AFTER, TRUTH))
    assert picture.tolist() == [[GREEN, RED, GREY], [RED, GREY, GREY]]
    assert GREEN[1] > 2 * GREEN[0]
    assert RED[0] > 2 * RED[1]
    assert len(set(GREY)) == 1


def test_shares_are_of_the_labelled_pixels():
    found = pictures.measure_changes(BEFORE, AFTER, TRUTH)
    assert found == (3 / 5, 2 / 5, 1 / 5, 2 / 5)
    assert found.gain == pytest.approx(-1 / 5)
    assert pictures.measure_changes(BEFORE, AFTER, torch.full_like(TRUTH, VOID)) is None


def changes(*gains):
    return [None if g is None else pictures.Changes(0.5, 0.5 + g, max(g, 0.0), max(-g, 0.0)) for g in gains]


def test_largest_and_smallest_gains_are_chosen():
    found = changes(0.1, None, -0.2, 0.3, 0.0, 0.3, -0.4, 0.2)
    assert pictures.choose(found, 4) == ([3, 5], [6, 2])
    assert pictures.choose(found, 3) == ([3, 5], [6])
    assert pictures.choose(found, 1) == ([3], [])
    for count in (7, 20):
        assert pictures.choose(found, count) == ([3, 5, 7, 0], [6, 2, 4])
    assert pictures.choose(changes(0.3, 0.1, 0.2), 2) == ([0], [1])  # all gain
    with pytest.raises(ValueError, match="--count must be positive, got 0"):
        pictures.choose(found, 0)


class Drawn(torch.nn.Module):
    """A network of two classes whose seed and logits are given; the map has the image's size."""

    def __init__(self, before, after):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.before, self.after = before, after

    def forward(self, image, details):
        one_hot = (
            torch.nn.functional.one_hot(label, 3).permute(2, 0, 1)[None]
            for label in (self.before, self.after)
        )
        return type("Details", (), dict(zip(("seed", "logits"), one_hot, strict=True)))()

    def upsample(self, scores, size):
        assert tuple(scores.shape[-2:]) == size
        return scores


class OneImage(SegmentationDataset):
    classes = ["a", "b", "c"]  # noqa: RUF012
    palette = np.array([[10, 0, 0], [0, 20, 0], [0, 0, 30]], np.uint8)

    def __init__(self, name):
        self.name, self.transform = name, None

    def __len__(self):
        return 1

    def item_name(self, index):
        return "view"

    def read(self, index):
        return torch.full((3, 2, 3), 0.5), TRUTH


@pytest.mark.parametrize(
    ("dataset", "photographs", "columns"), [("folder", True, 5), ("folder", False, 4), ("camvid", False, 1)]
)
def test_panels_of_a_picture(tmp_path, monkeypatch, dataset, photographs, columns):
    monkeypatch.setattr(pictures, "LEAST_HEIGHT", 1)
    model = Drawn(BEFORE, AFTER)
    options = {"weights": "run/last.safetensors", "photographs": photographs}
    rows = pictures.write_pictures(model, OneImage(dataset), tmp_path, 2, **options)
    assert [row["file"] for row in rows] == ["most-1.png"]
    content = {"dataset": dataset, "weights": "run/last.safetensors", "pictures": rows}
    assert json.loads((tmp_path / pictures.FIGURES).read_text()) == content
    assert rows[0] == {
        **{"file": "most-1.png", "image": "view"},
        **{"before": 3 / 5, "after": 2 / 5, "corrected": 1 / 5, "spoiled": 2 / 5},
    }
    sheet = np.array(Image.open(tmp_path / "most-1.png"))
    assert sheet.shape == (2, 3 * columns + 4 * (columns - 1), 3)
    panels = [sheet[:, 7 * column : 7 * column + 3].tolist() for column in range(columns)]
    black, *labels = [[0, 0, 0], *OneImage.palette.tolist()]
    drawn = [
        [[black if c == VOID else labels[c] for c in row] for row in label.tolist()]
        for label in (TRUTH, BEFORE, AFTER)
    ]
    assert panels[-1] == [[GREEN, RED, GREY], [RED, GREY, GREY]]
    assert panels[-4:-1] == (drawn if columns > 1 else [])
    assert panels[:-4] == [[[[128] * 3] * 3] * 2] * photographs


def test_small_pictures_are_enlarged(tmp_path):
    options = {"weights": "", "photographs": False}
    pictures.write_pictures(Drawn(BEFORE, AFTER), OneImage("camvid"), tmp_path, 2, **options)
    sheet = np.array(Image.open(tmp_path / "most-1.png"))
    assert sheet.shape[0] == 2 * 179
    assert (sheet[:179, :179] == GREEN).all()


def save_network(path, classes, metadata, **options):
    """Save a network with random weights whose walks flatten the seed, which changes some labels."""
    torch.manual_seed(0)
    model = create_model("test_resnet", classes, aspp=False, **{"walk_sources": (0, 2), **options})
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in ("mu_logit", "beta_logit"):
                value.fill_(5.0)
    save_model(model, path, metadata=metadata)
    return ["--checkpoint", str(path), "--device", "cpu"]


def test_command_on_scenes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("difnet.data.sets.scenes._COUNTS", {"train": 2, "val": 3})
    arguments = save_network(tmp_path / "model.safetensors", 6, {"classes": Scenes.classes})
    arguments += ["--count", "6", "--out", str(tmp_path / "out")]
    assert pictures.main(arguments) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "out" / pictures.FIGURES).read_text())
    rows = content["pictures"]
    assert content["weights"] == f"{tmp_path.parent.name}/{tmp_path.name}/model.safetensors"
    files = [tmp_path / "out" / row["file"] for row in rows]
    assert [row["file"] for row in rows] == ["most-1.png", "most-2.png", "least-1.png"]
    gains = [row["after"] - row["before"] for row in rows]
    assert gains[0] >= gains[1] >= gains[2]
    for row, file in zip(rows, files, strict=True):
        assert row["after"] - row["before"] == pytest.approx(row["corrected"] - row["spoiled"])
        assert Image.open(file).size == (3 * (5 * 96 + 4 * 4), 3 * 96)
        assert f"{file}: {row['image']}, pixel accuracy {100 * row['before']:.2f}% before" in printed
    first = [file.read_bytes() for file in files]
    assert pictures.main(arguments) == 0
    assert [file.read_bytes() for file in files] == first


@pytest.mark.parametrize(
    ("classes", "network", "options", "message"),
    [
        (6, {"walk_sources": None}, [], "has no walks; choose a difnet with walks"),
        (3, {}, [], "--dataset scenes has 6 classes (sky, ground, disc, square, triangle, ring)"),
        (6, {}, ["--count", "-1"], "--count must be positive, got -1"),
        (6, {}, ["--dataset", "camvid"], "data set 'camvid' needs a folder; give --data-root DIR"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, monkeypatch, capsys, classes, network, options, message):
    monkeypatch.setattr("difnet.data.sets.scenes._COUNTS", {"train": 2, "val": 1})
    arguments = save_network(tmp_path / "model.safetensors", classes, {}, **network)
    assert pictures.main([*arguments, "--out", str(tmp_path), *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_other_classes_are_named(tmp_path, capsys):
    names = list("abcdef")
    arguments = save_network(tmp_path / "model.safetensors", 6, {"classes": names})
    assert pictures.main([*arguments, "--out", str(tmp_path)]) == 1
    assert "was trained on 6 classes (a, b, c, d, e, f)" in capsys.readouterr().err
