"""The one training loop: Accelerate, one process or several, progress bar, resumable checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gss_lite.data.transforms import ResumableBatches, mixed_seed
from gss_lite.presets.parts import Schedule
from gss_lite.storage import load_checkpoint, save_checkpoint
from gss_lite.training.batch_norm import synchronize_batch_norm
from gss_lite.training.checks import (
    ClassWatch,
    check_finite,
    check_gradient,
    check_shares,
    check_skips,
    gradient_norm,
    memory_explained,
    peers_explained,
    workers_explained,
)

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def adamw(module: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW without weight decay on normalisation layers and relative position biases (as the released configs)."""
    free = {
        id(p) for m in module.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)
    }
    free |= {
        id(p) for n, p in module.named_parameters() if n.endswith("relative_position_bias_table")
    }
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if id(p) not in free],
            "weight_decay": schedule.weight_decay,
        },
        {"params": [p for p in trained if id(p) in free], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=schedule.lr, betas=(0.9, 0.999))


def poly_with_warmup(step: int, schedule: Schedule) -> float:
    """Factor on the learning rate: polynomial decay of power 1 to zero, times a linear warm-up from 1e-6."""
    decay = max(0.0, 1 - step / schedule.steps)
    return (
        decay * min(1.0, 1e-6 + (1 - 1e-6) * step / schedule.warmup) if schedule.warmup else decay
    )


def set_checkpointing(learner: nn.Module) -> None:
    """Let the backbone recompute its activations in the backward pass.

    Raises:
        ValueError: the learner has no backbone, or timm cannot do it for this one (HRNet).
    """
    backbone = getattr(learner, "backbone", None)
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise ValueError(
            f"checkpointing is not possible for {type(backbone or learner).__name__}; leave it out "
            "and set accumulate instead"
        ) from error


def summary_writer(folder: Path, first: int):
    """A TensorBoard writer that forgets what an interrupted run wrote beyond step `first`.

    Raises:
        ImportError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard is not installed: pip install tensorboard, or train without it"
        ) from error
    return SummaryWriter(folder / "tensorboard", purge_step=first + 1)


def mean_of_shares(accelerator: Accelerator, amount: Tensor) -> Tensor:
    """A stage's scalar, over the processes whose share defines it; NaN where none does. Not always the whole batch's: perplexities are averaged."""
    amount = amount.detach().float().to(accelerator.device)  # codebook usage is counted on the CPU
    known = torch.isfinite(amount)
    total, count = accelerator.reduce(
        torch.stack([torch.where(known, amount, 0.0), known.float()]), "sum"
    )
    return total / count


@dataclass(frozen=True)
class LoopOptions:
    """How the loop saves, logs and loads; nothing here changes what is learned."""

    save_every: int = 250
    log_every: int = 10
    workers: int = 0
    progress: bool = True
    tensorboard: bool = False
    validate: Callable[[nn.Module], float] | None = None
    validate_every: int | None = None
    classes: Sequence[str] = ()


def fit(
    stage: nn.Module,
    learner: nn.Module,
    dataset: Dataset,
    schedule: Schedule,
    *,
    run: dict,
    folder: Path,
    options: LoopOptions = LoopOptions(),
) -> list[dict]:
    """Train `learner` with the loss of `stage`; continue from `folder`/checkpoint.pt where it exists.

    Every random number of step s depends on (run["seed"], s) alone, so that a run which was killed
    and started again ends with the same weights as one that was not.

    Started by `accelerate launch` or `torchrun`, every process takes its share of `schedule.batch`,
    and batch norm is over all of them. That is the step of one process on the whole batch, up to
    rounding, if nothing in the model is random (dropout and drop path draw other numbers) and the
    loss is a mean over positions. The VQ-VAE's codebook follows the whole batch too.

    Args:
        stage: module whose forward(*batch) gives (loss, {name: scalar tensor}). learner: the part
            of it that is trained.
        dataset: indexed by (draw, index), see SeededAugmentation.
        run: what identifies the run (preset, stage, seed, …); a checkpoint of another run is
            refused.
        validate: called every `validate_every` steps, in all processes, with the learner (its
            average where there is one); gives a score, the higher the better
            (`evaluation.validator` makes one). The best so far is kept in `folder`/best.pt: step,
            score, learner.
        tensorboard: write the log to `folder`/tensorboard as well.
        classes: names of the classes in the masks, which come last in a batch. Those that no pixel
            has shown after an epoch, or at the end of a shorter run, are named in a warning.

    Returns:
        The log: a dict with step, seconds, lr and the stage's scalars for every `log_every` steps,
            and the score where
        one was taken. A scalar that is undefined for its batch (an accuracy where nothing is
        labelled) is left out.

    Raises:
        FloatingPointError: the loss or its gradient is not finite (in fp16 the scaler skips such
            steps, but not without end). MemoryError: the GPU's memory is too small, or the
            machine's. ChildProcessError: a process that loads data died, or another that trains.
            The last checkpoint is intact in all cases.
        ValueError: a batch that cannot be shared out evenly; another run's checkpoint. ImportError:
            no TensorBoard.
    """
    save_every, log_every, workers, progress = options.save_every, options.log_every, options.workers, options.progress
    tensorboard, validate, validate_every, classes = options.tensorboard, options.validate, options.validate_every, options.classes
    collate = None
    # Accelerate keeps the precision of a process's first Accelerator; the stages of one command may
    # differ in theirs.
    AcceleratorState._reset_state()
    # split_batches: a batch of the loader is the global one, shared out among the processes.
    accelerator = Accelerator(
        mixed_precision=schedule.precision,
        dataloader_config=DataLoaderConfiguration(split_batches=True),
    )
    micro, parts = check_shares(schedule, accelerator.num_processes), schedule.accumulate
    if accelerator.num_processes > 1:
        synchronize_batch_norm(learner, accelerator.device)
    if schedule.checkpointing:
        set_checkpointing(learner)
    optimizer = adamw(learner, schedule)
    scheduler = LambdaLR(optimizer, lambda s: poly_with_warmup(s, schedule))
    average = (
        AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(schedule.ema), use_buffers=True)
        if schedule.ema
        else None
    )
    kept = {
        "learner": learner,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "average": average,
        "scaler": accelerator.scaler,
    }
    # fp16 alone has a scaler
    kept = {name: part for name, part in kept.items() if part is not None}
    path, first, log, spent, best = folder / "checkpoint.pt", 0, [], 0.0, None
    state = load_checkpoint(path, run)
    if state:
        for name, part in kept.items():
            part.load_state_dict(state[name])
        first, log, spent, best = state["step"], state["log"], state["seconds"], state.get("best")
    watch, epoch = (
        ClassWatch(classes, state.get("seen", ()) if state else ()),
        min(schedule.steps, math.ceil(len(dataset) / schedule.batch)),
    )
    # A micro-batch is a batch of its own to the loader: together they are the samples of the whole
    # one, in their order.
    order = ResumableBatches(
        len(dataset), micro, first * parts, schedule.steps * parts, run["seed"]
    )
    loader = DataLoader(dataset, batch_sampler=order, num_workers=workers, collate_fn=collate)
    stage, optimizer, loader = accelerator.prepare(
        torch.compile(stage) if schedule.compile else stage, optimizer, loader
    )
    if average:
        average.to(accelerator.device)
    writer = summary_writer(folder, first) if tensorboard and accelerator.is_main_process else None
    stage.train()
    started = time.perf_counter() - spent

    bar = tqdm(
        total=schedule.steps,
        initial=first,
        desc=f"{run['preset']} {run['stage']}",
        disable=not progress or not accelerator.is_main_process,
        mininterval=1.0,
    )
    total, skipped = 0.0, 0
    with workers_explained(loader, workers, path) as batches:
        for number, batch in enumerate(batches, first * parts):
            done = number // parts + 1
            watch.look(batch[-1])
            set_seed(
                (mixed_seed(run["seed"], number) + 0x51ED270B * accelerator.process_index) % 2**32
            )
            # the last micro-batch of the step: gradients meet, and the weights move
            whole = (number + 1) % parts == 0
            with memory_explained(done, schedule, path), peers_explained(path):
                with nullcontext() if whole else accelerator.no_sync(stage):
                    loss, scalars = stage(*batch)
                    # Every process sees the mean, so that they stop together.
                    value = (
                        accelerator.reduce(loss.detach(), "mean").item()
                        if accelerator.num_processes > 1
                        else loss.item()
                    )
                    check_finite(value, done, schedule, path)
                    total += value / parts
                    accelerator.backward(loss / parts if parts > 1 else loss)
                if not whole:
                    continue
                norm = (
                    accelerator.clip_grad_norm_(learner.parameters(), schedule.clip)
                    if schedule.clip
                    else gradient_norm(learner)
                )
                # there the scaler looks for itself, and skips the step
                if schedule.precision != "fp16":
                    check_gradient(float(norm), done, schedule, path)
                optimizer.step()
                skipped = skipped + 1 if optimizer.step_was_skipped else 0
                check_skips(skipped, done, schedule, path)
                optimizer.zero_grad()
            if average:
                average.update_parameters(learner)
            validated = (
                validate is not None
                and validate_every
                and (done % validate_every == 0 or done == schedule.steps)
            )
            if done % log_every == 0 or done == schedule.steps or validated:
                if accelerator.num_processes > 1:
                    with peers_explained(path):
                        scalars = {
                            name: mean_of_shares(accelerator, amount)
                            for name, amount in scalars.items()
                        }
                entry = {
                    "step": done,
                    "seconds": round(time.perf_counter() - started, 1),
                    "lr": scheduler.get_last_lr()[0],
                    "loss": total,
                    **{k: float(v) for k, v in scalars.items() if math.isfinite(v)},
                }
                if validated:
                    candidate = average.module if average else learner
                    with peers_explained(path):
                        entry["score"] = float(validate(candidate))
                    stage.train()
                    if accelerator.is_main_process and (
                        best is None or entry["score"] > best["score"]
                    ):
                        best = {"step": done, "score": entry["score"]}
                        save_checkpoint(
                            folder / "best.pt",
                            {**best, "run": run, "model": candidate.state_dict()},
                        )
                log.append(
                    {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in entry.items()}
                )
                bar.set_postfix(
                    {k: f"{v:.3g}" for k, v in entry.items() if k not in {"step", "seconds", "lr"}},
                    refresh=False,
                )
                for name, amount in entry.items() if writer else ():
                    writer.add_scalar(f"{run['stage']}/{name}", amount, done)
            total = 0.0
            scheduler.step()
            bar.update()
            if done == epoch:
                watch.warn(done * schedule.batch)
            if (done % save_every == 0 or done == schedule.steps) and accelerator.is_main_process:
                save_checkpoint(
                    path,
                    {
                        "run": run,
                        "step": done,
                        "log": log,
                        "seconds": time.perf_counter() - started,
                        "best": best,
                        "seen": watch.seen.tolist(),
                        **{name: part.state_dict() for name, part in kept.items()},
                    },
                )
    bar.close()
    if writer:
        writer.close()
    if average:
        learner.load_state_dict(average.module.state_dict())
    return log
