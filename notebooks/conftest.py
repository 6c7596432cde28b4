"""End a notebook at its first raising cell: one red line rather than forty."""

from __future__ import annotations

import pytest
from nbval.plugin import NbCellError

# The sources of the assignments hold solutions and hidden tests for the course tools; they have
# tests of their own.
collect_ignore = ["assignments"]

RAISED = pytest.StashKey[str]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed:
        error = call.excinfo.value
        # A cell whose output merely differs from the committed one leaves the kernel fit for the
        # cells after it.
        if not (isinstance(error, NbCellError) and error.args[0] == "Cell outputs differ"):
            item.parent.stash[RAISED] = item.name
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    raised = item.parent.stash.get(RAISED, None)
    if raised is not None:
        pytest.skip(f"{raised} of this notebook did not run to its end")
