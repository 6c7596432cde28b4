"""What each switch of Table 3 does to the network and its targets; the command taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import gss_lite as gss
from notebooks.experiments import prior_ablation
from notebooks.experiments.prior_ablation import (
    CELLS,
    PAPER,
    Cell,
    DeepestLevel,
    TokensOnly,
    change,
    judge,
    table,
)


def model_of(cell: Cell) -> gss.GSS:
    torch.manual_seed(0)
    model = gss.create_model("scenes-tiny")
    change(model.prior, cell)
    return model


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_cell_predicts_on_its_grid_and_trains(cell):
    model = model_of(cell).train()
    image, mask = torch.randn(2, 3, 64, 96), torch.randint(11, (2, 64, 96))
    output = model.prior(image)
    assert output.token_logits.shape == (2, 32, 64 // cell.grid, 96 // cell.grid)
    assert output.pixel_logits.shape == (2, 11, 64 // cell.grid, 96 // cell.grid)
    loss, _ = model.losses(image, mask) if cell.auxiliary else TokensOnly(model)(image, mask)
    loss.backward()
    trained = prior_ablation.used(model.prior, cell)
    assert all(p.grad is not None for p in trained)
    assert sum(p.grad is not None for p in model.prior.parameters()) == len(trained)
    assert model.eval().predict(image).mask.shape == (2, 64, 96)


def test_the_papers_four_rows_come_first_and_one_switch_differs_from_row_to_row():
    assert CELLS[:4] == tuple(PAPER) and len(set(CELLS)) == len(CELLS) == 9
    assert [sum(a != b for a, b in zip(*pair)) for pair in zip(CELLS[:3], CELLS[1:4])] == [1, 1, 1]
    assert PAPER[Cell(4, True, "full")] == (46.29, 57.84)


def test_the_full_cell_is_the_presets_own_network():
    torch.manual_seed(0)
    plain = gss.create_model("scenes-tiny").prior.eval()
    full = model_of(Cell(4, True, "full")).prior.eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(full(image).token_logits, plain(image).token_logits)


def test_the_coarse_grid_encodes_the_mask_at_half_its_size():
    model = model_of(Cell(8, True, "levels")).eval()
    # halves exactly
    mask = torch.randint(11, (1, 16, 16)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    targets = model.targets(mask, model.prior(torch.randn(1, 3, 64, 64)).pixel_logits)
    half = model.palette(mask[:, ::2, ::2])
    assert torch.equal(targets.tokens, model.tokenizer.encode(half))


def test_the_deepest_level_looks_at_nothing_else():
    model = model_of(Cell(4, True, "deepest")).eval()
    assert isinstance(model.prior.aggregation, DeepestLevel)
    maps = model.prior.backbone(torch.randn(1, 3, 64, 64))
    features = [f.detach().requires_grad_() for f in maps]
    torch.autograd.grad(model.prior.token_features(features).sum(), features[3])
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(model.prior.token_features(features).sum(), features[0])


def test_without_the_auxiliary_branch_holes_take_the_colour_for_ignored_pixels():
    model = model_of(Cell(4, False, "levels")).eval()
    image, mask = torch.randn(1, 3, 32, 32), torch.randint(11, (1, 32, 32))
    mask[:, :6, :9] = 255  # two cells wholly hidden, and others in part
    loss, scalars = TokensOnly(model)(image, mask)
    logits = model.prior(image).token_logits
    palette = model.palette
    tokens = model.tokenizer.encode(gss.paint(mask, palette.colors, palette.ignore_color))
    kept = torch.ones(1, 8, 8, dtype=torch.bool)
    kept[:, 0, :2] = False
    torch.testing.assert_close(loss, F.cross_entropy(logits.movedim(1, -1)[kept], tokens[kept]))
    right = float((logits.argmax(1) == tokens)[kept].float().mean())
    assert float(scalars["token_accuracy"]) == pytest.approx(right)


@pytest.fixture(scope="module")
def command(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    return (
        "--preset scenes-tiny --cells 2 --steps 3 --pictures 4 --judged 2 --quiet "
        f"--weights {tiny_run} --work {folder}/work --record {folder}/record.json".split()
    )


@pytest.mark.slow
def test_the_record_grows_and_is_taken_up(command, capsys, monkeypatch):
    prior_ablation.main(command)
    path = Path(command[-1])
    first = json.loads(path.read_text())
    line = "python -m notebooks.experiments.prior_ablation --preset scenes-tiny"
    assert first["kind"] == "prior ablation" and first["command"].startswith(line)
    cells = first["metrics"]["cells"]
    assert list(cells) == [c.name for c in CELLS[:2]] and first["metrics"]["seeds"] == 1
    off, on = (entry["results"]["0"] for entry in cells.values())
    assert "pixel_head" not in off and 0 <= on["pixel_head"]["miou"] <= 100
    assert off["reconstruction"] == on["reconstruction"]
    assert cells[CELLS[0].name]["parameters"] < cells[CELLS[1].name]["parameters"]
    assert on["log"][-1]["step"] == 3

    trained = []
    real = prior_ablation.train_cell

    def watched(cell, job, *args):
        trained.append((cell, job.preset.seed))
        return real(cell, job, *args)

    monkeypatch.setattr(prior_ablation, "train_cell", watched)
    capsys.readouterr()
    prior_ablation.main([*command, "--seeds", "2"])
    assert trained == [(cell, 1) for cell in CELLS[:2]]
    again = json.loads(path.read_text())["metrics"]
    assert again["seeds"] == 2 and again["cells"][CELLS[0].name]["results"]["0"] == off
    assert "40.64 / 52.55" in capsys.readouterr().out
    prior_ablation.main([*command, "--judged", "1"])  # other settings begin anew
    assert trained[2:] == [(cell, 0) for cell in CELLS[:2]]
    assert json.loads(path.read_text())["metrics"]["seeds"] == 1


def test_the_bound_on_the_coarse_grid_is_lower():
    model = model_of(Cell(8, True, "levels")).eval()
    # one colour a cell, kept as it is
    model.tokenizer.encode = lambda maskige: maskige[:, :, ::4, ::4]
    model.tokenizer.decode = lambda colours: colours.repeat_interleave(4, 2).repeat_interleave(4, 3)
    nothing = torch.zeros(1, 64, 64).long()
    model.predict = lambda image: SimpleNamespace(mask=nothing, pixel_mask=nothing)
    mask = torch.zeros(64, 64).long()
    mask[:, 20:] = 1  # a border that lies between cells of 4 pixels, and within one of 8
    data = [(torch.zeros(3, 64, 64), mask)]
    bounds = [
        judge(model, Cell(grid, True, "levels"), data)["reconstruction"]["miou"] for grid in (4, 8)
    ]
    assert bounds[0] == 100 and bounds[1] < 95


def test_the_table_shows_spread_and_the_papers_column():
    def result(v: float) -> dict:
        return {
            "prediction": {"miou": v, "macc": v + 5},
            "reconstruction": {"miou": 95.5, "macc": 96.0},
        }

    entry = {
        "paper": (40.64, 52.55),
        "parameters": 1234,
        "results": {"0": result(60.0), "1": result(62.0)},
    }
    line = table({"a": entry}).splitlines()[1]
    assert "61.00 ± 1.41" in line and "66.00 ± 1.41" in line and "1,234" in line
    assert line.endswith("40.64 / 52.55") and "–" in line
