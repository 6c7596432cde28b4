"""Table 3's command at toy size: what each switch does to the network and its targets, the record, taking it up again."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from gss_lite.factory import build_gss
from gss_lite.palette.palette import paint
from gss_lite.presets import get_preset
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

TINY = get_preset("scenes-tiny")


def model(cell: Cell):
    torch.manual_seed(0)
    gss = build_gss(TINY)
    change(gss.prior, cell)
    return gss


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_cell_predicts_on_its_grid_and_trains(cell):
    gss = model(cell).train()
    image, mask = torch.randn(2, 3, 64, 96), torch.randint(11, (2, 64, 96))
    output = gss.prior(image)
    assert output.token_logits.shape == (2, 32, 64 // cell.grid, 96 // cell.grid)
    assert output.pixel_logits.shape == (2, 11, 64 // cell.grid, 96 // cell.grid)
    loss, _ = TokensOnly(gss)(image, mask) if not cell.auxiliary else gss.losses(image, mask)
    loss.backward()
    trained = prior_ablation.used(gss.prior, cell)
    assert all(p.grad is not None for p in trained)
    assert sum(p.grad is not None for p in gss.prior.parameters()) == len(trained)
    assert gss.eval().predict(image).mask.shape == (2, 64, 96)


def test_the_papers_four_rows_come_first_and_one_switch_differs_from_row_to_row():
    assert CELLS[:4] == tuple(PAPER) and len(set(CELLS)) == len(CELLS) == 9
    assert [sum(a != b for a, b in zip(*pair)) for pair in zip(CELLS[:3], CELLS[1:4])] == [1, 1, 1]
    assert PAPER[Cell(4, True, "full")] == (46.29, 57.84)


def test_the_full_cell_is_the_presets_own_network():
    torch.manual_seed(0)
    plain = build_gss(TINY).prior.eval()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(
        model(Cell(4, True, "full")).prior.eval()(image).token_logits, plain(image).token_logits
    )


def test_the_coarse_grid_encodes_the_mask_at_half_its_size():
    gss = model(Cell(8, True, "levels")).eval()
    # halves exactly
    mask = torch.randint(11, (1, 16, 16)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    targets = gss.targets(mask, gss.prior(torch.randn(1, 3, 64, 64)).pixel_logits)
    assert torch.equal(targets.tokens, gss.tokenizer.encode(paint(mask[:, ::2, ::2], gss.colors)))


def test_the_deepest_level_looks_at_nothing_else():
    gss = model(Cell(4, True, "deepest")).eval()
    assert isinstance(gss.prior.aggregation, DeepestLevel)
    features = [f.detach().requires_grad_() for f in gss.prior.backbone(torch.randn(1, 3, 64, 64))]
    torch.autograd.grad(gss.prior.token_features(features).sum(), features[3])
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        torch.autograd.grad(gss.prior.token_features(features).sum(), features[0])


def test_without_the_auxiliary_branch_holes_take_the_colour_for_ignored_pixels():
    gss = model(Cell(4, False, "levels")).eval()
    image, mask = torch.randn(1, 3, 32, 32), torch.randint(11, (1, 32, 32))
    mask[:, :6, :9] = 255  # two cells wholly hidden, and others in part
    loss, scalars = TokensOnly(gss)(image, mask)
    logits = gss.prior(image).token_logits
    tokens = gss.tokenizer.encode(paint(mask, gss.colors, gss.palette.ignore_color))
    kept = torch.ones(1, 8, 8, dtype=torch.bool)
    kept[:, 0, :2] = False
    torch.testing.assert_close(loss, F.cross_entropy(logits.movedim(1, -1)[kept], tokens[kept]))
    assert float(scalars["token_accuracy"]) == pytest.approx(
        float((logits.argmax(1) == tokens)[kept].float().mean())
    )


@pytest.fixture(scope="module")
def command(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    return [
        "--preset",
        "scenes-tiny",
        "--weights",
        str(tiny_run),
        "--cells",
        "2",
        "--steps",
        "3",
        "--pictures",
        "4",
        "--judged",
        "2",
        "--quiet",
        "--work",
        str(folder / "work"),
        "--record",
        str(folder / "record.json"),
    ]


def test_the_record_grows_and_is_taken_up(command, capsys, monkeypatch):
    prior_ablation.main(command)
    path = command[-1]
    first = json.loads(open(path).read())
    assert first["kind"] == "prior ablation" and first["command"].startswith(
        "python -m notebooks.experiments.prior_ablation --preset scenes-tiny"
    )
    cells = first["metrics"]["cells"]
    assert list(cells) == [c.name for c in CELLS[:2]] and first["metrics"]["seeds"] == 1
    off, on = (entry["results"]["0"] for entry in cells.values())
    assert (
        "pixel_head" not in off
        and 0 <= on["pixel_head"]["miou"] <= 100
        and off["reconstruction"] == on["reconstruction"]
    )
    assert (
        cells[CELLS[0].name]["parameters"] < cells[CELLS[1].name]["parameters"]
        and on["log"][-1]["step"] == 3
    )

    trained = []
    real = prior_ablation.train_cell
    monkeypatch.setattr(
        prior_ablation,
        "train_cell",
        lambda cell, preset, *args, **kw: (
            trained.append((cell, preset.seed)) or real(cell, preset, *args, **kw)
        ),
    )
    capsys.readouterr()
    prior_ablation.main([*command, "--seeds", "2"])
    assert trained == [(cell, 1) for cell in CELLS[:2]]
    again = json.loads(open(path).read())["metrics"]
    assert again["seeds"] == 2 and again["cells"][CELLS[0].name]["results"]["0"] == off
    assert "40.64 / 52.55" in capsys.readouterr().out
    prior_ablation.main([*command, "--judged", "1"])  # other settings begin anew
    assert (
        trained[2:] == [(cell, 0) for cell in CELLS[:2]]
        and json.loads(open(path).read())["metrics"]["seeds"] == 1
    )


def test_the_bound_on_the_coarse_grid_is_lower():
    gss = model(Cell(8, True, "levels")).eval()
    # one colour a cell, kept as it is
    gss.tokenizer.encode = lambda maskige: maskige[:, :, ::4, ::4]
    gss.tokenizer.decode = lambda colours: colours.repeat_interleave(4, 2).repeat_interleave(4, 3)
    gss.predict = lambda image: type(
        "P",
        (),
        {"mask": torch.zeros(1, 64, 64).long(), "pixel_mask": torch.zeros(1, 64, 64).long()},
    )
    mask = torch.zeros(64, 64).long()
    mask[:, 20:] = 1  # a border that lies between cells of 4 pixels, and within one of 8
    data = [(torch.zeros(3, 64, 64), mask)]
    bounds = [
        judge(gss, Cell(grid, True, "levels"), data)["reconstruction"]["miou"] for grid in (4, 8)
    ]
    assert bounds[0] == 100 and bounds[1] < 95


def test_the_table_shows_spread_and_the_papers_column():
    result = lambda v: {
        "prediction": {"miou": v, "macc": v + 5},
        "reconstruction": {"miou": 95.5, "macc": 96.0},
    }  # noqa: E731
    line = table(
        {
            "a": {
                "paper": (40.64, 52.55),
                "parameters": 1234,
                "results": {"0": result(60.0), "1": result(62.0)},
            }
        }
    ).splitlines()[1]
    assert (
        "61.00 ± 1.41" in line
        and "66.00 ± 1.41" in line
        and "1,234" in line
        and line.endswith("40.64 / 52.55")
        and "–" in line
    )
