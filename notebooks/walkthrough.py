"""Run the lessons in order, as Restart-and-Run-All would, and write the results as pages.

python notebooks/walkthrough.py                 write pages to build/walkthrough/
python notebooks/walkthrough.py --only '03*'    run only the notebooks that match
python notebooks/walkthrough.py --in-place      refresh all committed notebooks

Controls, solutions and reproductions have pages too. Their outputs are the committed ones, unless
--only names them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm
from traitlets import Type

# So that the script finds its neighbour from any folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from notebooks.pages import Site, write_beside  # noqa: E402

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "build" / "walkthrough"
CELL_TIMEOUT = 900  # seconds; what needs more belongs in a script
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# A kernel gets two threads, and a thread that waits sleeps. By default it spins, and on a busy
# machine two threads that wait for each other so take the core that both need.
KERNEL = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


class PatientChannel(AsyncZMQSocketChannel):
    """A channel that waits for a message in short slices.

    nbclient sends messages for the output area of a control. These can swallow the wake-up for the
    reply that it waits for. The reply is then there, and one long wait would find it only when the
    time of the cell is up.
    """

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                left = deadline - time.monotonic()
                return await super().get_msg(timeout=max(0.0, min(0.2, left)))
            except Empty:
                if time.monotonic() >= deadline:
                    raise


class PatientClient(AsyncKernelClient):
    """A client of a kernel whose channels wait in short slices."""

    shell_channel_class = Type(PatientChannel)
    iopub_channel_class = Type(PatientChannel)


class CurrentInterpreter(AsyncKernelManager):
    """Starts the kernel of this interpreter, whatever the user's kernel "python3" may be."""

    client_factory = Type(PatientClient)

    @property
    def kernel_spec(self) -> KernelSpec:
        """How to start the kernel."""
        return KernelSpec(**get_kernel_dict())


@dataclass
class Run:
    """One executed notebook; `error` is empty if nothing went wrong."""

    path: Path
    notebook: NotebookNode
    cells: int
    seconds: float
    error: str

    @property
    def status(self) -> str:
        """The word for the table of results."""
        return "failed" if self.error else "ok"

    @property
    def summary(self) -> str:
        """The seconds and the word, for the index of the pages."""
        return f'{self.seconds:.0f} s, <span class="{self.status}">{self.status}</span>'


def execute(path: Path) -> Run:
    """Execute the notebook at `path` in its own folder, with a progress bar over its code cells."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    start = time.perf_counter()
    error = ""
    # disable=None: there is no bar where the output is a file, which would keep its every state.
    with tqdm(total=len(code), desc=path.stem, unit="cell", leave=False, disable=None) as bar:
        client = NotebookClient(
            notebook,
            kernel_manager_class=CurrentInterpreter,
            timeout=CELL_TIMEOUT,
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=50"],
            resources={"metadata": {"path": str(path.parent)}},
            on_notebook_start=restore_interrupt,
            on_cell_executed=lambda **_: bar.update(),
        )
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as exception:
            error = str(exception)
    error = error or control_error(client)
    return Run(path, notebook, len(code), time.perf_counter() - start, ANSI.sub("", error).strip())


def restore_interrupt(**_: Any) -> None:
    """Let Ctrl-C end the walkthrough.

    nbclient would end the kernel only, and the next notebook would start.
    """
    loop = asyncio.get_running_loop()
    # On Windows nbclient sets no handlers, and there are none to remove.
    with contextlib.suppress(NotImplementedError):
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)


def control_error(client: NotebookClient) -> str:
    """The traceback inside a control's output, if any; it does not stop the execution by itself."""
    for state in client.widget_state.values():
        for output in state.get("outputs", ()):
            if output["output_type"] == "error":
                return "In the function of a control:\n" + "\n".join(output["traceback"])
    return ""


def stderr_text(notebook: NotebookNode) -> str:
    """All that the cells wrote to stderr, which are warnings mostly."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return "".join(output.text for output in outputs if output.get("name") == "stderr")


def strip_volatile(notebook: NotebookNode) -> None:
    """Drop what differs between runs or machines and is no result: widgets, timings, versions."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled", "trusted"):
            cell.metadata.pop(key, None)


def save_in_place(run: Run) -> None:
    """Write the clean outputs back to the notebook's own file.

    A run with errors or warnings leaves the file as it was.
    """
    warnings = stderr_text(run.notebook)
    if warnings and not run.error:
        run.error = f"stderr must be empty before the outputs are committed:\n{warnings.strip()}"
    if not run.error:
        strip_volatile(run.notebook)
        write_beside(run.path, nbformat.writes(run.notebook) + "\n")


def find(pattern: str | None, in_place: bool) -> list[Path]:
    """The notebooks whose names match `pattern`.

    Without a pattern these are the lessons, and all notebooks if they are to be refreshed in place.
    """
    paths = sorted(HERE.glob("[0-9][0-9]_*.ipynb"))
    if in_place or pattern:
        paths += sorted(HERE.glob("[!0-9]*.ipynb"))
        paths += sorted(HERE.glob("solutions/*.ipynb"))
        paths += sorted(HERE.glob("reproductions/*.ipynb"))
    pattern = pattern or "*"
    return [path for path in paths if path.match(pattern) or path.match(f"{pattern}.ipynb")]


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    options = argparse.ArgumentParser(description="Run the notebooks in order.")
    options.add_argument(
        "--only",
        metavar="PATTERN",
        help="run only the notebooks whose names match, such as '03*'",
    )
    options.add_argument(
        "--in-place",
        action="store_true",
        help="write clean outputs back to the notebooks, those that are no lessons included",
    )
    return options


def main() -> int:
    """Run the notebooks; 0 when every one ran without an error."""
    # A console that cannot show a character shows its number: no run is lost by a title.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args()
    paths = find(arguments.only, arguments.in_place)
    if not paths:
        print(f"no notebook in {HERE} matches {arguments.only!r}", file=sys.stderr)
        return 1

    os.environ |= KERNEL
    if arguments.in_place:
        # CamVid's pictures may not be copied into the repository, so the committed outputs come
        # from a run without it.
        os.environ["GSS_DATA"] = "absent"
    site = Site(HERE, PAGES)
    runs = []
    for path in paths:
        print(f"{path.stem} ...", flush=True)
        run = execute(path)
        if arguments.in_place:
            save_in_place(run)
        else:
            site.write_notebook(path, run.notebook)
        if run.error:
            print(run.error, flush=True)
        runs.append(run)

    print_table(runs)
    if not arguments.in_place:
        site.results = {run.path: run.summary for run in runs}
        first = site.write(done={run.path for run in runs})
        print(f"\nPages: {first.relative_to(HERE.parent)}")
    return 1 if any(run.error for run in runs) else 0


def print_table(runs: list[Run]) -> None:
    """Print the cells, the seconds and the status of every notebook."""
    width = max(len(run.path.stem) for run in runs)
    print(f"\n{'notebook':{width}}  cells  seconds  status")
    for run in runs:
        print(f"{run.path.stem:{width}}  {run.cells:5}  {run.seconds:7.1f}  {run.status}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
