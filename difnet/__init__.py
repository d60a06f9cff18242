"""DifNet: semantic segmentation by diffusion of predictions over the image, in learned random walks."""

from importlib.metadata import PackageNotFoundError, version

from difnet.utils.extras import train_extra

with train_extra():
    from difnet.modeling.factory import MODELS, create_model
    from difnet.modeling.network import Details, DifNet, SimDeepLab
    from difnet.modeling.weights import init_from, load_model, save_model

try:
    __version__ = version("difnet-kernels")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

MODEL_NAMES = tuple(MODELS)

__all__ = [
    "MODEL_NAMES",
    "Details",
    "DifNet",
    "SimDeepLab",
    "__version__",
    "create_model",
    "init_from",
    "load_model",
    "save_model",
]
