"""List the networks of timm that can be a backbone, and the sizes of images they take: docs/backbones.md.

    python tools/backbones.py                     # every name of the installed timm; twenty minutes
    python tools/backbones.py --names halonet26t  # print the rows of some names, write nothing

`difnet.modeling.backbones.Backbone` builds the networks on the meta device, without values. The rows go to
benchmarks/results/backbones.csv, and the page is generated from them. Networks that cannot be built at stride
8 have no row. The number of networks in the first line of the file includes them.
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
"""Side of the image whose map is shown."""
SIDES = (33, 64, 65, 97, 100, 127, 160, SIDE, 250)
"""Sides that are tried first. No network is known that takes all of these and refuses a side between them."""
SMALL_SIDES = (1, 2, 4, 8, 16, 32)
"""Sides that are tried if all of `SIDES` are taken, to find the smallest."""
GRID = range(8, 513, 8)
"""Sides that are tried if one of `SIDES` is refused."""


class Row(NamedTuple):
    """The findings about one network.

    Attributes:
        name: the name in timm.
        family: timm's module.
        map_side: rows of the last map of an image of 161 x 161 pixels; None if it does not take one.
        sides: sides of square images that it takes: "from 8", or those of `GRID`.
        alone: whether it can be trained on one image at a time.
    """

    name: str
    family: str
    map_side: int | None
    sides: str
    alone: bool


def examine(name: str) -> Row | None:
    """Build and run one network; None if it cannot be built at stride 8."""
    try:
        with torch.device("meta"):
            backbone = Backbone(name)
    except ValueError:
        return None
    backbone.eval()

    if all(backbone.takes((side, side)) for side in SIDES):
        smallest = next(side for side in (*SMALL_SIDES, min(SIDES)) if backbone.takes((side, side)))
        sides, taken = f"from {smallest}", SIDE
    else:
        of_grid = [side for side in GRID if backbone.takes((side, side))]
        sides, taken = " ".join(map(str, of_grid)), of_grid[-1]
    map_side = backbone.check((SIDE, SIDE))[-1][0] if backbone.takes((SIDE, SIDE)) else None
    alone = backbone.train().takes((taken, taken))
    family = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    return Row(name, family, map_side, sides, alone)


def dump(rows: Sequence[Row], networks: int) -> str:
    """The text of benchmarks/results/backbones.csv."""
    text = io.StringIO()
    print(f"# timm {timm.__version__}, {networks} networks, torch {torch.__version__}", file=text)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(("" if value is None else value for value in row) for row in rows)
    return text.getvalue()


def load(text: str) -> tuple[str, list[Row]]:
    """Read what `dump` wrote: its first line, which names the versions, and the rows."""
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
    """The text of docs/backbones.md, from that of the rows."""
    made_with, rows = load(text)
    groups: dict[tuple[str, int | None, str, bool], list[str]] = {}
    for row in rows:
        groups.setdefault(row[1:], []).append(row.name)
    lines = [
        f"| {family} | {len(names)} | {', '.join(names[:2]) + (' ...' if len(names) > 2 else '')} "
        f"| {side or ''} | {describe_sides(sides)} | {'yes' if alone else 'no'} |"
        for (family, side, sides, alone), names in sorted(groups.items(), key=lambda group: group[0][0])
    ]
    sides_tried = ", ".join(map(str, SIDES))
    return TEXT.format(made_with=made_with, count=len(rows), sides=sides_tried, table="\n".join(lines))


def describe_sides(sides: str) -> str:
    """The sides of a row in words."""
    if sides.startswith("from "):
        smallest = int(sides.removeprefix("from "))
        return "any" if smallest == 1 else f"any from {smallest}"
    of_grid = [int(side) for side in sides.split()]
    if len(of_grid) == 1:
        return f"{of_grid[0]} only"
    assert of_grid == list(range(of_grid[0], GRID.stop, of_grid[0])), of_grid
    return f"multiples of {of_grid[0]}"


TEXT = """# Backbones

`create_model` and `--model` take the name of any network of timm that gives four feature maps down to
stride 8, with or without a tag (`convnext_tiny.fb_in22k`). {count} networks do ({made_with}). Their names
are in `benchmarks/results/backbones.csv`. `make backbones` writes that file and this page by trying every
network of the installed timm. For any other name `create_model` raises an error that says why the network
cannot be used.

- **Map of 161 x 161**: number of rows, and of columns, of the score map of an image of 161 x 161 pixels.
  The walks run on this map. `model.check_size((height, width))` returns rows and columns for any image
  without computing the map. It raises a `ValueError` if the network does not take such an image, and names
  sizes that it takes.
- **Sides**: sides of square images that the network takes. "Any" means that {sides} were tried and taken.
  If one of these was refused, multiples of 8 up to 512 were tried. "Multiples of 64" belong to networks
  whose attention cuts the map into blocks of a fixed size. "Multiples of 8" belong to networks with two
  paths that round other sides differently. Some sides between the multiples work too. Training checks
  `--crop` and the sizes of all validation images before its first step, evaluation checks every picture and
  its scales before it starts, and prediction checks each picture before it labels it.
- **One image in training**: "no" if a batch norm follows a global pooling, where it would see one value per
  channel. Such networks need micro-batches of at least two images. A micro-batch is `--batch-size` divided
  by the number of processes and by `--accumulation`.

| family | networks | such as | map of 161 x 161 | sides | one image in training |
| --- | ---: | --- | ---: | --- | --- |
{table}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", nargs="+", help="print the rows of these networks and write nothing")
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
