"""Turn the last weights of a run into a trained network that `difnet.load_model` knows by name:

    python -m difnet.experiments.publish RUN difnet-scenes
    python -m difnet.experiments.publish RUN difnet-resnet10t-camvid --data-root DIR

RUN is a run folder of an experiment, with record.json. This writes NAME.safetensors, in float16, and NAME.md,
the model card, whose figures are measured on the written file.
"""

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from difnet.evaluate import EvaluateConfig, evaluate_checkpoint
from difnet.experiments.records import NAME, Record, read_record
from difnet.measures.segmentation import format_record
from difnet.modeling.weights import load_model, save_model
from difnet.utils.console import Reporter, parse, run_command
from difnet.utils.files import prepare_folder, write_atomically
from difnet.utils.options import shown_default
from difnet.utils.weights_file import TRAINED

_TERMS = {
    "scenes": (
        "Code and weights: BSD-3-Clause. The data are drawn by the package (`difnet/data/scenes.py`) and "
        "have no terms of their own."
    ),
    "camvid": (
        "**For personal and research use only, not for commercial use.** The network was trained on CamVid, "
        "whose terms are CC BY-NC 4.0; the weights are given under the same terms. The code is BSD-3-Clause. "
        "No photograph is part of this repository."
    ),
}

_DATASETS = {"difnet-scenes": "scenes", "difnet-resnet10t-camvid": "camvid"}

_DRAW_A_SCENE = """python -c "from torchvision.io import write_png; \
  from difnet.data.sets.scenes import Scenes; \\
  write_png(Scenes('val')[0][0], 'scene.png')"
"""
_DATA = {
    "scenes": (
        "1,920 drawn scenes of 96 x 96 pixels for training and 96 others for validation, six classes, equal "
        "on every machine."
    ),
    "camvid": (
        "CamVid in the form of SegNet: 367 training and 101 validation frames of 480 x 360 pixels, eleven "
        "classes; void (255) counts nowhere. The test frames were not used. Brostow, Fauqueur and Cipolla, "
        "Pattern Recognition Letters 2009; Badrinarayanan, Kendall and Cipolla, PAMI 2017."
    ),
}


@dataclass(frozen=True)
class PublishConfig:
    """Publish the last weights of a run."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of an experiment, with record.json."""
    name: Annotated[str, tyro.conf.Positional]
    """Name of the trained network."""
    data_root: Annotated[Path | None, shown_default("none")] = None
    """Folder of the data, for camvid."""
    folder: Annotated[Path | None, shown_default("where load_model looks")] = None
    """Folder to write to."""


def publish(config: PublishConfig, report: Reporter) -> Path:
    """Write weights and model card; return the path of the weights.

    Raises:
        ValueError: the name is unknown, or the run cannot be published; the message says why.
        RunError: the record is damaged.
        OSError: a file cannot be read or written.
    """
    if config.name not in TRAINED:
        raise ValueError(
            f"{config.name} is not the name of a trained network; known are {', '.join(TRAINED)}"
        )
    record = read_record(config.run / NAME)
    settings, dataset = record["config"], _DATASETS[config.name]
    if settings["dataset"] != dataset:
        raise ValueError(
            f"{config.run} was trained on {settings['dataset']}, {config.name} is for {dataset}, whose terms "
            "its model card gives; publish a run on that"
        )
    if not (settings["diffusion"] and settings["walk_sources"]) or settings["pretrained"]:
        raise ValueError(
            f"{config.run} is not of a DifNet with walks from random weights, as its model card would say; "
            "publish such a run"
        )
    folder = config.folder or TRAINED[config.name]
    prepare_folder(folder)
    model, metadata = load_model(config.run / "last.safetensors")
    file, new = folder / f"{config.name}.safetensors", folder / "new.safetensors"
    save_model(model.half(), new, metadata=metadata | {"trained_network": config.name})
    request = EvaluateConfig(
        checkpoint=new, dataset=record["config"]["dataset"], data_root=config.data_root, measures=True
    )
    found = evaluate_checkpoint(request, report)
    new.replace(file)
    card = model_card(config.name, record, found, file.stat().st_size)
    write_atomically(file.with_suffix(".md"), card)
    return file


def model_card(name: str, record: Record, found: dict[str, Any], size: int) -> str:
    """Return the model card as Markdown.

    Args:
        name: of the trained network.
        record: of its run.
        found: the evaluation of the published file.
        size: of that file in bytes.
    """
    settings, machine = record["config"], record["environment"][-1]
    commits = ", ".join(dict.fromkeys(str(it.get("commit") or "unknown") for it in record["environment"]))
    terms, data, model = _TERMS[settings["dataset"]], _DATA[settings["dataset"]], settings["model"]
    parameters, megabytes = record["parameters"] / 1e6, size / 1e6
    if settings["image_scale"] != 1.0:
        data += f" Images and labels are resized by {settings['image_scale']:.4g}, in the evaluation too."
    example, drawn = ("scene.png", _DRAW_A_SCENE) if settings["dataset"] == "scenes" else ("photo.jpg", "")
    lines = [
        f"mean IoU within 2 pixels of a boundary: {_both(found, lambda it: it['trimap']['2'])}",
        f"boundary F: {_both(found, lambda it: it['boundary_f'])}",
    ]
    return f"""# {name}

{terms}

A DifNet on two {model} backbones, of {parameters:.2f} million parameters. The file has {megabytes:.1f} MB: it
stores the weights in float16, and they are loaded in float32.

```python
import difnet

model, metadata = difnet.load_model("{name}")  # maps images (B, 3, H, W) in [0, 1] to logits
```

```sh
{drawn}python -m difnet.predict --checkpoint {name} {example} --out predictions
python -m difnet.explain --checkpoint {name} {example} --point 40,40 --out explained
```

## Data

{data}

## Training

From random weights, {record["steps"]:,} steps, random seed {record["seed"]}, commit {commits}, torch
{machine["packages"]["torch"]}, on {machine["cpu"]}.

```sh
{shlex.join(record["command"])}
```

## Figures

They are of the stored weights, on the validation images, at one scale, not mirrored. Other random seeds give
other figures; docs/experiments.md has their mean and spread.

```
{format_record(found)}
  {lines[0]}
  {lines[1]}
```

## Limits

The network is small and was trained for minutes, to try the package with. It knows images like those it was
trained on, and nothing else.
"""


def _both(found: dict[str, Any], pick: Callable[[dict[str, Any]], float | None]) -> str:
    """A measure of the logits and of the seed."""
    final, seed = (pick(found["measures"][name]) for name in ("final", "seed"))
    texts = ["undefined" if value is None else f"{100.0 * value:.2f}%" for value in (final, seed)]
    return f"{texts[0]} (seed {texts[1]})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    config = parse(PublishConfig, arguments, "experiments.publish", __doc__)

    def command() -> None:
        report = Reporter()
        file = publish(config, report)
        report.line(f"{file} and its model card, {file.with_suffix('.md')}")

    return run_command(command, "difnet.experiments.publish")


if __name__ == "__main__":
    sys.exit(main())
