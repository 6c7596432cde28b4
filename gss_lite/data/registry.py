"""The registry of data sets. A new set needs a row in `sets`, and is found here by its name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from gss_lite.data.folders import CamVid, MaskFolder
from gss_lite.data.mseg import PARTS, MSeg
from gss_lite.data.scenes import ManyScenes, Scenes
from gss_lite.data.sets import PUBLISHED

DATASETS: Mapping[str, type[MaskFolder] | type[Scenes] | type[MSeg]] = MappingProxyType(
    {kind.name: kind for kind in (Scenes, ManyScenes, CamVid, *PUBLISHED, MSeg, *PARTS)}
)
