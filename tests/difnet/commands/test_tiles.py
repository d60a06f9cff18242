"""--tile: networks on parts of an image, walks over all of its nodes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_runs import small_network
from torch.utils._python_dispatch import TorchDispatchMode

from difnet import DifNet, SimDeepLab, create_model, predict, save_model
from difnet.predict import predict_labels, predict_tiled
from difnet.utils.pictures import distinct_palette, overlay
from difnet.utils.tiling import Tiling, blockwise_labels, make_plan, tiled_state
from difnet.utils.tiling.labels import BLOCK
from difnet.utils.views import make_views

REACH = 48
"""An overlap, in pixels, that is more than the convolutions of `test_resnet` reach to one side."""


def lively(model):
    """Give scores, statistics and embeddings of a size at which every error shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in [*model.named_buffers(), *model.named_parameters()]:
            if name.endswith("running_mean"):
                value.normal_(0.0, 0.3, generator=generator)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2.0, generator=generator)
            elif name.startswith("classifier."):
                value.normal_(0.0, 1.0, generator=generator)
        if isinstance(model, DifNet):
            for psi in model.embeddings:
                psi.norm.weight.fill_(0.3)
            model.mu_logit.fill_(1.5)
            model.beta_logit.fill_(0.5)
        score_map = model.eval()(picture(64, 96)[None].float() / 255, details=True).score_map
        model.classifier.branches[0].bias -= score_map.mean((0, 2, 3))  # so that several classes win
    return model


def picture(*size):
    """A coloured gradient with noise: no two places are alike."""
    generator = torch.Generator().manual_seed(2)
    rows, columns = (torch.linspace(0.0, 1.0, side) for side in size)
    base = torch.stack(
        [rows[:, None] * columns, rows[:, None] * (1 - columns), (1 - rows[:, None]) * columns]
    )
    return (255 * (0.6 * base + 0.4 * torch.rand(3, *size, generator=generator))).to(torch.uint8)


def whole(model, image):
    """Last state and logits without tiles."""
    with torch.inference_mode():
        details = model(image[None].float() / 255, details=True)
    return (details.states[-1] if len(details.states) else details.seed), details.logits


ALL = {"walk_sources": (0, 1, 2, 3, 4)}
NETWORKS = {
    "all sources": ALL,
    "one source twice": {"walk_sources": (3, 0, 0)},
    "no walks": {"walk_sources": ()},
    "gaussian": {**ALL, "diffusion": {"affinity": "gaussian", "temperature": 2.0}},
    "reach": {**ALL, "diffusion": {"reach": 20.0, "learn_temperature": True}},
    "fine nodes": {**ALL, "diffusion": {"node_stride": 4, "affinity": "gaussian", "reach": 20.0}},
    "finer nodes": {"walk_sources": (0, 1, 4), "diffusion": {"node_stride": 2, "importance": False}},
    "cosine": {**ALL, "diffusion": {"affinity": "cosine", "temperature": 0.5}},
    "shared": {**ALL, "diffusion": {"shared_transition": True, "gates": "tied", "affinity": "gaussian"}},
    "detached": {**ALL, "diffusion": {"detach_seed": True}},
}


@pytest.mark.parametrize("size", [(160, 240), (157, 243)])
@pytest.mark.parametrize("case", NETWORKS)
def test_with_a_sufficient_overlap_tiles_change_nothing(case, size):
    if case == "finer nodes":
        size = (size[0] - 16, size[1] - 80)
    model = lively(small_network(**NETWORKS[case]))
    image, tiling = picture(*size), Tiling(128, REACH)
    plan = make_plan(model, size, tiling)
    assert len(plan.rows) >= 2
    assert len(plan.columns) >= 2
    state, logits = whole(model, image)
    tiled = tiled_state(model, image, tiling)
    assert state.std() > 0.1
    assert len(logits.argmax(1).unique()) > 1
    torch.testing.assert_close(tiled, state, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.upsample(tiled, size), logits, rtol=1e-4, atol=1e-4)
    assert (blockwise_labels(tiled, [size]) == logits.argmax(1)[0]).float().mean() > 0.9999


@pytest.mark.parametrize("branches", [1, 2])
def test_networks_without_walks(branches):
    torch.manual_seed(0)
    model = lively(SimDeepLab("test_resnet", 3, aspp=False, branches=branches))
    image = picture(161, 243)
    state, logits = whole(model, image)
    tiled = tiled_state(model, image, Tiling(128, REACH))
    torch.testing.assert_close(tiled, state, rtol=1e-4, atol=1e-4)
    assert len(logits.argmax(1).unique()) > 1
    assert (blockwise_labels(tiled, [(161, 243)]) == logits.argmax(1)[0]).float().mean() > 0.9999


@pytest.mark.parametrize("walk_sources", [(), (0, 2)])
def test_the_smaller_the_overlap_the_larger_the_difference(walk_sources):
    model = lively(small_network(walk_sources=walk_sources))
    image = picture(160, 240)
    state, _ = whole(model, image)
    differences = [
        (tiled_state(model, image, Tiling(side, overlap)) - state).abs().max().item()
        for side, overlap in ((40, 0), (72, 16), (136, REACH))
    ]
    assert differences[0] > 2 * differences[1]
    assert differences[0] > 0.1
    assert differences[1] > 0.001
    assert differences[2] < 1e-4


def test_walks_cross_the_borders_of_tiles():
    """A change in one corner changes the labels' scores in the opposite one, tiles away."""
    model = lively(small_network(diffusion={"temperature": 50.0}))
    image = picture(160, 240)
    changed = image.clone()
    changed[:, :24, :24] = 255
    one, other = (tiled_state(model, x, Tiling(64, 16)) for x in (image, changed))
    assert (one - other)[..., -2:, -2:].abs().max() > 1e-4


@pytest.mark.parametrize("size", [(160, 240), (203, 275), (48, 500)])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 16), (100, 20), (31, 4)])
def test_every_node_is_owned_by_one_tile_with_the_overlap_around_it(size, tile, overlap):
    plan = make_plan(small_network(), size, Tiling(tile, overlap))
    for spans, side, cells in zip((plan.rows, plan.columns), size, plan.score_map.size, strict=True):
        assert [cell for span in spans for cell in span.owned(8, cells)] == list(range(cells))
        assert [pixel for span in spans for pixel in span.owned(1, side)] == list(range(side))
        for span in spans:
            assert span.start % 8 == 0
            assert span.stop - span.start <= tile
            assert span.start == 0 or span.first_owned - span.start >= overlap
            assert span.stop == side or span.stop - span.last_owned >= overlap
        assert (spans[0].start, spans[-1].stop) == (0, side)


@pytest.mark.parametrize(
    "backbone", ["mobilenetv3_small_050", "convnext_atto", "tf_efficientnet_lite0", "cs3darknet_focus_s"]
)
def test_maps_of_every_rounding_line_up(backbone):
    size = (161, 203)
    model = create_model(backbone, 2, aspp=False, walk_sources=(1, 4)).eval()
    plan = make_plan(model, size, Tiling(96, 16))
    cells = model.check_size(size)
    assert plan.score_map.size == cells
    rows = [row for span in plan.rows for row in span.owned(8, cells[0])]
    assert rows == list(range(cells[0]))
    state = tiled_state(model, torch.zeros(3, *size, dtype=torch.uint8), Tiling(96, 16))
    assert state.shape == (1, 2, *cells)


def test_maps_of_a_network_with_asymmetric_padding_are_those_of_the_image():
    """TensorFlow's padding depends on the size of the image; tiles must have the same."""
    torch.manual_seed(0)
    model = create_model("tf_efficientnet_lite0", 2, aspp=False, walk_sources=(1,)).eval()
    branch = model.seed_branch
    for layer in branch.network.modules():  # all weights in the centres: nothing reaches across pixels
        if isinstance(layer, torch.nn.Conv2d) and layer.stride == (1, 1) and layer.kernel_size[0] > 1:
            middle = layer.kernel_size[0] // 2
            with torch.no_grad():
                centre = layer.weight[..., middle, middle].clone()
                layer.weight.zero_()
                layer.weight[..., middle, middle] = centre
    lively(model)
    for size in [(161, 199), (164, 200)]:
        image = picture(*size)
        state, _ = whole(model, image)
        torch.testing.assert_close(tiled_state(model, image, Tiling(128, 32)), state, rtol=1e-4, atol=1e-4)


def test_tiles_begin_where_blocks_of_attention_do():
    model = create_model("halonet26t", 2, aspp=False, walk_sources=()).eval()
    plan = make_plan(model, (256, 512), Tiling(192, 32))
    starts = [span.start for span in (*plan.rows, *plan.columns)]
    assert all(start % 64 == 0 for start in starts)
    assert len(plan.rows) > 1
    with pytest.raises(ValueError, match=r"'halonet26t' differ .* multiple of 64; give --tile 191 or more"):
        make_plan(model, (256, 512), Tiling(100, 32))
    with pytest.raises(ValueError, match="does not take images of 230 x 230"):
        make_plan(model, (230, 230), Tiling(128, 32))


def test_networks_of_one_size_are_refused():
    model = create_model("botnet26t_256", 2, aspp=False, walk_sources=()).eval()
    with pytest.raises(ValueError, match=r"takes images of 256 x 256 pixels but none .* leave out --tile"):
        make_plan(model, (256, 256), Tiling(128, 32))


@pytest.mark.parametrize(
    "sizes", [[(160, 240)], [(161, 243)], [(53, 81), (160, 243)], [(600, 300), (299, 151)]]
)
def test_blocks_of_labels_are_the_argmax_of_the_upsampled_state(sizes, monkeypatch):
    monkeypatch.setattr("difnet.utils.tiling.labels.BLOCK", 56)
    state = torch.randn(1, 5, 20, 31, generator=torch.Generator().manual_seed(0)).double()
    logits = state
    for size in sizes:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    labels = blockwise_labels(state, sizes)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), logits.argmax(1)[0])


def test_more_than_256_classes_have_wide_labels():
    state = torch.zeros(1, 300, 2, 2)
    state[:, 280] = 1.0
    assert blockwise_labels(state, [(BLOCK + 1, 5)]).unique().tolist() == [280]


@pytest.mark.parametrize("scale", [0.8, 1.2, 1.0])
def test_resized_images(scale):
    model = lively(small_network())
    image = picture(150, 226)
    expected = predict_labels(model, image, make_views(False, False, scale))
    assert len(expected.unique()) > 1
    labels = predict_tiled(model, image, Tiling(112, REACH), scale)
    assert labels.dtype == torch.uint8
    assert (labels == expected).float().mean() > 0.9999


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operation returns."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple | list) else [results]:
            if isinstance(result, torch.Tensor) and result.device.type != "meta":
                self.elements = max(getattr(self, "elements", 0), result.numel())
        return results


def test_no_tensor_is_larger_than_those_of_a_tile_or_an_embedding():
    model = lively(small_network(**NETWORKS["fine nodes"]))
    image = picture(200, 304)
    with LargestTensor() as tiled:
        predict_tiled(model, image, Tiling(64, 16))
    with LargestTensor() as untiled:
        predict_labels(model, image)
    assert tiled.elements <= 66 * max(50 * 76, 64 * 64)
    assert untiled.elements >= 64 * 200 * 304  # the embedding of the pixels


def test_smaller_images_are_not_divided():
    model = lively(small_network())
    image = picture(64, 56)
    assert torch.equal(predict_tiled(model, image, Tiling(64, 16)).long(), predict_labels(model, image))


def test_bad_tilings_are_errors():
    with pytest.raises(ValueError, match=r"--tile 256 is too small for --overlap 128 .* at least --tile 271"):
        Tiling(256, 128)
    Tiling(271, 128)
    with pytest.raises(ValueError, match="--overlap must not be negative, got -1"):
        Tiling(256, -1)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        tiled_state(small_network(), picture(64, 64), Tiling(32, 0))


def test_infinite_logits_are_an_error():
    model = lively(small_network())
    with torch.no_grad():
        model.classifier.branches[0].bias[0] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        predict_tiled(model, picture(80, 80), Tiling(64, 16))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A weights file of a lively network, and a folder of two pictures, of which one is small."""
    folder = tmp_path_factory.mktemp("tiles")
    save_model(lively(small_network()), folder / "model.safetensors", metadata={"classes": ["a", "b", "c"]})
    (folder / "pictures").mkdir()
    for name, size in (("large", (150, 226)), ("small", (40, 56))):
        Image.fromarray(picture(*size).permute(1, 2, 0).numpy()).save(folder / "pictures" / f"{name}.png")
    return folder


def command(run, out, *options):
    checkpoint = ["--checkpoint", str(run / "model.safetensors"), "--out", str(out)]
    return predict.main([*checkpoint, str(run / "pictures"), *options])


def test_command_writes_the_same_pictures(run, tmp_path):
    assert command(run, tmp_path / "whole") == 0
    assert command(run, tmp_path / "tiled", "--tile", "128", "--overlap", str(REACH)) == 0
    for name in ("large.labels", "large.overlay", "small.labels", "small.overlay"):
        one, other = (np.array(Image.open(tmp_path / kind / f"{name}.png")) for kind in ("whole", "tiled"))
        assert (one == other).mean() > 0.9999
        assert len(np.unique(one)) > 1


def test_command_with_a_scale(run, tmp_path):
    options = ("--image-scale", "1.2")
    assert command(run, tmp_path / "whole", *options) == 0
    assert command(run, tmp_path / "tiled", *options, "--tile", "128", "--overlap", str(REACH)) == 0
    one, other = (np.array(Image.open(tmp_path / kind / "large.labels.png")) for kind in ("whole", "tiled"))
    assert one.shape == (150, 226)
    assert (one == other).mean() > 0.9999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", "1024", "--flip"), "--multi-scale and --flip average the probabilities of whole images"),
        (("--tile", "1024", "--multi-scale"), "leave these out, or --tile"),
        (("--tile", "64"), "--tile 64 is too small for --overlap 128 on both sides"),
        (("--max-pixels", "0"), "--max-pixels must be positive, got 0"),
    ],
)
def test_options_that_cannot_be_used_are_named(run, tmp_path, capsys, options, message):
    assert command(run, tmp_path / "out", *options) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_that_cannot_be_divided_are_named(tmp_path, run, capsys):
    torch.manual_seed(0)
    network = create_model("halonet26t", 2, aspp=False, walk_sources=())
    save_model(network, tmp_path / "halo.safetensors")
    Image.fromarray(np.zeros((128, 128, 3), np.uint8)).save(tmp_path / "view.png")
    arguments = ["--checkpoint", str(tmp_path / "halo.safetensors"), "--out", str(tmp_path / "out")]
    more = ["--tile", "100", "--overlap", "40"]
    assert predict.main([*arguments, str(tmp_path / "view.png"), *more]) == 1
    assert "view.png: tiles of backbone 'halonet26t' differ" in capsys.readouterr().err


def test_pillows_limit_stays_unless_it_is_raised(run, tmp_path, capsys, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    tiles = ("--tile", "128", "--overlap", "16")
    assert command(run, tmp_path / "refused", *tiles) == 1  # 33,900 pixels
    error = capsys.readouterr().err
    assert "large.png is too large" in error
    assert "or raise --max-pixels if you trust the file" in error
    assert (tmp_path / "refused" / "small.labels.png").exists()
    assert command(run, tmp_path / "almost", *tiles, "--max-pixels", "33898") == 1
    assert command(run, tmp_path / "read", *tiles, "--max-pixels", "33900") == 0
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    assert command(run, tmp_path / "warned", *tiles) == 0
    assert not [warning for warning in recwarn if "bomb" in str(warning.message)]
    assert command(run, tmp_path / "whole") == 0  # without tiles, a large picture is a surprise
    assert [warning for warning in recwarn if "bomb" in str(warning.message)]
    assert Image.MAX_IMAGE_PIXELS == 20_000


def test_overlays_are_mixed_in_parts(monkeypatch):
    image = picture(37, 23)
    label = torch.randint(0, 4, (37, 23), generator=torch.Generator().manual_seed(0))
    label[label == 3] = 255
    palette = distinct_palette(3)
    colours = palette[label.clamp(max=2).numpy()].astype(np.float64)
    base = image.permute(1, 2, 0).numpy().astype(np.float64)
    expected = np.where((label == 255)[..., None], base, np.round(0.5 * base + 0.5 * colours))
    for step in (1, 100, 2**20):
        monkeypatch.setattr("difnet.utils.pictures.PIXELS_AT_ONCE", step)
        for form in (image, image.float() / 255):
            assert np.array_equal(np.array(overlay(form, label, palette)), expected)
