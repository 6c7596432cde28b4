"""Training X⁻¹: it learns, nothing before it changes, clean and noisy input, crops, resuming."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import TensorDataset

from gss_lite.contracts import IGNORE
from gss_lite.data import create_dataset
from gss_lite.factory import create_model, create_palette, load_inverse, stage_one_hashes
from gss_lite.gss import rebuild
from gss_lite.inverse_fitted import ConvInverse, SwinInverse
from gss_lite.presets import get_preset
from gss_lite.presets.paper import PAPER_PRESETS
from gss_lite.presets.parts import Schedule
from gss_lite.storage import what_it_rests_on
from gss_lite.training import inverse as inverse_stage
from gss_lite.training import train
from gss_lite.training.inverse import (
    CropPair,
    InverseLoss,
    build_inverse,
    decode_pictures,
    fingerprint,
    measure_gaussians,
    stage_name,
    train_inverse,
)
from gss_lite.training.loop import LoopOptions, fit
from gss_lite.training.run import Job

TINY = get_preset("scenes-tiny")
QUIET = LoopOptions(progress=False)


@pytest.fixture
def gss(tiny_run):
    return create_model(TINY, pretrained=tiny_run)


def job(folder, **options) -> Job:
    return Job(TINY, folder, options=replace(QUIET, **options), command="python -m gss_lite …")


def snapshot(module) -> dict:
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("maskige", ["noisy", "clean"])
def test_everything_before_the_inverse_stays_as_it_was_to_the_bit(gss, tmp_path, maskige):
    # as a caller may hand it over: dropout on, batch norms updating
    gss.train()
    before = snapshot(gss)
    assert any(k.endswith("running_mean") for k in before)
    assert any(k.startswith("tokenizer.") for k in before)
    inverse = train_inverse(job(tmp_path), "ft-w", gss, maskige=maskige)
    after = gss.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(m.training for m in gss.modules()) and not inverse.training
    assert all(p.grad is None for p in gss.parameters())


def test_the_snapshot_would_have_seen_the_released_codes_drift(gss):
    """One pass in train mode moves the statistics: the released code does it in every step."""
    gss.train()
    before = fingerprint(gss)
    with torch.no_grad():
        gss.prior(torch.randn(2, 3, 64, 64))
    assert fingerprint(gss) != before


@pytest.mark.parametrize(
    "size, batch, seen",
    [((96, 128), None, [8, 1]), ((360, 480), None, [1] * 9), ((360, 480), 4, [4, 4, 1])],
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
def test_weights_and_record_are_left_and_read_back(tmp_path, gss, kind, type_):
    inverse = train_inverse(job(tmp_path), kind, gss)
    path = tmp_path / f"scenes-tiny.inverse-{kind}.safetensors"
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["steps"] == record["log"][-1]["step"] == 12 and record["maskige"] == "noisy"
    assert record["pictures"] == 8 and record["size"] == dict(
        TINY.schedule(f"inverse-{kind}").network
    )
    assert record["parameters"] == sum(p.numel() for p in inverse.parameters())
    again, name = load_inverse(path)
    assert isinstance(again, type_) and name == kind and not again.training
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in inverse.state_dict().items())
    assert torch.equal(again.colors, gss.colors)


@pytest.mark.parametrize("stage", ["inverse-ft", "inverse-gaussian"])
def test_the_file_says_what_it_rests_on(tiny_run, tmp_path, gss, stage):
    train(TINY, tmp_path, stage=stage, stage_one=tiny_run, options=QUIET)
    said = what_it_rests_on(tmp_path / f"scenes-tiny.{stage}.safetensors")
    expected = stage_one_hashes(gss.palette, gss.tokenizer)
    assert expected.items() <= said.items()
    assert stage == "inverse-gaussian" or said["frozen"] == fingerprint(gss)


def test_the_model_is_found_in_a_folder(tiny_run, tmp_path):
    run = train(
        TINY, tmp_path, stage="inverse-ft", maskige="clean", stage_one=tiny_run, options=QUIET
    )
    assert (tmp_path / "scenes-tiny.inverse-ft-clean.safetensors").exists()
    assert set(run.records) == {"inverse-ft-clean"}


def test_a_run_cut_short_ends_with_the_weights_of_a_whole_one(tmp_path, gss, monkeypatch):
    train_inverse(job(tmp_path / "whole"), "ft", gss)
    calls = []
    crop = CropPair.__call__

    def dies(*arguments):
        calls.append(1)
        if len(calls) > 2 * 7:  # two pictures a step
            raise KeyboardInterrupt
        return crop(*arguments)

    monkeypatch.setattr(CropPair, "__call__", dies)
    cut = job(tmp_path / "cut", save_every=3)
    with pytest.raises(KeyboardInterrupt):
        train_inverse(cut, "ft", gss)
    monkeypatch.undo()
    checkpoint = tmp_path / "cut" / "inverse-ft" / "checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 6
    train_inverse(cut, "ft", gss)
    name = "scenes-tiny.inverse-ft.safetensors"
    whole, again = (load_file(tmp_path / folder / name) for folder in ("whole", "cut"))
    assert all(torch.equal(whole[k], again[k]) for k in whole)


@pytest.mark.parametrize("checkpoints", [True, False])
def test_another_models_run_is_refused(tmp_path, gss, checkpoints):
    train_inverse(job(tmp_path), "ft", gss)
    if not checkpoints:
        shutil.rmtree(tmp_path / "inverse-ft")
    with torch.no_grad():
        gss.prior.to_tokens.bias[0] += 1e-3
    with pytest.raises(ValueError, match="belongs to another run .frozen:"):
        train_inverse(job(tmp_path), "ft", gss)


def test_decoded_pictures_are_those_of_predict_and_reconstruct(tiny_gss):
    dataset = create_dataset(TINY, "train")
    image, mask = (torch.stack([dataset[i][part] for i in (0, 31)]) for part in (0, 1))
    noisy, clean = (
        decode_pictures(tiny_gss, dataset, maskige=kind, count=2) for kind in ("noisy", "clean")
    )
    assert torch.equal(noisy.tensors[0], tiny_gss.predict(image).maskige.half())
    assert torch.equal(noisy.tensors[1], mask.byte())
    rebuilt, _ = rebuild(tiny_gss.palette, tiny_gss.tokenizer, mask)
    assert torch.equal(clean.tensors[0], rebuilt.half())
    assert not torch.equal(noisy.tensors[0], clean.tensors[0])
    read = tiny_gss.inverse.classify(clean.tensors[0].float())
    # float16 can tip a tie
    assert float((read == tiny_gss.reconstruct(mask)[0]).double().mean()) > 0.999


def test_the_pictures_are_spread_evenly_through_the_set(tiny_gss):
    masks = torch.arange(10).view(10, 1, 1).expand(10, 32, 32).contiguous()
    pairs = TensorDataset(torch.zeros(10, 3, 32, 32), masks)
    decoded = decode_pictures(tiny_gss, pairs, count=4)
    assert decoded.tensors[1][:, 0, 0].tolist() == [0, 3, 6, 9]
    assert len(decode_pictures(tiny_gss, pairs, count=50)) == 10


def test_sides_that_are_no_multiples(tiny_gss):
    pairs = [(torch.randn(3, 50, 70), torch.randint(11, (50, 70))) for _ in range(2)]
    for kind in ("noisy", "clean"):
        decoded = decode_pictures(tiny_gss, pairs, maskige=kind).tensors[0]
        assert decoded.shape == (2, 3, 50, 70)


def test_crops_of_maskige_and_mask_show_the_same_place():
    mask = torch.arange(20 * 30).view(20, 30)
    for scale in (1, 2):
        big = mask.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None].expand(3, -1, -1)
        maskige, ids = CropPair(8, 50)(big, mask)
        assert ids.shape == (8, 30) and torch.equal(maskige[0, ::scale, ::scale], ids)
        assert maskige.shape == (3, 8 * scale, 30 * scale)
    tops = {int(CropPair(8, 8)(big, mask)[1][0, 0]) for _ in range(50)}
    assert len(tops) > 20
    columns = {top % 30 for top in tops}
    assert len(columns) > 8 and len({top // 30 for top in tops}) > 5


def test_loss_leaves_ignored_pixels_out():
    inverse = ConvInverse(torch.rand(4, 3), 8)
    maskige, mask = torch.rand(2, 3, 6, 6), torch.randint(4, (2, 6, 6))
    mask[:, :2] = IGNORE
    log_p = inverse.scores(maskige).log_softmax(1)
    chosen = log_p.gather(1, mask.clamp(max=3)[:, None])[:, 0]
    loss, scalars = InverseLoss(inverse)(maskige, mask)
    torch.testing.assert_close(loss, -chosen[mask != IGNORE].mean())
    torch.testing.assert_close(scalars["cross_entropy"], loss.detach())
    nothing, _ = InverseLoss(inverse)(maskige, torch.full_like(mask, IGNORE))
    assert float(nothing) == 0


def test_neighbours_tell_what_one_colour_cannot(tmp_path):
    """Class 1 has the colour of class 0, and is the pixel at the right of class 2."""
    colors = torch.tensor([[0.0, 0, 0], [0.01, 0, 0], [1, 1, 1]])
    drawn = torch.rand(40, 24, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.where(drawn < 0.1, 2, 0)
    mask[:, :, 1:][(mask[:, :, :-1] == 2) & (mask[:, :, 1:] == 0)] = 1
    maskige = torch.stack([(mask == 2).float()] * 3, 1)
    torch.manual_seed(0)
    inverse = ConvInverse(colors, 16)

    class Pairs(TensorDataset):
        def __getitem__(self, item):
            return super().__getitem__(item[1])

    schedule = Schedule(steps=60, batch=4, crop=(24, 24), lr=1e-2, warmup=5)
    run = {"preset": "x", "stage": "y", "seed": 0}
    pairs = Pairs(maskige, mask)
    fit(InverseLoss(inverse), inverse, pairs, schedule, run=run, folder=tmp_path, options=QUIET)
    assert float((inverse.eval().classify(maskige) == mask).double().mean()) > 0.99


def test_names_and_schedules():
    assert stage_name("ft", "noisy") == "inverse-ft"
    assert stage_name("ft-w", "clean") == "inverse-ft-w-clean"
    for kind, maskige in (("tf", "noisy"), ("ft", "dirty")):
        with pytest.raises(
            ValueError,
            match="X⁻¹ must be one of ft, ft-w, .*on one of noisy, middle, clean maskige; got "
            f"'{kind}', '{maskige}'",
        ):
            stage_name(kind, maskige)
    bare = replace(TINY, name="elsewhere", schedules={})
    with pytest.raises(ValueError, match="elsewhere has no schedule for stage 'inverse-ft'"):
        bare.schedule("inverse-ft")
    assert TINY.with_schedule("inverse-ft", steps=3).schedule("inverse-ft").steps == 3


@pytest.mark.parametrize("preset", PAPER_PRESETS, ids=lambda preset: preset.name)
def test_the_papers_models_have_the_papers_schedules(preset):
    palette = create_palette(preset)
    crop = preset.schedule("prior").crop
    for kind, steps in (("ft", 3_000), ("ft-w", 40_000)):
        schedule = preset.schedule(f"inverse-{kind}")
        assert (schedule.steps, schedule.batch, schedule.crop) == (steps, 16, crop)
        inverse = build_inverse(palette, kind, schedule)
        scores = inverse(torch.rand(1, 3, 14, 21))
        assert scores.shape == (1, preset.data.num_classes, 14, 21)
    assert inverse.embed[0].weight.shape == (128, 3, 1, 1)
    assert len(inverse.blocks) == (1 if preset.data.name == "cityscapes" else 2)


def test_an_empty_set(gss):
    with pytest.raises(ValueError, match="no pictures to decode"):
        decode_pictures(gss, [])


def test_gaussians_are_measured_where_colours_land(tiny_gss):
    dataset = create_dataset(TINY, "test")
    inverse = measure_gaussians(tiny_gss, dataset, maskige="clean", count=4)
    pairs = decode_pictures(tiny_gss, dataset, maskige="clean", count=4)
    maskige, mask = pairs.tensors[0].float(), pairs.tensors[1]
    common = int(torch.bincount(mask.flatten().long(), minlength=256)[:11].argmax())
    pixels = maskige.movedim(1, -1)[mask == common]
    share = len(pixels) / (len(pixels) + 100)  # 100 pixels' worth of the palette's own colour
    expected = share * pixels.mean(0) + (1 - share) * tiny_gss.colors[common]
    torch.testing.assert_close(inverse.mean[common], expected, atol=1e-3, rtol=0)


def spawned(folder: str, source: str, threads: int) -> None:
    """In a process that imported everything anew, as on macOS and Windows."""
    torch.set_num_threads(threads)  # or sums would be rounded in another way
    multiprocessing.set_start_method("spawn", force=True)
    options = LoopOptions(progress=False, workers=2)
    train("scenes-tiny", folder, stage="inverse-ft", stage_one=source, options=options)


@pytest.mark.slow
def test_loading_processes_may_be_spawned(tiny_run, tmp_path):
    """F18: whatever the loader is given can be sent to a process that shares nothing."""
    context = multiprocessing.get_context("spawn")
    arguments = (str(tmp_path / "a"), str(tiny_run), torch.get_num_threads())
    process = context.Process(target=spawned, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0
    train(TINY, tmp_path / "b", stage="inverse-ft", stage_one=tiny_run, options=QUIET)
    name = "scenes-tiny.inverse-ft.safetensors"
    ours, theirs = (load_file(tmp_path / folder / name) for folder in "ab")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
