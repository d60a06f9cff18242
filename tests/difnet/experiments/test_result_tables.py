"""Tables against means, spreads and differences worked out by hand."""

import json

import pytest

from difnet.experiments.plan import Experiment, Variant
from difnet.experiments.records import read_records, write_record
from difnet.experiments.tables import make_table, to_markdown, write_table
from difnet.training.run_folder import RunError

COLUMNS = (
    *("mean_iou", "difference", "seed_mean_iou", "gain", "boundary_f", "trimap", "fragments"),
    *("parameters", "gflops", "minutes"),
)
EXPERIMENT = Experiment(
    "walks",
    "Walks",
    "Do walks help?",
    (Variant("plain"), Variant("with walks", {"seed_loss": 1.0}), Variant("never run")),
    "plain",
    COLUMNS,
)


def record(variant: str, seed: int, mean_iou: float | None, **changes) -> dict:
    """A record with the keys that tables read."""
    walks = variant != "plain"
    evaluation = {
        "mean_iou": mean_iou,
        "seed_mean_iou": 0.5 if walks else mean_iou,
        "walk_mean_iou": [0.6, mean_iou] if walks else [],
        "mu": [0.25, 0.5 + 0.1 * seed] if walks else [],
        "beta": [0.75, 0.5] if walks else [],
    }
    return {
        "experiment": "walks",
        "variant": variant,
        "seed": seed,
        "run": f"{variant.replace(' ', '-')}/seed-{seed}",
        "config": {"dataset": "folder", "data_root": "streets", "image_scale": 0.5, "lr": 0.1, "seed": seed},
        "environment": [{"images": "8 training, 3 validation"}],
        "steps": 4,
        "seconds": 90.0 + 60.0 * seed,
        "parameters": 1_500_000,
        "flops": {"image": 2_340_000_000},
        "evaluation": evaluation,
        "curve": {"val": [], "train": []},
    } | changes


MEASURES = {"final": {"boundary_f": 0.75, "trimap": {"1": 0.1, "2": 0.3}, "fragments": {"ratio": 1.75}}}


def all_records() -> list[dict]:
    records = [record("plain", 0, 0.60), record("plain", 1, 0.64), record("plain", 2, 0.65)]
    walked = [record("with walks", 0, 0.66), record("with walks", 2, 0.69)]
    for it in walked:
        it["evaluation"]["measures"] = MEASURES
    return [*records, *walked]


def test_means_spreads_and_paired_differences():
    plain, walks, never = make_table(EXPERIMENT, all_records(), seeds=3)["rows"]
    # Of 60, 64 and 65: mean 63, deviations -3, 1 and 2, so the variance is (9 + 1 + 4) / 2 = 7.
    assert plain["values"]["mean_iou"]["mean"] == pytest.approx(63.0)
    assert plain["values"]["mean_iou"]["spread"] == pytest.approx(7.0**0.5)
    assert plain["values"]["mean_iou"]["seeds"] == pytest.approx({0: 60.0, 1: 64.0, 2: 65.0})
    assert plain["values"]["difference"] == {"mean": None, "spread": None, "seeds": {}}
    assert plain["values"]["gain"]["mean"] is None
    assert plain["values"]["boundary_f"]["mean"] is None
    assert plain["values"]["minutes"]["mean"] == pytest.approx((1.5 + 2.5 + 3.5) / 3)
    assert (plain["seeds"], plain["missing"]) == ([0, 1, 2], [])

    # Of equal seeds, 0 and 2: 66 - 60 = 6 and 69 - 65 = 4, so the mean is 5 and the variance 2.
    assert walks["values"]["difference"]["mean"] == pytest.approx(5.0)
    assert walks["values"]["difference"]["spread"] == pytest.approx(2.0**0.5)
    assert walks["values"]["gain"]["mean"] == pytest.approx((16 + 19) / 2)
    assert walks["values"]["trimap"]["mean"] == pytest.approx(30.0)
    assert walks["values"]["fragments"]["mean"] == pytest.approx(1.75)
    assert (walks["seeds"], walks["missing"]) == ([0, 2], [1])
    assert walks["runs"] == ["with-walks/seed-0", "with-walks/seed-2"]
    assert (never["seeds"], never["missing"]) == ([], [0, 1, 2])


def test_markdown():
    text = to_markdown(make_table(EXPERIMENT, all_records(), seeds=3))
    lines = text.splitlines()
    assert lines[0] == "# Walks"
    assert "Data: folder streets at 0.5 of the size, 8 training, 3 validation images." in lines
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    headings, rule, plain, walks, never = cells
    assert len({len(row) for row in cells}) == 1
    assert headings[:4] == ["", "runs", "mean IoU, %", "difference"]
    assert rule == ["---", *["---:"] * 11]
    assert plain == ["plain", "3", "63.00 ± 2.65", "-", "-", "-", "-", "-", "-", "1.50", "2.3", "2.5"]
    assert walks == [
        *("with walks", "2 of 3", "67.50 ± 2.12", "+5.00 ± 1.41", "50.00 ± 0.00", "+17.50 ± 2.12"),
        *("75.00 ± 0.00", "30.00 ± 0.00", "1.75 ± 0.00", "1.50", "2.3", "2.5"),
    ]
    assert never == ["never run", "0 of 3", *["-"] * 10]
    assert "- with walks: with-walks/seed-0, with-walks/seed-2; missing: seed 1" in lines
    assert "Differences are from plain" in text


def test_one_seed_has_no_spread_and_an_undefined_mean_is_absent():
    records = [record("plain", 0, None), record("with walks", 0, 0.66)]
    plain, walks = make_table(EXPERIMENT, records, seeds=1, only=["plain"])["rows"]  # no line of "never run"
    assert plain["values"]["mean_iou"] == {"mean": None, "spread": None, "seeds": {}}
    assert walks["values"]["mean_iou"]["spread"] is None
    assert walks["values"]["difference"]["mean"] is None
    table = to_markdown(make_table(EXPERIMENT, records, seeds=1, only=["plain"]))
    assert "| with walks | 1 | 66.00 | - |" in table
    assert "| plain | 1 | - | - |" in table


def test_mu_and_beta_of_each_walk():
    experiment = Experiment(
        "walks", "Walks", "?", (Variant("with walks"),), None, ("mu_1", "mu_2", "mu_3", "beta_1")
    )
    (row,) = make_table(experiment, [record("with walks", seed, 0.6) for seed in (0, 1)], seeds=2)["rows"]
    assert row["values"]["mu_1"]["mean"] == pytest.approx(0.25)
    assert row["values"]["mu_2"]["mean"] == pytest.approx((0.5 + 0.6) / 2)
    assert row["values"]["mu_2"]["spread"] == pytest.approx(0.1 / 2**0.5)
    assert row["values"]["mu_3"]["mean"] is None
    assert row["values"]["beta_1"]["mean"] == pytest.approx(0.75)


def save(out, records: list[dict]) -> None:
    for it in records:
        (out / it["run"]).mkdir(parents=True, exist_ok=True)
        write_record(it, out / it["run"])


def test_tables_are_made_from_the_records_alone(tmp_path):
    assert read_records(EXPERIMENT, tmp_path) == []
    save(tmp_path, all_records())
    records = read_records(EXPERIMENT, tmp_path)
    assert records == all_records()
    table = make_table(EXPERIMENT, records, seeds=3)
    text = write_table(table, tmp_path)
    assert (tmp_path / "table.md").read_text() == text == to_markdown(table)
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["rows"][0]["values"]["mean_iou"]["seeds"] == {"0": 60.0, "1": 64.0, "2": 65.0}
    assert saved["baseline"] == "plain"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"experiment": "others"}, "is of others, plain, not of walks, plain; move it away"),
        (
            {"config": {"dataset": "folder", "data_root": "streets", "lr": 0.2}},
            "has lr = 0.2, .* has 0.1; a table",
        ),
        (
            {"config": {"dataset": "camvid", "data_root": "streets", "lr": 0.1}},
            "has dataset = camvid, .* has folder",
        ),
    ],
)
def test_records_that_do_not_belong_together_are_refused(tmp_path, change, words):
    save(tmp_path, [record("plain", 0, 0.6), record("plain", 1, 0.6, **change)])
    with pytest.raises(RunError, match=words):
        read_records(EXPERIMENT, tmp_path)


def test_variants_may_differ_in_what_the_experiment_varies_alone(tmp_path):
    config = {
        "dataset": "folder",
        "data_root": "streets",
        "image_scale": 0.5,
        "lr": 0.1,
        "seed": 0,
        "seed_loss": 1.0,
    }
    save(tmp_path, [record("plain", 0, 0.6), record("with walks", 0, 0.6, config=config)])
    assert len(read_records(EXPERIMENT, tmp_path)) == 2
    for name, value, words in (
        ("data_root", "fields", "fields, .* has streets"),
        ("lr", 0.3, r"0\.3, .* has 0\.1"),
    ):
        save(tmp_path, [record("with walks", 0, 0.6, config=config | {name: value})])
        with pytest.raises(RunError, match=rf"has {name} = {words}"):
            read_records(EXPERIMENT, tmp_path)


def test_a_damaged_record_is_named(tmp_path):
    save(tmp_path, [record("plain", 0, 0.6)])
    file = tmp_path / "plain/seed-0/record.json"
    file.write_text(file.read_text()[:40])
    with pytest.raises(RunError, match=r"plain/seed-0/record.json is not the record of a run .* remove it"):
        read_records(EXPERIMENT, tmp_path)
