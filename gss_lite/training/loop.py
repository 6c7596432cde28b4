"""The one training loop: Accelerate, progress bar, resumable checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gss_lite.data.transforms import ResumableBatches, mixed_seed
from gss_lite.presets import Schedule
from gss_lite.training.checkpoints import load_checkpoint, save_checkpoint

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def adamw(module: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW without weight decay on normalisation layers and relative position biases (as the released configs)."""
    free = {id(p) for m in module.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    free |= {id(p) for n, p in module.named_parameters() if n.endswith("relative_position_bias_table")}
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in free], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trained if id(p) in free], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=schedule.lr, betas=(0.9, 0.999))


def poly_with_warmup(step: int, schedule: Schedule) -> float:
    """Factor on the learning rate: polynomial decay of power 1 to zero, times a linear warm-up from 1e-6."""
    decay = max(0.0, 1 - step / schedule.steps)
    return decay * min(1.0, 1e-6 + (1 - 1e-6) * step / schedule.warmup) if schedule.warmup else decay


def fit(
    stage: nn.Module, learner: nn.Module, dataset: Dataset, schedule: Schedule, *, run: dict, folder: Path,
    save_every: int = 250, log_every: int = 10, workers: int = 0, progress: bool = True,
    collate: Callable | None = None,
) -> list[dict]:
    """Train `learner` with the loss of `stage`; continue from `folder`/checkpoint.pt where it exists.

    Every random number of step s depends on (run["seed"], s) alone, so that a run which was killed and started again
    ends with the same weights as one that was not.

    Args:
        stage: module whose forward(*batch) gives (loss, {name: scalar tensor}). learner: the part of it that is trained.
        dataset: indexed by (draw, index), see SeededAugmentation.
        run: what identifies the run (preset, stage, seed, …); a checkpoint of another run is refused.
    Returns:
        The log: a dict with step, seconds, lr and the stage's scalars for every `log_every` steps.
    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint is intact.
    """
    # split_batches: `batch` is the global batch, shared out among the processes.
    accelerator = Accelerator(mixed_precision=schedule.precision, dataloader_config=DataLoaderConfiguration(split_batches=True))
    optimizer = adamw(learner, schedule)
    scheduler = LambdaLR(optimizer, lambda s: poly_with_warmup(s, schedule))
    average = AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema), use_buffers=True) if schedule.ema else None
    path, first, log, spent = folder / "checkpoint.pt", 0, [], 0.0
    state = load_checkpoint(path, run)
    if state:
        learner.load_state_dict(state["learner"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        if average:
            average.load_state_dict(state["average"])
        first, log, spent = state["step"], state["log"], state["seconds"]
    batches = ResumableBatches(len(dataset), schedule.batch, first, schedule.steps, run["seed"])
    loader: Iterable = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate)
    stage, optimizer, loader = accelerator.prepare(stage, optimizer, loader)
    if average:
        average.to(accelerator.device)
    stage.train()
    started = time.perf_counter() - spent

    bar = tqdm(total=schedule.steps, initial=first, desc=f"{run['preset']} {run['stage']}",
               disable=not progress or not accelerator.is_main_process, mininterval=1.0)
    for step, batch in enumerate(loader, first):
        set_seed(mixed_seed(run["seed"], step))
        loss, scalars = stage(*batch)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss became {loss.item()} at step {step + 1}; lower the learning rate (now {schedule.lr:g}) or lengthen "
                f"the warm-up. The last checkpoint, {path}, is intact."
            )
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if average:
            average.update_parameters(learner)
        done = step + 1
        if done % log_every == 0 or done == schedule.steps:
            entry = {"step": done, "seconds": round(time.perf_counter() - started, 1), "lr": scheduler.get_last_lr()[0],
                     "loss": loss.item(), **{k: float(v) for k, v in scalars.items()}}
            log.append({k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in entry.items()})
            bar.set_postfix({k: f"{v:.3g}" for k, v in entry.items() if k not in {"step", "seconds", "lr"}}, refresh=False)
        scheduler.step()
        bar.update()
        if (done % save_every == 0 or done == schedule.steps) and accelerator.is_main_process:
            save_checkpoint(path, {
                "run": run, "step": done, "log": log, "seconds": time.perf_counter() - started,
                "learner": learner.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
                "average": average.state_dict() if average else None,
            })
    bar.close()
    if average:
        learner.load_state_dict(average.module.state_dict())
    return log
