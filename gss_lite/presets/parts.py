"""What a preset says: the parts of one experiment, and how long each stage trains.

The stage that trains X⁻¹ (supplement, D.iii): GSS-FT and GSS-FT-W, on clean or on noisy maskige.

Everything before X⁻¹ is frozen and in eval mode, so a picture has one maskige however often it is
drawn: it is decoded once and kept, and the stage trains on crops of what was kept. (The released
code runs the frozen part in every step, with its batch norms in train mode, and their statistics
drift.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Schedule:
    """How one stage is optimised: AdamW, linear warm-up, polynomial decay (power 1) to zero."""

    steps: int
    batch: int
    crop: tuple[int, int]  # height, width in pixels
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    scales: tuple[float, float] = (1.0, 1.0)  # random resizing of the picture before the crop
    # photometric, as in the released configs; or "torchvision", whose own also swaps colour
    # channels
    distortion: str = "released"
    precision: str = "no"  # Accelerate's mixed_precision: "no" (float32), "bf16", "fp16"
    # precision in which the frozen tokenizer encodes the targets: "no" (float32) or "bf16"
    targets: str = "no"
    # micro-batches that one step's `batch` is split into: less memory; batch norm sees one at a
    # time, else the same step
    accumulate: int = 1
    clip: float = 0.0  # largest norm of a step's gradient; 0 leaves it as it is
    # recompute the backbone's activations in the backward pass (its batch norms' averages move
    # twice): less memory, more time
    checkpointing: bool = False
    compile: bool = False  # torch.compile
    # decay of the averaged copy of the weights that is kept; 0 keeps the last weights
    ema: float = 0.0


@dataclass(frozen=True)
class Preset:
    """One experiment. `tokenizer` and `head` are keyword arguments of the tokenizer and of Prior, `backbone_args` of timm."""

    name: str
    data: str  # "scenes", "many-scenes" or "camvid"
    size: tuple[int, int]  # height, width of the pictures
    tokenizer: Mapping
    backbone: str  # "" where a preset is a tokenizer alone
    backbone_args: Mapping
    head: Mapping
    vqvae: Schedule
    prior: Schedule | None  # None where a preset is a tokenizer alone
    # "greedy": farthest points; "assigned": max-min colours given out by looking at neighbours, a
    # file beside the weights; "random": every training picture its own, for a tokenizer that serves
    # any palette.
    palette: str = "greedy"
    # data set whose training photographs such a tokenizer also learns: "camvid"
    photographs: str = ""
    readback: float = 0.0  # weight of X⁻¹'s cross-entropy in stage I
    train_pictures: int = 0  # Scenes only: how many different pictures one epoch holds
    eval_pictures: int = 0  # Scenes only: how many held-out pictures evaluation uses
    # or "dalle", OpenAI's dVAE; `tokenizer` holds its arguments, vocab_size among them
    tokenizer_kind: str = "vqvae"
    # Name of the preset whose tokenizer, as shipped, serves here too, and its palette with it
    # unless that is random. "": its own, which stage I trains.
    tokenizer_from: str = ""
    num_classes: int = 0  # 0: the number of classes of `data`
    pretrained: str = ""  # timm's name of the weights that training starts from; "": random ones
    # prediction by sliding window: side and stride in pixels; (0, 0): the whole picture at once
    window: tuple[int, int] = (0, 0)
    # prediction on the picture fitted into it, see `fit_into`; (0, 0): as it is
    test_size: tuple[int, int] = (0, 0)
    seed: int = 0
    notes: str = field(default="", compare=False)


def fixed(**kwargs: object) -> Mapping:
    """Keyword arguments as a mapping that cannot be changed."""
    return MappingProxyType(kwargs)


@dataclass(frozen=True)
class InversePlan:
    """How one X⁻¹ is trained: its schedule, how many training pictures are decoded, and its own size."""

    schedule: Schedule
    pictures: int
    size: Mapping = field(default_factory=dict)
