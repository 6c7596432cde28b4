"""Fixtures of the tests of data_scripts."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from torch import nn


@pytest.fixture
def dall_e(monkeypatch: pytest.MonkeyPatch) -> dict[str, type]:
    """Stand-ins for OpenAI's classes under OpenAI's names, so that torch.save writes such files."""
    names = {
        "dall_e.encoder": ["Encoder", "EncoderBlock"],
        "dall_e.decoder": ["Decoder", "DecoderBlock"],
        "dall_e.utils": ["Conv2d"],
    }
    classes = {}
    for module_name, class_names in names.items():
        module = ModuleType(module_name)
        for name in class_names:
            classes[name] = type(name, (nn.Module,), {"__module__": module_name})
            setattr(module, name, classes[name])
        monkeypatch.setitem(sys.modules, module_name, module)
    monkeypatch.setitem(sys.modules, "dall_e", ModuleType("dall_e"))
    return classes
