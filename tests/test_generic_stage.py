"""Stage I with a palette of its own for every picture, and the presets that are a tokenizer alone."""

import json
from dataclasses import replace

import pytest
import torch
from test_data import write_camvid

from gss_lite.data import dataset_for
from gss_lite.data.scenes import ManyScenes
from gss_lite.data.transforms import train_transform
from gss_lite.factory import build_gss, build_palette, build_tokenizer, export_weights
from gss_lite.presets import get_preset
from gss_lite.training.tokenizer import (
    GenericStage,
    Photographs,
    random_colors,
    readback_loss,
    train_vqvae,
)

GENERIC = get_preset("generic-s4")
TINY = replace(
    GENERIC,
    size=(64, 64),
    train_pictures=8,
    tokenizer=dict(vocab_size=32, stride=4, width=16, code_dim=8, depth=1),
    vqvae=replace(GENERIC.vqvae, steps=3, batch=8, crop=(32, 32), warmup=1),
)


def photographs(count: int = 3) -> Photographs:
    """Pictures of one colour each, which no mask is painted in: (200, 201, 202), (201, 202, 203), …"""
    return Photographs(
        [
            torch.arange(200 + i, 203 + i, dtype=torch.uint8)[:, None, None].expand(3, 90, 120)
            for i in range(count)
        ]
    )


def batch(pictures: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    transform = train_transform(64, 64, scales=(1.0, 1.0))
    items = [
        ManyScenes(pictures, height=64, width=64, transform=transform)[i] for i in range(pictures)
    ]
    return torch.stack([i for i, _ in items]), torch.stack([m for _, m in items])


def test_random_colors_reach_the_faces_of_the_cube_and_its_inside():
    torch.manual_seed(0)
    colors = random_colors(50, 40)
    assert colors.shape == (50, 40, 3) and float(colors.min()) >= 0 and float(colors.max()) <= 1
    on_a_face = ((colors == 0) | (colors == 1)).any(2).float().mean()
    assert 0.3 < float(on_a_face) < 0.8
    assert len(torch.unique(colors.view(-1, 3), dim=0)) > 1500


def test_every_picture_is_painted_in_its_own_colours_and_the_last_are_photographs():
    _, mask = batch()
    torch.manual_seed(0)
    stage = GenericStage(build_tokenizer(TINY), 0.5, photographs())
    pictures, coarse, colors = stage.paint(mask)
    to_coarse = torch.from_numpy(ManyScenes(1).to_coarse).long()
    assert torch.equal(coarse, to_coarse[mask[:4]])
    ids = torch.cat([coarse, mask[4:]])
    for b in range(7):
        assert torch.equal(pictures[b], colors[b][ids[b]].movedim(-1, 0))
    assert not torch.equal(colors[0], colors[1]) and bool((colors[:, 255] == 0.5).all())
    seen = 255 * pictures[7].flatten(1)
    assert seen.shape == (3, 64 * 64) and float(seen[0, 0]) in (200, 201, 202)
    assert torch.allclose(seen, seen[0, 0] + torch.arange(3.0)[:, None], atol=1e-3)


def test_batches_of_any_size_get_their_share_of_photographs():
    torch.manual_seed(0)
    assert [GenericStage.how_many(batch) for batch in (8, 16)] == [1, 2]
    for batch in (4, 12):  # a process's share of a batch
        share = sum(GenericStage.how_many(batch) for _ in range(2000)) / (2000 * batch)
        assert share == pytest.approx(1 / 8, rel=0.15)


def test_crops_of_photographs_are_random_resized_mirrored_and_seeded():
    # dark at the left, as wide as it is bright
    ramp = torch.arange(120, dtype=torch.uint8).expand(3, 90, 120).contiguous()
    source = Photographs([ramp])
    torch.manual_seed(0)
    crops = source.crops(64, 48, 64)
    torch.manual_seed(0)
    assert torch.equal(crops, source.crops(64, 48, 64))
    assert (
        crops.shape == (64, 3, 48, 64)
        and float(crops.min()) >= 0
        and 255 * float(crops.max()) < 119.5
    )
    # columns of the photograph that a crop spans; negative if mirrored
    slope = 255 * (crops[:, 0, 24, -1] - crops[:, 0, 24, 0])
    assert 16 < int((slope < 0).sum()) < 48
    assert float(slope.abs().min()) < 60 and float(slope.abs().max()) > 90
    with pytest.raises(ValueError, match="at least one photograph"):
        Photographs([])


def test_photographs_are_camvids_training_pictures_or_an_error_says_how_to_get_them(
    tmp_path, monkeypatch
):
    source = Photographs.of("camvid", write_camvid(tmp_path / "set"))
    assert [p.shape for p in source.pictures] == [(3, 6, 8)] * 2
    with pytest.raises(ValueError, match="got 'imagenet'"):
        Photographs.of("imagenet")
    monkeypatch.setenv("GSS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="data_scripts.camvid"):
        train_vqvae(TINY, tmp_path / "run", progress=False)


def test_readback_weighs_the_reading_of_each_pictures_own_colours():
    image, mask = batch()
    torch.manual_seed(0)
    stage = GenericStage(build_tokenizer(TINY), 0.5, photographs()).eval()
    torch.manual_seed(1)
    loss, scalars = stage(image, mask)
    torch.manual_seed(1)
    stage.readback = 0.0
    without, _ = stage(image, mask)
    torch.testing.assert_close(loss - without, 0.5 * scalars["readback"])
    torch.manual_seed(1)
    pictures, coarse, colors = stage.paint(mask)
    rebuilt, _ = stage.tokenizer(pictures)
    scores = (
        -torch.stack(
            [(rebuilt[:4] - colors[:4, k, :, None, None]).square().sum(1) for k in range(11)], 1
        )
        / 0.1
    )
    share = torch.bincount(coarse.flatten(), minlength=256)[:11].clamp(min=1).float()
    expected = torch.nn.functional.cross_entropy(scores, coarse, share.rsqrt(), ignore_index=255)
    torch.testing.assert_close(scalars["readback"], expected, rtol=1e-4, atol=1e-4)


def test_where_no_pixel_is_labelled_nothing_is_read_back():
    scores = torch.randn(2, 11, 4, 4, requires_grad=True)
    loss = readback_loss(scores, torch.full((2, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0 and bool((scores.grad == 0).all())


def test_a_tokenizer_without_a_palette_is_trained_and_exported_alone(tmp_path):
    train_vqvae(TINY, tmp_path / "run", data=write_camvid(tmp_path / "set"), progress=False)
    written = export_weights(TINY, tmp_path / "run", tmp_path)
    assert [p.name for p in written] == ["generic-s4.vqvae.safetensors", "generic-s4.vqvae.json"]
    assert json.loads(written[1].read_text())["data_licence"].startswith("CC BY-NC 4.0")


def test_what_a_tokenizer_alone_cannot_give_is_said():
    assert isinstance(dataset_for(GENERIC, "val"), ManyScenes)
    with pytest.raises(ValueError, match="no palette of its own"):
        build_palette(GENERIC)
    with pytest.raises(ValueError, match="a tokenizer alone"):
        build_gss(GENERIC)
