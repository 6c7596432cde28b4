"""The parts of a preset: data, tokenizer, prior, view, and how long each stage trains.

Each part goes to the one function that needs it. What does not apply is None or absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType


def fixed(**arguments: object) -> Mapping:
    """Keyword arguments as a mapping that cannot be changed."""
    return MappingProxyType(arguments)


@dataclass(frozen=True)
class Schedule:
    """How one stage is optimised: AdamW, linear warm-up, polynomial decay (power 1) to zero.

    Attributes:
        crop: height and width of a training crop in pixels.
        scales: each picture is resized by a random factor from this range before the crop.
        distortion: "released" is the photometric distortion of the released configs;
            "torchvision" is torchvision's, which also swaps colour channels.
        precision: Accelerate's mixed precision: "no" (float32), "bf16" or "fp16".
        target_precision: the frozen tokenizer encodes the targets in "no" (float32) or "bf16".
        accumulate: micro-batches that one step's batch is split into. They need less memory, and
            batch norm sees one of them at a time; otherwise the step is the same.
        clip: the largest norm of a step's gradient; None leaves gradients as they are.
        checkpointing: the backward pass recomputes the backbone's activations. It needs less memory
            and more time, and the averages of the backbone's batch norms move twice.
        compile: use torch.compile.
        ema: decay of the averaged copy of the weights that is kept; None keeps the last weights.
    """

    steps: int
    batch: int
    crop: tuple[int, int]
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    scales: tuple[float, float] = (1.0, 1.0)
    distortion: str = "released"
    precision: str = "no"
    target_precision: str = "no"
    accumulate: int = 1
    clip: float | None = None
    checkpointing: bool = False
    compile: bool = False
    ema: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that no stage can train with."""
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                "a schedule needs at least one step and one picture a step; "
                f"got {self.steps} steps of {self.batch}"
            )
        if self.target_precision not in ("no", "bf16"):
            raise ValueError(
                f'targets are encoded in "no" (float32) or "bf16"; got {self.target_precision!r}'
            )


@dataclass(frozen=True)
class InverseSchedule(Schedule):
    """How an X⁻¹ with weights is trained (supplement, D.iii).

    Attributes:
        pictures: how many training pictures are decoded once and kept.
        network: keyword arguments of ConvInverse or SwinInverse.
    """

    pictures: int = 0
    network: Mapping = field(default_factory=fixed)


@dataclass(frozen=True)
class DataSpec:
    """Which pictures.

    Attributes:
        name: the data set's name, see `gss_lite.data.DATASETS`.
        size: height and width of the pictures in pixels.
        num_classes: K.
        train_pictures: how many pictures the training split has, for sets that are drawn.
        eval_pictures: how many pictures the other splits have, for sets that are drawn.
    """

    name: str
    size: tuple[int, int]
    num_classes: int
    train_pictures: int | None = None
    eval_pictures: int | None = None


@dataclass(frozen=True)
class TokenizerSpec:
    """A tokenizer of its own.

    Attributes:
        arguments: keyword arguments of the tokenizer's class, vocab_size among them.
        kind: "vqvae", which stage I trains, or "dalle", OpenAI's dVAE.
        readback: weight of the cross-entropy of X⁻¹ in stage I (S.2); 0 leaves it out.
        photographs: the data set whose training photographs the tokenizer also learns.
    """

    arguments: Mapping
    kind: str = "vqvae"
    readback: float = 0.0
    photographs: str | None = None


@dataclass(frozen=True)
class PriorSpec:
    """The image encoder I_ψ.

    Attributes:
        backbone: timm's name. backbone_arguments: for timm.create_model.
        head: keyword arguments of Prior.
        pretrained: timm's name of the weights that training may start from.
    """

    backbone: str
    backbone_arguments: Mapping
    head: Mapping
    pretrained: str | None = None


@dataclass(frozen=True)
class ViewSpec:
    """How a picture is looked at, in validation, evaluation and prediction alike.

    Attributes:
        window: side and stride in pixels of a sliding window; None looks at the whole picture.
        size: the picture is first fitted into this height and width; None leaves it as it is.
    """

    window: tuple[int, int] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Preset:
    """One experiment.

    Attributes:
        palette: the name of a construction; None means that the tokenizer serves any palette.
            "by-neighbours" looks at masks, so it is made by stage I and kept in a file.
        tokenizer: the experiment's own, or the name of the preset that owns it. A palette that the
            owner's tokenizer was trained in comes with it.
        prior: None where the preset is a tokenizer alone.
        schedules: a stage's name → its schedule. A stage that is absent is not trained.
    """

    name: str
    data: DataSpec
    palette: str | None
    tokenizer: TokenizerSpec | str
    prior: PriorSpec | None
    schedules: Mapping[str, Schedule]
    view: ViewSpec = ViewSpec()
    seed: int = 0
    notes: str = field(default="", compare=False)

    def schedule(self, stage: str) -> Schedule:
        """The schedule of a stage, or ValueError naming the stages that the preset trains."""
        if stage not in self.schedules:
            stages = ", ".join(self.schedules) or "none"
            raise ValueError(
                f"preset {self.name} has no schedule for stage {stage!r}; "
                f"it trains these stages: {stages}"
            )
        return self.schedules[stage]

    def with_schedule(self, stage: str, **changes: object) -> Preset:
        """The same preset with some values of one stage's schedule changed."""
        changed = replace(self.schedule(stage), **changes)
        return replace(self, schedules=MappingProxyType({**self.schedules, stage: changed}))

    @property
    def needs_masks(self) -> bool:
        """Whether the palette is made by looking at training masks."""
        return self.palette == "by-neighbours"
