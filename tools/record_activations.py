"""Records what a trained network feeds to its walks, as test inputs.

    python tools/record_activations.py RUN

writes activations.safetensors beside this file: features (T, B, N, 64) and seed (B, N, k) of three drawn
validation scenes in float16, mu and beta (T,) in float32. RUN is a folder of `python -m difnet.train`.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from difnet import load_model
from difnet.data import create_dataset, eval_transform

SCENES = 3


def main() -> None:
    """Record."""
    model, metadata = load_model(Path(sys.argv[1]))
    dataset = create_dataset(metadata["dataset"], None, "val", transform=eval_transform())
    image = torch.stack([dataset[n][0] for n in range(SCENES)])
    with torch.inference_mode():
        details = model(image, details=True)
        features = torch.stack(model.embed(image))
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
