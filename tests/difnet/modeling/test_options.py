"""The options of the walks: affinities, temperatures, gates, importance, one matrix for all walks."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import difnet
from difnet.modeling.heads import Embedding
from difnet.modeling.options import DiffusionOptions
from difnet.training.config import TrainConfig
from difnet.training.recipes import RECIPES
from difnet_kernels import random_walk, transition_rows


def build(walk_sources=(0, 2, 4), **diffusion):
    torch.manual_seed(0)
    return difnet.create_model("test_resnet", 3, aspp=False, walk_sources=walk_sources, diffusion=diffusion)


def states_of(model, image):
    """The states by equation (4), with every P stored, from the embeddings' own layers."""
    details = model(image, details=True)
    options, seed = model.diffusion, details.seed.flatten(2).mT
    size = details.seed.shape[-2:]
    normalized = model.normalize(image)
    sources = [normalized, *(model.similarity_branch(normalized) if model.similarity_branch else [])]
    state, states = seed, []
    for walk in range(len(model.walk_sources)):
        psi = model.embeddings[0 if options.shared_transition else walk]
        source = sources[model.walk_sources[-1 if options.shared_transition else walk]]
        f = psi.norm(psi.project(source))
        if f.shape[-1] < size[-1]:
            f = nn.functional.interpolate(f, size, mode="bilinear", align_corners=False)
        else:
            f = nn.functional.adaptive_max_pool2d(f, size)
        f = f.flatten(2).mT
        if options.affinity == "cosine":
            norm = f.norm(dim=-1)
            scores = f.shape[-1] * (f @ f.mT) / (norm[:, :, None] * norm[:, None])
        elif options.affinity == "gaussian":
            scores = -torch.cdist(f, f, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
        else:
            scores = f @ f.mT
        temperature = options.temperature
        if options.learn_temperature:
            temperature = temperature * psi.log_temperature.exp()
        scores = scores / temperature
        if options.reach:
            spots = [(r, c) for r in range(size[0]) for c in range(size[1])]  # nodes, row by row
            centre = torch.tensor([size[0] - 1, size[1] - 1]) / 2
            pixels = options.node_stride * (torch.tensor(spots) - centre)
            places = (pixels / (options.reach * psi.log_reach.exp())).to(torch.bfloat16).to(f.dtype)
            scores = scores - (places[:, None] - places).square().sum(-1) / 2
        transition = scores.softmax(-1)
        assert transition.diagonal(dim1=1, dim2=2).mean() < 0.98  # not the identity
        assert (transition - 1 / transition.shape[1]).abs().sum(-1).mean() > 0.01  # nor uniform
        mu, beta = details.mu[walk], details.beta[walk]
        state = beta * (mu * transition @ state + (1 - mu) * seed) + (1 - beta) * state
        states.append(state)
    return details, states


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("affinity", ["dot", "gaussian", "cosine"])
def test_states_follow_the_affinity(affinity, learned, shared):
    model = build(
        affinity=affinity, temperature=10.0, learn_temperature=learned, shared_transition=shared
    ).double()
    with torch.no_grad():
        model.mu_logit.copy_(torch.linspace(-1, 1, 3))
        model.beta_logit.copy_(torch.linspace(1, 0, 3))
        if learned:
            for walk, psi in enumerate(model.embeddings):
                psi.log_temperature.copy_(torch.tensor(math.log(0.8 + 0.4 * walk)))
        details, expected = states_of(model, torch.rand(3, 3, 48, 64, dtype=torch.float64))
    for state, right in zip(details.states, expected, strict=True):
        torch.testing.assert_close(state.flatten(2).mT, right)
    assert (details.states[-1] - details.seed).abs().max() > 1e-3 * details.seed.abs().max()


@pytest.mark.parametrize("stride", [8, 4])
@pytest.mark.parametrize("affinity", ["dot", "gaussian", "cosine"])
def test_reach_lowers_the_scores_of_distant_nodes(affinity, stride):
    model = build(affinity=affinity, temperature=10.0, reach=12.0, node_stride=stride).double()
    image = torch.rand(2, 3, 48, 64, dtype=torch.float64)
    with torch.no_grad():
        for walk, psi in enumerate(model.embeddings):
            psi.log_reach += 0.2 * walk
        details, expected = states_of(model, image)
    for state, right in zip(details.states, expected, strict=True):
        torch.testing.assert_close(state.flatten(2).mT, right)
    model(image).square().sum().backward()
    assert all(psi.log_reach.grad.abs() > 0 for psi in model.embeddings)
    assert len(model.parameter_groups(0.1)[1]["params"]) == 2 + 3  # gates: mu, beta and the three reaches


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_distances_agree_at_every_precision(precision):
    """Products of positions are large, and their differences are the scores."""
    model = build((0,), reach=12.3, node_stride=4, affinity="cosine", temperature=100.0).eval()
    with torch.no_grad():
        transitions = model(torch.rand(1, 3, 120, 480), details=True).transitions
    ((features, bias),) = transitions
    state = torch.rand(1, features.shape[1], 3)
    one = torch.ones(())
    exact = random_walk(features.double(), state.double(), state.double(), one, one, node_bias=bias.double())
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        rounded = random_walk(features, state, state, one, one, node_bias=bias)
    finally:
        torch.set_float32_matmul_precision(before)
    assert (rounded - exact).norm() < 0.02 * exact.norm()
    assert (exact - state).norm() > 0.1 * exact.norm()  # P is not the identity


@pytest.mark.parametrize("affinity", ["dot", "gaussian", "cosine"])
def test_autocast_on_a_gpu_keeps_features_in_16_bits(affinity):
    """The norm of a vector is float32 under autocast on CUDA, on a CPU it is not."""
    options = DiffusionOptions(affinity=affinity, temperature=8.0, reach=12.0)
    torch.set_autocast_enabled("cuda", True)  # torch.autocast refuses where there is no GPU
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode(), torch.device("cuda"):
            nodes = Embedding(16, options)(torch.rand(2, 16, 12, 16), (6, 8))
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.set_autocast_dtype("cuda", torch.float16)
    assert nodes.dtype == torch.bfloat16


def test_distances_agree_in_bfloat16():
    """The scores of positions are differences of large products: both parts must round alike."""
    model = build((0,), reach=10.0, node_stride=4, affinity="cosine", temperature=100.0).eval()
    image = torch.rand(1, 3, 120, 480)
    nodes = torch.tensor([15 * 120 + 3, 15 * 120 + 60])
    ((exact, exact_bias),) = model(image, details=True).transitions
    with torch.autocast("cpu", torch.bfloat16):
        ((rounded, rounded_bias),) = model(image, details=True).transitions
    assert rounded.dtype == torch.bfloat16
    rows = transition_rows(exact, nodes, node_bias=exact_bias)
    others = transition_rows(rounded, nodes, node_bias=rounded_bias)
    assert (rows - others).abs().sum(-1).max() < 0.2
    assert (rows[..., nodes].diagonal(dim1=1, dim2=2) < 0.2).all()  # and the rows are not the identity


@pytest.mark.parametrize(("stride", "grid"), [(8, (7, 9)), (4, (13, 17)), (2, (25, 33)), (1, (50, 66))])
def test_nodes_of_any_stride(stride, grid):
    model = build((0, 1, 3), node_stride=stride, affinity="cosine", temperature=10.0).double()
    image = torch.rand(2, 3, 50, 66, dtype=torch.float64)
    with torch.no_grad():
        details, expected = states_of(model, image)
    assert details.seed.shape == (2, 3, *grid)
    seed = nn.functional.interpolate(details.importance * details.score_map, grid, mode="bilinear")
    torch.testing.assert_close(details.seed, seed)
    for state, right in zip(details.states, expected, strict=True):
        torch.testing.assert_close(state.flatten(2).mT, right)
    logits = nn.functional.interpolate(details.states[-1], (50, 66), mode="bilinear")
    torch.testing.assert_close(details.logits, logits)
    assert [features.shape[1] for features, _ in details.transitions] == [grid[0] * grid[1]] * 3


def test_a_learned_temperature_starts_at_the_option_and_gets_a_gradient():
    plain, learned = build(temperature=8.0), build(temperature=8.0, learn_temperature=True)
    image = torch.rand(2, 3, 48, 64)
    torch.testing.assert_close(learned(image), plain(image))
    learned(image).square().sum().backward()
    gradients = [psi.log_temperature.grad for psi in learned.embeddings]
    assert all(gradient.abs() > 0 for gradient in gradients)
    names = [group["name"] for group in learned.parameter_groups(0.1)]
    assert names == ["backbone", "gates", "head"]
    gates = learned.parameter_groups(0.1)[1]["params"]
    assert len(gates) == 2 + 3


def test_long_features_are_no_hubs_without_the_dot_product():
    """One node has features ten times as long: by "dot" all others look at it, by the others they do not."""
    shares = {}
    for affinity in ("dot", "gaussian", "cosine"):
        model = build((1,), affinity=affinity, temperature=8.0)
        f = torch.randn(1, 30, 64, generator=torch.Generator().manual_seed(0))
        f[:, :29] += f[:, 29:]  # a common part, in the direction of the long node
        f[:, 29] *= 10
        psi = model.embeddings[0]
        psi.project, psi.norm = nn.Identity(), nn.Identity()
        nodes = psi(f.mT.unflatten(-1, (5, 6)), (5, 6))
        bias = model._bias(nodes)
        shares[affinity] = transition_rows(nodes, torch.arange(30), node_bias=bias)[0, :29, 29].mean().item()
    assert shares["dot"] > 0.99
    assert shares["gaussian"] < 0.01
    assert shares["cosine"] < 0.5


def test_gates():
    image = torch.rand(2, 3, 48, 64)
    fixed = build(gates="mu-fixed")
    fixed(image).sum().backward()
    assert fixed.mu_logit.grad is None
    assert fixed.beta_logit.grad is not None
    tied = build(gates="tied")
    assert tied.mu_logit.shape == tied.beta_logit.shape == (1,)
    with torch.no_grad():
        tied.mu_logit.fill_(1.0)
    details = tied(image, details=True)
    assert details.mu.shape == details.beta.shape == (3,)
    assert torch.equal(details.mu, torch.tensor(1.0).sigmoid().expand(3))


def test_a_detached_seed_has_the_same_values_and_no_gradient_from_the_walks():
    image = torch.rand(2, 3, 48, 64)
    joint, detached = build(temperature=8.0), build(temperature=8.0, detach_seed=True)
    torch.testing.assert_close(detached(image), joint(image))
    details = detached(image, details=True)
    details.logits.square().sum().backward()
    touched = {name.partition(".")[0] for name, p in detached.named_parameters() if p.grad is not None}
    assert touched == {"similarity_branch", "embeddings", "mu_logit", "beta_logit"}
    assert details.seed.requires_grad  # for the loss of the seed


def test_without_importance_the_seed_is_the_score_map():
    model = build(importance=False)
    details = model(torch.rand(2, 3, 48, 64), details=True)
    assert torch.equal(details.seed, details.score_map)
    assert torch.equal(details.importance, torch.ones_like(details.importance))
    assert not any(name.startswith("importance") for name in model.state_dict())


def test_one_matrix_for_all_walks_has_one_embedding():
    model = build((0, 1, 2, 3, 4), shared_transition=True)
    assert len(model.embeddings) == 1
    features = model(torch.rand(2, 3, 48, 64), details=True).transitions
    assert len(features) == 5
    assert all(f is features[0][0] for f, _ in features)
    assert build((), shared_transition=True)(torch.rand(2, 3, 48, 64)).shape == (2, 3, 48, 64)


def test_two_branches_have_the_parameters_of_a_difnet_without_diffusion():
    torch.manual_seed(0)
    twin = difnet.create_model("test_resnet", 3, walk_sources=None, branches=2)
    single = difnet.create_model("test_resnet", 3, walk_sources=None)
    parts = {part: sum(p.numel() for p in getattr(single, part).parameters()) for part in ("seed_branch",)}
    assert sum(p.numel() for p in twin.second_branch.parameters()) == parts["seed_branch"]
    image = torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        features = [b(twin.normalize(image))[-1] for b in (twin.seed_branch, twin.second_branch)]
        score_map = twin.classifier(torch.cat(features, 1))
        torch.testing.assert_close(twin(image, details=True).score_map, score_map)
    assert [group["name"] for group in twin.parameter_groups(0.1)] == ["backbone", "head"]


@pytest.mark.parametrize(
    "options",
    [{"affinity": "gaussian", "temperature": 8}, {"gates": "tied", "learn_temperature": True}, {}],
)
def test_options_are_saved_with_the_weights(tmp_path, options):
    model = build(**options).eval()
    difnet.save_model(model, tmp_path / "weights.safetensors")
    loaded, _ = difnet.load_model(tmp_path / "weights.safetensors")
    assert loaded.diffusion == model.diffusion
    assert loaded.config["diffusion"] == options  # only what differs from the paper
    image = torch.rand(1, 3, 48, 64)
    torch.testing.assert_close(loaded(image), model(image))


def test_two_branches_are_saved_with_the_weights(tmp_path):
    model = difnet.create_model("test_resnet", 3, walk_sources=None, branches=2).eval()
    difnet.save_model(model, tmp_path / "weights.safetensors")
    loaded, _ = difnet.load_model(tmp_path / "weights.safetensors")
    torch.testing.assert_close(loaded(torch.ones(1, 3, 48, 64)), model(torch.ones(1, 3, 48, 64)))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"affinity": "euclid"}, ValueError, "affinity: expected dot, gaussian, cosine, got 'euclid'"),
        ({"gates": "free"}, ValueError, "gates: expected learned, mu-fixed, tied, got 'free'"),
        ({"temperature": 0.0}, ValueError, "temperature: expected a positive number, got 0.0"),
        ({"temperature": math.nan}, ValueError, "temperature: expected a positive number"),
        ({"temperature": "warm"}, TypeError, "temperature: expected a number, got 'warm'"),
        ({"detach_seed": 0}, TypeError, "detach_seed: expected True or False, got 0"),
        ({"importance": 1}, TypeError, "importance: expected True or False, got 1"),
        ({"reach": -1.0}, ValueError, "reach: expected 0 or a positive number, got -1.0"),
        ({"reach": math.inf}, ValueError, "reach: expected 0 or a positive number, got inf"),
        ({"node_stride": 3}, ValueError, "node_stride: expected 8, 4, 2 or 1, got 3"),
        ({"heat": 1}, ValueError, "diffusion: no option 'heat'; known are affinity, temperature"),
    ],
)
def test_options_out_of_range_are_named(options, error, words):
    with pytest.raises(error, match=words):
        build(**options)


@pytest.mark.parametrize("branches", [0, 3, True, "2"])
def test_other_numbers_of_branches_are_refused(branches):
    with pytest.raises(ValueError, match="branches: expected 1 or 2, got"):
        difnet.create_model("test_resnet", 3, walk_sources=None, branches=branches)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_options_of_the_network(name):
    config = TrainConfig(recipe=name).resolved()
    options = config.network(3)["diffusion"]
    recipe = RECIPES[name]
    assert isinstance(options, DiffusionOptions)
    assert (options.affinity, options.temperature) == (recipe.affinity, recipe.temperature)
    assert TrainConfig(recipe=name, temperature=2.5).resolved().network(3)["diffusion"].temperature == 2.5


@pytest.mark.parametrize(
    "options",
    [
        {"affinity": "gaussian", "temperature": 8.0, "node_stride": 4},
        {
            "affinity": "cosine",
            "temperature": 4.0,
            "reach": 12.0,
            "node_stride": 2,
            "learn_temperature": True,
        },
        {"gates": "tied", "shared_transition": True, "importance": False, "detach_seed": True},
    ],
)
def test_options_compile_and_export_for_all_sizes(options):
    model = build(**options).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    dimensions = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        program = torch.export.export(
            model, (torch.rand(2, 3, 48, 64),), dynamic_shapes={"image": dimensions}
        ).module()
        for size in ((48, 64), (65, 97), (50, 38)):
            image = torch.rand(3, 3, *size)
            expected = model(image)
            torch.testing.assert_close(compiled(image), expected)
            torch.testing.assert_close(program(image), expected)
