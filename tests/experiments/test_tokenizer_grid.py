"""Both designs against plain formulas, the command taken up again, and what its record claims."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gss_lite.evaluation import evaluate_palette
from gss_lite.vqvae import VQVAE
from notebooks.experiments import tokenizer_grid
from notebooks.experiments.tokenizer_grid import (
    CELLS,
    CODEBOOKS,
    CROP,
    MANY,
    STRIDES,
    Budget,
    Cell,
    OneHotStage,
    build_stage,
    crop_and_flip,
    judge,
    masks_of,
    palette_for,
    run_cell,
    step_cpu_seconds,
)

RECORD = Path(__file__).resolve().parents[2] / "notebooks" / "records" / "tokenizer-grid.json"
TOY = Budget(steps=2, batch=2, pictures=6, held_out=5, width=8, code_dim=4)
FEW = (
    Cell("scenes", "maskige", 8, 16),
    Cell("scenes", "channels", 8, 16),
    Cell("many-scenes", "channels", 8, 16),
)


def one_hot_stage(K: int = 3) -> OneHotStage:
    torch.manual_seed(0)
    return OneHotStage(VQVAE(vocab_size=16, stride=4, width=8, code_dim=4, depth=1, channels=K))


def mask_of(seed: int = 0) -> torch.Tensor:
    mask = torch.randint(4, (2, 8, 12), generator=torch.Generator().manual_seed(seed))
    return mask.masked_fill(mask == 3, 255)


def test_a_mask_as_k_channels():
    stage, mask = one_hot_stage(), mask_of()
    channels = stage.one_hot(mask)
    assert channels.shape == (2, 3, 8, 12)
    for k in range(3):
        assert torch.equal(channels[:, k], (mask == k).float())  # and so 0 everywhere at 255


def test_the_loss_of_k_channels_by_hand():
    stage, mask = one_hot_stage().eval(), mask_of()
    with torch.no_grad():
        loss, scalars = stage(None, mask)
        scores, quantized = stage.tokenizer(stage.one_hot(mask))
    total = weight_sum = 0.0
    for b, y, x in (mask != 255).nonzero().tolist():
        k = int(mask[b, y, x])
        weight = 1 / math.sqrt(int((mask == k).sum()))
        total, weight_sum = (
            total - weight * float(F.log_softmax(scores[b, :, y, x].double() / 0.1, 0)[k]),
            weight_sum + weight,
        )
    assert float(scalars["cross_entropy"]) == pytest.approx(total / weight_sum, rel=1e-5)
    assert float(loss) == pytest.approx(
        total / weight_sum + 0.25 * float(quantized.commitment), rel=1e-5
    )


def test_k_channels_are_read_by_the_largest_even_where_decode_would_clamp_two():
    stage, mask = one_hot_stage().eval(), mask_of()
    with torch.no_grad():
        # all far above what stands for 1
        stage.tokenizer.decoder[-1].bias.copy_(torch.tensor([30.0, 60.0, 20.0]))
    ids, tokens = stage.read(mask)
    assert bool((ids == 1).all())
    assert torch.equal(tokens, stage.tokenizer.encode(stage.one_hot(mask)))


@pytest.mark.parametrize("design", ["maskige", "channels"])
def test_judge_against_the_other_measures(design):
    cell = Cell("scenes", design, 4, 16)
    stage, masks = build_stage(cell, TOY), masks_of("scenes", "test", 5)
    result = judge(stage, masks, cell.classes)
    assert (result["tokens"], result["bits"]) == (24 * 32, 24 * 32 * 4) and len(result["iou"]) == 11
    ids = torch.cat([stage.read(mask[None].long())[0] for mask in masks])
    k = 1
    known = masks != 255
    expected = float(
        ((ids == k) & (masks == k)).sum() / (((ids == k) & known) | (masks == k)).sum()
    )
    assert result["iou"][k] == pytest.approx(expected, abs=1e-4)
    if design == "maskige":
        assert result["miou"] == pytest.approx(
            evaluate_palette(stage.palette, stage.tokenizer, masks).scores.miou, abs=1e-4
        )
    assert 0 < result["usage"] <= 1 <= result["perplexity"] <= 16


@pytest.mark.slow
def test_many_classes_are_painted_with_far_colours():
    masks, palette = masks_of("many-scenes", "train", 6), palette_for("many-scenes", 6)
    assert masks.shape == (2, 192, 256) and len(palette) == MANY
    assert palette.least_distance() > 70  # a greedy palette of 64 has less
    assert build_stage(Cell("many-scenes", "channels", 8, 16), TOY).tokenizer.channels == MANY


@pytest.mark.slow
def test_pieces_are_cut_from_the_mask():
    mask = masks_of("many-scenes", "train", 6)[0]
    torch.manual_seed(3)
    image, piece = crop_and_flip(mask)
    assert image.numel() == 0 and piece.shape == CROP and piece.dtype == torch.long
    windows = mask.unfold(0, CROP[0], 1).unfold(1, CROP[1], 1)
    found = [
        (windows == p).flatten(2).all(2).any()
        for p in (piece.to(mask.dtype), piece.flip(-1).to(mask.dtype))
    ]
    assert any(found)


def test_measuring_a_step_leaves_the_model_as_it_was():
    stage, mask = build_stage(FEW[0], TOY), masks_of("scenes", "train", 6)[:2].long()
    before = {k: v.clone() for k, v in stage.state_dict().items()}
    assert step_cpu_seconds(stage, mask, repeats=2) > 0
    assert all(torch.equal(v, before[k]) for k, v in stage.state_dict().items())
    assert all(p.grad is None for p in stage.parameters())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_grid, "CELLS", FEW)
        arguments = [
            "--steps",
            "2",
            "--pictures",
            "6",
            "--held-out",
            "5",
            "--width",
            "8",
            "--work",
            str(folder),
            "--record",
            str(folder / "record.json"),
        ]
        tokenizer_grid.main(arguments)
        yield folder, arguments, json.loads((folder / "record.json").read_text())


@pytest.mark.slow
def test_the_record(finished):
    metrics = finished[2]["metrics"]
    assert (
        finished[2]["command"].startswith(
            "python -m notebooks.experiments.tokenizer_grid --steps 2"
        )
        and finished[2]["steps"] == 2
    )
    assert [(c["data"], c["design"], c["stride"], c["codes"]) for c in metrics["cells"]] == [
        (c.data, c.design, c.stride, c.codes) for c in FEW
    ]
    assert (
        metrics["cells"][0]["parameters"]
        < metrics["cells"][1]["parameters"]
        < metrics["cells"][2]["parameters"]
    )
    assert metrics["held_out"] == 5 and "iou" not in metrics["cells"][2]


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again(finished, monkeypatch):
    folder, arguments, record = finished
    monkeypatch.setattr(tokenizer_grid, "fit", None)  # would raise if it were called
    tokenizer_grid.main([*arguments[:-1], str(folder / "again.json")])
    assert json.loads((folder / "again.json").read_text())["metrics"] == record["metrics"]


@pytest.mark.slow
def test_a_cell_of_another_budget_is_refused(finished):
    with pytest.raises(ValueError, match="belongs to another budget.*--work"):
        run_cell(FEW[0], Budget(steps=3), finished[0])


def test_the_committed_record_holds_the_whole_grid():
    record = json.loads(RECORD.read_text())
    cells = {
        (c["data"], c["design"], c["stride"], c["codes"]): c for c in record["metrics"]["cells"]
    }
    assert list(cells) == [(c.data, c.design, c.stride, c.codes) for c in CELLS]
    assert {s for _, _, s, _ in cells} == set(STRIDES) and {
        v for d, k, _, v in cells if (d, k) == ("scenes", "maskige")
    } == set(CODEBOOKS)
    assert record["steps"] == Budget.steps and record["metrics"]["held_out"] == Budget.held_out
    for (data, _, stride, codes), cell in cells.items():
        assert cell["tokens"] == (96 * 128 if data == "scenes" else 192 * 256) // stride**2
        assert cell["bits"] == round(cell["tokens"] * math.log2(codes)) and 0 < cell["miou"] < 1
    for codes in CODEBOOKS:  # four times the tokens, for whatever codebook
        assert (
            cells["scenes", "maskige", 4, codes]["miou"]
            > cells["scenes", "maskige", 8, codes]["miou"]
        )
