"""The training loop of all stages, with Accelerate, several processes and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, set_seed
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gss_lite.backbones import set_checkpointing
from gss_lite.data.transforms import ResumableBatches, mixed_seed
from gss_lite.presets.parts import Schedule
from gss_lite.storage import load_checkpoint, save_checkpoint
from gss_lite.training.checks import (
    ClassWatch,
    check_finite,
    check_shares,
    check_skips,
    is_out_of_memory,
    memory_error,
    worker_that_died,
)
from gss_lite.training.log import TrainingLog
from gss_lite.training.optimizer import averaged, make_optimizer, poly_with_warmup


@dataclass(frozen=True)
class LoopOptions:
    """How a run is saved, logged and fed with data. These options do not change the weights.

    Attributes:
        save_every: steps between two checkpoints.
        log_every: steps between two entries of the log.
        workers: processes that load data; 0 loads them in the training process.
        progress: show a progress bar.
        tensorboard: write the log to FOLDER/tensorboard as well.
        validate: maps the model (or its moving average, if there is one) to a score; higher is
            better. `evaluation.validator` makes such a function. All processes call it.
        validate_every: steps between two calls of `validate`; None never calls it.
        classes: names of the classes in the masks, which come last in a batch. A warning names the
            classes that have not occurred after one epoch, or at the end of a shorter run.
    """

    save_every: int = 250
    log_every: int = 10
    workers: int = 0
    progress: bool = True
    tensorboard: bool = False
    validate: Callable[[nn.Module], float] | None = None
    validate_every: int | None = None
    classes: Sequence[str] = ()


def fit(
    loss_fn: nn.Module,
    model: nn.Module,
    dataset: Dataset,
    schedule: Schedule,
    *,
    run: dict,
    folder: Path,
    options: LoopOptions | None = None,
) -> list[dict]:
    """Train `model` with `loss_fn`; continue from FOLDER/checkpoint.pt if it exists.

    Every random number of step s depends on (run["seed"], s) alone. A run that was killed and
    started again therefore ends with the same weights as an uninterrupted one.

    Under `accelerate launch` or torchrun, every process takes its share of `schedule.batch`. Up to
    rounding, the step is that of one process on the whole batch. There are three exceptions:
    dropout and drop path draw other numbers; the loss must be a mean over positions; and on CPUs
    each process computes batch norm on its own share. On GPUs batch norm is over all processes.

    Args:
        loss_fn: its forward(*batch) gives (loss, {name: scalar tensor}).
        model: the part of `loss_fn` that is trained.
        dataset: indexed by (draw, index), see SeededAugmentation.
        run: what identifies the run (preset, stage, seed, …); a checkpoint of another run is
            refused.
        folder: for checkpoint.pt, for best.pt with the model of the highest validation score, and
            for middle.pt if the schedule asks for it.

    Returns:
        The log: a dict for every `log_every` steps, with step, seconds, lr, loss and the other
        scalars. Validated steps also have a score. A scalar that is undefined for its batch (an
        accuracy without labelled pixels) is left out.

    Raises:
        ValueError: the batch cannot be divided equally, or the checkpoint is another run's.
        ImportError: TensorBoard is not installed.
        FloatingPointError: the loss or its gradient is not finite. In fp16 the scaler skips such
            steps, and the error comes after too many of them.
        MemoryError: the memory of the GPU or the machine is too small.
        OSError: a checkpoint could not be written.
        RuntimeError: a process that loads data has died, or another process that trains.
    """
    trainer = _Trainer(loss_fn, model, dataset, schedule, run, folder, options or LoopOptions())
    with trainer.explained():
        for number, batch in enumerate(trainer.loader, trainer.first_number):
            trainer.accumulate(number, batch)
            if (number + 1) % schedule.accumulate == 0:
                trainer.update()
                trainer.keep_middle()
                trainer.report()
                trainer.save()
    return trainer.finish()


@dataclass
class _Progress:
    """The state of a run beside its weights; every checkpoint holds it."""

    step: int = 0
    log: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    best: dict | None = None  # step and score
    seen: list[bool] = field(default_factory=list)  # see ClassWatch


class _Trainer:
    """The parts of a run and the actions of a step; `fit` calls them in order."""

    def __init__(
        self,
        loss_fn: nn.Module,
        model: nn.Module,
        dataset: Dataset,
        schedule: Schedule,
        run: dict,
        folder: Path,
        options: LoopOptions,
    ) -> None:
        self.model = model
        self.schedule = schedule
        self.run = run
        self.folder = folder
        self.options = options
        # Accelerate keeps the precision of a process's first Accelerator, but the stages of one
        # command may have different precisions.
        AcceleratorState._reset_state()
        # With split_batches, the processes divide the loader's batch among themselves.
        self.accelerator = Accelerator(
            mixed_precision=schedule.precision,
            dataloader_config=DataLoaderConfiguration(split_batches=True),
        )
        self.device = self.accelerator.device
        self.processes = self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        micro_batch = check_shares(schedule, self.processes)
        if self.processes > 1 and self.device.type == "cuda":
            convert_sync_batchnorm(model)
        if schedule.checkpointing:
            set_checkpointing(model)
        optimizer = make_optimizer(model, schedule)
        self.scheduler = LambdaLR(optimizer, lambda step: poly_with_warmup(step, schedule))
        self.average = averaged(model, schedule)
        parts = {
            "model": model,
            "optimizer": optimizer,
            "scheduler": self.scheduler,
            "average": self.average,
            "scaler": self.accelerator.scaler,  # fp16 alone has one
        }
        self.kept = {name: part for name, part in parts.items() if part is not None}
        self.progress = self._load()
        # The loader yields micro-batches, numbered from the run's first one. In their order they
        # hold the samples of the step's whole batch.
        self.first_number = self.progress.step * schedule.accumulate
        last_number = schedule.steps * schedule.accumulate
        order = ResumableBatches(
            len(dataset), micro_batch, self.first_number, last_number, run["seed"]
        )
        loader = DataLoader(dataset, batch_sampler=order, num_workers=options.workers)
        loss_fn = torch.compile(loss_fn) if schedule.compile else loss_fn
        prepared = self.accelerator.prepare(loss_fn, optimizer, loader)
        self.loss_fn, self.optimizer, self.loader = prepared
        self.loss_fn.train()
        if self.average:
            self.average.to(self.device)
        self.loss = 0.0  # of the step's micro-batches so far
        self.scalars: dict[str, Tensor] = {}  # of the last micro-batch
        self.skipped = 0  # steps in a row that fp16's scaler skipped
        self.watch = ClassWatch(options.classes, self.progress.seen, self.device)
        self.epoch = min(schedule.steps, math.ceil(len(dataset) / schedule.batch))
        self.log = self._open_log()
        self.started = time.perf_counter() - self.progress.seconds

    def _open_log(self) -> TrainingLog:
        options = self.options
        run = self.run
        bar = tqdm(
            total=self.schedule.steps,
            initial=self.progress.step,
            desc=f"{run['preset']} {run['stage']}",
            disable=not options.progress or not self.is_main,
            mininterval=1.0,
        )
        tensorboard = self.folder / "tensorboard" if options.tensorboard and self.is_main else None
        return TrainingLog(self.progress.log, run["stage"], bar, tensorboard)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _load(self) -> _Progress:
        state = load_checkpoint(self.checkpoint, self.run)
        if state is None:
            return _Progress()
        for name, part in self.kept.items():
            part.load_state_dict(state[name])
        return _Progress(**{entry.name: state[entry.name] for entry in fields(_Progress)})

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add to every error in the block whether there is a checkpoint to continue from."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            if is_out_of_memory(error):
                step = self.progress.step + 1
                said = memory_error(error, step, self.schedule)
                said.add_note(self._what_is_left())
                raise said from error
            died = worker_that_died(error) if self.options.workers else None
            if died:
                error.add_note(
                    f"{died} As a rule the machine ran out of memory. Use fewer processes that "
                    f"load data (--workers, now {self.options.workers}), or 0."
                )
            error.add_note(self._what_is_left())
            raise
        finally:
            self.log.close()

    def _what_is_left(self) -> str:
        if self.checkpoint.exists():
            return (
                f"The last checkpoint, {self.checkpoint}, is intact: the same command goes on from "
                "it."
            )
        return f"No checkpoint had been saved in {self.folder} yet."

    def accumulate(self, number: int, batch: list[Tensor]) -> None:
        """Compute loss and gradients of one micro-batch."""
        step = self.progress.step + 1
        parts = self.schedule.accumulate
        self.watch.look(batch[-1])
        # Dropout draws other numbers in every micro-batch and in every process.
        process = self.accelerator.process_index
        set_seed((mixed_seed(self.run["seed"], number) + 0x51ED270B * process) % 2**32)
        # The processes exchange gradients in the last micro-batch of a step only.
        last = (number + 1) % parts == 0
        with nullcontext() if last else self.accelerator.no_sync(self.loss_fn):
            loss, self.scalars = self.loss_fn(*batch)
            # Every process checks the mean, so that all stop together.
            mean = loss.detach()
            if self.processes > 1:
                mean = self.accelerator.reduce(mean, "mean")
            value = mean.item()
            check_finite("loss", value, step, self.schedule)
            self.loss += value / parts
            self.accelerator.backward(loss / parts if parts > 1 else loss)

    def update(self) -> None:
        """Update the weights and their moving average."""
        step = self.progress.step + 1
        parameters = list(self.model.parameters())
        if self.schedule.clip:
            norm = self.accelerator.clip_grad_norm_(parameters, self.schedule.clip)
        else:
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        # The scaler of fp16 checks the gradient itself and skips the step.
        if self.schedule.precision != "fp16":
            check_finite("gradient", float(norm), step, self.schedule)
        self.optimizer.step()
        self.skipped = self.skipped + 1 if self.optimizer.step_was_skipped else 0
        check_skips(self.skipped, step, self.schedule)
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.model)
        self.progress.step = step

    def report(self) -> None:
        """Validate and log if the step is due, then set the next step's learning rate."""
        step = self.progress.step
        validated = self._is_due(self.options.validate_every) and self.options.validate
        if self._is_due(self.options.log_every) or validated:
            scalars = {name: float(self._mean(v)) for name, v in self.scalars.items()}
            entry = {
                "step": step,
                "seconds": round(time.perf_counter() - self.started, 1),
                "lr": self.scheduler.get_last_lr()[0],
                "loss": self.loss,
                **{name: value for name, value in scalars.items() if math.isfinite(value)},
            }
            if validated:
                entry["score"] = self._validate()
            self.log.add(entry)
        self.loss = 0.0
        self.scheduler.step()
        self.log.bar.update()
        if step == self.epoch:
            self.watch.warn(step * self.schedule.batch)

    def _is_due(self, every: int | None) -> bool:
        """Whether the step is a multiple of `every`, or the last one."""
        step = self.progress.step
        return bool(every) and (step % every == 0 or step == self.schedule.steps)

    def _mean(self, amount: Tensor) -> Tensor:
        """Average a scalar over the processes where it is finite; NaN if there are none.

        This may differ from the scalar of the whole batch, as for a perplexity.
        """
        if self.processes == 1:
            return amount
        # Codebook usage is counted on the CPU.
        amount = amount.detach().float().to(self.device)
        known = torch.isfinite(amount)
        shares = torch.stack([torch.where(known, amount, 0.0), known.float()])
        total, count = self.accelerator.reduce(shares, "sum")
        return total / count

    def _validate(self) -> float:
        """Return the model's score, and save the model if it is the best so far."""
        score = float(self.options.validate(self._result()))
        self.loss_fn.train()
        if self.progress.best is None or score > self.progress.best["score"]:
            self.progress.best = {"step": self.progress.step, "score": score}
            self._keep("best.pt", self.progress.best)
        return score

    def _result(self) -> nn.Module:
        """The model that would be kept if training ended now: the average, if there is one."""
        return self.average.module if self.average else self.model

    def _keep(self, name: str, facts: dict) -> None:
        if self.is_main:
            state = {**facts, "run": self.run, "model": self._result().state_dict()}
            save_checkpoint(self.folder / name, state)

    def keep_middle(self) -> None:
        """Save the model beside the checkpoints if the schedule's middle is reached."""
        if self.progress.step == self.schedule.middle_step:
            self._keep("middle.pt", {"step": self.progress.step})

    def save(self) -> None:
        """Write a checkpoint if one is due."""
        if not self._is_due(self.options.save_every):
            return
        self.progress.seen = self.watch.share()
        self.progress.seconds = time.perf_counter() - self.started
        if self.is_main:
            parts = {name: part.state_dict() for name, part in self.kept.items()}
            save_checkpoint(self.checkpoint, {"run": self.run, **vars(self.progress), **parts})

    def finish(self) -> list[dict]:
        """Load the moving average into the model, if there is one → the log."""
        if self.average:
            self.model.load_state_dict(self.average.module.state_dict())
        return self.progress.log
