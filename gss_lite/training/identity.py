"""What a run is: hashes that tell one plan, and one frozen stage I, from another, so that a checkpoint is only continued by its own run."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from gss_lite.build import SHIPPED, comes_with_tokenizer
from gss_lite.preset_fields import Preset
from gss_lite.training.checkpoints import replace_file

OTHER_STAGE = {
    "vqvae": {"prior", "backbone", "backbone_args", "head", "pretrained", "window"},
    "prior": {"vqvae", "readback"},
}
STAGE_ONE = ("palette.json", "vqvae.safetensors")


def plan_hash(preset: Preset, stage: str) -> str:
    """16 hexadecimal digits of all that the preset says about `stage`; what only the other stage or evaluation reads is left out."""
    left_out = OTHER_STAGE.get(stage, set()) | {"notes", "eval_pictures", "test_size"}
    # what changes memory and time and hardly the step: a run may go on with it, as after running
    # out of memory
    if preset.prior:
        preset = replace(
            preset, prior=replace(preset.prior, accumulate=1, checkpointing=False, compile=False)
        )
    said = {f.name: getattr(preset, f.name) for f in fields(preset) if f.name not in left_out}
    text = json.dumps(
        said,
        default=lambda value: asdict(value) if is_dataclass(value) else dict(value),
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_one_hash(preset: Preset, folder: Path) -> str:
    """16 hexadecimal digits of the palette and VQ-VAE files in `folder`; of the shipped ones where they are another preset's."""
    palette, vqvae = (folder / f"{preset.name}.{end}" for end in STAGE_ONE)
    if comes_with_tokenizer(preset):
        palette = SHIPPED / f"{preset.tokenizer_from}.{STAGE_ONE[0]}"
    if preset.tokenizer_from:
        vqvae = SHIPPED / f"{preset.tokenizer_from}.{STAGE_ONE[1]}"
    digest = hashlib.sha256()
    for path in (palette, vqvae):
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def tensors_hash(tensors: Iterable[Tensor]) -> str:
    """64 hexadecimal digits that change with any bit of the tensors, taken in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def weights_hash(module: nn.Module) -> str:
    """`tensors_hash` of a module's parameters and buffers, by name: which weights a record was measured with."""
    return tensors_hash(tensor for _, tensor in sorted(module.state_dict().items()))


def bring_stage_one(preset: Preset, source: Path, folder: Path) -> None:
    """Copy palette, VQ-VAE and its record beside the prior trained on them: `--weights folder` then finds a whole model."""
    if source.resolve() == folder.resolve():
        return
    for end in (*STAGE_ONE, "vqvae.json"):
        path = source / f"{preset.name}.{end}"
        if path.exists():
            replace_file(
                folder / path.name, lambda target, path=path: shutil.copyfile(path, target)
            )
