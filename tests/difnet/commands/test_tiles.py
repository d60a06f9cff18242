"""--tile: networks on parts of an image, walks over all of its nodes."""

import weakref

import bench_tiles
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from machine.memory import Peak
from PIL import Image
from small_runs import small_network
from torch.utils._python_dispatch import TorchDispatchMode

from difnet import DifNet, SimDeepLab, create_model, predict, save_model
from difnet.modeling.heads import Embedding
from difnet.predict import predict_labels, predict_tiled
from difnet.utils.pictures import distinct_palette, overlay
from difnet.utils.tiling import Tiling, blockwise_labels, long_run, make_plan, resized, tiled_state
from difnet.utils.tiling.labels import BLOCK
from difnet.utils.views import make_views, resize_antialiased
from difnet_kernels import cascaded_random_walk

REACH = 96
"""An overlap, in pixels, that is more than the convolutions of `test_resnet` reach to one side: 91."""
TILE = 224
"""A tile of which 32 pixels remain between two overlaps of REACH."""


def lively(model):
    """Give scores, statistics and embeddings of a size at which every error shows.

    timm starts the last batch norm of every residual block with weight 0, so that the block adds nothing.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.weight.uniform_(0.4, 0.8, generator=generator)
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


STRIPS = [(45, 243), (248, 72)]


@pytest.mark.parametrize(
    ("case", "size"),
    [
        *((case, size) for case in NETWORKS for size in STRIPS),
        *((case, (229, 243)) for case in ("all sources", "one source twice", "fine nodes")),
    ],
)
def test_with_a_sufficient_overlap_tiles_change_nothing(case, size):
    model = lively(small_network(**NETWORKS[case]))
    image, tiling = picture(*size), Tiling(TILE, REACH)
    plan = make_plan(model, size, tiling)
    assert (len(plan.rows), len(plan.columns)) == tuple(2 if side > TILE else 1 for side in size)
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
    image = picture(229, 243)
    state, logits = whole(model, image)
    tiled = tiled_state(model, image, Tiling(TILE, REACH))
    torch.testing.assert_close(tiled, state, rtol=1e-4, atol=1e-4)
    assert len(logits.argmax(1).unique()) > 1
    assert (blockwise_labels(tiled, [(229, 243)]) == logits.argmax(1)[0]).float().mean() > 0.9999


@pytest.mark.parametrize("walk_sources", [(), (0, 2)])
def test_the_smaller_the_overlap_the_larger_the_difference(walk_sources):
    model = lively(small_network(walk_sources=walk_sources))
    image = picture(45, 301)
    state, _ = whole(model, image)
    differences = [
        (tiled_state(model, image, Tiling(side, overlap)) - state).abs().max().item()
        for side, overlap in ((40, 0), (72, 16), (136, 48), (TILE, REACH))
    ]
    assert differences[0] > 0.1
    assert differences[0] > differences[1] > differences[2] > 0.001
    assert differences[3] < 1e-4


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
    image = picture(56, 290)
    expected = predict_labels(model, image, make_views(False, False, scale))
    assert len(expected.unique()) > 1
    labels = predict_tiled(model, image, Tiling(TILE, REACH), scale)
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


def test_pictures_that_are_resized_to_one_tile_have_no_logits_of_their_size(monkeypatch):
    monkeypatch.setattr("difnet.utils.tiling.labels.BLOCK", 64)
    torch.manual_seed(0)
    model = lively(create_model("test_resnet", 20, aspp=False, walk_sources=(0, 2)))
    image, scale = picture(200, 304), 0.25
    with LargestTensor() as tiled:
        labels = predict_tiled(model, image, Tiling(128, 16), scale)
    with LargestTensor() as untiled:
        expected = predict_labels(model, image, make_views(False, False, scale))
    assert len(expected.unique()) > 1
    assert (labels == expected).float().mean() > 0.9999
    assert tiled.elements <= 64 * 50 * 76  # the embedding of the pixels
    assert untiled.elements >= 20 * 200 * 304


def test_images_are_resized_channel_by_channel():
    image = picture(80, 60)
    with LargestTensor() as largest:
        small = resized(image, (40, 25))
    expected = resize_antialiased(image[None].float() / 255, (40, 25))[0]
    torch.testing.assert_close(small, expected)
    assert largest.elements <= 80 * 60
    assert resized(image, (80, 60)) is image


@pytest.mark.parametrize("case", ["fine nodes", "cosine", "gaussian", "shared"])
def test_nodes_are_scaled_in_parts(case, monkeypatch):
    """The parts are small, and their number of nodes does not divide that of the image."""
    monkeypatch.setattr("difnet.utils.tiling.states.NODES_AT_ONCE", 17)
    monkeypatch.setattr("difnet.utils.tiling.states.CHANNELS_AT_ONCE", 7)
    options = NETWORKS[case].get("diffusion", {})
    model = lively(small_network(**{**ALL, "diffusion": {"temperature": 0.5, **options}}))
    image = picture(45, 61)
    state, _ = whole(model, image)
    assert state.std() > 0.1
    torch.testing.assert_close(tiled_state(model, image, Tiling(64, 0)), state, rtol=1e-4, atol=1e-4)


def test_walks_drop_their_features(monkeypatch):
    """While a walk runs, and while its features are finished, those of the walks before it are gone."""
    model = lively(small_network(**ALL))
    alive, seen = [], []

    def walk(features, *arguments, **options):
        alive.append(weakref.ref(features[0]))
        seen.append(sum(feature() is not None for feature in alive))
        return cascaded_random_walk(features, *arguments, **options)

    def scaled(psi, nodes):
        seen.append(sum(feature() is not None for feature in alive))
        return original(psi, nodes)

    original = Embedding.scaled
    monkeypatch.setattr(Embedding, "scaled", scaled)
    monkeypatch.setattr("difnet.utils.tiling.states.cascaded_random_walk", walk)
    tiled_state(model, picture(45, 61), Tiling(64, 0))
    assert seen == [0, 1] * 5


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


def test_plans_say_whether_an_image_is_divided():
    model = small_network(diffusion={"node_stride": 4})
    for size, divided in (((64, 64), False), ((40, 300), True), ((300, 40), True), ((40, 64), False)):
        plan = make_plan(model, size, Tiling(64, 16))
        assert plan.divided == divided
        assert plan.grid == (size[0] // 4, size[1] // 4)


class OneRowMore(torch.nn.Module):
    """A network whose last map has one row more for images of more than 100 rows."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        *others, last = self.network(image)
        return [*others, F.pad(last, (0, 0, 0, 1)) if image.shape[-2] > 100 else last]


def test_maps_that_do_not_fit_together_are_refused():
    model = small_network()
    model.seed_branch.network = OneRowMore(model.seed_branch.network)
    make_plan(model, (240, 80), Tiling(128, 16))
    with pytest.raises(ValueError, match=r"maps of 12 x 10 for tiles of 96 x 80 .* of 31 x 10 for"):
        make_plan(model, (240, 80), Tiling(96, 16))


def test_long_runs_are_described():
    plan = make_plan(small_network(), (64, 64), Tiling(64, 16))
    for grid, expected in (((256, 256), "65,536 nodes, 2 walks; their time grows"), ((255, 257), None)):
        described = long_run(small_network(), plan._replace(grid=grid))
        assert described is None if expected is None else described.startswith(expected)
    one = long_run(small_network(walk_sources=(1,)), plan._replace(grid=(1250, 1250)))
    assert one == "1,562,500 nodes, 1 walk; its time grows with the square of the nodes"
    assert long_run(small_network(walk_sources=()), plan._replace(grid=(1250, 1250))) is None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A weights file of a lively network, and a folder of two pictures, of which one is small."""
    folder = tmp_path_factory.mktemp("tiles")
    save_model(lively(small_network()), folder / "model.safetensors", metadata={"classes": ["a", "b", "c"]})
    (folder / "pictures").mkdir()
    for name, size in (("large", (113, 300)), ("small", (40, 56))):
        Image.fromarray(picture(*size).permute(1, 2, 0).numpy()).save(folder / "pictures" / f"{name}.png")
    return folder


def command(run, out, *options):
    checkpoint = ["--checkpoint", str(run / "model.safetensors"), "--out", str(out)]
    return predict.main([*checkpoint, str(run / "pictures"), *options])


def test_command_writes_the_same_pictures(run, tmp_path):
    assert command(run, tmp_path / "whole") == 0
    assert command(run, tmp_path / "tiled", "--tile", str(TILE), "--overlap", str(REACH)) == 0
    for name in ("large.labels", "large.overlay", "small.labels", "small.overlay"):
        one, other = (np.array(Image.open(tmp_path / kind / f"{name}.png")) for kind in ("whole", "tiled"))
        assert (one == other).mean() > 0.9999
        assert len(np.unique(one)) > 1


def test_command_with_a_scale(run, tmp_path):
    options = ("--image-scale", "1.2")
    assert command(run, tmp_path / "whole", *options) == 0
    assert command(run, tmp_path / "tiled", *options, "--tile", str(TILE), "--overlap", str(REACH)) == 0
    one, other = (np.array(Image.open(tmp_path / kind / "large.labels.png")) for kind in ("whole", "tiled"))
    assert one.shape == (113, 300)
    assert (one == other).mean() > 0.9999


def test_command_makes_one_plan_and_announces_long_runs(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("difnet.utils.tiling.plan.MANY_NODES", 500)

    def made_again(*_):
        raise AssertionError("the plan was made twice")

    monkeypatch.setattr("difnet.utils.tiling.states.make_plan", made_again)
    assert command(run, tmp_path / "out", "--tile", "128", "--overlap", "16") == 0
    lines = capsys.readouterr().out.splitlines()
    large = run / "pictures" / "large.png"
    assert lines[0] == f"{large}: 570 nodes, 2 walks; their time grows with the square of the nodes"
    assert len(lines) == 3  # and one for each picture


@pytest.mark.parametrize(
    ("options", "function", "remedy"),
    [
        ((), "predict_labels", "give --tile 1024, or cut it into smaller pictures"),
        (("--flip",), "predict_labels", "give --tile 1024 instead of --multi-scale and --flip, or cut"),
        (("--tile", "128", "--overlap", "16"), "predict_tiled", "give a smaller --tile, or cut it"),
    ],
)
def test_pictures_for_which_memory_runs_out_are_named(
    run, tmp_path, capsys, monkeypatch, options, function, remedy
):
    original = getattr(predict, function)

    def limited(model, image, *arguments):
        if image.shape[-1] == 300:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nand more lines")
        return original(model, image, *arguments)

    monkeypatch.setattr(predict, function, limited)
    assert command(run, tmp_path / "out", *options) == 1
    reason = "memory ran out (CUDA out of memory. Tried to allocate 2 GiB)"
    assert f"{run / 'pictures' / 'large.png'}: {reason}; {remedy}" in capsys.readouterr().err
    assert (tmp_path / "out" / "small.labels.png").exists()


def test_other_errors_of_the_network_are_not_hidden(run, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(predict, "predict_labels", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        command(run, tmp_path / "out")


@pytest.mark.parametrize("options", [(), ("--tile", "128", "--overlap", "16")])
def test_pictures_with_infinite_logits_are_named(run, tmp_path, capsys, options):
    model = lively(small_network())
    with torch.no_grad():
        model.classifier.branches[0].bias[0] = torch.inf
    save_model(model, tmp_path / "infinite.safetensors")
    arguments = ["--checkpoint", str(tmp_path / "infinite.safetensors"), "--out", str(tmp_path / "out")]
    image = str(run / "pictures" / "large.png")
    assert predict.main([*arguments, image, *options]) == 1
    assert (
        f"NaN or infinite, as after a training that diverged; the image is {image}" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tile", "1024", "--flip"), "--multi-scale and --flip average the probabilities of whole images"),
        (("--tile", "1024", "--multi-scale"), "leave these out, or --tile"),
        (("--tile", "64"), "--tile 64 is too small for --overlap 128 on both sides"),
        (("--overlap", "16"), "--overlap belongs to --tile; give --tile too, or leave it out"),
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
    assert "or raise --max-pixels" in capsys.readouterr().err
    assert command(run, tmp_path / "odd", *tiles, "--max-pixels", "33899") == 1
    error = capsys.readouterr().err
    assert "large.png is too large (33900 pixels); cut it into smaller pictures, or raise --max-pix" in error
    assert command(run, tmp_path / "read", *tiles, "--max-pixels", "33900") == 0
    assert command(run, tmp_path / "more", *tiles, "--max-pixels", "33901") == 0
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


def test_the_benchmark_compares_with_the_whole_image_only(capsys, monkeypatch):
    """If the prediction of the whole image fails, the rows of tiles are compared with nothing."""
    calls = []

    def fails_first(prepare, options, size, tiling, file, **_):
        calls.append(tiling)
        if tiling is not None or whole_works:
            state = torch.full((1, 2, 3, 4), float(len(calls))) + torch.arange(4)
            torch.save({"labels": state[0, 0], "state": state, "seconds": 1.0}, file)
        return Peak(None, 1.0)

    monkeypatch.setattr(bench_tiles, "peak_in_new_process", fails_first)
    monkeypatch.setattr(bench_tiles, "load_model", lambda _: (small_network(), {}))
    arguments = ["--size", "160", "200", "--core", "64", "--overlaps", "0", "16"]
    for whole_works in (False, True):
        calls.clear()
        bench_tiles.compare(bench_tiles.parse(arguments))
        *_, none, some, note = (line.split() for line in capsys.readouterr().out.splitlines())
        expected = [["1.00e+00", "100.0000"], ["2.00e+00", "100.0000"]] if whole_works else [["-"] * 2] * 2
        for row, (logit, labels) in zip((none, some), expected, strict=True):
            assert row[-2] == logit
            assert labels in row[-4:-2]
        assert note[:5] == ["the", "largest", "overlap,", "16,", "is"]
