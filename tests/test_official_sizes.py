"""Imported models against a second, plain writing of the released layers, at other sizes.

No width, depth, window, number of classes or picture size here is that of a released model. The
sides of the pictures are multiples of neither 4 nor a window.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch

from data_scripts.dalle_pickles import read_published
from gss_lite.dalle_names import PARTS, dvae_from_published, published_shapes
from gss_lite.evaluation import evaluate
from gss_lite.factory import create_prior
from gss_lite.inverse_fitted import SwinInverse
from gss_lite.official import load_released, read_architecture, released_state
from gss_lite.official.checkpoint import split_checkpoint
from gss_lite.official.names import position_indices, prior_names
from gss_lite.presets import ViewSpec
from notebooks.experiments.released_layers import HRNet, ResNetV1c, Swin, bilinear
from notebooks.experiments.released_reference import (
    Head,
    ReleasedGSS,
    dvae_shapes,
    fill,
    random_dvae,
)

# A backbone, the arguments of the head, K, and the height and width of the picture.
CASES = {
    "swin, windows of 5": (
        partial(Swin, 16, (1, 2, 3, 1), (2, 2, 4, 4), window=5, ratio=2),
        {"depth": 3, "window": 5, "heads": 2},
        7,
        (37, 50),
    ),
    "swin, windows of 12": (
        partial(Swin, 8, (2, 2, 4, 2), (1, 1, 2, 4), window=12, ratio=4),
        {"level": 8, "fused": 24, "hidden": 40},
        150,
        (61, 43),
    ),
    "swin, one aggregation": (
        partial(Swin, 12, (2, 1, 2, 2), (3, 3, 3, 3), window=3, ratio=3),
        {"depth": 1, "pixel": "shared"},
        4,
        (20, 33),
    ),
    "swin, both stages merged": (
        partial(Swin, 12, (2, 2, 2, 2), (1, 2, 4, 8), window=4, ratio=4),
        {"pixel": "shared", "inverse": (16, 1, 2, 4)},
        4,
        (66, 34),
    ),
    "resnet": (
        partial(ResNetV1c, 4, 12, (2, 1, 3, 2)),
        {"depth": 6, "heads": 8},
        19,
        (45, 83),
    ),
    "resnet, ft-w": (
        partial(ResNetV1c, 8, 8, (3, 4, 6, 3)),
        {"pixel": "none", "inverse": (12, 2, 3, 5)},
        19,
        (33, 46),
    ),
    "hrnet": (
        partial(HRNet, 8, 1, (6, 12, 24, 48), (1, 1, 1), 1),
        {"depth": 2},
        19,
        (50, 94),
    ),
    "hrnet, a branch that keeps its width": (
        partial(HRNet, 4, 4, (16, 20, 28, 36), (2, 3, 2), 3),
        {"depth": 6, "inverse": (16, 2, 4, 7)},
        9,
        (35, 70),
    ),
}


def colors(classes, seed):
    return torch.randint(256, (classes + 1, 3), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=CASES)
def pair(request):
    """The reference, a picture, what the reference gives for it, and our model."""
    backbone, head, classes, size = CASES[request.param]
    seed = list(CASES).index(request.param)
    backbone = backbone()
    palette = colors(classes, seed)
    head = Head(backbone.widths, palette, **head)
    reference = fill(ReleasedGSS(backbone, head, random_dvae(seed)), seed)
    image = torch.randn(1, 3, *size)
    checkpoint = split_checkpoint(dict(reference.state_dict()))
    gss = load_released(checkpoint, dvae_from_published(reference.dvae), palette=palette)
    return reference, image, reference(image), gss


def apart(ours, expected):
    return float((ours - expected).abs().max() / expected.abs().max())


@pytest.mark.slow
def test_everything_that_is_computed_equals_the_reference(pair):
    _, image, expected, gss = pair
    with torch.no_grad():
        features = gss.prior.features(image)
        outputs = gss.outputs(image)
        votes = gss.inverse.votes(outputs.maskige)
    assert all(apart(*maps) < 1e-4 for maps in zip(features, expected.features, strict=True))
    assert apart(outputs.token_logits, expected.token_logits) < 1e-4
    best = expected.token_logits.topk(2, dim=1).values
    sure = best[:, 0] - best[:, 1] > 1e-3
    same = outputs.token_logits.argmax(1) == expected.token_logits.argmax(1)
    assert bool(same[sure].all()) and sure.float().mean() > 0.9
    if bool(same.all()):  # a token within rounding changes its patch, rightly
        assert apart(outputs.maskige, expected.maskige) < 1e-4
        assert (votes.argmax(1) == expected.votes.argmax(1)).float().mean() > 0.999
    if expected.pixel_logits is not None:
        assert apart(outputs.pixel_logits, expected.pixel_logits) < 1e-4


@pytest.mark.slow
def test_the_training_losses_equal_the_reference(pair):
    reference, image, expected, gss = pair
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(gss.num_classes, (1, *image.shape[2:]), generator=generator)
    mask[:, :9] = 255
    mask[:, 12:19, 5:30] = 255
    losses = reference.losses(image, mask)
    with torch.no_grad():
        if isinstance(gss.inverse, SwinInverse):
            loss = gss.inverse.loss(expected.maskige, mask)
            assert float(loss) == pytest.approx(losses["loss_ce"], rel=1e-4)
        else:
            _, scalars = gss.losses(image, mask)
            assert 0.8 * float(scalars["token"]) == pytest.approx(losses["loss_ce"], rel=1e-4)
            pixel = 0.2 * float(scalars["pixel"])
            assert pixel == pytest.approx(losses["loss_ce_pixel"], rel=1e-4)


@pytest.mark.slow
def test_the_way_back_gives_every_tensor_again(pair):
    reference, _, _, gss = pair
    inverse = gss.inverse if isinstance(gss.inverse, SwinInverse) else None
    state, back = reference.state_dict(), released_state(gss.prior, inverse)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


# The backbones and X⁻¹ of the authors' reference outputs.
NARROW = partial(Swin, 12, (2, 2, 2, 2), (1, 2, 4, 8), window=7, ratio=4)
AUTHORS = {
    "swin-ff": (NARROW, {"depth": 2}),
    "swin-ftw": (NARROW, {"depth": 2, "pixel": "none", "inverse": (32, 2, 4, 7)}),
    "r50-ff": (partial(ResNetV1c, 8, 8, (3, 4, 6, 3)), {"depth": 6}),
    "hrnet-ff": (partial(HRNet, 32, 2, (8, 16, 32, 64), (1, 2, 1), 2), {"depth": 6}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AUTHORS)
def test_the_reference_itself_gives_the_authors_outputs(parity, name):
    fixture = torch.load(parity / name / "fixture.pth", weights_only=True)
    make, head = AUTHORS[name]
    backbone = make()
    dvae = {}
    for part in PARTS:
        shapes = published_shapes(part, 8, 8192, 8)
        tensors = read_published(parity / "dvae" / f"{part}.pkl", part, shapes)
        dvae |= {f"{part}.{key}": tensor for key, tensor in tensors.items()}
    reference = ReleasedGSS(backbone, Head(backbone.widths, fixture["palette"], **head), dvae)
    reference.load_state_dict(fixture["state_dict"])
    found = reference.eval()(fixture["image"])
    logits = found.token_logits.flatten(2)[:, :, fixture["token_positions"]]
    assert apart(logits, fixture["token_logits"]) < 1e-4
    sure = fixture["token_margin"] > 1e-3
    assert torch.equal(found.token_logits.argmax(1)[sure], fixture["tokens"][sure])
    assert torch.equal(found.votes.argmax(1), fixture["seg"].long())
    losses = reference.losses(fixture["image"], fixture["gt"][:, 0].long())
    assert losses == pytest.approx({key: fixture["losses"][key] for key in losses}, rel=1e-4)


# The released configs, as arguments of the reference.
# The released configs, as arguments of the reference. The last two numbers are the parameters and
# tensors of mmsegmentation's own class of the backbone.
SWIN_L = partial(Swin, 192, (2, 2, 18, 2), (6, 12, 24, 48), window=12, ratio=4)
FULL = {
    "ade20k-swin-l": (SWIN_L, {"depth": 2, "pixel": "own"}, 150, 195_201_204, 357),
    "mseg-swin-l": (SWIN_L, {"depth": 2, "pixel": "shared"}, 194, 195_201_204, 357),
    "cityscapes-r101": (
        partial(ResNetV1c, 64, 64, (3, 4, 23, 3)),
        {"depth": 6, "pixel": "own"},
        19,
        42_519_392,
        636,
    ),
    "mseg-hrnet-w48": (
        partial(HRNet, 64, 4, (48, 96, 192, 384), (1, 4, 3), 4),
        {"depth": 6, "pixel": "shared"},
        194,
        65_325_120,
        1_830,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_presets_have_the_released_names_and_shapes(name):
    make, head, classes, parameters, tensors = FULL[name]
    with torch.device("meta"):
        backbone = make()
        sizes = {"level": 384, "fused": 512, "hidden": 2048, "heads": 16}
        head = Head(backbone.widths, torch.zeros(classes + 1, 3), **sizes, **head)
        reference = ReleasedGSS(backbone, head, {}).state_dict()
        prior = create_prior(name)
        ours = prior.state_dict()
    found = {there: ours[here] for here, there in prior_names(ours).items()}
    found |= position_indices(found)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in reference.items()}
    assert sum(p.numel() for p in prior.backbone.parameters()) == parameters
    assert sum(key.startswith("backbone.") for key in found) == tensors
    again = read_architecture(found)  # finds the sizes in the released names
    assert (again.num_classes, again.vocab_size) == (classes, 8192)
    with torch.device("meta"):
        rebuilt = again.build_prior().state_dict()
    assert {k: v.shape for k, v in rebuilt.items()} == {k: v.shape for k, v in ours.items()}


def test_the_dvae_has_openais_names_and_shapes():
    ours = {
        f"{part}.{name}": shape
        for part in PARTS
        for name, shape in published_shapes(part, 8, 8192, 8).items()
    }
    assert ours == dvae_shapes()


def sliding(reference, image, window, stride):
    """The released windows, written with plain loops: mean of the votes (1, K, H, W)."""
    height, width = image.shape[2:]
    total, count = 0, torch.zeros(height, width)
    for i in range(max(height - window + stride - 1, 0) // stride + 1):
        for j in range(max(width - window + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + window, height), min(j * stride + window, width)
            rows = slice(max(bottom - window, 0), bottom)
            columns = slice(max(right - window, 0), right)
            crop = image[:, :, rows, columns]
            votes = bilinear(reference(crop).votes, crop.shape[2:])
            placed = torch.zeros(1, votes.shape[1], height, width)
            placed[:, :, rows, columns] = votes
            total = total + placed
            count[rows, columns] += 1
    return total / count


@pytest.mark.slow
@pytest.mark.parametrize(
    "view", ["windows, as for Cityscapes", "a size, as for ADE20K", "both, as for MSeg"]
)
@pytest.mark.parametrize("inverse", [None, (16, 2, 4, 7)])
def test_evaluate_looks_at_pictures_as_the_released_code(view, inverse):
    backbone = Swin(8, (2, 2, 2, 2), (1, 2, 4, 8), window=4, ratio=2)
    palette = colors(5, 0)
    head = Head(backbone.widths, palette, inverse=inverse, pixel="none" if inverse else "own")
    reference = fill(ReleasedGSS(backbone, head, random_dvae()))
    spec = ViewSpec(
        window=None if view.startswith("a size") else (32, 20),
        size=None if view.startswith("windows") else (40, 90),
        multiple=1,
    )
    gss = load_released(
        split_checkpoint(dict(reference.state_dict())),
        dvae_from_published(reference.dvae),
        palette=palette,
        view=spec,
    )
    image = torch.randn(1, 3, 54, 77)
    # a short side of 40, as long as the other one is at most 90
    fitted = bilinear(image, (40, 57)) if spec.size else image
    if spec.window:
        votes = sliding(reference, fitted, 32, 20)
    else:
        votes = bilinear(reference(fitted).votes, fitted.shape[2:])
    expected = bilinear(votes, image.shape[2:]).argmax(1)  # (1, 54, 77)
    result = evaluate(gss, [(image[0], expected[0])], progress=False)
    assert result.miou > 0.995  # 1 but for a token within rounding
    assert result["prediction"].aacc > 0.999
