"""Figures of docs/experiments.md, as PNG files."""

import io
import math
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from difnet.experiments.plan import Experiment
from difnet.experiments.records import Record
from difnet.utils.pictures import save_picture
from reporting.experiment_tables import by_variant, class_gains, size_correlation, summaries, with_walks

GRADIENTS = {"seed_branch": "seed branch", "embeddings": "embeddings", "mu_logit": "mu", "beta_logit": "beta"}
"""Parts of the network whose gradients are shown, with their labels."""
BINS = 50
"""Number of stretches of a training of which the median of a gradient's norm is shown."""
COLOURS = 64
"""Number of colours of a file: fewer make it smaller."""

Paint = Callable[[Any, Experiment, Sequence[Record]], Any]
"""Draws records; takes matplotlib.pyplot and returns the figure."""


class Plot(NamedTuple):
    """A figure of an experiment.

    Attributes:
        name: the end of its file's name.
        caption: what it shows.
        has_data: whether the records hold what it shows.
        paint: draws it.
    """

    name: str
    caption: str
    has_data: Callable[[Experiment, Sequence[Record]], bool]
    paint: Paint

    def file(self, experiment: Experiment) -> str:
        """Return the name of the file."""
        return f"{experiment.name}-{self.name}.png"


def plots_of(experiment: Experiment, records: Sequence[Record]) -> list[Plot]:
    """Return the figures for which there are records."""
    return [plot for plot in PLOTS if plot.has_data(experiment, records)]


def draw_plots(experiment: Experiment, records: Sequence[Record], folder: Path) -> list[Path]:
    """Draw the figures of an experiment; return their files. The same records give the same bytes.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        WriteError: a file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for plot in plots_of(experiment, records):
        figure, buffer = plot.paint(pyplot, experiment, records), io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        pyplot.close(figure)
        picture = Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        written.append(folder / plot.file(experiment))
        save_picture(picture, written[-1])
    return written


def paint_mean_iou(pyplot: Any, experiment: Experiment, records: Sequence[Record]) -> Any:
    """The mean IoU on the validation images over the steps: the mean of the seeds in a band of its spread."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name, colour in _colours(pyplot, experiment).items():
        found = by_variant(experiment, records).get(name)
        if not found:
            continue
        steps, values = _over_steps(found, lambda point: _number(point["mean_iou"]))
        mean, spread = 100 * values.mean(0), 100 * _deviation(values)
        axes.plot(steps, mean, "o-", markersize=3, color=colour, label=name)
        axes.fill_between(steps, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="step", ylabel="mean IoU, %")
    _finish(axes, legend=True)
    return figure


def paint_gates(pyplot: Any, experiment: Experiment, records: Sequence[Record]) -> Any:
    """mu and beta of each walk over the steps, the means of the seeds."""
    variants = with_walks(experiment, records)
    figure, panels = _panels(pyplot, list(variants), sharey=True)
    for axes, found in zip(panels, variants.values(), strict=True):
        (steps, mu), (_, beta) = (_over_steps(found, itemgetter(key)) for key in ("mu", "beta"))
        for walk in range(mu.shape[-1]):
            axes.plot(steps, mu.mean(0)[:, walk], color=f"C{walk}", label=f"mu {walk + 1}")
            axes.plot(steps, beta.mean(0)[:, walk], "--", color=f"C{walk}", label=f"beta {walk + 1}")
    _share_legend(figure, panels)
    return figure


def paint_gradients(pyplot: Any, experiment: Experiment, records: Sequence[Record]) -> Any:
    """The norm of the gradients that reach parts of the network: the median in each of `BINS` stretches."""
    variants = with_walks(experiment, records)
    figure, panels = _panels(pyplot, list(variants), sharey=True)
    for axes, found in zip(panels, variants.values(), strict=True):
        points = [point for record in found for point in record["curve"]["train"]]
        for number, (part, label) in enumerate(GRADIENTS.items()):
            norms = [(it["step"], it["gradient_norms"][part]) for it in points if part in _norms(it)]
            if norms:
                axes.plot(*_medians(norms), color=f"C{number}", label=label)
        axes.set_yscale("log")
    figure.supylabel("norm of the gradient", fontsize=8)
    _share_legend(figure, panels)
    return figure


def paint_walks(pyplot: Any, experiment: Experiment, records: Sequence[Record]) -> Any:
    """The mean IoU of the seed and after each walk at the end, with the spread over the seeds."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    colours, variants = _colours(pyplot, experiment), with_walks(experiment, records)
    longest = max(len(found[0]["evaluation"]["walk_mean_iou"]) for found in variants.values())
    for number, (name, found) in enumerate(variants.items()):
        count = len(found[0]["evaluation"]["walk_mean_iou"])
        keys = ["seed_mean_iou", *(f"walk_iou.{walk}" for walk in range(1, count + 1))]
        points = [summaries(experiment, found, key)[name] for key in keys]
        mean, spread = [_number(it.mean) for it in points], [it.spread or 0.0 for it in points]
        place = np.arange(count + 1) + 0.3 * ((number + 0.5) / len(variants) - 0.5)
        axes.errorbar(place, mean, spread, fmt="o-", color=colours[name], markersize=4, label=name)
    base = summaries(experiment, records, "mean_iou").get(experiment.baseline or "")
    if base is not None and base.mean is not None:
        axes.axhline(base.mean, color="black", linestyle=":", label=experiment.baseline)
    axes.set_xticks(range(longest + 1), ["seed", *(f"walk {walk}" for walk in range(1, longest + 1))])
    axes.set_ylabel("mean IoU, %")
    _finish(axes, legend=True)
    return figure


def paint_classes(pyplot: Any, experiment: Experiment, records: Sequence[Record]) -> Any:
    """The gain of each class in IoU over the baseline against its share of the pixels."""
    variants = class_gains(experiment, records)
    titles = []
    for name in variants:
        found = size_correlation(experiment, records, name).correlation
        titles.append(f"{name}\nrank correlation {'not defined' if found is None else f'{found:+.2f}'}")
    figure, panels = _panels(pyplot, titles, sharey=True)
    for axes, gains in zip(panels, variants.values(), strict=True):
        axes.axhline(0, color="black", linewidth=0.8)
        axes.plot([100 * it.share for it in gains], [it.gain for it in gains], "o", markersize=4)
        for it in gains:
            place = (100 * it.share, it.gain)
            axes.annotate(it.name, place, (3, 3), textcoords="offset points", fontsize=6)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(0.2)
    figure.supxlabel("share of the labelled pixels, %", fontsize=8)
    figure.supylabel(f"gain in IoU over {experiment.baseline}, points", fontsize=8)
    return figure


PLOTS = (
    Plot(
        "mean-iou",
        "Mean IoU on the validation images over the steps. The band is the mean over the seeds, plus and "
        "minus their standard deviation.",
        lambda experiment, records: _evaluated_often(by_variant(experiment, records)),
        paint_mean_iou,
    ),
    Plot(
        "walks",
        "Mean IoU of the seed and of the state after each walk, at the end of the training. Bars show the "
        "standard deviation over the seeds. The dotted line is the baseline.",
        lambda experiment, records: bool(with_walks(experiment, records)),
        paint_walks,
    ),
    Plot(
        "gates",
        "mu and beta of each walk over the steps, means over the seeds.",
        lambda experiment, records: _evaluated_often(with_walks(experiment, records)),
        paint_gates,
    ),
    Plot(
        "gradients",
        "Norm of the gradients of four parts of the network over the steps: the median of the seeds over "
        "stretches of the training.",
        lambda experiment, records: any(
            _norms(point)
            for found in with_walks(experiment, records).values()
            for record in found
            for point in record["curve"]["train"]
        ),
        paint_gradients,
    ),
    Plot(
        "classes",
        "Gain of each class in IoU over the baseline against its share of the labelled pixels, means over "
        "the seeds, with Spearman's rank correlation of the two. It is negative if small classes gain more.",
        lambda experiment, records: bool(class_gains(experiment, records)),
        paint_classes,
    ),
)


def _norms(point: Record) -> dict[str, float]:
    found: dict[str, float] = point.get("gradient_norms", {})
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _over_steps(records: Sequence[Record], take: Callable[[Record], Any]) -> tuple[list[int], np.ndarray]:
    """The steps that all seeds were evaluated at, and what `take` finds there: (seeds, steps, ...)."""
    curves = [{point["step"]: take(point) for point in record["curve"]["val"]} for record in records]
    steps = sorted(set(curves[0]).intersection(*curves[1:]))
    return steps, np.array([[curve[step] for step in steps] for curve in curves], np.float64)


def _evaluated_often(variants: dict[str, list[Record]]) -> bool:
    """Whether any variant was evaluated more than once in its training, so that there is a curve."""
    return any(len(_over_steps(found, itemgetter("step"))[0]) > 1 for found in variants.values())


def _deviation(values: np.ndarray) -> np.ndarray:
    """The sample standard deviation over the seeds (S, ...), zero for a single seed."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1:])


def _medians(points: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The middle step and the median value of each stretch of the steps."""
    steps, values = (np.array(column, np.float64) for column in zip(*points, strict=True))
    width = max(1.0, (steps.max() - steps.min() + 1) / BINS)
    stretch = ((steps - steps.min()) / width).astype(int)
    held = np.unique(stretch)
    return tuple(np.array([np.median(of[stretch == it]) for it in held]) for of in (steps, values))  # type: ignore[return-value]


def _colours(pyplot: Any, experiment: Experiment) -> dict[str, Any]:
    """A colour for each variant, the same in all figures of the experiment."""
    names = [variant.name for variant in experiment.variants]
    if len(names) > 20:  # hues a golden section apart, so that lines that follow each other differ
        return {name: pyplot.get_cmap("hsv")(0.618 * number % 1.0) for number, name in enumerate(names)}
    palette = pyplot.get_cmap("tab10" if len(names) <= 10 else "tab20")
    return {name: palette(number) for number, name in enumerate(names)}


def _panels(pyplot: Any, titles: Sequence[str], **options: Any) -> tuple[Any, list[Any]]:
    """A figure with a panel for each title, at most three beside each other."""
    columns = min(3, len(titles))
    rows = math.ceil(len(titles) / columns)
    size = (max(5.0, 3.2 * columns), 0.6 + 2.4 * rows)
    options = {"layout": "constrained", "squeeze": False, **options}
    figure, grid = pyplot.subplots(rows, columns, figsize=size, **options)
    for axes in grid.flat[len(titles) :]:
        axes.set_axis_off()
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=7)
        _finish(axes)
    return figure, list(grid.flat[: len(titles)])


def _finish(axes: Any, legend: bool = False) -> None:
    axes.grid(True, alpha=0.3)
    if legend:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _share_legend(figure: Any, panels: Sequence[Any]) -> None:
    """One legend for all panels above them, with each label once."""
    found = {
        label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(found.values(), found.keys(), fontsize=7, ncols=5, loc="outside upper center")
    figure.supxlabel("step", fontsize=8)
