"""The parts of a preset: data, tokenizer, prior, view, and the schedule of each stage.

Each part goes to the one function that needs it. A part that does not apply is None or absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

LEVELS = (1, 2, 3, 4)  # timm's numbers of the feature maps at 1/4, 1/8, 1/16 and 1/32


def fixed(**arguments: object) -> Mapping:
    """Make a read-only mapping of keyword arguments."""
    return MappingProxyType(arguments)


@dataclass(frozen=True)
class Schedule:
    """How one stage is optimised: linear warm-up, polynomial decay (power 1) to zero.

    Attributes:
        crop: height and width of a training crop in pixels.
        scales: each picture is resized by a random factor from this range before the crop.
        distortion: "released" is the photometric distortion of the released configs;
            "torchvision" is torchvision's, which also swaps colour channels.
        precision: Accelerate's mixed precision: "no" (float32), "bf16" or "fp16".
        target_precision: precision in which the frozen tokenizer encodes the targets: "no"
            (float32) or "bf16".
        accumulate: number of micro-batches of one step. More of them need less memory. Batch norm
            uses the statistics of one micro-batch; otherwise the step is the same.
        clip: the largest norm of a step's gradient; None does not clip.
        checkpointing: recompute the backbone's activations in the backward pass. This saves memory
            and costs time. The backbone's batch norms then update their averages twice a step.
        compile: use torch.compile.
        ema: decay of the moving average of the weights that is kept; None keeps the last weights.
        optimizer: "adamw", or "sgd" with momentum 0.9, which the paper takes for palettes (D.ii).
        middle: stage II also keeps the weights after this share of its steps, for an X⁻¹ that is
            trained on their noisier maskige (D.iii: 32,000 of 160,000 iterations); None does not.
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
    middle: float | None = None
    optimizer: str = "adamw"

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
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f'the optimizer is "adamw" or "sgd"; got {self.optimizer!r}')
        if self.middle is not None and not 0 < self.middle < 1:
            raise ValueError(f"middle is a share of the steps between 0 and 1; got {self.middle}")

    @property
    def middle_step(self) -> int | None:
        """The step after which the middle weights are kept; None keeps none."""
        return max(1, round(self.middle * self.steps)) if self.middle else None


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
class PaletteSchedule(Schedule):
    """How a palette is learned (supplement, D.ii).

    Attributes:
        temperature: of the Gumbel-softmax, in the tokenizer's own unit.
        rebuild: weight of the other term of (S.3) in GSS-TT's loss, see `rebuild_error`. The paper
            does not give it.
        network: keyword arguments of the ConvInverse that GSS-TT trains with the palette.
    """

    temperature: float = 1.0
    rebuild: float = 0.0
    network: Mapping = field(default_factory=fixed)


@dataclass(frozen=True)
class DataSpec:
    """The data set and its size.

    Attributes:
        name: the data set's name, see `gss_lite.data.DATASETS`; "folder" is any folder.
        size: height and width of the pictures in pixels.
        num_classes: K.
        train_pictures: number of pictures in the training split of a drawn set.
        eval_pictures: number of pictures in its other splits.
        class_list: the lines of the list of classes of any folder.
    """

    name: str
    size: tuple[int, int]
    num_classes: int
    train_pictures: int | None = None
    eval_pictures: int | None = None
    class_list: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenizerSpec:
    """The tokenizer of a preset that shares none.

    Attributes:
        arguments: keyword arguments of the tokenizer's class, including vocab_size.
        kind: "vqvae", which stage I trains, or "dalle", OpenAI's dVAE.
        readback: weight of the classification loss through X⁻¹ in stage I (S.2); 0 omits it.
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
        backbone: timm's name.
        backbone_arguments: keyword arguments of timm.create_model.
        head: keyword arguments of Prior.
        pretrained: the weights that training may start from: timm's name of them, or the name of a
            package of the index, see `backbones.INDEX_PACKAGES`.
    """

    backbone: str
    backbone_arguments: Mapping
    head: Mapping
    pretrained: str | None = None


@dataclass(frozen=True)
class ViewSpec:
    """The view of a picture in validation, evaluation and prediction.

    Attributes:
        window: side and stride in pixels of a sliding window; None looks at the whole picture.
        size: height and width that the picture is first resized into; None keeps its size.
        multiple: the network's input is padded until both sides are multiples of this number. A
            backbone that halves its input five times needs 32; the released code, with its own
            padding inside, pads nothing here.
    """

    window: tuple[int, int] | None = None
    size: tuple[int, int] | None = None
    multiple: int = 32


@dataclass(frozen=True)
class UViMSpec:
    """UViM, the generative rival of section H. Its backbone is that of the prior.

    Attributes:
        stage_one: keyword arguments of StageOne, with the size of the pictures.
        language: keyword arguments of LanguageModel.
        decoder_depth: layers of the autoregressive decoder.
        view: see `Preset.view`; each view is resized to the size of stage I.
    """

    stage_one: Mapping
    language: Mapping
    decoder_depth: int
    view: ViewSpec = ViewSpec()


@dataclass(frozen=True)
class Preset:
    """One experiment.

    Attributes:
        palette: the name of a construction; None means that the tokenizer serves any palette.
            "by-neighbours" depends on masks, so stage I makes it and saves it in a file. So do
            "learned-tf" and "learned-tt", which are trained, see `learned_palette`.
        tokenizer: the preset's own tokenizer, or the name of the preset that owns it. If the
            owner's tokenizer was trained in one palette, this preset uses that palette.
        prior: None if the preset has a tokenizer only.
        schedules: a stage's name → its schedule. A stage that is absent is not trained.
        uvim: None if UViM is not trained on this preset's data.
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
    uvim: UViMSpec | None = None

    def __post_init__(self) -> None:
        """Make the schedules read-only."""
        object.__setattr__(self, "schedules", fixed(**self.schedules))

    def schedule(self, stage: str) -> Schedule:
        """Return the schedule of a stage.

        Raises:
            ValueError: the preset does not train this stage; the message names those it trains.
        """
        if stage not in self.schedules:
            stages = ", ".join(self.schedules) or "none"
            raise ValueError(
                f"preset {self.name} has no schedule for stage {stage!r}; "
                f"it trains these stages: {stages}"
            )
        return self.schedules[stage]

    def with_schedule(self, stage: str, **changes: object) -> Preset:
        """Return the same preset with some values of one stage's schedule changed."""
        changed = replace(self.schedule(stage), **changes)
        return replace(self, schedules={**self.schedules, stage: changed})

    @property
    def needs_masks(self) -> bool:
        """Whether the palette depends on training masks."""
        return self.palette == "by-neighbours"

    @property
    def learned(self) -> str | None:
        """How the palette is learned, "tf" or "tt"; None if it is not learned."""
        start = "learned-"
        named = self.palette is not None and self.palette.startswith(start)
        return self.palette.removeprefix(start) if named else None
