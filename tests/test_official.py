"""Released checkpoints: the authors' reference outputs, the way there and back, and refusals."""

from __future__ import annotations

import json
import os

import pytest
import torch

from data_scripts.dalle_dvae import import_published
from data_scripts.dalle_pickles import read_published
from gss_lite.__main__ import main
from gss_lite.dalle import DalleDVAE
from gss_lite.dalle_names import PARTS, published_shapes
from gss_lite.factory import create_model, create_prior
from gss_lite.inverse_fitted import SwinInverse
from gss_lite.official import load_released, our_tensors, read_architecture, released_state
from gss_lite.official.checkpoint import palette_in_config, read_checkpoint
from gss_lite.official.names import our_order, position_indices, prior_names, released_order

FIXTURES = ("swin-ff", "swin-ftw", "r50-ff", "hrnet-ff")
CITY = "cityscapes-swin-l"


@pytest.fixture(scope="module")
def dvae(parity):
    model = DalleDVAE(width=8, code_dim=8)
    import_published(parity / "dvae" / "encoder.pkl", parity / "dvae" / "decoder.pkl", model)
    return model


@pytest.fixture(scope="module", params=FIXTURES)
def released(request, parity, dvae):
    """Reference outputs, our model of the same checkpoint, and its outputs."""
    path = parity / request.param / "fixture.pth"
    fixture = torch.load(path, weights_only=True)
    gss = load_released(path, dvae)
    return fixture, gss, gss.outputs(fixture["image"])


def apart(ours, expected):
    return float((ours - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.slow
def test_features_logits_tokens_maskige_and_classes_equal_the_released_ones(released):
    fixture, gss, outputs = released
    with torch.no_grad():
        features = gss.prior.features(fixture["image"])
    assert len(features) == 4
    for ours, expected in zip(features, fixture["features"], strict=True):
        assert apart(ours, expected) < 2e-3  # stored in 16 bits
    logits = outputs.token_logits.flatten(2)[:, :, fixture["token_positions"]]
    assert apart(logits, fixture["token_logits"]) < 1e-4
    sure = fixture["token_margin"] > 1e-3
    assert sure.float().mean() > 0.9
    assert torch.equal(outputs.token_logits.argmax(1)[sure], fixture["tokens"][sure])
    assert apart(outputs.maskige, fixture["maskige"]) < 2e-3
    assert torch.equal(gss.inverse.classify(outputs.maskige), fixture["seg"].long())
    with torch.no_grad():
        votes = gss.inverse.votes(outputs.maskige)[:, :, ::16, ::16]
    assert apart(votes, fixture["seg_logits_sample"]) < 1e-4


@pytest.mark.slow
def test_training_losses_equal_the_released_ones(released):
    fixture, gss, outputs = released
    mask, losses = fixture["gt"][:, 0].long(), fixture["losses"]
    assert (mask == 255).any()
    with torch.no_grad():
        if isinstance(gss.inverse, SwinInverse):
            loss = gss.inverse.loss(outputs.maskige, mask)
            assert float(loss) == pytest.approx(losses["loss_ce"], rel=1e-4)
            with pytest.raises(ValueError, match="no auxiliary pixel head"):
                gss.losses(fixture["image"], mask)
            return
        _, scalars = gss.losses(fixture["image"], mask)
    assert float(0.8 * scalars["token"]) == pytest.approx(losses["loss_ce"], rel=1e-4)
    assert float(0.2 * scalars["pixel"]) == pytest.approx(losses["loss_ce_pixel"], rel=1e-4)


def test_the_way_there_and_back_is_bit_identical(released):
    fixture, gss, _ = released
    inverse = gss.inverse if isinstance(gss.inverse, SwinInverse) else None
    state, back = fixture["state_dict"], released_state(gss.prior, inverse)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert all(back[name].dtype == state[name].dtype for name in state)


# Parameters of the backbone, its tensors, and all tensors of a GSS-FF. The first two are those of
# mmsegmentation's own classes with the released settings.
FULL = {"swin-l": (195_201_204, 357), "r101": (42_519_392, 636), "hrnet-w48": (65_325_120, 1_830)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [CITY, "cityscapes-r101", "mseg-hrnet-w48"])
def test_full_size_backbones_have_the_released_numbers_of_parameters_and_tensors(name):
    parameters, tensors = next(value for end, value in FULL.items() if name.endswith(end))
    with torch.device("meta"):
        prior = create_prior(name)
    ours = prior.state_dict()
    state = {there: ours[here] for here, there in prior_names(ours).items()}
    state |= position_indices(state)
    backbone = [key for key in state if key.startswith("backbone.")]
    assert sum(p.numel() for p in prior.backbone.parameters()) == parameters
    assert len(backbone) == tensors
    there = read_architecture(state)  # the sizes are found again from the released names
    assert (there.vocab_size, there.num_classes) == (8192, prior.to_classes.out_channels)
    with torch.device("meta"):
        again = there.build_prior().state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in ours.items()}


def test_patch_merging_goes_from_channels_first_to_neighbours_first():
    name = "backbone.stages.0.downsample.norm.weight"
    theirs = torch.arange(12.0)  # 4·channel + 2·row + column
    ours = our_order(name, theirs)
    expected = [4 * c + 2 * row + column for column in (0, 1) for row in (0, 1) for c in range(3)]
    assert ours.tolist() == expected
    assert torch.equal(released_order(name, ours), theirs)


@pytest.fixture(scope="module")
def small(parity):
    return torch.load(parity / "swin-ff" / "fixture.pth", weights_only=True)


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda s: s.pop("decode_head.swin_ln.bias"), "1 tensors are missing .*swin_ln.bias"),
        (lambda s: s.update({"decode_head.extra": torch.zeros(1)}), "1 are unknown .*extra"),
        (
            lambda s: s.update({"backbone.norm0.weight": torch.zeros(5)}),
            r"norm0.weight is \(5,\) instead of \(12,\)",
        ),
        (lambda s: s["backbone.norm0.bias"].fill_(torch.nan), "norm0.bias holds values"),
        (lambda s: s.pop("decode_head.conv_seg.weight"), "lacks decode_head.conv_seg.weight"),
        (lambda s: s.pop("backbone.patch_embed.projection.weight"), "backbone is no Swin"),
    ],
)
def test_another_state_dict_is_refused_with_the_difference_named(small, change, match):
    state = {name: tensor.clone() for name, tensor in small["state_dict"].items()}
    change(state)
    with pytest.raises(ValueError, match=match):
        our_tensors(state, read_architecture(state))


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


def test_a_hostile_a_truncated_and_a_foreign_file_are_refused_and_run_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"a": torch.zeros(100)}, "meta": Hostile()}, path)
    with pytest.raises(ValueError, match="nothing in it was run"):
        read_checkpoint(path)
    torch.save({"state_dict": {"a": torch.zeros(100)}}, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(path)
    torch.save({"state_dict": {"a": torch.zeros(1).expand(10**9)}}, path)
    with pytest.raises(ValueError, match="no plain tensor"):
        read_checkpoint(path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_the_palette_is_found_in_the_text_of_a_config():
    text = "model = dict(decode_head=dict(palette=[[1, 2, 3], [4, 5, 6]]), x=print(1))"
    assert palette_in_config(text).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert palette_in_config("model = {'head': {'palette': [[1, 2, 3]]}}").tolist() == [[1, 2, 3]]
    assert palette_in_config("palette = colours()") is None
    with pytest.raises(ValueError, match="no Python"):
        palette_in_config("palette = [")


@pytest.fixture(scope="module")
def wrapped(parity, tmp_path_factory):
    """A GSS-FT-W as mmcv saves it: a wrapper, "module." and the dVAE's tensors inside."""
    fixture = torch.load(parity / "swin-ftw" / "fixture.pth", weights_only=True)
    state = dict(fixture["state_dict"])
    for part in PARTS:
        shapes = published_shapes(part, 8, 8192, 8)
        tensors = read_published(parity / "dvae" / f"{part}.pkl", part, shapes)
        state |= {f"decode_head.d_vae.{part}.{name}": t for name, t in tensors.items()}
    path = tmp_path_factory.mktemp("released") / "ftw.pth"
    config = f"model = dict(decode_head=dict(palette={fixture['palette'].tolist()}))"
    content = {"meta": {"epoch": 1, "config": config}, "optimizer": {"state": {}}}
    content["state_dict"] = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(content, path)
    return fixture, state, path


@pytest.mark.slow
def test_a_checkpoint_becomes_a_folder_and_a_checkpoint_again(wrapped, tmp_path, capsys):
    fixture, state, path = wrapped
    out = tmp_path / "out"
    assert main(["import", str(path), "--config", CITY, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "239 tensors, all of them used" in said and "not used: meta, optimizer" in said
    gss = create_model(CITY, pretrained=out, inverse="ft-w")
    outputs = gss.outputs(fixture["image"])
    sure = fixture["token_margin"] > 1e-3
    assert torch.equal(outputs.token_logits.argmax(1)[sure], fixture["tokens"][sure])
    assert torch.equal(gss.inverse.classify(outputs.maskige), fixture["seg"].long())
    back = tmp_path / "back.pth"
    arguments = ["export", "--preset", CITY, "--run", str(out), "--released", str(back)]
    assert main(arguments) == 0
    again = torch.load(back, weights_only=True)["state_dict"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)
    assert main(["import", str(path), "--config", CITY, "--out", str(out)]) == 2
    assert "already holds a model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config, match",
    [
        ("cityscapes-r101", "backbone is a Swin Transformer"),
        ("ade20k-swin-l", "has 19 classes, but preset ade20k-swin-l has 150"),
    ],
)
def test_another_config_is_refused_and_nothing_is_written(wrapped, tmp_path, capsys, config, match):
    out = tmp_path / "out"
    assert main(["import", str(wrapped[2]), "--config", config, "--out", str(out)]) == 2
    assert match in capsys.readouterr().err and not out.exists()


def test_another_length_of_palette_is_refused(wrapped, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(f"palette = {json.dumps([[k, k, k] for k in range(19)])}")
    arguments = ["import", str(wrapped[2]), "--config", CITY, "--palette", str(config)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "19 colours; expected 20" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
