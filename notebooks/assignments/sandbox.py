"""Run a function in a process of its own, with limits of time and memory and without a network.

The limits protect from accidents: endless loops, crashes, too much memory. They do not stop a
program that sets out to break them.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # flags of Linux' unshare
SPARE = 64 << 20  # bytes above the limit, in which a process that ran out of memory says so
NO_NETWORK = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.")
NO_PROCESS = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "pty.")
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")

Report = Callable[[dict], None]


@dataclass(frozen=True)
class Limits:
    """What one part of one submission may use.

    Attributes:
        cpu_seconds: time of the processor. It does not depend on how busy the machine is.
        memory_mb: memory beyond what Python and the libraries hold, in MB.
        wall_seconds: time on the clock, which ends a process that sleeps.
    """

    cpu_seconds: int = 10
    memory_mb: int = 1024
    wall_seconds: int = 120


class Refused(PermissionError):
    """Something that code may not do while it is graded."""


def run_isolated(
    work: Callable[[Report], None], limits: Limits, folder: Path, secret: Path
) -> tuple[list[dict], str]:
    """Run `work(report)` in a forked process that starts in `folder`.

    Args:
        work: it calls `report` with a dictionary for everything that it wants to tell.
        limits: of time and memory.
        folder: the only place where files may be written.
        secret: a folder whose files may not be read.

    Returns:
        What was reported, and a sentence if the process was killed or crashed.
    """
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of threads. Libraries may have some; none of them is at work here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        os.close(reader)
        live(work, limits, folder, secret, writer)
    os.close(writer)
    text, late = read_until(reader, time.monotonic() + limits.wall_seconds)
    os.close(reader)
    end(child)
    _, status = os.waitpid(child, 0)
    # A process that was killed may leave half a line.
    lines = text.decode(errors="replace").split("\n")[:-1]
    return [json.loads(line) for line in lines], ending(status, late, limits)


def read_until(reader: int, deadline: float) -> tuple[bytes, bool]:
    """Read a pipe to its end, or to the deadline; the second value says which."""
    text = b""
    while (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([reader], [], [], left)
        if ready:
            piece = os.read(reader, 1 << 16)
            if not piece:
                return text, False
            text += piece
    return text, True


def end(child: int) -> None:
    """Kill the process and all that it started, unless it ended by itself."""
    for kill in (os.killpg, os.kill):
        try:
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue


def ending(status: int, late: bool, limits: Limits) -> str:
    """Say in words how a process ended."""
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if late:
        return f"It was stopped after {limits.wall_seconds} seconds. What does your code wait for?"
    if number == signal.SIGXCPU:
        return (
            f"It was stopped after {limits.cpu_seconds} seconds of computing. "
            "Look for a loop that does not end."
        )
    if number:
        return f"Python crashed ({signal.Signals(number).name})."
    return ""


def live(work, limits: Limits, folder: Path, secret: Path, writer: int) -> None:
    """Be the child: close the doors, work, and leave without the parent's clean-up."""
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.chdir(folder)
        sys.dont_write_bytecode = True
        leave_network()
        sys.addaudithook(doorkeeper(folder.resolve(), secret.resolve()))
        set_limits(limits)

        def report(what: dict) -> None:
            os.write(writer, (json.dumps(what) + "\n").encode())

        work(report)
    finally:
        os._exit(0)


def leave_network() -> None:
    """Move to a network without any device, where the system allows it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "unshare") and libc.unshare(NEW_NETWORK):
        libc.unshare(NEW_USER | NEW_NETWORK)


def set_limits(limits: Limits) -> None:
    """Limit time of the processor, memory, and the size of files."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 << 20, 10 << 20))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * os.sysconf("SC_PAGE_SIZE") + (limits.memory_mb << 20)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory + SPARE))


def more_memory() -> None:
    """Open the spare memory, so that a process that ran out of memory can report it."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def doorkeeper(folder: Path, secret: Path) -> Callable[[str, tuple], None]:
    """Return an audit hook that refuses network, processes, and files outside of `folder`."""

    def inside(path, place: Path) -> bool:
        return Path(os.path.realpath(os.fsdecode(path))).is_relative_to(place)

    def hook(event: str, arguments: tuple) -> None:
        if event.startswith(NO_NETWORK):
            raise Refused("There is no network while you are graded.")
        if event.startswith(NO_PROCESS):
            raise Refused("No other program can be started while you are graded.")
        if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path, mode, flags = arguments
            writes = any(letter in (mode or "") for letter in "wax+") or (
                mode is None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            allowed = inside(path, folder) or os.fsdecode(path) == os.devnull
            if (writes and not allowed) or inside(path, secret):
                raise Refused(f"The file {os.fsdecode(path)} is closed while you are graded.")
        if event in CHANGES and not inside(arguments[0], folder):
            raise Refused(f"The file {arguments[0]} is closed while you are graded.")

    return hook
