"""A whole training step of stage II: plain float32 with all logits at once, against ours.

Ours is in bfloat16 autocast and channels_last, with the token loss in chunks; on the GPU targets
are encoded in bfloat16 too, as the preset says. The preset scenes-cpu runs on one CPU thread and is
measured by processor time. ade20k-swin-l runs where there is a GPU; its dVAE and backbone have
random weights, which take the same time as trained ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from measure import measure, peak_extra_bytes, report
from timm.layers import DropPath
from torch import Tensor

from gss_lite.contracts import IGNORE
from gss_lite.factory import create_model
from gss_lite.gss import GSS, PIXEL_WEIGHT, TOKEN_WEIGHT, resize_mask
from gss_lite.presets import Preset, get_preset
from gss_lite.training.optimizer import adamw


def plain_loss(gss: GSS, image: Tensor, mask: Tensor) -> Tensor:
    """Stage II's loss by the book: the logits of the whole grid, and torch's cross-entropies."""
    token_logits, pixel_logits = gss.prior(image)
    targets = gss.targets(mask, pixel_logits.detach())
    token = F.cross_entropy(token_logits, targets.tokens.masked_fill(targets.ignored, -100))
    size = targets.mask.shape[1:]
    big = F.interpolate(pixel_logits, size=size, mode="bilinear", align_corners=False)
    pixel = F.cross_entropy(big, targets.mask, ignore_index=IGNORE)
    return TOKEN_WEIGHT * token + PIXEL_WEIGHT * pixel


class Trainer:
    """One model and its optimiser; `step()` is a whole training step on the same batch."""

    def __init__(self, preset: Preset, batch: int, device: str, ours: bool) -> None:
        torch.manual_seed(0)
        schedule = preset.schedule("prior")
        gss = create_model(preset).to(device).train()
        # Nothing random is left, so the two steps can be compared.
        gss.prior.dropout.p = 0.0
        for module in gss.prior.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0
        height, width = schedule.crop
        self.image = torch.randn(batch, 3, height, width, device=device)
        grid = (batch, 1, height // 16, width // 16)
        coarse = torch.randint(gss.num_classes, grid, device=device)
        self.mask = F.interpolate(coarse.float(), size=(height, width))[:, 0].long()
        self.mask[:, : height // 8] = IGNORE
        if ours:
            gss.prior.to(memory_format=torch.channels_last)
        self.gss = gss
        self.ours = ours
        self.device = device
        self.target_precision = schedule.target_precision if ours else "no"
        self.optimizer = adamw(gss.prior, schedule)
        self.gradient: tuple[float, Tensor] | None = None  # before any step, see `first_gradient`
        size = [side // 4 * gss.tokenizer.stride for side in (height, width)]
        self.maskige = gss.palette(resize_mask(self.mask, size, gss.num_classes))

    def loss(self) -> Tensor:
        if not self.ours:
            return plain_loss(self.gss, self.image, self.mask)
        with torch.autocast(self.device, torch.bfloat16):
            return self.gss.losses(self.image, self.mask, self.target_precision)[0]

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def encode(self) -> None:
        """What a step asks of the frozen tokenizer."""
        in_bf16 = self.target_precision == "bf16"
        autocast = torch.autocast(self.device, torch.bfloat16) if in_bf16 else nullcontext()
        with torch.no_grad(), autocast:
            self.gss.tokenizer.encode(self.maskige)

    def first_gradient(self) -> tuple[float, Tensor]:
        """The loss before any step, and its gradient at the codes' logits."""
        loss = self.loss()
        gradient = torch.autograd.grad(loss, self.gss.prior.to_tokens.weight)[0]
        return loss.item(), gradient.float().flatten()


Run = Callable[[], None]


def compare(
    title: str,
    trainers: dict[str, Trainer],
    seconds: Callable[[Run], float],
    memory: Callable[[Run], int],
) -> list[tuple[float, int]]:
    """Check that both learn the same, print a table → (seconds, bytes) of each.

    The table also says how many pictures a second there are, and what the tokenizer takes of it.
    """
    (plain, theirs), (ours, gradient) = (trainer.gradient for trainer in trainers.values())
    # They differ by bfloat16's rounding, and by a few tokens.
    assert ours == pytest.approx(plain, rel=0.01)
    assert F.cosine_similarity(theirs, gradient, dim=0) > 0.97
    rows = {
        name: (seconds(trainer.step), memory(trainer.step)) for name, trainer in trainers.items()
    }
    report(title, rows)
    for name, trainer in trainers.items():
        whole = rows[name][0]
        share = seconds(trainer.encode) / whole
        print(
            f"{name:32} {len(trainer.image) / whole:7.1f} pictures/s, {100 * share:3.0f} % of the "
            "time in the frozen tokenizer"
        )
    return list(rows.values())


def processor_seconds(run: Run) -> float:
    """The fastest of three calls by this process's own time, after one that is not counted.

    Other programs on the machine do not matter.
    """
    spent = []
    for _ in range(4):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return min(spent[1:])


def test_a_laptops_step() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    preset = get_preset("scenes-cpu")
    batch = preset.schedule("prior").batch
    try:
        trainers = {
            name: Trainer(preset, batch, "cpu", ours)
            for name, ours in (("plain float32", False), ("ours", True))
        }
        for trainer in trainers.values():
            trainer.gradient = trainer.first_gradient()
        (plain, _), (ours, _) = compare(
            "training step of scenes-cpu", trainers, processor_seconds, peak_extra_bytes
        )
    finally:
        torch.set_num_threads(threads)
    assert plain / ours >= 1.3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the paper's size wants a GPU")
def test_a_step_of_the_papers_size_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ade20k-swin-l, four crops of 512 × 512; the bounds are modest, the table says the rest."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)  # plain float32 is float32
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    preset = get_preset("ade20k-swin-l")
    trainers: dict[str, Trainer] = {}
    held: dict[Trainer, int] = {}
    for name, is_ours in (("plain float32", False), ("ours", True)):
        before = torch.cuda.memory_allocated()
        trainer = Trainer(preset, 4, "cuda", is_ours)
        trainer.gradient = trainer.first_gradient()
        trainer.step()  # AdamW's averages are there from now on
        trainers[name] = trainer
        held[trainer] = torch.cuda.memory_allocated() - before

    def peak(run: Run) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        others = sum(size for trainer, size in held.items() if trainer is not run.__self__)
        return torch.cuda.max_memory_allocated() - others

    (plain, plain_bytes), (ours, our_bytes) = compare(
        "training step of ade20k-swin-l, 4 pictures", trainers, lambda run: measure(run, 5), peak
    )
    assert plain / ours >= 1.5 and our_bytes < plain_bytes
