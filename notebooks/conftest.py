"""End a notebook at its first raising cell, and train for fewer steps in its solutions."""

from __future__ import annotations

import os

import pytest
from nbval.plugin import NbCellError

# The sources of the assignments hold solutions and hidden tests for the course tools; they have
# tests of their own.
collect_ignore = ["assignments"]

# Some solutions train or draw for a minute. Here they show that they run; no output that is
# compared depends on these numbers. Kernels inherit the variables.
os.environ["GSS_STEPS"] = "30"
os.environ["GSS_DRAWS"] = "4"

RAISED = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed:
        error = call.excinfo.value
        # A cell whose output merely differs from the committed one has run, and the cells after it
        # can run too.
        if not (isinstance(error, NbCellError) and error.args[0] == "Cell outputs differ"):
            item.parent.stash[RAISED] = item.name
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    raised = item.parent.stash.get(RAISED, None)
    if raised is not None:
        pytest.skip(f"{raised} of this notebook did not run to its end")
