"""Training X⁻¹: it learns, nothing before it changes, clean and noisy input, crops, resuming; TT and its film."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from gss_lite.presets.plans import plan_for, shortened
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from gss_lite.contracts import IGNORE
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.factory import build_palette, load_gss
from gss_lite.inverse_fitted import ConvInverse, SwinInverse, inverse_loss
from gss_lite.palette.learned import train_jointly
from gss_lite.palette.palette import Palette
from gss_lite.presets import get_preset
from gss_lite.presets.paper import PAPER_PRESETS
from gss_lite.presets.parts import Schedule
from gss_lite.training import inverse as inverse_stage
from gss_lite.training.inverse import (
    InverseStage,
    build_inverse,
    crop_pair,
    decode_pictures,
    fingerprint,
    load_inverse,
    stage_name,
    train_inverse,
)
from gss_lite.training.loop import fit

TINY = get_preset("scenes-tiny")


@pytest.fixture(scope="module")
def gss(tiny_run):
    return load_gss(TINY, tiny_run)


def snapshot(module) -> dict:
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("maskige", ["noisy", "clean"])
def test_everything_before_the_inverse_stays_as_it_was_to_the_bit(tiny_run, tmp_path, maskige):
    # as a caller may hand it over: dropout on, batch norms updating
    gss = load_gss(TINY, tiny_run).train()
    before = snapshot(gss)
    assert any(k.endswith("running_mean") for k in before) and any(
        k.startswith("tokenizer.") for k in before
    )
    inverse = train_inverse(TINY, tmp_path, "ft-w", maskige=maskige, gss=gss, progress=False)
    after = gss.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert not any(m.training for m in gss.modules()) and not inverse.training
    assert all(p.grad is None for p in gss.parameters())


def test_the_snapshot_would_have_seen_the_released_codes_drift(tiny_run):
    """One forward pass in train mode, under no_grad, moves the statistics: what the released code does in every step."""
    gss = load_gss(TINY, tiny_run).train()
    before = fingerprint(gss)
    with torch.no_grad():
        gss.prior(torch.randn(2, 3, 64, 64))
    assert fingerprint(gss) != before


@pytest.mark.parametrize(
    "size, batch, seen",
    [((96, 128), 0, [8, 1]), ((360, 480), 0, [1] * 9), ((360, 480), 4, [4, 4, 1])],
)
def test_a_cpu_decodes_large_pictures_one_by_one(monkeypatch, gss, size, batch, seen):
    sizes = []
    monkeypatch.setattr(
        inverse_stage, "noisy_maskige", lambda gss, image: sizes.append(len(image)) or image
    )
    pictures = TensorDataset(torch.zeros(9, 3, *size), torch.zeros(9, *size, dtype=torch.uint8))
    assert len(decode_pictures(gss, pictures, batch=batch)) == 9
    assert sizes == seen


@pytest.mark.parametrize(("kind", "type_"), [("ft", ConvInverse), ("ft-w", SwinInverse)])
def test_weights_and_record_are_left_and_read_back(tiny_run, tmp_path, gss, kind, type_):
    inverse = train_inverse(
        TINY, tmp_path, kind, gss=gss, progress=False, command="python -m gss_lite …"
    )
    record = json.loads((tmp_path / f"scenes-tiny.inverse-{kind}.json").read_text())
    assert record["steps"] == record["log"][-1]["step"] == 12 and record["maskige"] == "noisy"
    assert record["parameters"] == sum(p.numel() for p in inverse.parameters())
    again = load_inverse(TINY, kind, gss.palette, tmp_path)
    assert isinstance(again, type_) and not again.training
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in inverse.state_dict().items())
    assert torch.equal(again.colors, gss.colors)


def test_default_model_is_found_in_a_folder(tiny_run, tmp_path):
    train_inverse(TINY, tmp_path, "ft", maskige="clean", stages=tiny_run, progress=False)
    assert (tmp_path / "scenes-tiny.inverse-ft-clean.safetensors").exists()


def test_a_run_cut_short_ends_with_the_weights_of_a_whole_one(tmp_path, gss, monkeypatch):
    train_inverse(TINY, tmp_path / "whole", "ft", gss=gss, progress=False)

    calls = []

    def dies(*arguments):
        calls.append(1)
        if len(calls) > 2 * 7:  # two pictures a step
            raise KeyboardInterrupt
        return crop_pair(*arguments)

    monkeypatch.setattr(inverse_stage, "crop_pair", dies)
    with pytest.raises(KeyboardInterrupt):
        train_inverse(TINY, tmp_path / "cut", "ft", gss=gss, progress=False, save_every=3)
    monkeypatch.undo()
    assert (
        torch.load(tmp_path / "cut" / "inverse-ft" / "checkpoint.pt", weights_only=True)["step"]
        == 6
    )
    train_inverse(TINY, tmp_path / "cut", "ft", gss=gss, progress=False, save_every=3)
    whole, cut = (
        load_file(tmp_path / name / "scenes-tiny.inverse-ft.safetensors")
        for name in ("whole", "cut")
    )
    assert all(torch.equal(whole[k], cut[k]) for k in whole)


def test_another_models_checkpoint_is_refused(tmp_path, gss, tiny_run):
    train_inverse(TINY, tmp_path, "ft", gss=gss, progress=False)
    other = load_gss(TINY, tiny_run)
    with torch.no_grad():
        other.prior.to_tokens.bias[0] += 1e-3
    with pytest.raises(ValueError, match="belongs to another run .frozen:"):
        train_inverse(TINY, tmp_path, "ft", gss=other, progress=False)


def test_decoded_pictures_are_those_of_predict_and_reconstruct(gss):
    dataset = dataset_for(TINY, "train", transform=eval_transform())
    image, mask = (
        torch.stack([dataset[0][0], dataset[31][0]]),
        torch.stack([dataset[0][1], dataset[31][1]]),
    )
    noisy, clean = (
        decode_pictures(gss, dataset, maskige=kind, count=2) for kind in ("noisy", "clean")
    )
    assert torch.equal(noisy.tensors[0], gss.predict(image).maskige.half())
    assert torch.equal(noisy.tensors[1], mask.byte())
    read = gss.inverse.classify(clean.tensors[0].float())
    # float16 can tip a tie
    assert float((read == gss.reconstruct(mask)[0]).double().mean()) > 0.999


def test_sides_that_are_no_multiples(gss):
    pairs = [(torch.randn(3, 50, 70), torch.randint(11, (50, 70))) for _ in range(2)]
    for kind in ("noisy", "clean"):
        assert decode_pictures(gss, pairs, maskige=kind).tensors[0].shape == (2, 3, 50, 70)


def test_crops_of_maskige_and_mask_show_the_same_place():
    mask = torch.arange(20 * 30).view(20, 30)
    for scale in (1, 2):
        big = mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None].expand(3, -1, -1)
        maskige, ids = crop_pair(big, mask, 8, 50)
        assert ids.shape == (8, 30) and torch.equal(maskige[0, ::scale, ::scale], ids)
        assert maskige.shape == (3, 8 * scale, 30 * scale)
    tops = {int(crop_pair(big, mask, 8, 8)[1][0, 0]) for _ in range(50)}
    assert len(tops) > 20


def test_loss_leaves_ignored_pixels_out():
    scores, mask = torch.randn(2, 4, 6, 6), torch.randint(4, (2, 6, 6))
    mask[:, :2] = IGNORE
    by_hand = (
        -scores.log_softmax(1).gather(1, mask.clamp(max=3)[:, None])[:, 0][mask != IGNORE].mean()
    )
    torch.testing.assert_close(inverse_loss(scores, mask), by_hand)
    assert float(inverse_loss(scores, torch.full_like(mask, IGNORE))) == 0


def test_neighbours_tell_what_one_colour_cannot(tmp_path):
    """Classes 0 and 1 share a colour; class 1 is the pixel right of class 2. Only an X⁻¹ that looks around can tell."""
    colors = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [1, 1, 1]])
    mask = torch.where(
        torch.rand(40, 24, 24, generator=torch.Generator().manual_seed(0)) < 0.1, 2, 0
    )
    mask[:, :, 1:][(mask[:, :, :-1] == 2) & (mask[:, :, 1:] == 0)] = 1
    maskige = torch.stack([(mask == 2).float()] * 3, 1)
    torch.manual_seed(0)
    inverse = ConvInverse(colors, 16)

    class Pairs(TensorDataset):
        def __getitem__(self, item):
            return super().__getitem__(item[1])

    schedule = Schedule(steps=60, batch=4, crop=(24, 24), lr=1e-2, warmup=5)
    fit(
        InverseStage(inverse),
        inverse,
        Pairs(maskige, mask),
        schedule,
        run={"preset": "x", "stage": "y", "seed": 0},
        folder=tmp_path,
        progress=False,
    )
    assert float((inverse.eval().classify(maskige) == mask).double().mean()) > 0.99


def test_names_and_plans():
    assert [stage_name("ft", "noisy"), stage_name("ft-w", "clean")] == [
        "inverse-ft",
        "inverse-ft-w-clean",
    ]
    with pytest.raises(
        ValueError,
        match="X⁻¹ must be one of ft, ft-w, trained on one of noisy, clean maskige; got 'tf'",
    ):
        stage_name("tf", "noisy")
    with pytest.raises(ValueError, match="no plan to train X⁻¹ 'ft' for preset 'elsewhere'"):
        plan_for(replace(TINY, name="elsewhere"), "ft")
    assert shortened(plan_for(TINY, "ft"), 3).schedule.steps == 3


@pytest.mark.parametrize("preset", PAPER_PRESETS, ids=lambda preset: preset.name)
def test_the_papers_models_have_the_papers_plans(preset):
    palette = build_palette(preset)
    for kind, steps in (("ft", 3_000), ("ft-w", 40_000)):
        plan = plan_for(preset, kind)
        assert (plan.schedule.steps, plan.schedule.batch, plan.schedule.crop) == (
            steps,
            16,
            preset.prior.crop,
        )
        inverse = build_inverse(palette, kind, plan)
        assert inverse(torch.rand(1, 3, 14, 21)).shape == (1, preset.num_classes, 14, 21)
    assert inverse.embed[0].weight.shape == (128, 3, 1, 1) and len(inverse.blocks) == (
        1 if preset.data == "cityscapes" else 2
    )


def test_an_empty_set(gss):
    with pytest.raises(ValueError, match="no pictures to decode"):
        decode_pictures(gss, [])


@pytest.fixture(scope="module")
def joint(tiny_run):
    """A model, masks, and what TT makes of them; the tokenizer is checked to be what it was."""
    gss = load_gss(TINY, tiny_run)
    before, colors = snapshot(gss.tokenizer), gss.colors.clone()
    masks = torch.stack([dataset_for(TINY, "train")[i][1] for i in range(4)])
    result = train_jointly(
        gss.palette,
        gss.tokenizer,
        masks,
        lambda colors: ConvInverse(colors, 8),
        steps=25,
        batch=4,
        every=10,
        lr=0.05,
    )
    assert all(
        torch.equal(v, before[k]) for k, v in gss.tokenizer.state_dict().items()
    ) and torch.equal(gss.colors, colors)
    assert all(p.grad is None for p in gss.tokenizer.parameters())
    return gss, masks, result


class TestJoint:
    def test_the_film_runs_from_the_start_to_the_end(self, joint):
        gss, _, result = joint
        assert result.moments == [0, 10, 20, 25] and result.history.shape == (4, 11, 3)
        assert torch.equal(result.history[0], gss.colors) and torch.equal(
            result.history[-1], result.colors
        )
        assert all(
            float((a - b).abs().max()) > 1e-5 for a, b in zip(result.history, result.history[1:])
        )

    def test_both_parts_learn(self, joint):
        _, _, result = joint
        assert sum(result.losses[-5:]) < sum(result.losses[:5])
        assert torch.equal(result.inverse.colors, result.colors) and not result.inverse.training
        assert bool(((result.colors >= 0) & (result.colors <= 1)).all())

    def test_equal_seeds_repeat_it(self, joint):
        gss, masks, result = joint
        build = lambda colors: ConvInverse(colors, 8)  # noqa: E731
        again = train_jointly(
            gss.palette, gss.tokenizer, masks, build, steps=25, batch=4, every=10, lr=0.05
        )
        assert again.losses == result.losses and torch.equal(again.history, result.history)
        other = train_jointly(gss.palette, gss.tokenizer, masks, build, steps=2, batch=4, seed=1)
        assert other.losses != result.losses[:2]

    def test_errors(self, joint):
        gss, masks, _ = joint
        with pytest.raises(ValueError, match=r"learning needs masks \(N, H, W\)"):
            train_jointly(gss.palette, gss.tokenizer, masks[:0], ConvInverse)
        with pytest.raises(FloatingPointError, match="became (nan|inf) at step"):
            train_jointly(
                Palette(gss.colors),
                gss.tokenizer,
                masks,
                ConvInverse,
                inverse_lr=float("inf"),
                steps=5,
                batch=2,
            )
