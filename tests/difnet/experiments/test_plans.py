"""Experiments as data: the commands of their runs, what may be changed, what a folder may hold."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from difnet import experiment as command
from difnet.experiments.costs import build
from difnet.experiments.plan import (
    Experiment,
    Run,
    Variant,
    make_runs,
    plain_settings,
    to_arguments,
    without_paths,
)
from difnet.experiments.records import check_folder
from difnet.experiments.sets import EXPERIMENTS
from difnet.experiments.tables import COLUMNS
from difnet.modeling.network import DifNet
from difnet.training.config import TrainConfig
from difnet.training.recipes import PAPER
from difnet.training.run_folder import RunError
from difnet.utils.console import parse

ALL = [pytest.param(it, name, id=f"{it.name}-{name}") for it in EXPERIMENTS.values() for name in it.datasets]


def root_of(dataset: str) -> Path | None:
    return None if dataset == "scenes" else Path("/data/my photos")


@pytest.mark.parametrize(("experiment", "dataset"), ALL)
def test_the_command_of_each_run_makes_its_settings(experiment, dataset):
    runs = make_runs(experiment, dataset=dataset, data_root=root_of(dataset), seeds=2)
    assert len(runs) == 2 * len(experiment.variants)
    assert len({run.folder for run in runs}) == len(runs)
    for run in runs:
        out = Path("runs") / experiment.name
        parsed = parse(TrainConfig, run.command(out), "train", None)
        assert parsed == run.config(out)
        assert parsed.out == out / run.variant.slug / f"seed-{run.seed}"
        assert parsed.dataset == dataset
        for name, value in {**experiment.settings, **run.variant.changes}.items():
            assert getattr(parsed, name) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"walk_sources": (), "void_value": ()},
        {"void_value": (0, 7), "label_offset": 1, "dataset": "folder", "data_root": Path("a b")},
        {"lr": 1e-37, "image_scale": 1 / 3, "scale": (0.1, 0.7), "temperature": 0.1},
        {"flip": False, "aspp": False, "diffusion": False, "channels_last": True, "deterministic": True},
        {"importance": False, "shared_transition": True, "learn_temperature": False, "pretrained": True},
        {"class_weights": "1,0.5", "init_from": Path("other"), "recipe": "release", "max_steps": 3},
    ],
)
def test_any_setting_becomes_arguments(changes):
    config = replace(TrainConfig(), **changes)
    assert parse(TrainConfig, to_arguments(config), "train", None) == config


def test_experiments_are_consistent():
    for name, it in EXPERIMENTS.items():
        assert it.name == name
        assert it.baseline is None or it.baseline in [variant.name for variant in it.variants]
        assert ("difference" in it.columns) == (it.baseline is not None)
        assert set(it.columns) <= COLUMNS.keys()
        assert len({variant.slug for variant in it.variants}) == len(it.variants)
        assert it.question.endswith("?")


def test_ablations_change_one_thing_of_the_paper_s_walks():
    by_name = {
        run.variant.name: run.base.resolved().network(21)
        for run in make_runs(EXPERIMENTS["ablations"], dataset="scenes", seeds=1)
    }
    paper = by_name["paper's walks"]
    assert paper["diffusion"].changes() == {}
    assert paper["walk_sources"] == (0, 1, 2, 3, 4)
    assert by_name["walks 1, 3 and 5 alone"]["walk_sources"] == (0, 2, 4)
    assert by_name["no walks"]["walk_sources"] is None
    assert by_name["no walks, two branches"]["branches"] == 2
    changed = {name: network["diffusion"].changes() for name, network in by_name.items()}
    assert changed["mu fixed"] == {"gates": "mu-fixed"}
    assert changed["mu and beta tied"] == {"gates": "tied"}
    assert changed["one P for all walks"] == {"shared_transition": True}
    assert changed["no importance"] == {"importance": False}
    assert changed["learned temperature"] == {"learn_temperature": True}
    assert changed["temperature 8"] == {"temperature": 8.0}
    assert changed["cosine affinity"] == {"affinity": "cosine"}
    assert changed["gaussian affinity"] == {"affinity": "gaussian"}
    assert changed["tuned walks"] == {
        **{"affinity": "cosine", "temperature": 4.0, "importance": False, "detach_seed": True},
        **{"reach": 24.0, "node_stride": 4},
    }
    assert changed["tuned, no reach"] == {
        name: value for name, value in changed["tuned walks"].items() if name != "reach"
    }


def test_the_paper_s_walks_are_not_those_of_the_recipe_of_drawn_scenes():
    """On scenes the recipe has tuned walks, which must not enter the paper's line."""
    (run,) = make_runs(EXPERIMENTS["scenes-ablation"], seeds=1, only=["papers-walks"])
    settings = run.base.resolved().settings()
    assert settings.optimizer == "adamw"
    for name in ("affinity", "temperature", "gate_lr_multiplier", "seed_loss"):
        assert getattr(settings, name) == getattr(PAPER, name)


@pytest.mark.parametrize("name", ["camvid-reduced", "camvid-reduced-ablations", "scenes-ablation"])
def test_networks_of_the_reduced_experiments_can_be_built(name):
    for run in make_runs(EXPERIMENTS[name], seeds=1):
        network = build(run.base.resolved(), 11)
        assert isinstance(network, DifNet) == run.base.diffusion


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"dataset": "camvid"}, "--dataset camvid is not for scenes-ablation; choose scenes"),
        (
            {"only": ["walks"]},
            "--only walks: scenes-ablation has no such variant; its variants are no-walks, ",
        ),
        (
            {"more": ["--no-diffusion"]},
            "--diffusion after --: it is what the variants of scenes-ablation differ in",
        ),
        ({"more": ["--seed", "3"]}, "--seed after --: it is decided by the options before --; leave it out"),
        ({"more": ["--out", "x"]}, "--out after --: it is decided by the options before --; leave it out"),
        ({"more": ["--lr", "-1"]}, "--lr must be positive, got -1.0"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        make_runs(EXPERIMENTS["scenes-ablation"], **options)


def test_options_of_training_are_those_of_all_runs():
    runs = make_runs(
        EXPERIMENTS["scenes-ablation"],
        seeds=1,
        only=["tuned walks", "no-walks"],
        workers=0,
        more=["--recipe", "paper", "--max-steps", "7", "--model", "test_resnet"],
    )
    assert [run.variant.slug for run in runs] == ["no-walks", "tuned-walks"]  # in the order of the table
    for run in runs:
        config = run.base.resolved()
        assert (config.optimizer, config.max_steps, config.model, config.workers) == (
            "sgd",
            7,
            "test_resnet",
            0,
        )
    assert runs[1].base.affinity == "cosine"


TWO = Experiment("two", "Two", "Which?", (Variant("a"), Variant("b", {"aspp": False})), "a", ("mean_iou",))


def planned(data_root: Path = Path("/one/camvid"), **changes) -> Run:
    experiment = replace(TWO, settings=changes)
    return make_runs(experiment, data_root=data_root, seeds=1)[1]


def save_settings(run: Run, out: Path, settings: dict) -> None:
    """Write a record of a run with these settings."""
    names = ("experiment", "variant", "seed", "run", "evaluation", "curve", "seconds")
    (out / run.folder / "record.json").write_text(json.dumps(dict.fromkeys(names) | {"config": settings}))


@pytest.mark.parametrize("kind", ["config.json", "record.json"])
def test_a_folder_of_other_settings_is_refused(tmp_path, kind):
    done = planned(lr=0.5)
    folder = tmp_path / done.folder
    folder.mkdir(parents=True)
    if kind == "config.json":
        (folder / kind).write_text(done.config(tmp_path).resolved().to_json())
    else:
        save_settings(done, tmp_path, plain_settings(done.config(tmp_path)))
    check_folder(planned(lr=0.5), tmp_path)
    check_folder(planned(lr=0.5, workers=0, eval_batch_size=3), tmp_path)  # these change only speed
    check_folder(planned(Path("/another place/camvid"), lr=0.5), tmp_path)
    for run, words in (
        (
            planned(lr=0.25),
            f"{folder} holds a run with lr = 0.5, the experiment needs 0.25; choose another --out",
        ),
        (planned(Path("/one/camvid-2"), lr=0.5), "with data_root = camvid, the experiment needs camvid-2"),
    ):
        with pytest.raises(RunError, match=re.escape(words)):
            check_folder(run, tmp_path)


def test_a_folder_of_an_earlier_version_may_lack_new_settings(tmp_path):
    run = planned()
    (tmp_path / run.folder).mkdir(parents=True)
    settings = plain_settings(run.config(tmp_path))
    del settings["image_scale"]
    save_settings(run, tmp_path, settings)
    check_folder(run, tmp_path)


def test_settings_of_a_record_name_no_folder():
    config = TrainConfig(
        dataset="folder",
        data_root=Path("/home/johanna/data/streets/"),
        init_from=Path("../runs/first"),
        class_weights="/home/johanna/weights.txt",
    )
    plain = without_paths(config)
    assert (plain.data_root, plain.init_from, plain.class_weights) == (
        *(Path("streets"), Path("first")),
        "weights.txt",
    )
    text = json.dumps(plain_settings(config))
    assert "johanna" not in text
    assert "/" not in text


def test_the_command_lists_the_experiments(capsys):
    assert command.main([]) == 1
    error = capsys.readouterr().err
    assert "name an experiment; choose one of" in error
    for it in EXPERIMENTS.values():
        assert f"{it.name} " in error
        assert it.question in error
    assert "table4 " in error
    assert command.main(["table7"]) == 1
    assert "there is no experiment 'table7'; choose one of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert EXPERIMENTS["table1"].question in capsys.readouterr().out


def test_data_are_needed_to_run(capsys, tmp_path):
    assert command.main(["table1", "--out", str(tmp_path / "out")]) == 1
    assert "data set 'camvid' needs a folder; give --data-root DIR" in capsys.readouterr().err
    for more in ([], ["--dry-run"]):
        assert command.main(["table1", "--data-root", str(tmp_path / "none"), *more]) == 1
        assert f"data root {tmp_path / 'none'} does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_needs_records(capsys, tmp_path):
    assert command.main(["table1", "--report", "--out", str(tmp_path)]) == 1
    assert (
        f"no run of table1 has ended in {tmp_path}; run it without --report first" in capsys.readouterr().err
    )
