"""The rows of Table 1. Each is a model with its palette and its X⁻¹, built for one seed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

import gss_lite as gss
from gss_lite.contracts import IGNORE, Inverse
from gss_lite.data import InMemory, eval_transform, tiles
from gss_lite.data.masks import stack_masks
from gss_lite.inference import ExpectedGSS
from gss_lite.inverse_fitted import count_codes
from gss_lite.palette import JointResult, learn_palette, random_palette, train_jointly
from gss_lite.storage import read_json
from gss_lite.training.inverse import (
    gaussian_parameters,
    measure_gaussians,
    stage_name,
    train_inverse,
)
from gss_lite.training.run import Job
from gss_lite.views import Answers, resize_to_image
from notebooks.experiments.runner import fit_prior

NETWORKS = {"ft": "three convolutions", "ft-w": "Swin blocks"}


class CountedGSS(gss.GSS):
    """A GSS that maps tokens to classes by a table of counts, without colours.

    The class frequencies of the codes are averaged over the tokens' probabilities.
    """

    table: gss.CodeTable

    def scores(self, image: Tensor) -> Answers:
        """Photographs (B, 3, H, W) → one-hot votes (B, K, H, W)."""
        logits = self.outputs(image).token_logits  # (B, V, h, w)
        ids = self.table.expected(logits).argmax(1)  # (B, h·stride, w·stride)
        votes = F.one_hot(ids, self.num_classes).movedim(-1, 1).float()
        return {"prediction": resize_to_image(votes, image.shape[2:])}

    def reconstruct(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mask (B, H, W) → (its reconstruction (B, H, W), the tokens)."""
        _, tokens = super().reconstruct(mask)  # (B, h, w)
        return self.table.read(tokens)[:, : mask.shape[1], : mask.shape[2]], tokens


@dataclass(frozen=True)
class Budget:
    """How long the rows are trained, and on how many pictures.

    Attributes:
        steps: for FT and FT-W; None takes those of the preset's schedules.
        palette_steps: for TF.
        joint_steps: for TT.
        prior_steps: for stage II on the tokens of FF-R, TF and TT; 0 trains no prior for them.
        fit_pictures: training pictures for TF, TT, Gaussians and the code table.
    """

    steps: int | None = None
    palette_steps: int = 300
    joint_steps: int = 400
    prior_steps: int = 0
    fit_pictures: int = 200


@dataclass
class Row:
    """One variant.

    Attributes:
        model: its prior is None if no prior was trained on the variant's tokens.
        x, inverse: a description of X and of X⁻¹ in words.
        x_parameters: trained numbers in X.
        inverse_parameters: trained or measured numbers in X⁻¹, without β.
        seconds: time to make X and X⁻¹, including the decoding of their data.
        joint: the history of TT.
    """

    name: str
    model: gss.GSS
    x: str = "maximal distance"
    inverse: str = "nearest colour"
    x_trained: bool = False
    inverse_trained: bool = False
    x_parameters: int = 0
    inverse_parameters: int = 0
    seconds: float = 0.0
    prior_seconds: float = 0.0
    joint: JointResult | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Builder:
    """Builds rows from a trained GSS-FF, for the seed of the job's preset.

    If the model has no prior, no row has one.
    """

    model: gss.GSS
    job: Job
    budget: Budget

    @cached_property
    def pictures(self) -> InMemory:
        """Training pictures and masks without transforms, kept in memory."""
        return self.job.pictures()

    @cached_property
    def normalized(self) -> InMemory:
        """The same with normalised pictures."""
        return self.job.pictures(transform=eval_transform())

    def random(self, name: str) -> Row:
        """FF-R."""
        return self._with_prior(Row(name, self._model(self._start()), "random colours"))

    def fixed(self, name: str) -> Row:
        """FF."""
        return Row(name, self.model)

    def trained(self, name: str, kind: str, maskige: str) -> Row:
        """FT or FT-W, by the schedule of the preset."""
        schedule = self.job.preset.schedule(f"inverse-{kind}")
        schedule = replace(schedule, steps=self.budget.steps or schedule.steps)
        model = self.model
        inverse = train_inverse(self.job, kind, model, maskige=maskige, schedule=schedule)
        card = read_json(self.job.path(f"{stage_name(kind, maskige)}.json"))
        return Row(
            name,
            model.with_inverse(inverse),
            inverse=f"{NETWORKS[kind]}, {maskige} maskige",
            inverse_trained=True,
            inverse_parameters=card["parameters"],
            seconds=card["seconds"],
        )

    def learned(self, name: str) -> Row:
        """TF."""
        masks = self._masks()
        started = time.perf_counter()
        how = {"steps": self.budget.palette_steps, "seed": self.job.preset.seed}
        palette = learn_palette(self._start(), self.model.tokenizer, masks, **how).palette
        seconds = time.perf_counter() - started
        row = Row(name, self._model(palette), "learned", x_trained=True, seconds=seconds)
        row.x_parameters = palette.colors.numel()
        return self._with_prior(row)

    def jointly(self, name: str) -> Row:
        """TT."""
        masks = self._masks()
        width = self.job.preset.schedule("inverse-ft").network["width"]

        def build(colors: Tensor) -> Inverse:
            return gss.ConvInverse(colors, width).to(colors.device)

        started = time.perf_counter()
        how = {"steps": self.budget.joint_steps, "seed": self.job.preset.seed}
        joint = train_jointly(self._start(), self.model.tokenizer, masks, build, **how)
        seconds = time.perf_counter() - started
        model = self._model(gss.Palette(joint.colors, "learned jointly"), joint.inverse)
        row = Row(name, model, "learned", "convolutions, jointly", True, True, seconds=seconds)
        row.x_parameters = joint.colors.numel()
        row.inverse_parameters = sum(p.numel() for p in joint.inverse.parameters())
        row.joint = joint
        return self._with_prior(row)

    def gaussian(self, name: str, maskige: str) -> Row:
        """A Gaussian for each class."""
        started = time.perf_counter()
        how = {"maskige": maskige, "count": self.budget.fit_pictures}
        inverse = measure_gaussians(self.model, self.normalized, **how)
        seconds = time.perf_counter() - started
        model = self.model.with_inverse(inverse)
        words = f"a Gaussian a class, measured on {maskige} maskige"
        parameters = gaussian_parameters(inverse)
        return Row(name, model, inverse=words, inverse_parameters=parameters, seconds=seconds)

    def expected(self, name: str) -> Row:
        """Expected codes."""
        words = "nearest colour, of the expected code's maskige"
        return Row(name, ExpectedGSS.of(self.model), inverse=words)

    def counted(self, name: str) -> Row:
        """A table of class counts for each code."""
        started = time.perf_counter()
        model = self._model(self.model.palette, prior=self.model.prior, kind=CountedGSS)
        pictures = DataLoader(self.normalized, batch_size=8)
        stride = model.tokenizer.stride

        def pairs() -> Iterator[tuple[Tensor, Tensor]]:
            for _, mask in islice(pictures, -(-self.budget.fit_pictures // 8)):
                height, width = mask.shape[1:]
                padding = (0, -width % stride, 0, -height % stride)
                mask = F.pad(mask.to(model.colors.device), padding, value=IGNORE)
                yield model.tokenizer.encode(model.palette(mask)), mask

        table = count_codes(model.tokenizer, model.num_classes, pairs())
        model.table = table.to(model.colors.device)
        row = Row(name, model, inverse="classes counted behind each code")
        row.inverse_parameters = table.probability.numel()
        row.seconds = time.perf_counter() - started
        return row

    def _start(self) -> gss.Palette:
        palette = random_palette(self.model.num_classes, self.job.preset.seed)
        return palette.to(self.model.colors.device)

    def _masks(self) -> Tensor:
        """Training masks for TF and TT, cut into tiles (N, h, w)."""
        count = min(self.budget.fit_pictures, len(self.pictures))
        return tiles(stack_masks(self.pictures, range(count)))

    def _model(
        self,
        palette: gss.Palette,
        inverse: Inverse | None = None,
        prior: nn.Module | None = None,
        kind: type[gss.GSS] = gss.GSS,
    ) -> gss.GSS:
        inverse = inverse or gss.NearestColor(palette.colors)
        model = kind(palette, self.model.tokenizer, prior, inverse)
        return model.to(self.model.colors.device).eval()

    def _with_prior(self, row: Row) -> Row:
        """Give the row a copy of the prior that is trained on its tokens, if `prior_steps` > 0."""
        steps = self.budget.prior_steps
        if not steps or self.model.prior is None:
            return row
        model = self._model(row.model.palette, row.model.inverse, copy.deepcopy(self.model.prior))
        preset = self.job.preset
        warmup = min(preset.schedule("prior").warmup, steps // 10)
        preset = preset.with_schedule("prior", steps=steps, warmup=warmup, ema=None)
        job = replace(self.job, preset=preset)
        log = fit_prior(model, job, f"prior-{row.name}", self.pictures)
        return replace(row, model=model, prior_seconds=log[-1]["seconds"])


ROWS: dict[str, Callable[[Builder, str], Row]] = {
    "FF-R": Builder.random,
    "FF": Builder.fixed,
    "FT": partial(Builder.trained, kind="ft", maskige="noisy"),
    "FT, clean": partial(Builder.trained, kind="ft", maskige="clean"),
    "TF": Builder.learned,
    "TT": Builder.jointly,
    "FT-W, clean": partial(Builder.trained, kind="ft-w", maskige="clean"),
    "FT-W": partial(Builder.trained, kind="ft-w", maskige="noisy"),
    "Gaussian": partial(Builder.gaussian, maskige="clean"),
    "Gaussian, noisy": partial(Builder.gaussian, maskige="noisy"),
    "expected code": Builder.expected,
    "code table": Builder.counted,
}
NOISY = ("FT", "FT-W", "Gaussian, noisy", "expected code")  # they read a prior's predictions


def build_rows(
    model: gss.GSS, job: Job, budget: Budget, only: tuple[str, ...] = ()
) -> Iterator[Row]:
    """Build the rows for one seed, one after the other. `only` chooses some of them.

    Finished training in the job's folder is not repeated. Without a prior, the rows that need its
    predictions are left out.
    """
    builder = Builder(model, job, budget)
    for name, build in ROWS.items():
        if (not only or name in only) and not (model.prior is None and name in NOISY):
            yield build(builder, name)
