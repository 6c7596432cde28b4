"""Files: a write that fails, weights of another kind, what a record says."""

from dataclasses import replace

import pytest
import torch

from gss_lite.factory import create_model, create_tokenizer
from gss_lite.presets import get_preset
from gss_lite.presets.parts import fixed
from gss_lite.records import run_record
from gss_lite.storage import load_weights, replace_file, save_weights


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")

    def broken(path):
        path.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(tmp_path / "a", broken)
    assert (tmp_path / "a").read_text() == "old" and list(tmp_path.iterdir()) == [tmp_path / "a"]


def tokenizer(seed: int = 0):
    torch.manual_seed(seed)
    return create_model("scenes-tiny").tokenizer


@pytest.mark.parametrize("half, tolerance", [(False, 0.0), (True, 1e-3)])
def test_weights_round_trip_in_full_and_half_precision(tmp_path, half, tolerance):
    saved = tokenizer()
    save_weights(tmp_path / "w.safetensors", saved, half=half)
    other = tokenizer(seed=1)
    load_weights(tmp_path / "w.safetensors", other)
    for name, value in other.state_dict().items():
        expected = saved.state_dict()[name]
        torch.testing.assert_close(value, expected, atol=tolerance, rtol=tolerance)


def test_truncated_missing_and_foreign_weights(tiny_run, tmp_path):
    preset = get_preset("scenes-tiny")
    with pytest.raises(FileNotFoundError, match="no weights at .*python -m gss_lite train"):
        create_tokenizer(preset, pretrained=tmp_path)
    name = "scenes-tiny.vqvae.safetensors"
    whole = (tiny_run / name).read_bytes()
    for cut in (4, 100, len(whole) // 2):
        (tmp_path / name).write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="damaged or cut short"):
            create_tokenizer(preset, pretrained=tmp_path)
    (tmp_path / name).write_bytes(whole)
    arguments = fixed(**{**preset.tokenizer.arguments, "vocab_size": 64})
    other = replace(preset, tokenizer=replace(preset.tokenizer, arguments=arguments))
    with pytest.raises(ValueError, match="another architecture.*tensors differ"):
        create_tokenizer(other, pretrained=tmp_path)


def test_records_name_the_hardware():
    record = run_record(
        kind="k", preset="p", seed=0, steps=1, seconds=1.23, metrics={}, command="c"
    )
    assert "CPU threads" in record["hardware"] or torch.cuda.is_available()
    assert record["seconds"] == 1.2
