"""--image-scale: networks that see resized images, in training, evaluation, prediction and explanation."""

import json

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf
from PIL import Image
from small_runs import losses, make_folder, tiny

from difnet import evaluate, explain, load_model, predict, save_model, train
from difnet.data import create_dataset, eval_transform
from difnet.predict import predict_labels
from difnet.utils.views import make_views


@pytest.fixture(scope="module")
def reduced(tmp_path_factory):
    """A data set of 40 x 56 pixels, and a run on it at half the resolution."""
    folder = tmp_path_factory.mktemp("reduced")
    root = make_folder(folder / "data")
    options = ("--max-steps", "2", "--image-scale", "0.5", "--crop", "16", "--overlays", "1")
    assert train.main(tiny(root, folder / "run", *options)) == 0
    return root, folder / "run"


def test_evaluation_is_of_resized_labels(reduced, tmp_path):
    root, run = reduced
    model, metadata = load_model(run)
    assert metadata["image_scale"] == 0.5
    dataset = create_dataset("folder", root, "val", transform=eval_transform(0.5))
    right = total = 0
    with torch.inference_mode():
        for image, label in dataset:
            assert label.shape == (20, 28)
            predicted = model(image[None]).argmax(1)[0]
            right += int(((predicted == label) & (label != 255)).sum())
            total += int((label != 255).sum())
    arguments = ["--checkpoint", str(run), "--dataset", "folder", "--data-root", str(root), "--workers", "0"]
    for more, expected in (([], right / total), (["--image-scale", "0.5"], right / total)):
        assert evaluate.main([*arguments, *more, "--out", str(tmp_path / "record.json")]) == 0
        assert json.loads((tmp_path / "record.json").read_text())["accuracy"] == pytest.approx(expected)
    assert evaluate.main([*arguments, "--image-scale", "1", "--out", str(tmp_path / "full.json")]) == 0
    assert json.loads((tmp_path / "full.json").read_text())["accuracy"] != pytest.approx(right / total)
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["accuracy"] == pytest.approx(right / total)  # the same as training measured


def test_labels_have_the_size_of_the_picture(reduced, tmp_path):
    root, run = reduced
    picture = root / "images" / "val" / "view0.png"
    assert predict.main(["--checkpoint", str(run), "--out", str(tmp_path), str(picture)]) == 0
    labels = torch.from_numpy(np.array(Image.open(tmp_path / "view0.labels.png")))
    assert labels.shape == (40, 56)
    model, _ = load_model(run)
    image = torch.from_numpy(np.array(Image.open(picture).convert("RGB"))).permute(2, 0, 1)
    small = tvf.resize(image.float() / 255, [20, 28], antialias=True)
    with torch.inference_mode():
        probabilities = model.upsample(model(small[None]), (40, 56)).softmax(1)
    assert (labels == probabilities.argmax(1)[0]).float().mean() > 0.99
    views = make_views(multi_scale=False, flip=False, image_scale=0.5)
    assert torch.equal(labels.long(), predict_labels(model, image, views))


def test_explanation_has_the_size_of_the_picture(reduced, tmp_path):
    root, run = reduced
    picture = root / "images" / "val" / "view0.png"
    point = ["--point", "55,39"]
    assert explain.main(["--checkpoint", str(run), "--out", str(tmp_path), str(picture), *point]) == 0
    assert Image.open(tmp_path / "view0.walk1.png").size == (56, 40)
    model, _ = load_model(run)
    image = torch.rand(3, 40, 56)
    maps, _ = explain.explain(model, image, (55, 39), 0.5)
    small = tvf.resize(image, [20, 28], antialias=True)
    with torch.inference_mode():
        details = model(small[None], details=True)
    torch.testing.assert_close(maps["importance"], model.upsample(details.importance, (40, 56))[0, 0])
    assert maps["after"].shape == (40, 56)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("command", [evaluate, predict, explain, train])
def test_a_scale_out_of_range_is_refused(reduced, tmp_path, capsys, command, value):
    root, run = reduced
    picture = str(root / "images" / "val" / "view0.png")
    arguments = {
        evaluate: ["--dataset", "folder", "--data-root", str(root)],
        predict: ["--out", str(tmp_path), picture],
        explain: ["--out", str(tmp_path), picture, "--point", "1,1"],
        train: tiny(root, tmp_path / "new"),
    }[command]
    checkpoint = [] if command is train else ["--checkpoint", str(run)]
    assert command.main([*checkpoint, *arguments, f"--image-scale={value}"]) == 1
    error = capsys.readouterr().err
    assert "--image-scale must be" in error
    assert value in error


def test_damaged_metadata_are_named(reduced, tmp_path, capsys):
    root, run = reduced
    model, metadata = load_model(run)
    save_model(model, tmp_path / "odd.safetensors", metadata=metadata | {"image_scale": "half"})
    picture = str(root / "images" / "val" / "view0.png")
    arguments = ["--checkpoint", str(tmp_path / "odd.safetensors"), "--out", str(tmp_path), picture]
    assert predict.main(arguments) == 1
    assert "its metadata hold image_scale = 'half', expected a positive number" in capsys.readouterr().err
    assert predict.main([*arguments, "--image-scale", "0.5"]) == 0


def test_the_loss_of_the_seed_reaches_the_seed_branch_alone(reduced, tmp_path):
    root, _ = reduced
    for name, weight in (("without", "0"), ("with", "1")):
        options = ("--max-steps", "1", "--overlays", "0", "--seed-loss", weight)
        assert train.main(tiny(root, tmp_path / name, *options)) == 0
    one, other = (
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])
        for name in ("without", "with")
    )
    assert one["loss"] == pytest.approx(other["loss"])  # the loss of the logits alone is logged
    norms, more = one["gradient_norms"], other["gradient_norms"]
    parts = {"seed_branch", "similarity_branch", "classifier", "importance", "embeddings"}
    assert set(norms) == parts | {"mu_logit", "beta_logit"}
    for part in ("similarity_branch", "embeddings", "mu_logit", "beta_logit"):
        assert more[part] == pytest.approx(norms[part], rel=1e-4)
    assert more["seed_branch"] != pytest.approx(norms["seed_branch"], rel=1e-2)
    assert losses(tmp_path / "with")[0][0] == 1
