"""The named experiments. Numbers that a reader may want to change stand at the top."""

from dataclasses import replace
from typing import Any

from difnet.experiments.plan import DataSize, Experiment, Variant
from difnet.training import recipes
from difnet.training.recipes import PAPER, TUNED, WALK_OPTIONS, Recipe

REDUCED_BACKBONE, LARGER_BACKBONE = "resnet10t", "resnet14t"
"""Backbone of the experiments on reduced images, and one with which a baseline has about as many parameters
as a DifNet on the first."""

CAMVID_REDUCED: dict[str, Any] = {
    **{"image_scale": 1 / 3, "crop": 96, "scale": (0.75, 1.25)},
    **{"optimizer": "adamw", "lr": 3e-3, "weight_decay": 1e-2, "batch_size": 8},
    **{"class_weights": "sqrt-median-frequency", "epochs": 40, "eval_every": 5},
    **{"precision": "bf16", "workers": 1, "overlays": 0},
}
"""Settings of the experiments on CamVid at a third of its resolution. The learning rate and the class weights
are those of several that were best for the network without walks, by its mean IoU on val with seed 0."""

SCENES_REDUCED: dict[str, Any] = {"epochs": 1, "workers": 1, "overlays": 0}
"""Settings of the experiment on drawn scenes, which takes less than 30 minutes on two CPU cores."""

CAMVID = DataSize(367, 101, (360, 480), 11, "CamVid, 367 and 101 images of 360 x 480, 11 classes")
VOC = DataSize(
    10_582,
    1_449,
    (375, 500),
    21,
    "PASCAL VOC 2012 with SBD, 10,582 and 1,449 images of about 375 x 500, 21 classes",
)
CONTEXT = DataSize(
    4_998, 5_105, (375, 500), 60, "PASCAL-Context, 4,998 and 5,105 images of about 375 x 500, 60 classes"
)

_QUALITY = (
    *("mean_iou", "difference", "seed_mean_iou", "gain", "label_walk"),
    *("accuracy", "boundary_f", "trimap", "fragments"),
)
_COST = ("parameters", "gflops", "minutes")


def walks(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe that concern the walks."""
    return {name: getattr(recipe, name) for name in WALK_OPTIONS}


_PAPER, _TUNED = walks(PAPER), walks(TUNED)
_TUNED_REDUCED = {**_TUNED, "reach": _TUNED["reach"] / 3}
_TUNED_SCENES = walks(recipes.SCENES)
_PLAIN, _TWO_BRANCHES = {"diffusion": False}, {"diffusion": False, "branches": 2}

_DIFNETS = tuple(Variant(f"DifNet-{depth}", {"model": f"difnet{depth}"}) for depth in (18, 34, 50))
_BASELINES = tuple(
    Variant(f"Sim-DeepLab-{depth}", {"model": f"simdeeplab{depth}"}) for depth in (18, 34, 50, 101)
)

TABLE1 = Experiment(
    name="table1",
    title="Segmentation by network (Table 1 of the paper)",
    question="Is a DifNet better than a Sim-DeepLab of as many parameters?",
    variants=(
        *_DIFNETS,
        Variant("DifNet-50 without ASPP", {"model": "difnet50", "aspp": False}),
        *_BASELINES,
    ),
    baseline="Sim-DeepLab-101",
    columns=(*_QUALITY, *_COST),
    settings=_PAPER,
    published={"camvid": CAMVID, "voc-aug": VOC},
)

TABLE2 = Experiment(
    name="table2",
    title="Segmentation of PASCAL-Context (Table 2 of the paper)",
    question="Is a DifNet better than a Sim-DeepLab on data of many classes?",
    variants=(_BASELINES[2], _DIFNETS[2], _BASELINES[3]),
    baseline="Sim-DeepLab-50",
    columns=(*_QUALITY, *_COST),
    settings=_PAPER,
    datasets=("context", "camvid", "voc-aug", "ade20k", "cityscapes", "folder", "scenes"),
    published={"camvid": CAMVID, "context": CONTEXT},
)

TABLE3 = Experiment(
    name="table3",
    title="mu and beta of each walk at the end of the training (Table 3 of the paper)",
    question="How much does each walk diffuse, and how much of the seed does it add again?",
    variants=_DIFNETS,
    baseline=None,
    columns=(*(f"mu_{walk}" for walk in range(1, 6)), *(f"beta_{walk}" for walk in range(1, 6))),
    settings=_PAPER,
    published={"camvid": CAMVID, "voc-aug": VOC},
)


def _ablations(tuned: dict[str, Any]) -> tuple[Variant, ...]:
    """One change of the paper's walks at a time; the tuned walks, and one change of these at a time."""
    return (
        Variant("no walks", _PLAIN),
        Variant("no walks, two branches", _TWO_BRANCHES),
        Variant("paper's walks"),
        Variant("walks 1, 3 and 5 alone", {"walk_sources": (0, 2, 4)}),
        Variant("mu fixed", {"gates": "mu-fixed"}),
        Variant("mu and beta tied", {"gates": "tied"}),
        Variant("one P for all walks", {"shared_transition": True}),
        Variant("no importance", {"importance": False}),
        Variant("learned temperature", {"learn_temperature": True}),
        Variant("temperature 8", {"temperature": 8.0}),
        Variant("cosine affinity", {"affinity": "cosine"}),
        Variant("gaussian affinity", {"affinity": "gaussian"}),
        Variant("gates at 30 times the rate", {"gate_lr_multiplier": 30.0}),
        Variant("loss of the seed", {"seed_loss": 1.0}),
        Variant("loss of the transitions", {"transition_loss": 1.0}),
        Variant("a reach", {"reach": tuned["reach"]}),
        Variant("nodes at stride 4", {"node_stride": 4}),
        Variant("tuned walks", tuned),
        Variant("tuned, seed not detached", {**tuned, "detach_seed": False}),
        Variant("tuned, no loss of the transitions", {**tuned, "transition_loss": 0.0}),
        Variant("tuned, no reach", {**tuned, "reach": 0.0}),
        Variant("tuned, nodes at stride 8", {**tuned, "node_stride": 8}),
        Variant("tuned, temperature 8", {**tuned, "temperature": 8.0}),
        Variant("tuned, learned temperature", {**tuned, "learn_temperature": True}),
        Variant("tuned, gaussian affinity", {**tuned, "affinity": "gaussian"}),
        Variant("tuned, with importance", {**tuned, "importance": True}),
        Variant("tuned, gates at the same rate", {**tuned, "gate_lr_multiplier": 1.0}),
        Variant("tuned, gates at 5 times the rate", {**tuned, "gate_lr_multiplier": 5.0}),
        Variant("tuned, gates tied", {**tuned, "gates": "tied"}),
        Variant("tuned, five walks on block 3", {**tuned, "walk_sources": (3, 3, 3, 3, 3)}),
    )


ABLATIONS = Experiment(
    name="ablations",
    title="Parts of the walks, DifNet-18",
    question="What does each part of the walks contribute?",
    variants=_ablations(_TUNED),
    baseline="no walks",
    columns=(*_QUALITY, *_COST),
    settings={"model": "difnet18", **_PAPER},
    published={"camvid": CAMVID, "voc-aug": VOC},
)

_CAMVID_REDUCED = {"model": REDUCED_BACKBONE, **_PAPER, **CAMVID_REDUCED}

REDUCED = Experiment(
    name="camvid-reduced",
    title="CamVid at a third of its resolution",
    question="Do walks help more than as many parameters in a network without walks?",
    variants=(
        Variant("no walks", _PLAIN),
        Variant("no walks, larger backbone", {"model": LARGER_BACKBONE, **_PLAIN}),
        Variant("no walks, two branches", _TWO_BRANCHES),
        Variant("paper's walks"),
        Variant("tuned walks", _TUNED_REDUCED),
    ),
    baseline="no walks",
    columns=(*_QUALITY, *_COST),
    settings=_CAMVID_REDUCED,
    datasets=("camvid",),
    published={"camvid": CAMVID},
)

REDUCED_ABLATIONS = replace(
    ABLATIONS,
    name="camvid-reduced-ablations",
    title="Parts of the walks, CamVid at a third of its resolution, a quarter of the training",
    variants=_ablations(_TUNED_REDUCED),
    settings={**_CAMVID_REDUCED, "epochs": 10},
    datasets=("camvid",),
    published={"camvid": CAMVID},
)

SCENES = Experiment(
    name="scenes-ablation",
    title="Walks on drawn scenes",
    question="Do walks help where colours mislead and outlines show the shapes?",
    variants=(
        Variant("no walks", _PLAIN),
        Variant("no walks, two branches", _TWO_BRANCHES),
        Variant("paper's walks"),
        Variant("tuned walks", _TUNED_SCENES),
        Variant("tuned, no loss of the transitions", {**_TUNED_SCENES, "transition_loss": 0.0}),
    ),
    baseline="no walks",
    columns=(*_QUALITY, *_COST),
    settings={"model": REDUCED_BACKBONE, **_PAPER, **SCENES_REDUCED},
    datasets=("scenes",),
)

PRECISION = Experiment(
    name="precision",
    title="The tuned walks in float32 and with bfloat16",
    question="Does a training with bfloat16 follow that in float32?",
    variants=(Variant("float32"), Variant("bfloat16", {"precision": "bf16"})),
    baseline="float32",
    columns=(*_QUALITY, *_COST),
    settings={"model": REDUCED_BACKBONE, **_TUNED_SCENES, **SCENES_REDUCED, "epochs": 2, "eval_every": 1},
    datasets=("scenes",),
)

EXPERIMENTS: dict[str, Experiment] = {
    it.name: it for it in (TABLE1, TABLE2, TABLE3, ABLATIONS, REDUCED, REDUCED_ABLATIONS, SCENES, PRECISION)
}
"""All experiments that train, by name."""
