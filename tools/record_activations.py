"""Record the inputs of a trained network's walks, for tests.

    python tools/record_activations.py RUN

writes tests/data/activations.safetensors: features (T, B, N, 64) and seed (B, N, k) of three drawn validation
scenes in float16, mu and beta (T,) in float32. RUN is the folder of a run of `python -m difnet.train`.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from difnet import load_model
from difnet.data import create_dataset, eval_transform
from difnet.modeling.network import DifNet

SCENES = 3


def main() -> None:
    model, metadata = load_model(Path(sys.argv[1]))
    if not isinstance(model, DifNet):
        raise SystemExit(f"{sys.argv[1]}: its network has no walks; give the run of a DifNet")
    dataset = create_dataset(metadata["dataset"], None, "val", transform=eval_transform())
    image = torch.stack([dataset[n][0] for n in range(SCENES)])
    with torch.inference_mode():
        details = model(image, details=True)
        features = torch.stack([features for features, _ in details.transitions])
    recorded = {
        "features": features.half(),
        "seed": details.seed.flatten(2).transpose(1, 2).half(),
        "mu": details.mu,
        "beta": details.beta,
    }
    save_file(
        {name: tensor.contiguous() for name, tensor in recorded.items()},
        Path(__file__).parents[1] / "tests" / "data" / "activations.safetensors",
    )


if __name__ == "__main__":
    main()
