"""Augmentation: padding, alignment of image and label, determinism."""

import pytest
import torch
from torchvision import tv_tensors

from difnet.data import eval_transform, train_transform
from difnet.data.transforms import PAD_COLOUR, RandomScale


def pair(height: int, width: int) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    """Blocks of 8 pixels whose grey value encodes the class."""
    rows, columns = torch.meshgrid(torch.arange(height) // 8, torch.arange(width) // 8, indexing="ij")
    label = ((rows + columns) % 4).to(torch.uint8)
    return tv_tensors.Image((label * 60).expand(3, -1, -1).clone()), tv_tensors.Mask(label)


def test_padding_is_void_and_mean_colour():
    torch.manual_seed(0)
    image, label = train_transform(64, scale=(0.5, 0.5), flip=False)(*pair(48, 48))
    assert image.shape == (3, 64, 64)
    assert label.shape == (64, 64)
    assert image.dtype == torch.float32
    assert label.dtype == torch.int64
    assert type(image) is type(label) is torch.Tensor
    padded = label == 255
    assert (~padded).sum() == 24 * 24
    expected = torch.tensor(PAD_COLOUR, dtype=torch.float32) / 255
    assert torch.allclose(image[:, padded], expected[:, None].expand(-1, int(padded.sum())))


def test_image_and_label_move_together():
    for seed in range(20):
        torch.manual_seed(seed)
        image, label = train_transform(40, scale=(0.5, 2.0))(*pair(64, 72))
        known = label != 255
        decoded = (image[0] * 255 / 60).round().long()
        # Bilinear values differ from their class only at the edges of the blocks.
        agreement = (decoded == label)[known].float().mean()
        assert agreement > 0.7, (seed, agreement)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaled_label_keeps_pixel_centres(factor):
    image, label = pair(32, 32)
    scale = RandomScale((factor, factor))
    resized, resized_label = scale(image, label)
    assert resized.shape[-2:] == resized_label.shape == (round(32 * factor), round(32 * factor))
    # Blocks of 8 scale to whole blocks: any offset would show at their edges.
    step = round(8 * factor)
    expected = label[::8, ::8].repeat_interleave(step, 0).repeat_interleave(step, 1)
    assert torch.equal(resized_label.as_subclass(torch.Tensor), expected.as_subclass(torch.Tensor))


def test_scale_stays_in_range():
    torch.manual_seed(0)
    sizes = [RandomScale((0.5, 1.5))(*pair(40, 40))[0].shape[-1] for _ in range(200)]
    assert min(sizes) < 24
    assert max(sizes) > 56
    assert all(20 <= size <= 60 for size in sizes)
    with pytest.raises(ValueError, match="0 < low <= high"):
        RandomScale((0.0, 1.0))


@pytest.mark.parametrize("size", [(40, 56), (9, 1), (2, 1), (1, 1)])
def test_pictures_scaled_to_one_pixel(size):
    image = tv_tensors.Image(torch.full((3, *size), 200, dtype=torch.uint8))
    label = tv_tensors.Mask(torch.ones(size, dtype=torch.uint8))
    scaled, truth = train_transform(4, scale=(0.01, 0.01))(image, label)
    assert (truth == 1).sum() == 2
    assert torch.allclose(scaled[:, truth == 1], torch.tensor(200 / 255))


def test_flip_switch():
    image, label = pair(32, 40)
    fixed = train_transform(32, scale=(1.0, 1.0), flip=False)
    torch.manual_seed(0)
    crops = [fixed(image, label)[1] for _ in range(30)]
    windows = [label[:, left : left + 32].long() for left in range(9)]
    assert all(any(torch.equal(crop, window) for window in windows) for crop in crops)


def test_same_seed_same_crop():
    transform = train_transform(32)
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        results.append(transform(*pair(64, 64)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_eval_transform_only_converts():
    image, label = pair(33, 47)
    converted, target = eval_transform()(image, label)
    assert torch.equal((converted * 255).round().to(torch.uint8), image.as_subclass(torch.Tensor))
    assert torch.equal(target, label.long())
