"""The measures of a network: every number against the function that computes it, and the command."""

import json
import math

import numpy as np
import pytest
import torch
from small_runs import small_network

from difnet import create_model, evaluate
from difnet.measures.boundaries import Outline, Trimap
from difnet.measures.collect import format_measures, gain_by_class_size, measure
from difnet.measures.fragments import Fragments
from difnet.measures.segmentation import SegmentationMetrics
from difnet.measures.walks import mean_statistics, walk_of_labels, walks_of_image

CPU = torch.device("cpu")
CLASSES = ["a", "b", "c"]


def make_batches(count=3, size=(40, 56)):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(count, 3, *size, generator=generator)
    label = torch.zeros(count, *size, dtype=torch.int64)
    label[:, :, 30:] = 1
    label[:, 25:] = 2
    label[:, :4] = 255
    return image, label


@pytest.fixture(scope="module")
def network():
    """A network whose seed, states and logits show every class, in several fragments."""
    model = small_network(diffusion={"temperature": 8.0}).eval()
    image, _ = make_batches()
    with torch.no_grad():
        middle = model(image, details=True).score_map.mean((0, 2, 3))
        model.classifier.branches[0].bias -= middle
        details = model(image, details=True)
    for scores in (details.seed, *details.states, details.logits):
        assert scores.argmax(1).unique().tolist() == [0, 1, 2]
    return model


def expected_of(predicted, label):
    trimap, fragments, scores = Trimap(3), Fragments(3), []
    for one, wanted in zip(predicted.numpy(), label.numpy(), strict=True):
        outline = Outline(wanted)
        trimap.update(one, outline)
        fragments.update(one, wanted)
        scores.append(outline.boundary_f(one))
    return {
        "trimap": {str(width): float(found.mean_iou) for width, found in trimap.compute().items()},
        "boundary_f": pytest.approx(np.mean(scores)),
        "fragments": fragments.as_record(),
    }, fragments.by_class(CLASSES)


def test_every_map_of_a_network(network):
    image, label = make_batches()
    done = []
    record = measure(
        network, [(image, label)], CPU, CLASSES, looked_at=range(len(image)), progress=done.append
    )
    assert done == [3]
    assert record["images"] == record["walk_images"] == 3
    with torch.no_grad():
        details = network(image, details=True)
    upsampled = [network.upsample(item, (40, 56)) for item in (details.seed, *details.states)]
    seed, *states = (expected_of(scores.argmax(1), label) for scores in upsampled)
    final, by_class = expected_of(details.logits.argmax(1), label)
    assert record["seed"] == seed[0] | {"fragments": seed[0]["fragments"] | {"classes": seed[1]}}
    assert record["states"] == [state for state, _ in states]
    assert record["final"] == final | {"fragments": final["fragments"] | {"classes": by_class}}
    assert len(record["states"]) == 2
    assert record["seed"]["trimap"] != record["states"][0]["trimap"] != record["final"]["trimap"]

    ideal = network.upsample(walk_of_labels(details.seed, label), (40, 56)).argmax(1)
    scores = SegmentationMetrics(network.num_classes)
    scores.update(ideal, label)
    assert record["label_walk_mean_iou"] == pytest.approx(float(scores.compute().mean_iou))
    seed_scores = SegmentationMetrics(network.num_classes)
    seed_scores.update(upsampled[0].argmax(1), label)
    assert record["label_walk_mean_iou"] != float(seed_scores.compute().mean_iou)

    # Of 40 x 56 pixels 36 x 56 are labelled: 21 x 30 of a, 21 x 26 of b, 15 x 56 of c.
    assert record["class_share"] == pytest.approx({"a": 630 / 2016, "b": 546 / 2016, "c": 840 / 2016})
    grid = details.seed.shape[-2:]
    walks = mean_statistics([walks_of_image(details, index, label[index]) for index in range(len(image))])
    assert [tuple(walk.values()) for walk in record["walks"]] == [pytest.approx(walk) for walk in walks]
    assert list(record["walks"][0]) == [
        *("nodes_seen", "self_weight", "reach", "hubs", "own_class", "nodes"),
    ]
    assert record["walks"][0]["nodes"] == grid[0] * grid[1]


def test_batches_change_nothing(network):
    image, label = make_batches()
    whole = measure(network, [(image, label)], CPU, CLASSES, looked_at=[0, 2])
    parts = measure(network, [(image[:1], label[:1]), (image[1:], label[1:])], CPU, CLASSES, looked_at=[0, 2])
    # A convolution over one image may be rounded otherwise than over several, which can move a pixel.
    assert parts["walks"] == [pytest.approx(walk, rel=1e-4) for walk in whole["walks"]]
    assert parts["class_share"] == whole["class_share"]
    for name in ("seed", "final"):
        one, other = parts[name], whole[name]
        assert one["trimap"] == pytest.approx(other["trimap"], abs=0.01)
        assert one["boundary_f"] == pytest.approx(other["boundary_f"], abs=0.01)
        assert one["fragments"]["predicted"] == pytest.approx(other["fragments"]["predicted"], abs=2)


def test_perfect_prediction(network):
    image, label = make_batches()
    with torch.no_grad():
        predicted = network(image).argmax(1)
    final = measure(network, [(image, torch.where(label == 255, label, predicted))], CPU, CLASSES)["final"]
    assert final["trimap"] == {"1": 1.0, "2": 1.0, "5": 1.0, "10": 1.0, "20": 1.0}
    assert final["boundary_f"] == final["fragments"]["ratio"] == 1.0


def test_the_walks_are_those_of_the_chosen_images():
    model = small_network(diffusion={"temperature": 8.0})
    image, label = make_batches(10, (17, 17))
    batches = [(image[:3], label[:3]), (image[3:], label[3:])]
    record = measure(model, batches, CPU, CLASSES, looked_at=[2, 9])
    assert (record["images"], record["walk_images"]) == (10, 2)
    expected = measure(model, [(image[[2, 9]], label[[2, 9]])], CPU, CLASSES, looked_at=[0, 1])["walks"]
    assert record["walks"] == [pytest.approx(walk, rel=1e-4) for walk in expected]


@pytest.mark.parametrize("options", [None, ()], ids=["SimDeepLab", "no walks"])
def test_network_without_walks(options):
    torch.manual_seed(0)
    model = create_model("simdeeplab18", 3) if options is None else small_network(walk_sources=options)
    image, label = make_batches(1)
    record = measure(model, [(image, label)], CPU, CLASSES)
    assert record["walks"] == record["states"] == []
    assert record["walk_images"] == 0
    assert record["label_walk_mean_iou"] is None
    assert record["seed"] == record["final"] == expected_final(model, image, label)
    head = format_measures(record).splitlines()[0]
    assert head.split() == ["measures", "of", "1", "images", "logits"]


def expected_final(model, image, label):
    with torch.no_grad():
        found, by_class = expected_of(model(image).argmax(1), label)
    return found | {"fragments": found["fragments"] | {"classes": by_class}}


def test_nothing_labelled_is_null_in_json(network):
    image, label = make_batches(1)
    record = measure(network, [(image, torch.full_like(label, 255))], CPU, CLASSES)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record["class_share"].values()) == {None}
    assert set(record["final"]["trimap"].values()) == {record["final"]["boundary_f"]} == {None}
    assert record["final"]["fragments"]["ratio"] is None
    assert "none" in format_measures(record)


def test_network_of_double_precision(network):
    image, label = make_batches(1)
    double = small_network(diffusion={"temperature": 8.0}).double()
    double.load_state_dict(network.state_dict())
    one, other = (measure(model, [(image, label)], CPU, CLASSES) for model in (network, double))
    assert other["final"]["boundary_f"] == pytest.approx(one["final"]["boundary_f"], abs=0.02)
    assert other["walks"] == [pytest.approx(walk, rel=1e-3) for walk in one["walks"]]


def test_table():
    row = {"trimap": {"1": 0.25, "5": None}, "boundary_f": 0.5}
    state = row | {"fragments": {"predicted": 4.0, "labelled": 2.0, "ratio": 2.0}}
    seed = row | {"fragments": {"predicted": 8.5, "labelled": 2.0, "ratio": 4.25}}
    walk = {"nodes_seen": 3.24, "self_weight": 0.5, "reach": 1.0, "hubs": 20.0, "nodes": 35.0}
    walk["own_class"] = 0.75
    record = {"images": 9, "seed": seed, "states": [state], "final": state, "walks": [walk], "walk_images": 8}
    record["label_walk_mean_iou"] = 0.625
    table = [line.split("  ") for line in format_measures(record).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in table]
    assert cells == [
        ["measures of 9 images", "seed", "walk 1"],
        ["mean IoU within 1 px of a boundary", "25.00%", "25.00%"],
        ["mean IoU within 5 px of a boundary", "none", "none"],
        ["boundary F score", "50.00%", "50.00%"],
        ["fragments of an image (2.0 in its label)", "8.5", "4.0"],
        ["mean IoU of the seed after one walk of 16 pixels that knows the labels: 62.50%"],
        ["walks over 35 nodes, mean of 8 images"],
        ["nodes that a row looks at", "3.2"],
        ["nodes that all rows together look at", "20.0"],
        ["distance that a row looks, in pixels", "1.0"],
        ["weight of a node on itself", "0.500"],
        ["share of its weight on its own class", "0.750"],
    ]
    lengths = {
        len(line) for line, row in zip(format_measures(record).splitlines(), cells, strict=True) if row[1:]
    }
    assert len(lengths) == 1  # the columns are aligned


def test_small_classes_gain():
    before = {"sky": 0.9, "road": 0.8, "car": 0.5, "pole": 0.1, "bus": None, "sign": 0.3}
    after = {"sky": 0.91, "road": 0.83, "car": 0.56, "pole": 0.2, "bus": 0.4, "sign": None}
    size = {"sky": 1000, "road": 800, "car": 100, "pole": 20, "bus": 50, "sign": 10}
    assert gain_by_class_size(before, after, size) == (pytest.approx(-1.0), 4)
    assert gain_by_class_size(after, before, size) == (pytest.approx(1.0), 4)


def test_rank_correlation_by_hand():
    # Ranks of the gains 1, 3, 2 against sizes 1, 2, 3: 1 - 6 (0 + 1 + 1) / (3 (9 - 1)) = 1/2.
    before = dict.fromkeys("abc", 0.0)
    found = gain_by_class_size(before, {"a": 0.1, "b": 0.3, "c": 0.2}, {"a": 5, "b": 6, "c": 70})
    assert found == (pytest.approx(0.5), 3)


@pytest.mark.parametrize(
    ("after", "size", "classes"),
    [
        ({"a": 0.1, "b": 0.1, "c": 0.1}, {"a": 1, "b": 2, "c": 3}, 3),  # every class gains the same
        ({"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 5, "b": 5, "c": 5}, 3),
        ({"a": 0.1, "b": 0.2, "c": None}, {"a": 1, "b": 2, "c": 3}, 2),
        ({"a": 0.1, "b": 0.2, "c": 0.3}, {"a": 1, "b": 0, "c": None}, 1),
    ],
)
def test_correlation_that_is_not_defined(after, size, classes):
    assert gain_by_class_size(dict.fromkeys("abc", 0.0), after, size) == (None, classes)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="expected the same classes, got a; b; a"):
        gain_by_class_size({"a": 0.1}, {"b": 0.1}, {"a": 1})


def test_command(trained, tmp_path, capsys):
    root, run = trained
    options = ["--checkpoint", str(run), "--dataset", "folder", "--data-root", str(root), "--workers", "0"]
    records = []
    for size in ("1", "3"):
        out = tmp_path / f"{size}.json"
        assert evaluate.main([*options, "--measures", "--batch-size", size, "--out", str(out)]) == 0
        records.append(json.loads(out.read_text()))
    measures = records[0]["measures"]
    assert measures == records[1]["measures"]
    assert measures["images"] == 3
    assert list(measures["class_share"]) == list(records[0]["iou"]) == ["left", "right", "block"]
    assert math.fsum(measures["class_share"].values()) == pytest.approx(1.0)
    assert len(measures["walks"]) == len(measures["states"]) == 2
    printed = capsys.readouterr().out
    assert format_measures(measures) in printed
    assert printed.index("mean IoU after walk 2") < printed.index("boundary F score")
    correlation = gain_by_class_size(records[0]["iou"], records[0]["iou"], measures["class_share"])
    assert correlation.correlation is None  # no class gains

    assert evaluate.main([*options, "--out", str(tmp_path / "plain.json")]) == 0
    assert "measures" not in json.loads((tmp_path / "plain.json").read_text())


@pytest.mark.parametrize("option", ["--multi-scale", "--flip"])
def test_averaged_views_have_no_measures(option, trained, capsys):
    options = ["--checkpoint", str(trained[1]), "--dataset", "folder", "--data-root", str(trained[0])]
    assert evaluate.main([*options, "--measures", option]) == 1
    printed = capsys.readouterr()
    assert "leave these out, or --measures" in printed.err
    assert printed.err.count("\n") == 1
    assert "checking" not in printed.out
