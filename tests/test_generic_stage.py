"""Stage I with a palette of its own for every picture, and the presets that are a tokenizer alone."""

from dataclasses import replace

import pytest
import torch

from gss_lite.build import build_gss, build_palette, build_tokenizer, dataset_for
from gss_lite.data.many_scenes import ManyScenes
from gss_lite.data.transforms import IMAGENET_MEAN, IMAGENET_STD, train_transform
from gss_lite.export import export_weights
from gss_lite.presets import get_preset
from gss_lite.training.generic_stage import GenericStage, random_colors
from gss_lite.training.stages import train_vqvae

GENERIC = get_preset("generic-s4")
TINY = replace(
    GENERIC, size=(64, 64), train_pictures=8, tokenizer=dict(vocab_size=32, stride=4, width=16, code_dim=8, depth=1),
    vqvae=replace(GENERIC.vqvae, steps=3, batch=8, crop=(32, 32), warmup=1),
)


def batch(pictures: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    transform = train_transform(64, 64, scales=(1.0, 1.0))
    items = [ManyScenes(pictures, height=64, width=64, transform=transform)[i] for i in range(pictures)]
    return torch.stack([i for i, _ in items]), torch.stack([m for _, m in items])


def test_random_colors_reach_the_faces_of_the_cube_and_its_inside():
    torch.manual_seed(0)
    colors = random_colors(50, 40)
    assert colors.shape == (50, 40, 3) and 0 <= float(colors.min()) and float(colors.max()) <= 1
    on_a_face = ((colors == 0) | (colors == 1)).any(2).float().mean()
    assert 0.3 < float(on_a_face) < 0.8
    assert len(torch.unique(colors.view(-1, 3), dim=0)) > 1500


def test_every_picture_is_painted_in_its_own_colours_and_the_last_are_photographs():
    image, mask = batch()
    torch.manual_seed(0)
    stage = GenericStage(build_tokenizer(TINY), 0.5)
    pictures, coarse, colors = stage.paint(image, mask)
    to_coarse = torch.from_numpy(ManyScenes(1).to_coarse).long()
    assert torch.equal(coarse, to_coarse[mask[:4]])
    ids = torch.cat([coarse, mask[4:]])
    for b in range(7):
        assert torch.equal(pictures[b], colors[b][ids[b]].movedim(-1, 0))
    assert not torch.equal(colors[0], colors[1]) and bool((colors[:, 255] == 0.5).all())
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(pictures[7], (image[7] * std + mean).clamp(0, 1))


def test_readback_weighs_the_reading_of_each_pictures_own_colours():
    image, mask = batch()
    torch.manual_seed(0)
    stage = GenericStage(build_tokenizer(TINY), 0.5).eval()
    torch.manual_seed(1)
    loss, scalars = stage(image, mask)
    torch.manual_seed(1)
    stage.readback = 0.0
    without, _ = stage(image, mask)
    torch.testing.assert_close(loss - without, 0.5 * scalars["readback"])
    torch.manual_seed(1)
    pictures, coarse, colors = stage.paint(image, mask)
    rebuilt, _ = stage.tokenizer(pictures)
    scores = -torch.stack([
        (rebuilt[:4] - colors[:4, k, :, None, None]).square().sum(1) for k in range(11)
    ], 1) / 0.1
    share = torch.bincount(coarse.flatten(), minlength=256)[:11].clamp(min=1).float()
    expected = torch.nn.functional.cross_entropy(scores, coarse, share.rsqrt(), ignore_index=255)
    torch.testing.assert_close(scalars["readback"], expected, rtol=1e-4, atol=1e-4)


def test_a_tokenizer_without_a_palette_is_trained_and_exported_alone(tmp_path):
    train_vqvae(TINY, tmp_path / "run", progress=False)
    written = export_weights(TINY, tmp_path / "run", tmp_path)
    assert [p.name for p in written] == ["generic-s4.vqvae.safetensors", "generic-s4.vqvae.json"]


def test_what_a_tokenizer_alone_cannot_give_is_said():
    assert isinstance(dataset_for(GENERIC, "val"), ManyScenes)
    with pytest.raises(ValueError, match="no palette of its own"):
        build_palette(GENERIC)
    with pytest.raises(ValueError, match="a tokenizer alone"):
        build_gss(GENERIC)
