"""A JupyterLab of our own, and a real Chromium that opens notebooks in it as a student would."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.font_manager
from playwright.sync_api import Browser, Locator, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Seconds, many times what is needed: on a busy machine nothing may fail by time alone.
START_TIMEOUT = 300  # until the server and the page are ready, or a menu answers
RUN_TIMEOUT = 600  # for the cells of one notebook
MOVE_TIMEOUT = 300  # for the figure to answer a control
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}
# JupyterLab shows tracebacks, those of cells and those of controls, as stderr.
ERRORS = '[data-mime-type="application/vnd.jupyter.stderr"]'
# The key that moves a slider by one step, flips a check box or presses a button.
STEP_KEY = """handle => handle.type === 'checkbox' || handle.tagName === 'BUTTON' ? 'Space'
    : Number(handle.ariaValueNow) < Number(handle.ariaValueMax) ? 'ArrowRight' : 'ArrowLeft'"""
# What the keyboard works on; of several buttons, one that is not pressed.
HANDLE = '[role="slider"], select, input[type="checkbox"], button:not(.mod-active)'
SOURCES = "figures => figures.map(figure => figure.src)"


class NotebookFailed(AssertionError):
    """A cell, a control or the page itself raised an error in the browser."""


@contextmanager
def jupyterlab(root: Path, home: Path) -> Iterator[str]:
    """Serve the folder `root` on a free loopback port with the throw-away home folder `home`.

    Yields the address of a notebook, with {name} to be filled in. Nothing of the user's own Jupyter
    configuration takes part, and nothing is written into `root`. The kernels inherit the threads
    that the conftest.py of the repository sets.
    """
    for name, settings in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "XDG", "IPYTHON"))
    }
    environment |= {
        "HOME": str(home),
        # In an empty home matplotlib would look for fonts anew and say so on stderr.
        "MPLCONFIGDIR": matplotlib.get_cachedir(),
        "JUPYTER_TOKEN": token,
        "JUPYTER_PATH": os.path.join(sys.prefix, "share", "jupyter"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *(
            f"--ServerApp.root_dir={root}",
            f"--FileCheckpoints.checkpoint_dir={home / 'checkpoints'}",
        ),
        *(
            "--LabApp.extension_manager=readonly",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ),
    ]
    log = home / "jupyterlab.log"
    with log.open("w") as sink:
        server = subprocess.Popen(
            command,
            env=environment,
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        try:
            wait_for(server, f"http://127.0.0.1:{port}/api/status?token={token}", log)
            yield f"http://127.0.0.1:{port}/lab/tree/{{name}}?reset&token={token}"
        finally:
            server.terminate()
            try:
                server.wait(60)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait_for(server: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, headless; playwright drives it and downloads none of its own."""
    flags = [
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses to start as root with it
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class LabNotebook:
    """One notebook, open in `page`, a tab of its own."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.page.set_default_timeout(START_TIMEOUT * 1000)
        self.page_errors: list[str] = []
        self.page.on("pageerror", lambda error: self.page_errors.append(str(error)))
        self.page.goto(address)
        # Running before the kernel is idle opens a dialog that asks for a kernel.
        self.page.get_by_text("| Idle").wait_for()

    def close(self) -> None:
        """Shut the kernel down, which would hold its memory otherwise, and close the tab."""
        self.menu("Kernel", "Shut Down Kernel")
        self.page.get_by_text("| No Kernel").or_(
            self.page.get_by_text("No Kernel")
        ).first.wait_for()
        self.page.close()

    def menu(self, title: str, entry: str) -> None:
        self.page.locator(".lm-MenuBar-itemLabel").get_by_text(title, exact=True).click()
        self.page.locator(".lm-Menu-itemLabel").get_by_text(entry, exact=True).click()

    def run_all(self) -> None:
        """Run all cells until each has a number or one has raised, then `check`.

        The outputs that came with the file are cleared before.
        """
        self.menu("Edit", "Clear Outputs of All Cells")
        self.menu("Run", "Run All Cells")
        finished = """errors => {
            const cells = [...document.querySelectorAll('.jp-CodeCell')];
            const prompt = cell => cell.querySelector('.jp-InputPrompt').textContent;
            const source = cell => cell.querySelector('.cm-content').textContent.trim();
            const waiting = cells.some(cell => prompt(cell).includes('*'));
            return cells.every(cell => /[0-9]/.test(prompt(cell)) || !source(cell))
                || (!waiting && document.querySelector(errors) !== null);
        }"""
        self.page.wait_for_function(finished, arg=ERRORS, timeout=RUN_TIMEOUT * 1000)
        self.check()

    def check(self) -> None:
        """Raise NotebookFailed if an output is an error or the page itself had one."""
        errors = self.page.locator(ERRORS).all_inner_texts() + self.page_errors
        if errors:
            raise NotebookFailed("\n".join(errors))

    def move(self, description: str, timeout: float = MOVE_TIMEOUT) -> tuple[list[str], list[str]]:
        """Move a control by one step; its figure must change within `timeout` seconds.

        Returns the sources of its images before and after.
        """
        label = self.page.locator(".widget-label").get_by_text(description, exact=True)
        control = self.page.locator(".widget-inline-hbox, .widget-toggle-buttons", has=label).first
        handle = control.locator(HANDLE).first
        # The innermost output that holds the control is that of its cell; the control's own output
        # lies within.
        figures = self.page.locator(".jp-OutputArea-child", has=control).last.locator(
            ".widget-output img"
        )
        return self.changed(figures, lambda: step(handle), f"{description!r} was moved", timeout)

    def press(self, button: Locator, figures: Locator) -> None:
        """Press a button by the space bar; the `figures` must change."""
        self.changed(figures, lambda: step(button), f"{button} was pressed", MOVE_TIMEOUT)

    def changed(
        self, figures: Locator, act: Callable[[], None], done: str, timeout: float
    ) -> tuple[list[str], list[str]]:
        """The sources of `figures` before and after `act`, which must differ, then `check`."""
        before = figures.evaluate_all(SOURCES)
        act()
        deadline = time.monotonic() + timeout
        # While the function of the control runs, the old figure is gone for a moment.
        while (now := figures.evaluate_all(SOURCES)) == before or not now:
            self.check()
            if time.monotonic() > deadline:
                raise NotebookFailed(
                    f"the figure did not change within {timeout:.0f} s after {done}"
                )
            self.page.wait_for_timeout(100)
        self.check()
        return before, now


def step(handle: Locator) -> None:
    """Move a slider, flip a check box or press a button by keyboard; choose a menu's next entry."""
    if handle.evaluate("handle => handle.tagName") == "SELECT":
        # JupyterLab takes the arrow keys for its cells when a menu has the focus, so the entry is
        # chosen as a mouse would.
        selected, length = handle.evaluate("handle => [handle.selectedIndex, handle.length]")
        handle.select_option(index=(selected + 1) % length)
    else:
        handle.focus()
        handle.press(handle.evaluate(STEP_KEY))
