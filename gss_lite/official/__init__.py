"""The released GSS checkpoints ⇄ ours (fudan-zvg/GSS; Swin-L, ResNet-101-v1c, HRNet-W48).

`read_checkpoint` reads the file without executing anything. `load_released` makes a model of it.
`import_checkpoint` and `export_checkpoint` are the commands `python -m gss_lite import` and
`export --released`. Sizes are read from the tensors, so narrow models convert as well.
"""

from gss_lite.official.architecture import Architecture, read_architecture
from gss_lite.official.checkpoint import Checkpoint, read_checkpoint, read_palette
from gss_lite.official.convert import load_released, our_tensors, released_state
from gss_lite.official.folder import export_checkpoint, import_checkpoint

__all__ = [
    "Architecture",
    "Checkpoint",
    "export_checkpoint",
    "import_checkpoint",
    "load_released",
    "our_tensors",
    "read_architecture",
    "read_checkpoint",
    "read_palette",
    "released_state",
]
