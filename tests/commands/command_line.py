"""The command line as a function."""

from __future__ import annotations

import pytest

from gss_lite.__main__ import main

TINY = ("--preset", "scenes-tiny")


def command(*arguments: object) -> int:
    """Run `python -m gss_lite ARGUMENTS` in this process → what it returns."""
    return main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line that a command says when its input is at fault."""
    capsys.readouterr()
    assert command(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1
    return said
