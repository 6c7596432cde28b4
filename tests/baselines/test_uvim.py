"""UViM's stage I: the dictionary's split rule, code dropout, shapes, and what the oracle adds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gss_lite.baselines.build import create_language_model, create_uvim_base
from gss_lite.baselines.language_model import OnePass
from gss_lite.baselines.uvim import SplitCodebook, StageOne, UViM, standardize
from gss_lite.contracts import IGNORE, Segmenter
from gss_lite.factory import create_model
from gss_lite.presets import PRESETS, ViewSpec, get_preset

TINY = get_preset("scenes-tiny")


@pytest.fixture
def stage_one():
    """A stage I of 12 classes for 32 × 48 pixels, whose classifier is not zero any more."""
    model = StageOne(
        12,
        (32, 48),
        patch=8,
        code_grid=(2, 3),
        vocab_size=8,
        code_dim=4,
        width=16,
        heads=2,
        oracle_depth=1,
        base_depth=1,
    )
    torch.nn.init.normal_(model.to_pixels.weight)
    return model.eval()


def pictures(batch=2, size=(32, 48), classes=12):
    return torch.randn(batch, 3, *size), torch.randint(classes, (batch, *size))


# The dictionary -----------------------------------------------------------------------------------


def discounted(codebook: SplitCodebook) -> torch.Tensor:
    """The counts as UViM keeps them: sums over steps, each step worth `decay` of the next."""
    return codebook.counts / (1 - codebook.decay)


def test_codes_have_length_one_from_the_start_and_after_every_step():
    codebook = SplitCodebook(6, 4, decay=0.5).train()
    for _ in range(5):
        torch.testing.assert_close(codebook.codes.norm(dim=1), torch.ones(6))
        codebook(torch.randn(2, 4, 3, 3))


def test_a_step_is_the_rule_of_the_paper():
    """Counts and sums are multiplied by the decay, and this step's are added (no code unused)."""
    codebook = SplitCodebook(3, 4, decay=0.9).train()
    vectors = torch.randn(2, 4, 5, 5)
    flat = standardize(vectors).movedim(1, -1).flatten(0, 2)  # (50, 4)
    counts, sums, codes = torch.ones(3), codebook.codes.clone(), codebook.codes.clone()
    ids = torch.cdist(flat, codes).argmin(1)
    found = codebook(vectors)
    assert torch.equal(found.tokens.flatten(), ids)
    expected = codes[ids].view(2, 5, 5, 4).movedim(-1, 1)
    torch.testing.assert_close(found.vectors, expected, atol=1e-5, rtol=1e-5)
    onehot = F.one_hot(ids, 3).float()
    counts = 0.9 * counts + onehot.sum(0)
    sums = 0.9 * sums + onehot.T @ flat
    torch.testing.assert_close(discounted(codebook), counts)
    torch.testing.assert_close(codebook.codes, F.normalize(sums, dim=1), atol=1e-5, rtol=1e-5)


def test_the_most_used_code_is_split_until_no_code_is_unused():
    codebook = SplitCodebook(5, 4, decay=0.9)
    unit = 1 - codebook.decay
    codebook.counts.copy_(unit * torch.tensor([8.0, 0.05, 3.0, 0.0, 0.2]))
    codebook.sums.copy_(torch.randn(5, 4))
    before = codebook.sums.clone()
    codebook._restart(torch.empty(0, 4), torch.empty(0))
    # 8 → 4 + 4 into the least used code 3, then 4 → 2 + 2 into code 1; 0.2 is above 0.1.
    assert sorted(discounted(codebook).tolist()) == pytest.approx([0.2, 2, 2, 3, 4])
    assert discounted(codebook).sum() == pytest.approx(11.2)
    assert torch.equal(codebook.sums[[2, 4]], before[[2, 4]])
    for code in (1, 3):
        assert not torch.equal(codebook.sums[code], codebook.sums[0])
        angle = F.cosine_similarity(codebook.sums[code], before[0], dim=0)
        assert float(angle) > 1 - 1e-5


def test_an_unused_code_is_replaced_after_as_many_steps_as_the_decay_says():
    codebook = SplitCodebook(4, 2, decay=0.8).train()
    vectors = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    chosen = int(codebook.nearest(torch.tensor([[1.0, -1.0]])))
    # 0.8 to the power of 10 is 0.107 and of 11 is 0.086: below 0.1 for the first time.
    for step in range(1, 12):
        codebook(vectors)
        alone = (discounted(codebook) > 1).sum() == 1
        assert bool(alone) == (step < 11)
    # The others are halves, quarters … of the chosen one now, which all vectors chose.
    direction = F.normalize(torch.tensor([1.0, -1.0]), dim=0)
    assert float((codebook.codes @ direction).min()) > 0.999
    assert float(discounted(codebook)[chosen]) > 1


def test_the_straight_through_gradient_reaches_the_oracle():
    codebook = SplitCodebook(4, 3)
    vectors = torch.randn(1, 3, 2, 2, requires_grad=True)
    weight = torch.randn(1, 3, 2, 2)
    (codebook(vectors).vectors * weight).sum().backward()
    direct = vectors.detach().clone().requires_grad_()
    (standardize(direct) * weight).sum().backward()
    torch.testing.assert_close(vectors.grad, direct.grad)


# Code dropout -------------------------------------------------------------------------------------


def test_dropout_zeroes_whole_positions_and_rescales_nothing(stage_one):
    stage_one.train()
    vectors = torch.randn(200, 4, 2, 3)
    dropped = stage_one.drop(vectors)
    zero = (dropped == 0).all(1)  # (200, 2, 3)
    assert torch.equal(dropped, vectors * ~zero[:, None])
    # The number of zeroed positions is uniform in 0 … 6: 200/7 = 28.6 each, deviation 5.
    counts = torch.bincount(zero.flatten(1).sum(1), minlength=7)
    assert len(counts) == 7 and counts.min() > 5 and counts.max() < 60
    # Every position is zeroed half of the time: 100, deviation 9.
    assert float((zero.float().mean(0) - 0.5).abs().max()) < 0.2
    stage_one.eval()
    assert torch.equal(stage_one.drop(vectors), vectors)


def test_dropout_can_be_off_or_take_the_whole_code(stage_one):
    vectors = torch.randn(5, 4, 2, 3)
    stage_one.train()
    stage_one.code_dropout = (0, 0)
    assert torch.equal(stage_one.drop(vectors), vectors)
    stage_one.code_dropout = (1, 1)
    assert not stage_one.drop(vectors).any()


@pytest.mark.parametrize("shares", [(0.5, 0.2), (-0.1, 1), (0, 1.5)])
def test_shares_that_are_no_range_are_refused(shares):
    with pytest.raises(ValueError, match="smallest and the largest share"):
        StageOne(2, (32, 32), width=16, heads=2, code_dropout=shares)


# Stage I ------------------------------------------------------------------------------------------


def test_shapes_of_code_and_logits(stage_one):
    image, mask = pictures()
    code = stage_one.encode(image, mask)
    assert code.shape == (2, 2, 3) and code.dtype == torch.long
    assert code.min() >= 0 and code.max() < 8
    logits, quantized = stage_one(image, mask)
    assert logits.shape == (2, 12, 32, 48) and quantized.vectors.shape == (2, 4, 2, 3)
    torch.testing.assert_close(stage_one.decode(image, code), logits.detach())
    assert torch.equal(quantized.tokens, code)
    with pytest.raises(ValueError, match=r"tokens must lie in 0…7; got 8"):
        stage_one.decode(image, torch.full((2, 2, 3), 8))


def test_the_base_model_sees_the_mask_through_the_code_alone(stage_one):
    image, mask = pictures()
    other = torch.randint(12, mask.shape)
    code = stage_one.encode(image, mask)
    assert not torch.equal(code, stage_one.encode(image, other))
    with torch.no_grad():
        same = stage_one.decode(image, code)
        swapped = code.clone()
        swapped[0, 0, 0] = (swapped[0, 0, 0] + 1) % 8
        changed = (stage_one.decode(image, swapped) - same).abs().amax((1, 2, 3))
    assert changed[0] > 1e-3 and changed[1] < 1e-5


def test_ignored_pixels_are_no_class_for_the_oracle_and_count_in_no_loss(stage_one):
    image, mask = pictures()
    mask[:, :16] = IGNORE
    loss, scalars = stage_one.losses(image, mask)
    logits, _ = stage_one(image, mask)
    expected = F.cross_entropy(logits[:, :, 16:], mask[:, 16:])
    torch.testing.assert_close(loss, expected)
    right = (logits[:, :, 16:].argmax(1) == mask[:, 16:]).float().mean()
    torch.testing.assert_close(scalars["pixel_accuracy"], right)
    assert 0 < scalars["usage"] <= 1 and 1 <= scalars["perplexity"] <= 8
    loss, _ = stage_one.losses(image, torch.full_like(mask, IGNORE))
    assert loss.item() == 0
    with pytest.raises(ValueError, match="id 12"):
        stage_one.losses(image, torch.full_like(mask, 12))


def test_the_commitment_has_a_weight_of_its_own(stage_one):
    image, mask = pictures()
    alone, _ = stage_one.losses(image, mask)
    stage_one.commitment = 0.25
    both, _ = stage_one.losses(image, mask)
    commitment = stage_one(image, mask)[1].commitment
    torch.testing.assert_close(both, alone + 0.25 * commitment)


def test_an_untrained_base_model_finds_all_classes_equally_likely():
    stage_one = create_uvim_base(TINY)
    loss, _ = stage_one.losses(*pictures(size=(32, 32), classes=11))
    assert loss.item() == pytest.approx(math.log(11), abs=1e-5)


def test_pictures_of_another_size_are_refused(stage_one):
    image, mask = pictures(size=(32, 32))
    with pytest.raises(ValueError, match=r"\(32, 48\) pixels; got \(32, 32\).*schedule's crop"):
        stage_one.encode(image, mask)
    with pytest.raises(ValueError, match="multiple of the patch 16"):
        StageOne(2, (40, 32))


@pytest.mark.slow
def test_an_oracle_tells_what_no_photograph_shows():
    """Masks that are independent of the photographs: only the code can carry their class."""
    shape = {"patch": 8, "code_grid": (2, 2), "vocab_size": 16, "code_dim": 8, "width": 32}
    losses = {}
    for dropout in ((0.0, 0.0), (1.0, 1.0)):
        torch.manual_seed(0)
        model = StageOne(
            4,
            (16, 16),
            **shape,
            heads=2,
            oracle_depth=1,
            base_depth=1,
            decay=0.9,
            code_dropout=dropout,
        ).train()
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        for _ in range(120):
            mask = torch.randint(4, (16, 2, 2)).repeat_interleave(8, 1).repeat_interleave(8, 2)
            loss, _ = model.losses(torch.randn(16, 3, 16, 16), mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[dropout] = float(loss)
    assert losses[1.0, 1.0] > 1.2  # ln 4 = 1.39: guessing
    assert losses[0.0, 0.0] < 0.7


# The whole model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uvim():
    model = create_model(TINY, model="uvim").eval()
    torch.nn.init.normal_(model.stage_one.to_pixels.weight)
    return model


def test_it_is_a_segmenter_whose_stage_one_is_frozen(uvim):
    assert isinstance(uvim, Segmenter) and isinstance(uvim.language, OnePass)
    assert not any(p.requires_grad for p in uvim.stage_one.parameters())
    uvim.train()
    assert uvim.language.training and not uvim.stage_one.training
    uvim.eval()


def test_the_loss_is_the_cross_entropy_of_the_oracles_code(uvim):
    image, mask = pictures(size=(32, 32), classes=11)
    loss, scalars = uvim.losses(image, mask)
    code = uvim.stage_one.encode(image, mask)
    logits = uvim.language(image, code)
    expected = F.cross_entropy(logits.movedim(1, -1).flatten(0, 2), code.flatten())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(scalars["code_accuracy"], (logits.argmax(1) == code).float().mean())


def test_code_255_counts_in_the_loss(monkeypatch):
    """Class 255 means 'ignore', but code 255 is a code like any other."""
    spec = TINY.uvim
    more = replace(spec, stage_one={**spec.stage_one, "vocab_size": 300})
    model = create_model(replace(TINY, uvim=more), model="uvim").eval()
    code = torch.full((1, 2, 3), 255)
    monkeypatch.setattr(model.stage_one, "encode", lambda image, mask: code)
    image, mask = pictures(1, size=(32, 32), classes=11)
    loss, _ = model.losses(image, mask)
    logits = model.language(image, code)
    torch.testing.assert_close(loss, -logits.log_softmax(1)[:, 255].mean())
    assert float(loss) > 1


@pytest.mark.parametrize("size", [(32, 32), (45, 61)])
def test_scores_are_the_base_models_probabilities_at_the_pictures_size(uvim, size):
    image = torch.randn(2, 3, *size)
    scores = uvim.scores(image)
    assert set(scores) == {"prediction", "without_code"}
    fitted = image
    if size != (32, 32):
        fitted = F.interpolate(image, (32, 32), mode="bilinear", antialias=True)
    for name, values in scores.items():
        code = uvim.language.predict(fitted)
        vectors = uvim.stage_one.codebook.lookup(code)
        if name == "without_code":
            vectors = 0 * vectors
        with torch.no_grad():
            logits = uvim.stage_one.base_logits(fitted, vectors)
        if size != (32, 32):
            logits = F.interpolate(logits, size, mode="bilinear")
        torch.testing.assert_close(values, logits.softmax(1))
    assert float((scores["prediction"] - scores["without_code"]).abs().max()) > 1e-3


def test_reconstruction_is_what_the_base_model_makes_of_the_oracles_code(uvim):
    image, mask = pictures(size=(32, 32), classes=11)
    found, code = uvim.reconstruct(image, mask)
    assert torch.equal(code, uvim.stage_one.encode(image, mask))
    assert torch.equal(found, uvim.stage_one.decode(image, code).argmax(1))
    large, _ = uvim.reconstruct(*pictures(size=(50, 70), classes=11))
    assert large.shape == (2, 50, 70)


def test_a_picture_is_segmented_at_its_own_size(uvim):
    picture = torch.randint(256, (3, 50, 70), dtype=torch.uint8)
    mask = uvim.segment(picture).mask
    assert mask.shape == (50, 70) and mask.max() < 11
    windows = UViM(uvim.stage_one, uvim.language, uvim.colors, view=ViewSpec(window=(32, 16)))
    assert windows.segment(picture).mask.shape == (50, 70)


def test_a_preset_without_uvim_names_those_that_have_one():
    with pytest.raises(ValueError, match="many-scenes-cpu has no UViM.*scenes-cpu, scenes-tiny"):
        create_model("many-scenes-cpu", model="uvim")
    with pytest.raises(ValueError, match="UViM paints no maskige and has no X⁻¹"):
        create_model(TINY, model="uvim", inverse="ft")


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.uvim])
def test_every_preset_trains_stage_one_at_its_size(name):
    preset = PRESETS[name]
    for stage in ("uvim-base", "uvim-code"):
        assert preset.schedule(stage).crop == tuple(preset.uvim.stage_one["size"])


# The paper's size ---------------------------------------------------------------------------------


def vit_parameters(channels: int, positions: int, patch: int, width: int, depth: int) -> int:
    """Counted from the description: patches, positions, blocks with MLPs of 4 · width, norm."""
    block = 4 * (width**2 + width) + (8 * width**2 + 5 * width) + 4 * width
    embed = channels * patch**2 * width + width
    return embed + positions * width + depth * block + 2 * width


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name, side, patch", [("ade20k-swin-l", 512, 16)])
def test_the_papers_size_on_the_meta_device(name, side, patch):
    preset = get_preset(name)
    classes = preset.data.num_classes
    with torch.device("meta"):
        stage_one = create_uvim_base(preset).eval()
        languages = [create_language_model(preset, kind).eval() for kind in (False, True)]
        image = torch.empty(1, 3, side, side)
        code = torch.empty(1, 16, 16, dtype=torch.long)
    positions = (side // patch) ** 2
    oracle = vit_parameters(3 + classes, positions, patch, 768, depth=6)
    base = vit_parameters(3, positions, patch, 768, depth=12)
    between = 2 * (768**2 + 768)  # to the code's vectors and from them
    head = 768 * classes * patch**2 + classes * patch**2
    assert count(stage_one) == oracle + between + base + head
    assert stage_one.codebook.codes.shape == (4096, 768)
    # Swin-L without its classifier, with the four layer norms of the released code
    swin = 196_735_516 - 1_537_000 - 3_072 + 2 * (192 + 384 + 768 + 1536)
    unit = sum(c * 384 + 2 * 384 for c in (192, 384, 768, 1536)) + 4 * 384 * 1024 + 2 * 1024
    block = 4 * (1024**2 + 1024) + (8 * 1024**2 + 5 * 1024) + 4 * 1024
    shared = swin + unit + 256 * 1024 + 2 * block + 2 * 1024 + 1024 * 4096 + 4096
    assert count(languages[0]) == shared
    layer = block + 4 * (1024**2 + 1024) + 2 * 1024  # and attention to the photograph, with a norm
    more = 4097 * 1024 + 256 * 1024 + 24 * layer + 2 * 1024
    assert count(languages[1]) == shared + more
    with torch.no_grad():
        assert stage_one.base_logits(image, stage_one.codebook.lookup(code)).shape == (
            1,
            classes,
            side,
            side,
        )
        for language in languages:
            assert language(image, code).shape == (1, 4096, 16, 16)


def test_the_papers_iterations():
    for name in ("cityscapes-swin-l", "ade20k-swin-l"):
        preset = get_preset(name)
        assert preset.schedule("uvim-base").steps == 80_000
        assert preset.schedule("uvim-code").steps == 160_000
        assert preset.prior.backbone == "swin_large_patch4_window12_384"
