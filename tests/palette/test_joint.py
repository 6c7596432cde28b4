"""GSS-TT: palette and X⁻¹ learned together."""

from __future__ import annotations

import pytest
import torch
from palette_toys import blocks, small_inverse

from gss_lite.inverse_fitted import ConvInverse
from gss_lite.palette import (
    Palette,
    random_palette,
    rebuild_error,
    train_jointly,
)


@pytest.fixture(scope="module")
def joint(color_codes):
    """What TT makes of a palette; the tokenizer and the start are checked to be what they were."""
    start, masks = random_palette(6, 0), blocks(12, 6, 2)
    before = {k: v.clone() for k, v in color_codes.state_dict().items()}
    colors = start.colors.clone()
    result = train_jointly(
        start, color_codes, masks, small_inverse, steps=25, batch=4, every=10, lr=0.05
    )
    after = color_codes.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in color_codes.parameters())
    assert torch.equal(start.colors, colors)
    return start, masks, result


class TestJoint:
    def test_the_history_runs_from_the_start_to_the_end(self, joint):
        start, _, result = joint
        assert result.moments == [0, 10, 20, 25] and result.history.shape == (4, 6, 3)
        assert torch.equal(result.history[0], start.colors)
        assert torch.equal(result.history[-1], result.colors)
        changes = (result.history[1:] - result.history[:-1]).abs().amax((1, 2))
        assert float(changes.min()) > 1e-5

    def test_a_history_whose_last_step_is_a_moment_has_it_once(self, joint, color_codes):
        start, masks, longer = joint
        result = train_jointly(
            start, color_codes, masks, small_inverse, steps=20, batch=4, every=10, lr=0.05
        )
        assert result.moments == [0, 10, 20] and len(result.losses) == 20
        assert torch.equal(result.history, longer.history[:3])

    def test_both_parts_learn(self, joint):
        _, _, result = joint
        assert len(result.losses) == 25 and sum(result.losses[-5:]) < sum(result.losses[:5])
        assert torch.equal(result.inverse.colors, result.colors) and not result.inverse.training
        assert bool(((result.colors >= 0) & (result.colors <= 1)).all())
        assert not result.colors.requires_grad

    def test_equal_seeds_repeat_it_and_the_global_generator_is_left_alone(self, joint, color_codes):
        start, masks, result = joint
        state = torch.get_rng_state()
        again = train_jointly(
            start, color_codes, masks, small_inverse, steps=25, batch=4, every=10, lr=0.05
        )
        assert torch.equal(state, torch.get_rng_state())
        assert again.losses == result.losses and torch.equal(again.history, result.history)
        other = train_jointly(start, color_codes, masks, small_inverse, steps=2, batch=4, seed=1)
        assert other.losses != result.losses[:2]

    def test_the_first_loss_is_that_of_the_inverse_and_the_second_term_is_added(
        self, joint, color_codes
    ):
        start, masks, result = joint

        class Fixed(ConvInverse):
            def loss(self, picture, mask):
                self.seen = picture.detach(), mask
                self.weight, self.trains = self.to_classes.weight.detach().clone(), self.training
                return super().loss(picture, mask)

        both = train_jointly(
            start,
            color_codes,
            masks,
            lambda colors: Fixed(colors, 8),
            steps=1,
            batch=4,
            lr=0.05,
            rebuild=3.0,
        )
        picture, mask = both.inverse.seen
        assert both.inverse.trains
        extra = 3.0 * float(rebuild_error(picture, mask, start.colors))
        assert both.losses[0] == pytest.approx(result.losses[0] + extra, rel=1e-5)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            fresh = ConvInverse(start.colors, 8).to_classes.weight
        other = train_jointly(
            start, color_codes, masks, lambda c: Fixed(c, 8), steps=1, batch=4, seed=4
        )
        assert torch.equal(other.inverse.weight, fresh)

    def test_momentum_is_that_of_the_colours(self, joint, color_codes):
        start, masks, result = joint
        runs = [
            train_jointly(
                start, color_codes, masks, small_inverse, steps=11, batch=4, lr=0.05, momentum=m
            ).history
            for m in (0.9, 0.0)
        ]
        assert torch.equal(runs[0][1], result.history[1])
        assert not torch.equal(runs[0][1], runs[1][1])

    def test_colours_that_leave_the_cube_are_reflected(self, color_codes):
        start = Palette(torch.tensor([[0.01] * 3, [0.99] * 3, [0.5] * 3]))
        result = train_jointly(
            start, color_codes, blocks(6, 3, 0), small_inverse, steps=6, batch=4, lr=2.0, every=1
        )
        assert float(result.history.min()) >= 0 and float(result.history.max()) <= 1

    @pytest.mark.parametrize("bad", [{"steps": 0}, {"batch": 0}, {"every": 0}])
    def test_errors(self, joint, color_codes, bad):
        start, masks, _ = joint
        with pytest.raises(ValueError, match=r"learning needs masks \(N, H, W\)"):
            train_jointly(start, color_codes, masks[:0], small_inverse)
        with pytest.raises(ValueError, match="at least 1"):
            train_jointly(start, color_codes, masks, small_inverse, **bad)
        with pytest.raises(FloatingPointError, match="became (nan|inf) at step.*0.02 and inf"):
            train_jointly(
                start, color_codes, masks, small_inverse, inverse_lr=float("inf"), steps=5, batch=2
            )
