"""The registry of data sets. A new set needs a class, and its name in this table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gss_lite.data.folders import CamVid, MaskFolder
from gss_lite.data.scenes import ManyScenes, Scenes

DATASETS: Mapping[str, type[MaskFolder] | type[Scenes]] = MappingProxyType(
    {kind.name: kind for kind in (Scenes, ManyScenes, CamVid)}
)
