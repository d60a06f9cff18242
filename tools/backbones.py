"""Which networks of timm can be a backbone, and the images that they take: docs/backbones.md.

    python tools/backbones.py                     # every name of the installed timm; twenty minutes
    python tools/backbones.py --names halonet26t  # print the rows of some names, write nothing

Networks are built without weights and run without values, on the meta device, by
`difnet.modeling.backbones.Backbone` itself. The rows go to benchmarks/results/backbones.csv, the page is
drawn from them. Names that cannot be built at stride 8 have no row;
"networks" in the first line counts them too.
"""

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import timm
import torch

from difnet.modeling.backbones import Backbone

ROOT = Path(__file__).resolve().parents[1]
ROWS, PAGE = ROOT / "benchmarks/results/backbones.csv", ROOT / "docs/backbones.md"
SIDE = 161
LEAST = (1, 2, 4, 8, 16, 32)
SIDES = (33, 64, 65, 97, 100, 127, 160, SIDE, 250)
"""Sides that stand for all: a network that takes these and takes no other is not known."""
GRID = range(8, 513, 8)
"""Sides that are tried where some of the others are refused."""


class Row(NamedTuple):
    """What is known of one network."""

    name: str
    family: str
    """timm's module."""
    map_side: int | None
    """Rows of the last map of an image of 161 x 161 pixels; None where it does not take it."""
    sides: str
    """Sides of square images that it takes: from that on, or the only ones of `GRID`."""
    alone: bool
    """Whether it can be trained on one image at a time."""


def examine(name: str) -> Row | None:
    """The row of one name; None where it cannot be built at stride 8."""
    try:
        with torch.device("meta"):
            backbone = Backbone(name)
    except ValueError:
        return None
    backbone.eval()

    if all(backbone.takes((side, side)) for side in SIDES):
        least = next(side for side in (*LEAST, min(SIDES)) if backbone.takes((side, side)))
        sides, some = f"from {least}", SIDE
    else:
        found = [side for side in GRID if backbone.takes((side, side))]
        sides, some = " ".join(map(str, found)), found[-1]
    map_side = backbone.check((SIDE, SIDE))[-1][0] if backbone.takes((SIDE, SIDE)) else None
    alone = backbone.train().takes((some, some))
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    return Row(name, family, map_side, sides, alone)


def dump(rows: Sequence[Row], networks: int) -> str:
    """Rows as the file holds them."""
    text = io.StringIO()
    print(f"# timm {timm.__version__}, {networks} networks, torch {torch.__version__}", file=text)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(("" if value is None else value for value in row) for row in rows)
    return text.getvalue()


def load(text: str) -> tuple[str, list[Row]]:
    """(version of timm and number of networks, rows) of what `dump` wrote."""
    first, *lines = text.splitlines()
    rows = [
        Row(
            r["name"],
            r["family"],
            int(r["map_side"]) if r["map_side"] else None,
            r["sides"],
            r["alone"] == "True",
        )
        for r in csv.DictReader(lines)
    ]
    return first.removeprefix("# "), rows


def page(text: str) -> str:
    """docs/backbones.md, from the text of the rows."""
    made_with, rows = load(text)
    groups: dict[tuple[str, int | None, str, bool], list[str]] = {}
    for row in rows:
        groups.setdefault(row[1:], []).append(row.name)
    lines = [
        f"| {family} | {len(names)} | {', '.join(names[:2]) + (' ...' if len(names) > 2 else '')} "
        f"| {side or ''} | {in_words(sides)} | {'yes' if alone else 'no'} |"
        for (family, side, sides, alone), names in sorted(groups.items(), key=lambda group: group[0][0])
    ]
    sides_tried = ", ".join(map(str, SIDES))
    return TEXT.format(made_with=made_with, count=len(rows), sides=sides_tried, table="\n".join(lines))


def in_words(sides: str) -> str:
    """Sides for a reader."""
    if sides.startswith("from "):
        least = int(sides.removeprefix("from "))
        return "any" if least == 1 else f"any from {least}"
    found = [int(side) for side in sides.split()]
    if len(found) == 1:
        return f"{found[0]} only"
    assert found == list(range(found[0], GRID.stop, found[0])), found
    return f"multiples of {found[0]}"


TEXT = """# Backbones

`create_model` and `--model` take the name of any network of timm that gives four feature maps down to
stride 8, with or without a tag (`convnext_tiny.fb_in22k`). {count} do ({made_with}); their names are in
`benchmarks/results/backbones.csv`. That file and this page are written by `make backbones`, which asks the
installed timm. Of any other name `create_model` says why it cannot be used.

- **Map of 161 x 161**: rows, and columns, of the score map of an image of 161 x 161 pixels, on which the
  walks run. `model.check_size((height, width))` returns rows and columns for any image, without computing,
  and raises a `ValueError` where the network does not take such images, with sizes that it takes.
- **Sides**: of square images. "Any" stands for {sides}. Where one of these is refused, multiples of 8 up to
  512 were tried: "multiples of 64" are those of networks whose attention cuts the map into blocks of a fixed
  size, "multiples of 8" those of networks with two paths that round other sides differently. Some sides
  between them work too. Training checks `--crop` and the sizes of all validation images before its first
  step, evaluation every picture and its scales before it begins, prediction each picture before it is
  labelled.
- **One image in training**: "no" where a batch norm follows a global pooling and would see one value per
  channel. Such networks need micro-batches (`--batch-size` over processes and `--accumulation`) of two and
  more.

| family | networks | such as | map of 161 x 161 | sides | one image in training |
| --- | ---: | --- | ---: | --- | --- |
{table}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", nargs="+", help="print these and write nothing")
    options = parser.parse_args(arguments)
    names = options.names or timm.list_models()
    rows = []
    for number, name in enumerate(names, 1):
        row = examine(name)
        print(f"{number}/{len(names)} {row or f'{name}: not at stride 8'}", flush=True)
        if row is not None:
            rows.append(row)
    if not options.names:
        ROWS.write_text(dump(rows, len(names)))
        PAGE.write_text(page(ROWS.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
