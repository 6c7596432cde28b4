"""The checkerboard: what each head may see, and the measures of speckle on masks made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from notebooks.experiments import checkerboard
from notebooks.experiments.checkerboard_head import (
    CheckerboardLoss,
    Heads,
    grid_of,
)
from notebooks.experiments.checkerboard_head import checkerboard as board


@pytest.fixture
def heads(tiny_gss) -> Heads:
    """Heads whose last layers are random, so that they differ from the prior."""
    heads = Heads(tiny_gss.prior.to_tokens)
    for head in (heads.conditional, heads.control):
        torch.nn.init.normal_(head.expand.weight)
    return heads.eval()


@pytest.fixture
def grid():
    features = torch.randn(2, 16, 9, 11)
    return features, torch.randint(32, (2, 9, 11))


def test_neighbours_have_the_other_colour_and_the_parities_divide_the_grid():
    both = board(5, 6, torch.tensor([0, 1]))
    assert both.shape == (2, 5, 6) and bool(both[0, 0, 0])
    assert torch.equal(both[0], ~both[1])
    assert not bool((both[:, 1:] == both[:, :-1]).any())
    assert not bool((both[..., 1:] == both[..., :-1]).any())
    assert torch.equal(board(5, 6, 1), both[1:])


def test_a_white_token_never_reaches_the_logits_and_a_black_one_reaches_white_cells(heads, grid):
    features, tokens = grid
    black = board(9, 11, 0)
    other = (tokens + 1) % 32
    before = heads.logits(features, tokens, black)
    white_changed = heads.logits(features, torch.where(black, tokens, other), black)
    black_changed = heads.logits(features, torch.where(black, other, tokens), black)
    for name in before:
        assert torch.equal(before[name], white_changed[name])
    assert torch.equal(before["control"], black_changed["control"])
    moved = (before["conditional"] - black_changed["conditional"]).detach().abs().amax(1)
    assert float(moved[~black.expand_as(moved)].min()) > 0


def test_untrained_heads_give_the_priors_logits(tiny_gss):
    heads = Heads(tiny_gss.prior.to_tokens).eval()
    features, tokens = torch.randn(1, 16, 8, 8), torch.randint(32, (1, 8, 8))
    expected = tiny_gss.prior.to_tokens(features)
    for logits in heads.logits(features, tokens, board(8, 8, 1)).values():
        torch.testing.assert_close(logits, expected)


def test_the_loss_counts_labelled_white_cells_and_trains_the_heads_alone(tiny_gss, heads):
    image, mask = torch.randn(2, 3, 64, 64), torch.randint(11, (2, 64, 64))
    mask[:, :20, :20] = 255
    loss_fn = CheckerboardLoss(tiny_gss, heads).train()
    assert not tiny_gss.training and heads.training
    torch.manual_seed(3)
    loss, scalars = loss_fn(image, mask)
    torch.manual_seed(3)
    black = board(16, 16, torch.randint(2, (2,)))
    grid = grid_of(tiny_gss, image, mask)
    kept = ~black & ~grid.ignored
    for name, logits in heads.logits(grid.features, grid.tokens, black).items():
        expected = F.cross_entropy(logits.movedim(1, -1)[kept], grid.tokens[kept])
        torch.testing.assert_close(scalars[name], expected)
    torch.testing.assert_close(loss, sum(scalars.values()))
    loss.backward()
    assert all(p.grad is not None for p in heads.parameters())
    assert all(p.grad is None for p in tiny_gss.parameters())


def test_padding_is_ignored(tiny_gss):
    grid = grid_of(tiny_gss, torch.randn(1, 3, 40, 64), torch.zeros(1, 40, 64).long())
    assert grid.tokens.shape == (1, 16, 16)
    assert bool(grid.ignored[:, 10:].all()) and not bool(grid.ignored[:, :10].any())


def test_nats_and_masks_of_untrained_heads_are_those_of_the_prior(tiny_gss):
    heads = Heads(tiny_gss.prior.to_tokens).eval()
    data = [(torch.randn(3, 64, 64), torch.randint(11, (64, 64))) for _ in range(3)]
    found = checkerboard.measure_nats(tiny_gss.eval(), heads, data)
    image, mask = (torch.stack(parts) for parts in zip(*data))
    grid = grid_of(tiny_gss, image, mask)
    logits = tiny_gss.prior.to_tokens(grid.features)
    expected = F.cross_entropy(logits, grid.tokens).item()
    for row in found.values():
        assert row["nats"] == pytest.approx(expected, abs=1e-3)
    masks = checkerboard.measure_masks(tiny_gss, heads, data)
    for how in ("arg-max", "sample"):
        rows = [masks[f"{how}, {name}"] for name in checkerboard.SOURCES]
        assert rows[0]["miou"] == pytest.approx(rows[2]["miou"], abs=0.5)
        assert rows[0]["regions"] == pytest.approx(rows[1]["regions"], rel=0.05)
    assert masks["true masks"]["regions"] > 100 and "miou" not in masks["true masks"]


def test_regions_are_what_a_flood_fill_finds():
    ids = torch.randint(3, (2, 12, 17))
    labels, sizes = checkerboard.regions(ids)
    for picture, named in zip(ids, labels):
        left = {(r, c) for r in range(12) for c in range(17)}
        while left:
            start = left.pop()
            region, front = {start}, [start]
            while front:
                r, c = front.pop()
                for place in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                    if place in left and picture[place] == picture[start]:
                        left.remove(place)
                        region.add(place)
                        front.append(place)
            numbers = {int(named[place]) for place in region}
            assert len(numbers) == 1 and int(sizes[numbers.pop()]) == len(region)


def test_texture_counts_regions_and_the_pixels_of_small_ones():
    ids = torch.zeros(2, 8, 8, dtype=torch.long)
    ids[0, 2:4, 2:4] = 1  # a region of 4 pixels in a large one
    ids[1, 1, 1] = 2  # the next one touches it at a corner only
    ids[1, 2, 2] = 2
    mask = torch.zeros(2, 8, 8, dtype=torch.long)
    mask[0, :, 7] = 255  # not labelled
    found = checkerboard.texture(ids, mask, small=5)
    assert found[:, 0].tolist() == [2, 3]
    assert found[0, 1] == pytest.approx(100 * 4 / 56)
    assert found[1, 1] == pytest.approx(100 * 2 / 64)
    assert checkerboard.texture(ids, mask, small=4)[0, 1] == 0


@pytest.mark.slow
def test_a_head_that_sees_learns_what_the_control_cannot(tiny_gss):
    """White tokens that repeat their left neighbour: only the sight of black ones helps."""
    torch.manual_seed(0)
    heads = Heads(tiny_gss.prior.to_tokens)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=3e-3)
    black = board(8, 8, 0)
    losses = {}
    for _ in range(60):
        tokens = torch.randint(4, (8, 8, 4)).repeat_interleave(2, 2)  # (8, 8, 8), pairs
        logits = heads.logits(torch.zeros(8, 16, 8, 8), tokens, black)
        white = ~black.expand_as(tokens)
        losses = {
            name: F.cross_entropy(values.movedim(1, -1)[white], tokens[white])
            for name, values in logits.items()
        }
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["conditional"].item() < 0.5
    assert losses["control"].item() > math.log(4) - 0.1


RECORD = Path(__file__).resolve().parents[2] / "notebooks/records/checkerboard-scenes-cpu.json"


@pytest.mark.skipif(not RECORD.is_file(), reason="the record is not there yet")
def test_the_record_says_that_sight_saves_nats_for_every_seed():
    metrics = json.loads(RECORD.read_text())["metrics"]
    for result in metrics["seeds"].values():
        tokens = result["tokens"]
        saved = tokens["control"]["nats"] - tokens["conditional"]["nats"]
        assert result["saved"]["white"] == pytest.approx(saved, abs=1e-4)
        assert saved > 0
