"""The configuration: recipes, ranges, class weights, and files of earlier versions."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import REPOSITORY, edit_config, resume_error, tiny

from difnet import train
from difnet.data.options import Reading, reading_of
from difnet.training.config import TrainConfig
from difnet.training.data_check import class_weights
from difnet.training.recipes import SCENES
from difnet.utils.console import parse


@pytest.mark.parametrize(
    ("optimizer", "changes", "words"),
    [
        ("sgd", {"model": "resnet18"}, "was saved with another network than"),
        ("sgd", {"model": "simdeeplab18"}, "restore model, aspp, walk_sources and the options"),
        ("sgd", {"walk_sources": [0]}, "(as mu_logit shows)"),
        ("sgd", {"walk_sources": [2, 0]}, "(as embeddings.0.project.weight shows)"),
        ("sgd", {"aspp": False}, "(as classifier.branches.1.bias shows)"),
        ("sgd", {"optimizer": "adamw"}, "was saved with another optimizer than"),
        ("adamw", {"optimizer": "sgd"}, "was saved with another optimizer than"),
        ("sgd", {"max_steps": "4"}, "(max_steps is '4', expected int | None)"),
        ("sgd", {"seed": "x"}, "(seed is 'x', expected int)"),
        ("sgd", {"model": 3}, "(model is 3, expected str | None)"),
        ("sgd", {"walk_sources": ["0"]}, "(walk_sources is ('0',), expected tuple[int, ...])"),
        ("sgd", {"walk_sources": None}, "(walk_sources is None, expected tuple[int, ...])"),
        ("sgd", {"scale": [1.0]}, "(scale is (1.0,), expected tuple[float, float] | None)"),
        ("sgd", {"dataset": "foo"}, "(dataset is 'foo', expected Literal['scenes', 'camvid', 'folder', "),
        ("sgd", {"data_root": 3}, "(data_root is 3, expected pathlib.Path | None)"),
        ("sgd", {"eval_every": 0}, "(--eval-every must be positive, got 0)"),
    ],
)
def test_edited_configuration_is_an_error_of_one_line(
    finished_runs, tmp_path, capsys, optimizer, changes, words
):
    run = shutil.copytree(finished_runs / optimizer, tmp_path / "run")
    edit_config(run, **({"max_steps": 4} | changes))
    error = resume_error(run, capsys)
    assert words in error
    assert str(run / "config.json") in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lr", "1e39"), "--lr must be from 1e-37 to 1e+37, got 1e+39"),
        (("--lr", "1e-50"), "--lr must be from 1e-37 to 1e+37, got 1e-50"),
        (("--weight-decay", "1e300"), "--weight-decay must be from 0 to 1e+37, got 1e+300"),
        (("--momentum", "1e300"), "--momentum must be from 0 to 1e+37"),
        (("--head-lr-multiplier", "1e300"), "--lr times --head-lr-multiplier must be from"),
        (("--lr", "1e30", "--head-lr-multiplier", "1e30"), "--lr times --head-lr-multiplier must be from"),
        (("--lr", "1e-30", "--head-lr-multiplier", "1e-30"), "--lr times --head-lr-multiplier must be from"),
        (
            ("--optimizer", "adamw", "--lr", "1e20", "--weight-decay", "1e30"),
            "--lr times --weight-decay must be",
        ),
    ],
)
def test_rates_outside_float32_are_refused(data_root, tmp_path, capsys, options, words):
    assert train.main([*tiny(data_root, tmp_path / "run"), *options]) == 1
    assert f"difnet.train: error: {words}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [("--weight-decay", "1e37"), ("--weight-decay", "0")])
@pytest.mark.parametrize("rate", ["1e37", "1e-37"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_extreme_rates_train_or_fail_with_one_line(data_root, tmp_path, capsys, options, rate, optimizer):
    arguments = tiny(
        data_root, tmp_path / "run", "--max-steps", "2", "--overlays", "0", "--optimizer", optimizer
    )
    status = train.main([*arguments, "--lr", rate, *options])
    assert status == 0 or capsys.readouterr().err.count("\n") == 1


def test_label_numbering_is_saved_in_the_configuration(tmp_path):
    config = TrainConfig(dataset="folder", void_value=(0, 255), label_offset=1).resolved()
    (tmp_path / "config.json").write_text(config.to_json())
    assert TrainConfig.from_json(tmp_path / "config.json") == config
    old = json.loads(config.to_json())
    del old["void_value"], old["label_offset"]  # as in a run of an earlier version
    (tmp_path / "config.json").write_text(json.dumps(old))
    again = TrainConfig.from_json(tmp_path / "config.json")
    assert (again.void_value, again.label_offset) == (None, None)


def test_configuration_that_an_earlier_version_wrote():
    """The file was written before labels had more options than two."""
    path = REPOSITORY / "tests/data/config-of-an-earlier-version.json"
    config = TrainConfig.from_json(path)
    assert (config.model, config.crop, config.walk_sources) == ("test_resnet", 32, (0, 2))
    assert reading_of(config) == Reading()


def test_recipes(tmp_path):
    assert TrainConfig().resolved().settings() == SCENES
    config = TrainConfig(dataset="camvid", crop=65, data_root=tmp_path).resolved()
    assert (config.lr, config.batch_size, config.optimizer, config.crop) == (2.5e-3, 16, "sgd", 65)
    (tmp_path / "config.json").write_text(config.to_json())
    assert TrainConfig.from_json(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], None),
        (["--importance"], True),
        (["--importance", "True"], True),
        (["--importance", "false"], False),
    ],
)
def test_switches_that_a_recipe_decides(words, value):
    config = parse(TrainConfig, [*words, "--lr", "0.5"], "train", None)
    assert (config.importance, config.lr) == (value, 0.5)


def test_a_detached_seed_needs_a_loss():
    with pytest.raises(ValueError, match="--seed-loss 0 leaves the seed branch without a loss"):
        TrainConfig(detach_seed=True, seed_loss=0.0).resolved()
    assert TrainConfig(detach_seed=True, seed_loss=0.5).resolved().detach_seed
    for change in ({"diffusion": False}, {"model": "simdeeplab18"}, {"walk_sources": ()}):
        assert TrainConfig(seed_loss=0.0, **change).resolved().seed_loss == 0.0  # nothing is diffused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"branches": 2}, "--branches 2 is for networks without diffusion; add --no-diffusion"),
        ({"branches": 3}, "--branches must be 1 or 2, got 3"),
        ({"node_stride": 3}, "--node-stride: expected 8, 4, 2 or 1, got 3"),
        ({"reach": -1.0}, "--reach: expected 0 or a positive number, got -1.0"),
        ({"temperature": 0.0}, "--temperature: expected a positive number, got 0.0"),
    ],
)
def test_options_of_the_network_are_checked_at_once(change, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**change).resolved()


def test_options_that_an_earlier_version_did_not_have_are_the_paper_s(tmp_path):
    config = json.loads(TrainConfig(recipe="scenes", head_lr_multiplier=10.0).resolved().to_json())
    for name in ("reach", "node_stride", "transition_loss", "detach_seed", "gate_lr_multiplier"):
        del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = TrainConfig.from_json(tmp_path / "config.json").resolved()
    assert (read.reach, read.node_stride, read.transition_loss, read.detach_seed) == (0.0, 8, 0.0, False)
    assert read.gate_lr_multiplier == 10.0  # mu and beta had the rate of the heads
    assert read.affinity == "cosine"  # which the file has


@pytest.mark.parametrize("change", [["--walk-sources"], ["--no-diffusion"], [], ["--precision", "bf16"]])
def test_the_tuned_recipe_trains_with_and_without_walks(data_root, tmp_path, change):
    arguments = [
        *(
            "--dataset",
            "folder",
            "--data-root",
            str(data_root),
            "--recipe",
            "tuned",
            "--model",
            "test_resnet",
        ),
        *("--crop", "32", "--batch-size", "4", "--workers", "0", "--max-steps", "1", "--overlays", "0"),
    ]
    assert train.main([*arguments, *change, "--out", str(tmp_path / "run")]) == 0


def test_a_switch_takes_no_other_word(capsys):
    with pytest.raises(SystemExit):
        parse(TrainConfig, ["--pretrained", "maybe"], "train", None)
    assert "expected True, False or nothing, got maybe" in capsys.readouterr().err


def test_class_weights(tmp_path, monkeypatch):
    (tmp_path / "weights.txt").write_text("1\n2.5\n")
    assert class_weights("none", 2) is None
    assert class_weights("median-frequency", 2) is None
    assert class_weights("1,0.5", 2) == [1.0, 0.5]
    assert class_weights(str(tmp_path / "weights.txt"), 2) == [1.0, 2.5]
    (tmp_path / "weights.txt").write_bytes(b"\xef\xbb\xbf1\r\n2.5\r\n")  # with a byte order mark
    assert class_weights(str(tmp_path / "weights.txt"), 2) == [1.0, 2.5]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert class_weights("~/weights.txt", 2) == [1.0, 2.5]
    (tmp_path / "weights.txt").write_text("1\ntwo\n")
    with pytest.raises(ValueError, match="must hold nothing but numbers"):
        class_weights(str(tmp_path / "weights.txt"), 2)
    long = ",".join(["0.123456"] * 60)
    assert len(class_weights(long, 60)) == 60
    for bad in ("1,2,3", "1,-1", "1,nan", "1,1e39", "1,1e-50"):
        with pytest.raises(ValueError, match=f"--class-weights {bad} must hold 2 non-negative numbers"):
            class_weights(bad, 2)
    (tmp_path / "weights.txt").write_text("1\n2\n3\n")
    with pytest.raises(ValueError, match=r"--class-weights, ~/weights\.txt, must hold 2 .* but holds 3: \[1"):
        class_weights("~/weights.txt", 2)


@pytest.mark.parametrize(
    "text", ["1.5\n2\n0.5\n", "1.5\r\n2\r\n0.5", "1.5, 2 ,0.5\n", "1.5,\n2,\n0.5,\n", "1.5  2 0.5"]
)
def test_class_weights_separated_in_one_way(tmp_path, text):
    (tmp_path / "weights.txt").write_text(text)
    assert class_weights(str(tmp_path / "weights.txt"), 3) == [1.5, 2.0, 0.5]


@pytest.mark.parametrize(
    "text", ["1,5\n2,5\n0,5\n", "0 1.0\n1 2.0\n2 3.0\n", "1,5 2,5 0,5", "0, 1\n1, 2\n2, 3", "1,5,\n2,5,\n0,5"]
)
def test_ambiguous_class_weights_are_refused(tmp_path, text):
    (tmp_path / "weights.txt").write_text(text)
    with pytest.raises(
        ValueError, match=r"file of --class-weights, .*weights\.txt, separates numbers in several"
    ):
        class_weights(str(tmp_path / "weights.txt"), 6)


def test_class_weights_are_read_before_the_data(data_root, tmp_path, capsys):
    (data_root / "images/train/view0.png").write_bytes(b"damaged")
    arguments = tiny(data_root, tmp_path / "run", "--max-steps", "1", "--class-weights", "1,2")
    assert train.main(arguments) == 1
    printed = capsys.readouterr()
    assert "--class-weights 1,2 must hold 3 non-negative numbers, one per class" in printed.err
    assert "checking" not in printed.out


def test_class_weights_and_absent_classes(data_root, tmp_path, capsys):
    for path in (data_root / "labels/train").iterdir():
        label = np.array(Image.open(path))
        Image.fromarray(np.where(label == 2, 255, label).astype(np.uint8)).save(path)
    for weights in ("0,0,1", "1,0,1"):
        options = ("--max-steps", "1", "--class-weights", weights)
        assert train.main(tiny(data_root, tmp_path / "run", *options)) == 1
        error = capsys.readouterr().err
        assert f"--class-weights {weights} leaves weight to fewer than two of the classes that occur" in error
    options = ("--max-steps", "1", "--class-weights", "median-frequency")
    assert train.main(tiny(data_root, tmp_path / "run", *options)) == 0
    printed = capsys.readouterr().out
    assert "train labels: 2 of 3 classes occur, class 2 (block) in no training label; 255 is void" in printed
    assert "val labels: 3 of 3 classes occur; 255 is void" in printed
    assert "also training images" not in printed
    assert re.search(r"done: mean IoU \S+% over 3 of 3 classes, best \S+% over 3 of 3 classes;", printed)


def test_class_weights_that_the_data_decide(data_root, tmp_path, monkeypatch):
    found, check = {}, train.check_data

    def captured(run, data, network):
        found[run.config.class_weights] = check(run, data, network)
        return found[run.config.class_weights]

    monkeypatch.setattr(train, "check_data", captured)
    for choice in ("median-frequency", "sqrt-median-frequency"):
        options = ("--max-steps", "1", "--overlays", "0", "--class-weights", choice)
        assert train.main(tiny(data_root, tmp_path / choice, *options)) == 0
    # Blocks of 12 x 12 pixels are rare, left and right are about as frequent.
    plain, root = found["median-frequency"], found["sqrt-median-frequency"]
    assert plain[2] > 2 * plain[:2].max()
    torch.testing.assert_close(root, plain.sqrt())


@pytest.mark.parametrize("option", ["--walk-sources", "--walks"])
def test_walk_sources_have_an_old_option(option):
    assert parse(TrainConfig, [option, "0", "2"], "train", None).walk_sources == (0, 2)


def test_run_of_an_earlier_version_is_continued(data_root, tmp_path):
    """config.json of earlier versions has no init_from, and calls walk_sources walks."""
    run = tmp_path / "run"
    assert train.main(tiny(data_root, run, "--max-steps", "1")) == 0
    config = json.loads((run / "config.json").read_text())
    del config["init_from"]
    config["walks"] = config.pop("walk_sources")
    (run / "config.json").write_text(json.dumps(config))
    assert train.main(["--resume", str(run), "--workers", "0"]) == 0
