"""A released state dict ⇄ our prior and X⁻¹, tensor by tensor, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gss_lite.contracts import Tokenizer
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.inverse_fitted import SwinInverse
from gss_lite.official.architecture import Architecture, read_architecture
from gss_lite.official.checkpoint import Checkpoint, as_palette, read_checkpoint
from gss_lite.official.names import (
    inverse_names,
    our_order,
    position_indices,
    prior_names,
    released_order,
)
from gss_lite.presets.parts import ViewSpec
from gss_lite.prior import Prior

WHOLE = ViewSpec(multiple=1)  # whole pictures, without padding, as in the released code


def our_tensors(
    state: Mapping[str, Tensor], architecture: Architecture
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All tensors of a released state dict, under our names and in our order.

    Returns:
        Those of the prior, and those of X⁻¹ without its colours ({} for a GSS-FF).

    Raises:
        ValueError: tensors are missing, unknown, or of another shape or type. The message says how
            many, and names the first.
    """
    with torch.device("meta"):
        prior = architecture.build_prior()
    inverse = architecture.build_inverse()
    parts = [(prior.state_dict(), prior_names(prior.state_dict()))]
    if inverse is not None:
        parts.append((inverse.state_dict(), inverse_names(inverse.state_dict())))
    wanted = {
        released: ours[name] for ours, names in parts for name, released in names.items()
    }  # released name → a tensor of the right shape
    wanted |= position_indices(wanted)
    _check(state, wanted)
    for name, index in position_indices(dict(state)).items():
        if not torch.equal(state[name], index):
            raise ValueError(f"{name} numbers the cells of a window in another order")
    found = [
        {name: our_order(released, state[released]) for name, released in names.items()}
        for _, names in parts
    ]
    return found[0], found[1] if inverse is not None else {}


def _check(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless names, shapes and types agree."""
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    wrong = []
    for name in wanted.keys() & state.keys():
        there, here = state[name], wanted[name]
        if there.shape != here.shape:
            wrong.append(f"{name} is {tuple(there.shape)} instead of {tuple(here.shape)}")
        elif there.is_floating_point() != here.is_floating_point():
            wrong.append(f"{name} is of {there.dtype} instead of {here.dtype}")
        elif not bool(there.isfinite().all()):
            wrong.append(f"{name} holds values that are not finite")
    if missing or unknown or wrong:
        raise ValueError(
            "this is not the state dict of a released GSS: "
            f"{len(missing)} tensors are missing (first: {min(missing, default='–')}), "
            f"{len(unknown)} are unknown (first: {min(unknown, default='–')}), "
            f"{len(wrong)} are of another shape, type or range (first: {min(wrong, default='–')})"
        )


def released_state(prior: Prior, inverse: SwinInverse | None = None) -> dict[str, Tensor]:
    """The tensors of a prior, and of X⁻¹ if it is given, under their released names.

    With X⁻¹ this is what the released tools/merge_checkpoints.py makes of both stages. The dVAE is
    left out, because the released code loads it from OpenAI's files.

    Raises:
        ValueError: the prior is none of the paper's architectures, or X⁻¹ is no `SwinInverse`.
    """
    if inverse is not None and not isinstance(inverse, SwinInverse):
        raise ValueError(
            f"the released code has names for the X⁻¹ of GSS-FT-W only, not for a "
            f"{type(inverse).__name__}"
        )
    state = {}
    parts = [(prior.state_dict(), prior_names)]
    if inverse is not None:
        parts.append((inverse.state_dict(), inverse_names))
    for ours, names in parts:
        for name, released in names(ours).items():
            state[released] = released_order(released, ours[name]).detach().cpu().contiguous()
    return state | position_indices(state)


def load_released(
    source: str | Path | Checkpoint,
    tokenizer: Tokenizer,
    *,
    palette: Tensor | None = None,
    view: ViewSpec = WHOLE,
) -> GSS:
    """A released checkpoint of any size as a model in eval mode.

    A GSS-FT-W gets its trained X⁻¹, a GSS-FF the nearest colour.

    Args:
        source: the path of a checkpoint, or what `read_checkpoint` made of it.
        tokenizer: OpenAI's dVAE, see `load_dalle`.
        palette: K + 1 colours (K + 1, 3) from 0 to 255, where the checkpoint does not name them.
        view: the windows or the size of `segment` and `evaluate`.

    Raises:
        FileNotFoundError, ValueError: the checkpoint cannot be used; nothing in it was run.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    architecture = read_architecture(checkpoint.state)
    prior_tensors, inverse_tensors = our_tensors(checkpoint.state, architecture)
    colors = checkpoint.palette if palette is None else palette
    if colors is None:
        raise ValueError("the checkpoint does not name its palette; pass its K + 1 colours")
    colors = as_palette(colors, architecture.num_classes)
    check_vocabulary(architecture, tokenizer)
    prior = architecture.build_prior()
    prior.load_state_dict(prior_tensors)
    inverse = architecture.build_inverse(colors.colors)
    if inverse is None:
        inverse = NearestColor(colors.colors)
    else:
        inverse.load_state_dict({"colors": colors.colors, **inverse_tensors})
    return GSS(colors, tokenizer, prior, inverse, view=view).eval()


def check_vocabulary(architecture: Architecture, tokenizer: Tokenizer) -> None:
    """Raise ValueError unless the checkpoint predicts the tokens of this tokenizer."""
    if architecture.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"the checkpoint predicts {architecture.vocab_size} tokens, and the tokenizer has "
            f"{tokenizer.vocab_size}"
        )
