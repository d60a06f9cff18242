"""Data sets for semantic segmentation, checked before the first step."""

from difnet.utils.extras import train_extra

with train_extra():
    from difnet.data.base import SegmentationDataset
    from difnet.data.checks.report import DataReport
    from difnet.data.errors import DataError
    from difnet.data.registry import DATASETS, create_dataset
    from difnet.data.sampling import SeededView, StepSampler, evaluation_batches, make_loader
    from difnet.data.transforms import eval_transform, train_transform

__all__ = [
    "DATASETS",
    "DataError",
    "DataReport",
    "SeededView",
    "SegmentationDataset",
    "StepSampler",
    "create_dataset",
    "eval_transform",
    "evaluation_batches",
    "make_loader",
    "train_transform",
]
