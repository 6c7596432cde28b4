"""X⁻¹: nearest colour against brute force, least squares against lstsq, what all share."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gss_lite.color_table import COARSE_SIDE, OUTSIDE, SIDE, build_table, table_nearest
from gss_lite.inverse import (
    TABLE_CLASSES,
    LeastSquares,
    NearestColor,
    nearest_by_comparison,
)
from gss_lite.palette import Palette, farthest_point_palette

MANY = TABLE_CLASSES.start  # from here on RGB goes through the table


def brute_force(pixels: Tensor, colors: Tensor) -> Tensor:
    """Pixels (N, D), β (K, D) → ids (N,) by definition: the first minimum, added up by channels."""
    distance = torch.zeros(len(pixels), len(colors))
    for channel in range(colors.shape[1]):
        difference = pixels[:, channel, None] - colors[None, :, channel]
        distance = distance + difference * difference
    return torch.tensor([row.index(min(row)) for row in distance.tolist()])


def as_maskige(pixels: Tensor) -> Tensor:
    """(N, D) → (1, D, 1, N)."""
    return pixels.T[None, :, None, :]


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


THREE, ANY_K = st.just(3), st.integers(2, 255)


@st.composite
def palettes(draw, channels=THREE, classes=ANY_K) -> Tensor:
    """β (K, D): spread out, on a coarse lattice (ties, twins) or squeezed into a corner."""
    k, d = draw(classes), draw(channels)
    colors = torch.rand(k, d, generator=numbers(draw(st.integers(0, 2**31))))
    kind = draw(st.sampled_from(["spread", "lattice", "corner", "tiny corner"]))
    if kind == "lattice":
        return (colors * 4).round() / 4
    return colors * {"spread": 1.0, "corner": 0.1, "tiny corner": 1e-5}[kind]


def probes(colors: Tensor, seed: int) -> Tensor:
    """Pixels (N, D) where mistakes would show: outside [0, 1], half-way, on cell walls, …"""
    g, (k, d) = numbers(seed), colors.shape
    one, other = torch.randint(k, (2, 60), generator=g)
    walls = torch.randint(SIDE + 1, (60, d), generator=g) / SIDE
    return torch.cat(
        [
            torch.rand(60, d, generator=g),
            3 * torch.rand(60, d, generator=g) - 1,
            colors[one],
            (colors[one] + colors[other]) / 2,
            walls,
            walls + 1e-7,
            colors[one] + 1e-6 * torch.randn(60, d, generator=g),
        ]
    )


class TestNearestColor:
    @pytest.mark.slow
    @settings(deadline=None, max_examples=60)
    @given(palettes(), st.integers(0, 2**31))
    def test_equals_brute_force_in_rgb(self, colors: Tensor, seed: int) -> None:
        pixels = probes(colors, seed)
        assert torch.equal(
            NearestColor(colors).classify(as_maskige(pixels)).flatten(), brute_force(pixels, colors)
        )

    @settings(deadline=None, max_examples=30)
    @given(
        palettes(channels=st.sampled_from([1, 2, 4, 7, 16]), classes=st.integers(2, 64)),
        st.integers(0, 2**31),
    )
    def test_equals_brute_force_in_other_dimensions(self, colors: Tensor, seed: int) -> None:
        pixels = probes(colors, seed)
        assert torch.equal(
            NearestColor(colors).classify(as_maskige(pixels)).flatten(), brute_force(pixels, colors)
        )

    @pytest.mark.slow
    @settings(deadline=None, max_examples=30)
    @given(palettes(classes=st.integers(2, 80)), st.integers(0, 2**31))
    def test_table_and_comparison_agree_at_any_number_of_classes(
        self, colors: Tensor, seed: int
    ) -> None:
        pixels = probes(colors, seed)
        ids, outside = table_nearest(build_table(colors), pixels.T)
        assert torch.equal(outside, ((pixels < 0) | (pixels > 1)).any(1).nonzero().squeeze(1))
        assert bool((ids[outside] == OUTSIDE).all())
        expected = brute_force(pixels, colors)
        inside = ids != OUTSIDE
        assert torch.equal(ids[inside], expected[inside])
        assert torch.equal(nearest_by_comparison(pixels.T, colors), expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("classes", [4096, 4097])
    def test_thousands_of_classes(self, classes: int) -> None:
        """The last palette with a table, and the first without: the answers are the same."""
        assert (classes in TABLE_CLASSES) == (classes == 4096)
        colors = (torch.rand(classes, 3, generator=numbers(20)) * 15).round() / 15  # many twins
        pixels = probes(colors, 21)
        inverse = NearestColor(colors)
        ids = inverse.classify(as_maskige(pixels)).flatten()
        assert torch.equal(ids, brute_force(pixels, colors))
        assert (inverse._table is None) == (classes == 4097)

    @pytest.mark.parametrize("classes", [MANY - 1, MANY])
    def test_the_table_begins_at_32_classes_and_is_for_three_channels(self, classes: int) -> None:
        for channels in (3, 4):
            inverse = NearestColor(torch.rand(classes, channels, generator=numbers(22)))
            inverse.classify(torch.rand(1, channels, 2, 2))
            assert (inverse._table is not None) == (classes == 32 and channels == 3)

    @pytest.mark.parametrize("classes", [4, MANY])
    def test_ties_go_to_the_lowest_id(self, classes: int) -> None:
        colors = torch.full((classes, 3), 0.75)
        colors[-2:] = 0.25  # twins, both as far from 0.5 as all the others
        pixels = torch.tensor([[0.5] * 3, [0.25] * 3, [0.75] * 3, [-1.0] * 3])
        ids = NearestColor(colors).classify(as_maskige(pixels)).flatten().tolist()
        assert ids == [0, classes - 2, 0, classes - 2]

    @pytest.mark.parametrize("classes", [4, MANY])
    def test_nan_and_overflow_give_what_argmin_gives(self, classes: int) -> None:
        colors = torch.rand(classes, 3, generator=numbers(0))
        pixels = torch.tensor([[math.nan] * 3, [math.inf] * 3, [-1e30] * 3, [0.5, math.nan, 0.5]])
        distance = (pixels[:, None] - colors).square().sum(2)
        assert torch.equal(
            NearestColor(colors).classify(as_maskige(pixels)).flatten(), distance.argmin(1)
        )

    @pytest.mark.parametrize("classes", [19, 150, 194, 255])
    def test_reads_every_painted_class_back(self, classes: int) -> None:
        palette = farthest_point_palette(classes)
        mask = torch.randint(classes, (2, 40, 50), generator=numbers(1))
        assert torch.equal(NearestColor(palette.colors).classify(palette(mask)), mask)

    @pytest.mark.slow
    @settings(deadline=None, max_examples=30)
    @given(palettes(channels=st.sampled_from([1, 3, 5])), st.integers(0, 2**31))
    def test_scores_are_minus_the_distance_up_to_a_constant(
        self, colors: Tensor, seed: int
    ) -> None:
        pixels = probes(colors, seed)
        inverse = NearestColor(colors)
        scores = inverse(as_maskige(pixels))[0, :, 0].double()  # (K, N)
        minus_distance = -(pixels.double()[None] - colors.double()[:, None]).square().sum(2)
        torch.testing.assert_close(
            scores - pixels.double().square().sum(1), minus_distance, rtol=0, atol=2e-5
        )
        top = scores.topk(2, dim=0).values
        clear = top[0] - top[1] > 1e-4
        assert torch.equal(
            scores.argmax(0)[clear], inverse.classify(as_maskige(pixels)).flatten()[clear]
        )

    def test_several_pictures_and_strides(self) -> None:
        colors = torch.rand(MANY, 3, generator=numbers(2))
        # channels last in memory
        maskige = torch.rand(3, 20, 24, 3, generator=numbers(3)).movedim(-1, 1)
        ids = NearestColor(colors).classify(maskige)
        assert ids.shape == (3, 20, 24) and ids.dtype == torch.long
        expected = brute_force(maskige.permute(0, 2, 3, 1).reshape(-1, 3), colors)
        assert torch.equal(ids.flatten(), expected)

    def test_table_follows_the_colors(self) -> None:
        before, after = (torch.rand(MANY, 3, generator=numbers(seed)) for seed in (4, 5))
        pixels = torch.rand(500, 3, generator=numbers(6))
        inverse = NearestColor(before.clone())
        inverse.classify(as_maskige(pixels))
        inverse.load_state_dict({"colors": after})
        assert torch.equal(
            inverse.classify(as_maskige(pixels)).flatten(), brute_force(pixels, after)
        )
        assert torch.equal(
            copy.deepcopy(inverse).classify(as_maskige(pixels)).flatten(),
            brute_force(pixels, after),
        )
        assert list(inverse.state_dict()) == ["colors"]

    def test_works_in_slices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What bounds the memory: seven pixels at a time give the same ids."""
        colors = torch.rand(MANY, 3, generator=numbers(7))
        pixels = torch.rand(100, 3, generator=numbers(8)) * 1.2 - 0.1
        monkeypatch.setattr("gss_lite.color_table.PIXELS_AT_ONCE", {"cpu": 7})
        assert torch.equal(
            NearestColor(colors).classify(as_maskige(pixels)).flatten(), brute_force(pixels, colors)
        )

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs GSS_TEST_GPU=1 and a GPU")
    @pytest.mark.parametrize("classes", [11, 150])
    def test_cuda_equals_cpu(self, classes: int) -> None:
        colors = torch.rand(classes, 3, generator=numbers(9))
        maskige = as_maskige(probes(colors, 10))
        inverse = NearestColor(colors)
        expected = inverse.classify(maskige)
        assert torch.equal(inverse.cuda().classify(maskige.cuda()).cpu(), expected)

    @pytest.mark.parametrize(
        ("colors", "message"),
        [
            (torch.rand(5), r"\(K, D\)"),
            (torch.rand(1, 3), "K ≥ 2"),
            (torch.tensor([[0.0], [math.nan]]), "NaN"),
        ],
    )
    @pytest.mark.parametrize("inverse", [NearestColor, LeastSquares])
    def test_bad_colors(self, inverse: type, colors: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            inverse(colors)

    @pytest.mark.parametrize("inverse", [NearestColor, LeastSquares])
    @pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8)])
    def test_bad_maskige(self, inverse: type, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected a maskige \(B, 3, H, W\)"):
            inverse(torch.rand(6, 3, generator=numbers(0))).classify(torch.rand(shape))


class TestColorTable:
    def test_one_candidate_means_nearest_in_the_whole_cell(self) -> None:
        colors = torch.rand(40, 3, generator=numbers(11))
        grid = build_table(colors)
        assert grid.side == SIDE and int(grid.only[-1]) == OUTSIDE
        settled = (grid.only >= 0).nonzero().squeeze(1)[::97]
        corner = torch.stack([settled // SIDE**2, settled // SIDE % SIDE, settled % SIDE], 1) / SIDE
        for offset in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3) / SIDE:
            assert torch.equal(brute_force(corner + offset, colors), grid.only[settled].long())

    def test_table_is_mostly_settled(self) -> None:
        """What makes it fast: on 150 spread colours most cells have one candidate."""
        grid = build_table(farthest_point_palette(150).colors)
        count = grid.start.diff()
        assert float((count == 1).double().mean()) > 0.6
        assert float((count > 3).double().mean()) < 0.05

    def test_palette_in_one_corner_gets_a_coarser_table(self) -> None:
        grid = build_table(1e-6 * torch.rand(3000, 3, generator=numbers(12)))
        assert grid.side == COARSE_SIDE


class TestLeastSquares:
    @settings(deadline=None, max_examples=50)
    @given(st.integers(3, 255), st.integers(0, 2**31))
    def test_gamma_solves_the_normal_equations(self, classes: int, seed: int) -> None:
        colors = torch.rand(classes, 3, generator=numbers(seed))
        colors[:3] += torch.eye(3)
        gamma, beta = LeastSquares(colors).gamma, colors.double()
        expected = torch.linalg.lstsq(beta, torch.eye(classes, dtype=torch.double)).solution
        # Three classes may still be nearly dependent, with γ in the hundreds: γ is right to the
        # rounding of its 32 bits, whatever its size.
        torch.testing.assert_close(gamma.double(), expected, rtol=1e-6, atol=1e-6)
        residual = (beta @ expected - torch.eye(classes)).square().sum()
        assert float(residual) == pytest.approx(classes - 3, abs=1e-9)

    @pytest.mark.parametrize("channels", [1, 3, 6])
    def test_residual_is_k_minus_d(self, channels: int) -> None:
        beta = torch.rand(20, channels, generator=numbers(13))
        gamma = LeastSquares(beta).gamma
        assert float((beta @ gamma - torch.eye(20)).square().sum()) == pytest.approx(
            20 - channels, abs=1e-4
        )

    def test_with_as_many_channels_as_classes_it_does_classify(self) -> None:
        beta = torch.eye(12) * 0.8
        mask = torch.randint(12, (1, 9, 9), generator=numbers(14))
        assert torch.equal(LeastSquares(beta).classify(beta[mask].movedim(-1, 1)), mask)

    def test_scores_and_classify_agree(self) -> None:
        inverse = LeastSquares(torch.rand(30, 3, generator=numbers(15)))
        maskige = torch.rand(2, 3, 8, 9, generator=numbers(16))
        scores = inverse(maskige)
        assert scores.shape == (2, 30, 8, 9)
        by_hand = torch.stack(
            [
                maskige[:, 0] * r + maskige[:, 1] * g + maskige[:, 2] * b
                for r, g, b in inverse.gamma.T
            ],
            1,
        )
        torch.testing.assert_close(scores, by_hand, rtol=1e-5, atol=1e-6)
        assert torch.equal(inverse.classify(maskige), scores.argmax(1))

    @pytest.mark.parametrize(("classes", "most"), [(19, 12), (150, 18), (194, 18)])
    @pytest.mark.parametrize("seed", range(6))
    def test_is_not_a_classifier(self, classes: int, most: int, seed: int) -> None:
        """The palette's own colours, one pixel a class: nearest colour is right for all of them.

        Of 300 random palettes least squares has 10, 14 and 15 classes right at most.
        """
        colors = torch.rand(classes, 3, generator=numbers(seed))
        maskige, ids = as_maskige(colors), torch.arange(classes)
        right = int((LeastSquares(colors).classify(maskige).flatten() == ids).sum())
        assert 0 < right <= most
        assert torch.equal(NearestColor(colors).classify(maskige).flatten(), ids)

    def test_palette_must_span_the_channels(self) -> None:
        grey = torch.linspace(0, 1, 10)[:, None].repeat(1, 3)
        with pytest.raises(ValueError, match="span 1 of 3 channels"):
            LeastSquares(grey)
        assert torch.equal(
            NearestColor(Palette(grey).colors).classify(as_maskige(grey)).flatten(),
            torch.arange(10),
        )
