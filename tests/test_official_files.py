"""Released checkpoints as files: the way to a folder and back, and what is refused.

The checkpoints are narrow and hold random numbers; `released_reference` makes them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from gss_lite.__main__ import main
from gss_lite.factory import create_model
from gss_lite.official import import_checkpoint, our_tensors, read_architecture
from gss_lite.official.checkpoint import palette_in_config, read_checkpoint
from gss_lite.presets import get_preset
from notebooks.experiments import released_reference
from notebooks.experiments.released_layers import Swin
from notebooks.experiments.released_reference import (
    Head,
    ReleasedGSS,
    fill,
    random_dvae,
    small_model,
)

CITY = "cityscapes-swin-l"
RECORDS = Path(__file__).resolve().parents[1] / "notebooks" / "records"


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
def test_another_state_dict_is_refused_with_the_difference_named(change, match):
    state = {name: tensor.clone() for name, tensor in small_model().state_dict().items()}
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
    notes = {"iter": np.int64(3), "best": np.float64(0.5), "mean": np.zeros(3), "names": ("a", "b")}
    torch.save({"state_dict": torch.nn.Linear(2, 1).state_dict(), "meta": notes}, path)
    assert list(read_checkpoint(path).state) == ["weight", "bias"]  # notes of training do no harm
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
def wrapped(tmp_path_factory):
    """A GSS-FT-W as mmcv saves it: a wrapper, "module." and the dVAE's tensors inside."""
    backbone = Swin(12, (2, 2, 2, 2), (1, 2, 4, 8), window=7, ratio=4)
    colors = torch.randint(256, (20, 3))
    head = Head(backbone.widths, colors, pixel="none", inverse=(32, 2, 4, 7))
    reference = fill(ReleasedGSS(backbone, head, random_dvae()))
    state = dict(reference.state_dict())
    state |= {f"decode_head.d_vae.{name}": tensor for name, tensor in reference.dvae.items()}
    path = tmp_path_factory.mktemp("released") / "ftw.pth"
    config = f"model = dict(decode_head=dict(palette={colors.tolist()}))"
    content = {"meta": {"epoch": 1, "config": config}, "optimizer": {"state": {}}}
    content["state_dict"] = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(content, path)
    return reference, state, path


@pytest.mark.slow
def test_a_checkpoint_becomes_a_folder_and_a_checkpoint_again(wrapped, tmp_path, capsys):
    reference, state, path = wrapped
    out = tmp_path / "out"
    assert main(["import", str(path), "--config", CITY, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "239 tensors, all of them used" in said and "not used: meta, optimizer" in said
    gss = create_model(CITY, pretrained=out, inverse="ft-w")
    assert gss.view == get_preset(CITY).view
    image = torch.randn(1, 3, 50, 66)
    expected = reference(image)
    best = expected.token_logits.topk(2, dim=1).values
    sure = best[:, 0] - best[:, 1] > 1e-3
    tokens = gss.outputs(image).token_logits.argmax(1)
    assert torch.equal(tokens[sure], expected.token_logits.argmax(1)[sure])
    votes = gss.inverse.votes(expected.maskige)
    torch.testing.assert_close(votes, expected.votes, atol=1e-4, rtol=1e-4)
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


def test_nothing_stays_of_an_import_that_could_not_be_finished(wrapped, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr("gss_lite.official.folder.save_weights", full)
    with pytest.raises(OSError, match="disk is full"):
        import_checkpoint(wrapped[2], CITY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_length_of_palette_is_refused(wrapped, tmp_path, capsys):
    config = tmp_path / "config.py"
    config.write_text(f"palette = {json.dumps([[k, k, k] for k in range(19)])}")
    arguments = ["import", str(wrapped[2]), "--config", CITY, "--palette", str(config)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "19 colours; expected 20" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_record_is_what_the_command_gives(tmp_path, capsys):
    """But for near ties, which another processor may round to the other side."""
    released_reference.main(["--record", str(tmp_path / "again.json")])
    again = json.loads((tmp_path / "again.json").read_text())["metrics"]
    kept = json.loads((RECORDS / "released-models.json").read_text())["metrics"]
    assert again.keys() == kept.keys()
    for key in ("street", "state_sha256", "dvae_sha256"):
        assert again[key] == kept[key]
    ties = {tuple(place) for place in kept["near_ties"]}
    for row, (found, expected) in enumerate(zip(again["tokens"], kept["tokens"], strict=True)):
        pairs = enumerate(zip(found.split(), expected.split(), strict=True))
        assert all(a == b or (row, column) in ties for column, (a, b) in pairs)
