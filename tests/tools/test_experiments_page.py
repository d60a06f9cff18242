"""tools/experiments_page.py: the figures of the page, its text and its pictures follow the records."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import experiments_page as page
import pytest
from reporting.experiment_plots import plots_of
from reporting.experiment_tables import class_table, recipe_table, walk_table
from reporting.experiment_text import PageError, fill

from difnet.experiments.sets import EXPERIMENTS
from difnet.training.recipes import PAPER, RECIPES, TUNED
from difnet.training.run_folder import RunError

CLASSES = ("road", "pole", "car")
SHARES = dict(zip(CLASSES, (0.7, 0.1, 0.2), strict=True))
NAME = "camvid-reduced"
BASELINE, WALKED = "no walks", "tuned walks"
DOCS = Path(__file__).parents[2] / "docs"


def make_record(variant, seed, iou, walk_iou=(), seed_iou=None):
    """A record of `variant` with the IoU of `CLASSES` and the mean IoU of the seed and after each walk."""
    walks = len(walk_iou)
    mean = sum(iou) / len(iou)
    found = {
        "mean_iou": mean,
        "accuracy": mean + 0.25,
        "seed_mean_iou": mean if seed_iou is None else seed_iou,
        "walk_mean_iou": list(walk_iou),
        "mu": [0.25 + 0.125 * walk for walk in range(walks)],
        "beta": [0.5] * walks,
    }
    statistics = {"nodes_seen": 30.0, "reach": 4.0, "self_weight": 0.125}
    statistics |= {"own_class": 0.75, "hubs": 90.0, "nodes": 300.0}
    slug = next(it.slug for it in EXPERIMENTS[NAME].variants if it.name == variant)
    norms = {"seed_branch": 0.5, "embeddings": 0.01, "mu_logit": 1e-4, "beta_logit": 1e-5}
    return {
        "experiment": NAME,
        "variant": variant,
        "seed": seed,
        "run": f"{slug}/seed-{seed}",
        "launcher": "",
        "command": ["python", "-m", "difnet.train", "--seed", str(seed)],
        "config": {"dataset": "camvid", "data_root": "camvid", "image_scale": 1.0, "seed": seed},
        "environment": [
            {
                **{"cpu": "CPU", "threads": 2, "gpus": [], "commit": "0123456789"},
                **{"packages": {"torch": "2.14"}, "images": "2 training, 1 validation"},
            }
        ],
        "steps": 20,
        "seconds": 90.0,
        "starts": 1,
        "parameters": 1_500_000,
        "flops": {"image": 2_000_000_000},
        "evaluation": {
            **found,
            "iou": dict(zip(CLASSES, iou, strict=True)),
            "measures": {
                "class_share": SHARES,
                "final": {"boundary_f": 0.5, "trimap": {"2": 0.25}, "fragments": {"ratio": 1.5}},
                "label_walk_mean_iou": 0.75 if walks else None,
                "walks": [statistics] * walks,
            },
        },
        "curve": {
            "val": [{"step": step, **found, "mean_iou": mean * step / 20} for step in (10, 20)],
            "train": [{"step": step, "loss": 1.0, "gradient_norms": norms} for step in range(1, 21)],
        },
    }


RECORDS = [
    make_record(BASELINE, 0, (0.9, 0.2, 0.4)),
    make_record(BASELINE, 1, (0.9, 0.3, 0.6)),
    make_record(WALKED, 0, (0.91, 0.35, 0.6), (0.5, 0.62), 0.45),
    make_record(WALKED, 1, (0.93, 0.45, 0.6), (0.54, 0.66), 0.47),
]


@pytest.fixture
def docs(tmp_path):
    for record in RECORDS:
        file = tmp_path / page.ROOM / "records" / NAME / record["run"] / "record.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(record))
    return tmp_path


def write_text(docs, name, text):
    (docs / page.ROOM / "text").mkdir(exist_ok=True)
    (docs / page.ROOM / "text" / f"{name}.md").write_text(text)


def cells(markdown):
    """The lines of Markdown tables as lists of their cells, by the first cell."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_page_shows_the_figures_of_the_records(docs):
    text = page.make_page(docs, page.read(docs))
    table = cells(text.split("### ")[0])
    # By hand: means (50 + 60) / 2 and (62 + 66) / 2; the deviation of two values a, b is |a - b| / sqrt(2).
    assert table[BASELINE][:4] == ["2", "55.00 ± 7.07", "-", "-"]
    assert table[WALKED][:5] == ["2", "64.00 ± 2.83", "+9.00 ± 4.24", "46.00 ± 1.41", "+18.00 ± 1.41"]
    assert table[WALKED][5:7] == ["75.00 ± 0.00", "89.00 ± 2.83"]
    assert table[BASELINE][5:7] == ["-", "80.00 ± 7.07"]
    assert "CPU, 2 threads, torch 2.14, commit 0123456" in text
    assert "python -m difnet.train --seed 0" in text
    changed = {**RECORDS[0]["environment"][0], "commit": "0123456789+changes", "gpus": ["GPU"]}
    assert page.describe_machine(changed) == "GPU, torch 2.14, commit 0123456+changes"


def test_experiments_without_records_are_left_out(docs):
    text = page.make_page(docs, page.read(docs))
    assert f"## {EXPERIMENTS[NAME].title}\n" in text
    for name, experiment in EXPERIMENTS.items():
        if name != NAME:
            assert experiment.title not in text


def test_variants_without_records_are_named(docs):
    text = page.make_page(docs, page.read(docs))
    others = [it.name for it in EXPERIMENTS[NAME].variants if it.name not in (BASELINE, WALKED)]
    assert "\nNot run: no walks, larger backbone; no walks, two branches; paper's walks.\n" in text
    assert not set(others) & set(cells(text))
    for number, name in enumerate(others):
        record = make_record(name, 0, (0.9, 0.2, 0.4))
        write = docs / page.ROOM / "records" / NAME / record["run"] / "record.json"
        write.parent.mkdir(parents=True)
        write.write_text(json.dumps(record))
        assert ("Not run" in page.make_page(docs, page.read(docs))) == (number < len(others) - 1)


def test_iou_of_classes():
    table = cells(class_table(EXPERIMENTS[NAME], RECORDS))
    assert table[""] == ["pixels, %", BASELINE, WALKED]
    assert table["pole"] == ["10.00", "25.0 ± 7.1", "40.0 ± 7.1"]
    assert table["road"] == ["70.00", "90.0 ± 0.0", "92.0 ± 1.4"]


def test_variants_are_the_lines_if_they_are_more_than_the_classes():
    names = [it.name for it in EXPERIMENTS[NAME].variants]
    table = cells(class_table(EXPERIMENTS[NAME], [make_record(name, 0, (0.9, 0.2, 0.4)) for name in names]))
    assert table[""] == list(CLASSES)
    assert table["pixels, %"] == ["70.00", "10.00", "20.00"]
    assert all(table[name] == ["90.0", "20.0", "40.0"] for name in names)


def test_walks():
    lines = walk_table(EXPERIMENTS[NAME], RECORDS).splitlines()
    assert len(lines) == 2 + 2  # none of the variant without walks
    first = ["1", "0.250 ± 0.000", "0.500 ± 0.000", "52.00 ± 2.83"]
    first += ["30.0 ± 0.0", "4.0 ± 0.0", "0.125 ± 0.000", "0.750 ± 0.000", "90.0 ± 0.0", "300 ± 0"]
    assert cells(lines[2])[WALKED] == first
    assert cells(lines[3])[""][:4] == ["2", "0.375 ± 0.000", "0.500 ± 0.000", "64.00 ± 2.83"]
    assert walk_table(EXPERIMENTS[NAME], RECORDS[:2]) == ""


def test_placeholders_take_the_figures_of_the_records(docs):
    expected = {
        f"{NAME}:tuned-walks:mean_iou": "64.00",
        f"{NAME}:tuned-walks:mean_iou:spread": "2.83",
        f"{NAME}:tuned-walks:mean_iou:seeds": "2",
        f"{NAME}:tuned-walks:difference": "+9.00",
        f"{NAME}:no-walks:iou.pole": "25.0",
        f"{NAME}:tuned-walks:mu.2": "0.375",
        f"{NAME}:tuned-walks:walk_iou.1": "52.00",
        f"{NAME}:tuned-walks:reach.1": "4.0",
        # Gains of road, pole and car: 2, 15 and 10 points; shares 70, 10 and 20 %: in opposite order.
        f"{NAME}:tuned-walks:size_correlation": "-1.00",
    }
    results = page.read(docs)
    for placeholder, figure in expected.items():
        assert fill(f"a {{{placeholder}}} b", results, "x.md") == f"a {figure} b"
    assert fill("images/{{train,val}}", results, "x.md") == "images/{train,val}"
    write_text(docs, "intro", f"The best is {{{NAME}:tuned-walks:mean_iou}} %.")
    write_text(docs, NAME, f"Poles: {{{NAME}:no-walks:iou.pole}} %.")
    text = page.make_page(docs, results)
    assert text.index("The best is 64.00 %.") < text.index(EXPERIMENTS[NAME].title)
    assert text.index(EXPERIMENTS[NAME].title) < text.index("Poles: 25.0 %.")


@pytest.mark.parametrize(
    ("placeholder", "reason"),
    [
        ("camvid:tuned-walks:mean_iou", "no records of the experiment 'camvid'"),
        ("table1:difnet-18:mean_iou", "no records of the experiment 'table1'"),
        (f"{NAME}:tuned:mean_iou", "no records of the variant 'tuned'"),
        (f"{NAME}:paper-s-walks:mean_iou", "no records of the variant 'paper-s-walks'"),
        (f"{NAME}:tuned-walks:mean", "no column 'mean'"),
        (f"{NAME}:tuned-walks:mu.0", "no column 'mu.0'"),
        (f"{NAME}:tuned-walks:mu.9", "the records hold no such number"),
        (f"{NAME}:tuned-walks:iou.tree", "the records hold no such number"),
        (f"{NAME}:no-walks:gain", "the records hold no such number"),
        (f"{NAME}:no-walks:size_correlation", "the correlation is not defined"),
        (f"{NAME}:tuned-walks:mean_iou:best", "'best' is not spread or seeds"),
        (f"{NAME}:tuned-walks", "expected {EXPERIMENT:VARIANT:COLUMN}"),
        ("mean_iou", "expected {EXPERIMENT:VARIANT:COLUMN}"),
    ],
)
def test_unknown_placeholder_is_an_error_that_names_it(docs, placeholder, reason):
    with pytest.raises(PageError) as caught:
        fill(f"a {{{placeholder}}}", page.read(docs), "x.md")
    assert str(caught.value).startswith(f"x.md: {{{placeholder}}}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize("text", ["a { b", "a } b"])
def test_single_brace_is_an_error(text):
    with pytest.raises(PageError, match="a plain brace is written twice"):
        fill(text, {}, "x.md")


def test_unknown_folders_and_texts_are_errors(docs):
    (docs / page.ROOM / "records" / "camvid").mkdir()
    with pytest.raises(PageError, match="there is no experiment camvid; rename it"):
        page.read(docs)
    (docs / page.ROOM / "records" / "camvid").rmdir()
    (docs / page.ROOM / "records" / NAME / "tuned-walks").rename(
        docs / page.ROOM / "records" / NAME / "tuned"
    )
    with pytest.raises(PageError, match=r"tuned/seed-0/record\.json: no run of this experiment"):
        page.read(docs)
    write_text(docs, "tabel1", "")
    with pytest.raises(PageError, match="there is no experiment tabel1; rename the file"):
        page.make_page(docs, {})


def test_records_are_copied(docs, tmp_path):
    runs, target = tmp_path / "runs", tmp_path / "target"
    for record in RECORDS:
        (runs / record["run"]).mkdir(parents=True)
        (runs / record["run"] / "record.json").write_text(json.dumps(record))
        (runs / record["run"] / "config.json").write_text("{}")
    assert len(page.copy(runs, target)) == 4
    assert page.read(target)[NAME].records == page.read(docs)[NAME].records
    assert not list(target.rglob("config.json"))
    with pytest.raises(PageError, match=re.escape(f"--copy {target}: no VARIANT/seed-N/record.json in it")):
        page.copy(target, tmp_path)
    (runs / RECORDS[0]["run"] / "record.json").write_text("{}")
    with pytest.raises(RunError, match="is not the record of a run"):
        page.copy(runs, target)


def test_pictures_are_shown_with_their_figures(docs):
    folder = docs / page.ROOM / "pictures" / NAME
    folder.mkdir(parents=True)
    shares = {"before": 0.5, "after": 0.75, "corrected": 0.3, "spoiled": 0.05}
    row = {"file": "gain-1.png", "image": "view", **shares}
    content = {"weights": "walked/seed-0/last.safetensors", "pictures": [row]}
    for dataset, note in (("scenes", page.ALL_PANELS), ("camvid", page.CHANGES_ALONE)):
        (folder / "pictures.json").write_text(json.dumps(content | {"dataset": dataset}))
        text = page.make_page(docs, page.read(docs))
        assert note in text
    assert cells(text)["view"] == ["50.00", "75.00", "30.00", "5.00"]
    assert "`walked/seed-0/last.safetensors`" in text
    assert f"![view]({page.ROOM}/pictures/{NAME}/gain-1.png)" in text


def test_recipes():
    table = cells(recipe_table())
    assert list(table) == ["", "---", *(f"`--{name.replace('_', '-')}`" for name in asdict(PAPER))]
    assert table[""] == [f"`{name}`" for name in RECIPES]
    tuned = list(RECIPES).index("tuned")
    assert [table["`--affinity`"][at] for at in (0, tuned)] == [PAPER.affinity, TUNED.affinity]
    assert table["`--optimizer`"][tuned] == ""
    assert table["`--scale`"][:2] == ["0.5 to 1.5", "0.5 to 1.4"]
    assert table["`--pretrained`"][:2] == ["no", "yes"]


def test_figures_are_drawn_and_linked(docs, capsys):
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    assert page.main(["--docs", str(docs), "--check"]) == 1
    stale = docs / page.ROOM / "figures" / "old.png"
    stale.parent.mkdir()
    stale.write_bytes(b"")
    assert page.main(["--docs", str(docs)]) == 0
    assert page.main(["--docs", str(docs), "--check"]) == 0
    text = (docs / page.PAGE).read_text()
    files = sorted(stale.parent.glob("*.png"))
    names = ("classes", "gates", "gradients", "mean-iou", "walks")
    assert [file.name for file in files] == [f"{NAME}-{name}.png" for name in names]
    assert sorted(re.findall(r"\]\((.*?\.png)\)", text)) == [str(file.relative_to(docs)) for file in files]
    first = [file.read_bytes() for file in files]
    assert page.main(["--docs", str(docs)]) == 0
    assert [file.read_bytes() for file in files] == first
    assert not any(word in data for data in first for word in (b"tIME", b"Software"))
    assert "agrees with the records" in capsys.readouterr().out


def test_figures_without_data_are_not_planned():
    once = [{**record, "curve": {"val": record["curve"]["val"][:1], "train": []}} for record in RECORDS]
    assert [plot.name for plot in plots_of(EXPERIMENTS[NAME], once)] == ["walks", "classes"]
    assert plots_of(EXPERIMENTS[NAME], once[:2]) == []
    assert [plot.name for plot in plots_of(EXPERIMENTS[NAME], RECORDS[2:])] == [
        *("mean-iou", "walks", "gates", "gradients")
    ]


def test_committed_page_agrees_with_its_records():
    made = page.make_page(DOCS, page.read(DOCS))
    assert (DOCS / page.PAGE).read_text(encoding="utf-8") == made, "run `make experiments-page`"


def test_committed_pictures_exist_and_are_small():
    for link in re.findall(r"\]\(([^)#:]+)\)", (DOCS / page.PAGE).read_text()):
        assert (DOCS / link).stat().st_size <= 120 * 1024, link


@pytest.mark.parametrize("file", sorted((DOCS / page.ROOM / "text").glob("*.md")), ids=lambda file: file.name)
def test_no_measured_figure_is_typed(file):
    plain = re.sub(r"\{[^{}]*\}", "", file.read_text())
    assert not re.findall(r"\d[\d.]*\s*(?:%|per ?cent|points?\b|mIoU)", plain)
