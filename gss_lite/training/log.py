"""The log of a run: as a list, on a progress bar, and in TensorBoard if asked."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm


class TrainingLog:
    """Collects the entries of a run, and shows them.

    Args:
        entries: the entries of an earlier part of the run; new ones are appended to this list.
        stage: the stage's name, a prefix of the names in TensorBoard.
        bar: the progress bar at the run's first step.
        tensorboard: the folder for TensorBoard's files, or None.
    """

    def __init__(self, entries: list[dict], stage: str, bar: tqdm, tensorboard: Path | None):
        self.entries = entries
        self.stage = stage
        self.bar = bar
        self.writer = summary_writer(tensorboard, bar.n) if tensorboard else None

    def add(self, entry: dict) -> None:
        """Add an entry: the step, the seconds so far, the learning rate lr, and other scalars."""
        rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in entry.items()}
        self.entries.append(rounded)
        hidden = ("step", "seconds", "lr")
        shown = {name: f"{value:.3g}" for name, value in entry.items() if name not in hidden}
        self.bar.set_postfix(shown, refresh=False)
        if self.writer:
            for name, value in entry.items():
                self.writer.add_scalar(f"{self.stage}/{name}", value, entry["step"])

    def close(self) -> None:
        """Close the progress bar and TensorBoard's file."""
        self.bar.close()
        if self.writer:
            self.writer.close()


def summary_writer(folder: Path, first: int):
    """Make a TensorBoard writer. It deletes what an interrupted run wrote after step `first`.

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
