"""Finds what is suspicious in data that can be used: duplicates, turned labels, labels without content.

A suspicion is no proof, so nothing is refused here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from difnet.data.base import SegmentationDataset
from difnet.data.checks.alignment import TURNS
from difnet.data.checks.finding import Finding
from difnet.data.errors import VOID, listed
from difnet.data.items.class_list import appearance

_MUCH_BETTER = 1.25
"""A label seems turned if its outlines lie on edges so much better when it is turned. On CamVid's 468 labels,
3 in 1,000 seem so as they are, and 9 in 10 when they have been turned."""

_BY_CHANCE = 0.01
"""Share of labels that may seem turned before a user is told; each of them counts among the worst images."""

_BETTER = 1.1
"""All labels of a split seem turned alike if, in the geometric mean, they fit so much better when turned."""

_ENOUGH = 10
"""From so many labels on, their mean counts."""


class Examined(NamedTuple):
    """A split that was read.

    Attributes:
        dataset: the split.
        findings: what was found, by the number of the item; items that cannot be used are left out.
    """

    dataset: SegmentationDataset
    findings: Mapping[int, Finding]


class Suspect(NamedTuple):
    """An item that a person should look at.

    Attributes:
        split: "train" or "val".
        number: its place in the split.
        score: how suspicious it is; only the order counts.
        reasons: what was found, in words.
    """

    split: str
    number: int
    score: float
    reasons: list[str]


def void_share(found: Finding) -> float:
    """The share of an image's pixels that are void."""
    return found.void / found.pixels


def seeming_turn(found: Finding) -> str | None:
    """Say what seems to have been done to a label; None if it fits best as it is, or nearly so."""
    best = int(np.argmax(found.alignments))
    if best == 0 or found.alignments[best] < _MUCH_BETTER * found.alignments[0]:
        return None
    return TURNS[best]


def warnings(splits: Sequence[Examined]) -> Iterator[str]:
    """Yield what a user should know about one or two splits, one sentence each."""
    if splits:
        yield from _alike(splits[0].dataset.classes)
    for split in splits:
        yield from _repeated(split)
        yield from _turned(split)
        share = _share_of_void(split)
        if share > 0.5:
            yield (
                f"{split.dataset.split}: {100 * share:.0f} % of the pixels are void, which training and "
                "metrics ignore; make sure that the number for void is right"
            )
    if len(splits) == 2:
        yield from _shared(*splits)


def _alike(classes: Sequence[str]) -> Iterator[str]:
    looks = [appearance(name).casefold() for name in classes]
    if alike := [name for name, look in zip(classes, looks, strict=True) if looks.count(look) > 1]:
        yield (
            f"the classes {listed([repr(name) for name in alike])} differ only in case or blanks; if they "
            "are one class, give them one name in the annotation tool"
        )


def _share_of_void(split: Examined) -> float:
    findings = split.findings.values()
    return sum(found.void for found in findings) / max(1, sum(found.pixels for found in findings))


def _repeated(split: Examined) -> Iterator[str]:
    counts = Counter(found.digest for found in split.findings.values())
    again = [
        split.dataset.item_name(index) for index, found in split.findings.items() if counts[found.digest] > 1
    ]
    if again:
        distinct = sum(count > 1 for count in counts.values())
        yield (
            f"{len(again)} {split.dataset.split} images show only {distinct} picture(s), pixel for pixel "
            f"({listed(again)}): each counts as often as it occurs; remove the copies"
        )


def _turned(split: Examined) -> Iterator[str]:
    every = np.array([found.alignments for found in split.findings.values()]).reshape(-1, 8)
    scores = every[every.all(axis=1)]
    if not len(scores):  # no square pictures: the last four turns do not fit any
        scores = every[every[:, :4].all(axis=1), :4]
    if len(scores) >= _ENOUGH:
        means = np.exp(np.log(scores).mean(0))
        best = int(means.argmax())
        if best and means[best] > _BETTER * means[0]:
            yield (
                f"all {split.dataset.split} labels seem {TURNS[best]}: turned back, their outlines lie on "
                f"edges of the images {means[best] / means[0]:.2f} times as well; look at some with "
                "python -m difnet.data show DIR, and turn them back if so"
            )
            return
    # Most labels fit best as they are.
    suspected = every.max(axis=1) >= _MUCH_BETTER * every[:, 0]
    names = [
        split.dataset.item_name(index)
        for (index, found), seems in zip(split.findings.items(), suspected, strict=True)
        if seems and seeming_turn(found)
    ]
    if len(names) > _BY_CHANCE * len(every):
        yield (
            f"{len(names)} {split.dataset.split} label(s) seem turned or mirrored ({listed(names)}): their "
            "outlines lie on edges of the image better when they are turned back. Some may seem so by "
            f"chance, and others may be missed; look with python -m difnet.data show DIR --name {names[0]!r}"
        )


def _shared(train: Examined, val: Examined) -> Iterator[str]:
    known = {found.digest for found in train.findings.values()}
    shared = [val.dataset.item_name(index) for index, found in val.findings.items() if found.digest in known]
    if shared:
        yield (
            f"{len(shared)} of {len(val.dataset)} validation images are also training images "
            f"({listed(shared)}): the evaluation says little about images that the network has never seen"
        )


def suspects(splits: Sequence[Examined], count: int) -> list[Suspect]:
    """Return the `count` items that a person should look at first, the most suspicious first."""
    digests = [Counter(found.digest for found in split.findings.values()) for split in splits]
    found = []
    for number, split in enumerate(splits):
        others = digests[1 - number] if len(splits) == 2 else Counter()
        for index, finding in split.findings.items():
            score, reasons = _judged(finding, finding.digest in others, digests[number][finding.digest])
            found.append(Suspect(split.dataset.split, index, score, reasons))
    found.sort(key=lambda suspect: -suspect.score)
    return [suspect for suspect in found[:count] if suspect.score > 0.0]


def _judged(found: Finding, in_both: bool, copies: int) -> tuple[float, list[str]]:
    """How suspicious an item is, and why."""
    score, reasons = 0.0, []
    if turn := seeming_turn(found):
        score += 3.0
        reasons.append(f"the label seems {turn}")
    if in_both:
        score += 2.0
        reasons.append("the image is in both splits")
    if copies > 1:
        score += 1.0
        reasons.append(f"the image occurs {copies} times")
    if found.label_turn not in (1, found.turn):
        score += 2.0
        reasons.append("the label has an EXIF turn that the image lacks")
    share, fit = void_share(found), float(found.alignments[0])
    score += share + max(0.0, 1.0 - fit)
    if share > 0.2:
        reasons.append(f"{100 * share:.0f} % void")
    classes = int(np.count_nonzero(found.values != VOID))
    if classes <= 1:
        score += 0.5
        reasons.append("a single class" if classes else "no class")
    elif fit < 1.0:
        reasons.append("the outlines do not lie on edges of the image")
    return score, reasons or [f"{100 * share:.1f} % void"]
