"""The log of a run: as a list, on a progress bar, and in TensorBoard if asked."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm


class TrainingLog:
    """Where a run's entries go.

    Args:
        entries: those of an earlier part of the run; new ones are appended to this list.
        stage: the stage's name, which TensorBoard puts before the name of each value.
        bar: the progress bar, which stands at the step that the run goes on from.
        tensorboard: the folder for TensorBoard's files, or None for none.

    Raises:
        ImportError: TensorBoard is asked for and not installed.
    """

    def __init__(self, entries: list[dict], stage: str, bar: tqdm, tensorboard: Path | None):
        self.entries = entries
        self.stage = stage
        self.bar = bar
        self.writer = summary_writer(tensorboard, bar.n) if tensorboard else None

    def add(self, entry: dict) -> None:
        """An entry has the step, the seconds so far, the learning rate lr, and other scalars."""
        rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in entry.items()}
        self.entries.append(rounded)
        hidden = ("step", "seconds", "lr")
        shown = {name: f"{value:.3g}" for name, value in entry.items() if name not in hidden}
        self.bar.set_postfix(shown, refresh=False)
        if self.writer:
            for name, value in entry.items():
                self.writer.add_scalar(f"{self.stage}/{name}", value, entry["step"])

    def close(self) -> None:
        """Finish the bar's line and TensorBoard's file."""
        self.bar.close()
        if self.writer:
            self.writer.close()


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
    return SummaryWriter(folder, purge_step=first + 1)
