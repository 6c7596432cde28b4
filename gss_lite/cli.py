"""The commands and options of `python -m gss_lite`, and the types of their values."""

from __future__ import annotations

import argparse
import sys

import torch

from gss_lite.factory import INVERSES, MODELS, SHIPPED
from gss_lite.presets import PAPER_PRESETS, PRESETS
from gss_lite.training import STAGES, STAGES_OF
from gss_lite.training.inverse import INPUTS

# The options of stage II that change its schedule, and those that are arguments of `train`.
SCHEDULE = ("precision", "accumulate", "checkpointing", "compile", "middle")
RIVALS = "pixel: the discriminative twin; uvim, uvim-ar: UViM, in one pass or autoregressive"
ARGUMENTS = ("validate_every", "keep", "pretrained_backbone")


def print_anything() -> None:
    """Let the console show letters that it cannot encode as escape sequences, without an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # notebooks put other objects in their place
            stream.reconfigure(errors="backslashreplace")


def parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    main = argparse.ArgumentParser(
        prog="python -m gss_lite",
        description="train | evaluate | predict | data | export | import: the experiments of the "
        "notebooks, from a shell.",
    )
    commands = main.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--preset", default="scenes-cpu", help=f"one of {', '.join(PRESETS)}")
    from_data = argparse.ArgumentParser(add_help=False)
    from_data.add_argument(
        "--data",
        help="folder of a data set that is on disk (default: $GSS_DATA/NAME, then data/NAME); with "
        "--classes, any folder of pictures and masks",
    )
    from_data.add_argument(
        "--set", metavar="NAME", help="another data set than the preset's; `data list` names them"
    )
    from_data.add_argument(
        "--classes",
        metavar="FILE",
        help="list of the classes of your own folder, one on a line as `0 road`",
    )
    from_data.add_argument("--seed", type=whole_number(0), help="instead of the preset's")
    with_weights = argparse.ArgumentParser(add_help=False)
    with_weights.add_argument(
        "--weights",
        default=str(SHIPPED),
        help="folder with the weights (default: the shipped ones)",
    )
    with_weights.add_argument(
        "--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu"
    )
    with_weights.add_argument(
        "--inverse",
        default="ff",
        metavar="NAME|FILE",
        help=f"X⁻¹: {', '.join(INVERSES)}, or a .safetensors FILE; all but ff (default) and "
        "expected are files in --weights",
    )

    _add_train(commands, [common, from_data])
    _add_evaluate(commands, [common, from_data, with_weights])
    _add_predict(commands, [common, with_weights])
    _add_data(commands)
    _add_export(commands)
    _add_import(commands)
    return main


def _add_train(commands: argparse._SubParsersAction, parents: list) -> None:
    train = commands.add_parser(
        "train",
        parents=parents,
        help="train a stage; started again, it goes on from its last checkpoint",
    )
    train.add_argument(
        "--stage",
        choices=list(STAGES),
        default="all",
        help="; ".join(f"{name}: {what}" for name, what in STAGES.items()),
    )
    train.add_argument(
        "--model",
        choices=list(STAGES_OF),
        default="gss",
        help="what --stage all trains; "
        + "; ".join(f"{name}: {' and '.join(stages)}" for name, stages in STAGES_OF.items()),
    )
    train.add_argument(
        "--out", help="folder for weights, checkpoints and records (default: runs/PRESET)"
    )
    train.add_argument(
        "--stage-one",
        metavar="FOLDER|shipped",
        help="folder of the weights that the stage builds on (default: that of --out): palette and "
        "VQ-VAE for prior, UViM's stage I for uvim-code, the whole model for inverse-…; shipped: "
        "the weights in the package",
    )
    train.add_argument(
        "--maskige",
        choices=INPUTS,
        help="what X⁻¹ is trained on: maskige of the tokens that the prior predicts (noisy, "
        "default), of those of its middle checkpoint (middle), or of true masks (clean)",
    )
    train.add_argument(
        "--steps", type=whole_number(1), help="instead of the preset's, for the stages trained"
    )
    train.add_argument(
        "--save-every",
        type=whole_number(1),
        default=250,
        help="steps between checkpoints (default: 250)",
    )
    train.add_argument(
        "--workers",
        type=whole_number(0),
        default=0,
        help="processes that load data (default: 0, in the training process)",
    )
    train.add_argument(
        "--tensorboard", action="store_true", help="log to FOLDER/STAGE/tensorboard as well"
    )
    two = train.add_argument_group("stage II and its rivals (--stage prior, all, pixel, uvim-code)")
    two.add_argument(
        "--validate-every",
        type=whole_number(1),
        metavar="N",
        help="mIoU of the validation split every N steps; the best weights are kept in "
        "FOLDER/STAGE/best.pt",
    )
    two.add_argument(
        "--keep",
        choices=["last", "best"],
        help="what becomes NAME.STAGE.safetensors: the last weights (default) or the best of "
        "--validate-every",
    )
    two.add_argument(
        "--pretrained",
        dest="pretrained_backbone",
        nargs="?",
        const=True,
        metavar="timm|FILE",
        help="start from the ImageNet weights that the preset names; timm: from timm's download; "
        "FILE: from a local file of the backbone's weights",
    )
    two.add_argument(
        "--precision", choices=["no", "bf16", "fp16"], help="no: float32 (default: the preset's)"
    )
    two.add_argument(
        "--accumulate",
        type=whole_number(1),
        metavar="N",
        help="N micro-batches a step: less memory; batch norm sees one at a time",
    )
    two.add_argument(
        "--checkpointing",
        action="store_true",
        default=None,
        help="recompute the backbone in the backward pass: less memory, more time",
    )
    two.add_argument("--compile", action="store_true", default=None, help="torch.compile")
    two.add_argument(
        "--middle",
        type=factor,
        metavar="SHARE",
        help="also keep the weights after this share of the steps, for --maskige middle; the paper "
        "has 0.2",
    )


def _add_evaluate(commands: argparse._SubParsersAction, parents: list) -> None:
    test = commands.add_parser(
        "evaluate",
        parents=parents,
        help="mIoU, mAcc, aAcc and the per-class table",
    )
    test.add_argument(
        "--split",
        choices=["train", "val", "test", "all"],
        help="default: test, or val where the set has no test split; all: every picture of a "
        "folder without splits",
    )
    test.add_argument(
        "--map",
        metavar="FILE|mseg",
        help="the model keeps the preset's classes, and this map turns them into those of --set or "
        "--classes: two columns with a tabulator; mseg: MSeg's table, for its universal classes",
    )
    test.add_argument(
        "--map-truth",
        metavar="FILE",
        help="a map from the classes in the masks to those of --map",
    )
    test.add_argument("--model", default="gss", choices=list(MODELS), help=RIVALS)
    test.add_argument(
        "--flip", action="store_true", help="average with the probabilities of the mirrored picture"
    )
    test.add_argument(
        "--scales",
        type=factor,
        nargs="+",
        default=[1.0],
        metavar="FACTOR",
        help="average over the picture enlarged by these (default: 1, as it is)",
    )
    test.add_argument(
        "--record",
        help="where to write the run record (default: runs/PRESET/evaluate-….json, named after the "
        "split and the views)",
    )


def _add_predict(commands: argparse._SubParsersAction, parents: list) -> None:
    predict = commands.add_parser(
        "predict",
        parents=parents,
        help="segment pictures with the views of evaluate: writes mask, maskige and overlay",
    )
    predict.add_argument("pictures", nargs="+", help="picture files")
    predict.add_argument("--model", default="gss", choices=["gss", "uvim", "uvim-ar"], help=RIVALS)
    predict.add_argument("--out", default="predictions", help="folder for the results")
    predict.add_argument(
        "--overwrite", action="store_true", help="replace files that predict did not make"
    )


def _add_export(commands: argparse._SubParsersAction) -> None:
    export = commands.add_parser(
        "export", help="put a run's weights and records into the package, in 16 bits"
    )
    export.add_argument("--preset", required=True)
    export.add_argument("--run", required=True, help="folder that `train` or `import` wrote")
    export.add_argument(
        "--released",
        metavar="FILE.pth",
        help="write the model under the names of the authors' released code to this file instead",
    )


def _add_import(commands: argparse._SubParsersAction) -> None:
    released = commands.add_parser(
        "import", help="turn a released GSS checkpoint into a folder for evaluate and predict"
    )
    released.add_argument("checkpoint", help="the authors' .pth file; nothing in it is executed")
    released.add_argument(
        "--config",
        required=True,
        choices=[preset.name for preset in PAPER_PRESETS],
        help="what the checkpoint was trained for",
    )
    released.add_argument("--out", required=True, help="a folder without a model of this config")
    released.add_argument(
        "--palette",
        metavar="FILE",
        help="the released config (.py, read as text) or a palette (.json), if the checkpoint does "
        "not name its colours; Cityscapes' are known",
    )
    released.add_argument(
        "--dvae",
        metavar="FILE",
        help="OpenAI's dVAE as safetensors in OpenAI's names, if the checkpoint holds none "
        "(default: that of `python -m data_scripts.dalle_dvae`)",
    )


def _add_data(commands: argparse._SubParsersAction) -> None:
    data = commands.add_parser("data", help="list the data sets, or check the files of one")
    actions = data.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="the data sets, their splits and where they come from")
    check = actions.add_parser(
        "check", help="counts, sizes, a label histogram, unreadable and mismatched files"
    )
    check.add_argument("name", metavar="SET|FOLDER", help="a data set's name, or any folder")
    check.add_argument("--data", help="folder of the data set (default: $GSS_DATA/NAME, data/NAME)")
    check.add_argument("--classes", metavar="FILE", help="list of the classes of a folder")
    check.add_argument("--split", help="one split (default: all that are there)")
    check.add_argument(
        "--exclude",
        action="store_true",
        help="write the broken frames to exclude.txt in the folder, so that the rest can be used",
    )
    check.add_argument(
        "--list", metavar="FILE", help="write the usable frames, a picture and its mask on a line"
    )


def stage_two_options(arguments: argparse.Namespace) -> tuple[dict, dict]:
    """Return the given options of stage II and its rivals: (changes of the schedule, the others).

    The others are arguments of `gss_lite.training.train`.

    Raises:
        ValueError: they were given for another stage, or --keep best without --validate-every.
    """
    changes, others = (
        {name: vars(arguments)[name] for name in names if vars(arguments)[name] is not None}
        for names in (SCHEDULE, ARGUMENTS)
    )
    if (changes or others) and not _trains_stage_two(arguments.stage):
        names = [name.removesuffix("_backbone") for name in (*changes, *others)]
        options = ", ".join("--" + name.replace("_", "-") for name in names)
        raise ValueError(
            f"{options}: for --stage prior, all, pixel or uvim-code only; leave out with --stage "
            f"{arguments.stage}"
        )
    if others.get("keep") == "best" and "validate_every" not in others:
        raise ValueError("--keep best keeps the best of --validate-every N; give that too")
    return changes, others


def _trains_stage_two(stage: str) -> bool:
    return stage in {"prior", "pixel", "all"} or stage.startswith("uvim-code")


def whole_number(least: int):
    """Make an argument type for whole numbers that are `least` or more."""

    def parse(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, {least} or more; got {text!r}"
            )
        return int(text)

    return parse


def factor(text: str) -> float:
    """Read a positive number: an argument type."""
    try:
        if 0 < float(text) < float("inf"):
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"must be a positive number, as 1.25; got {text!r}")


def device(text: str) -> torch.device:
    """Read the name of a device and check that it can be used: an argument type."""
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:  # which one depends on the build of torch
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(
            f"no device {text!r} to use here, as cpu or cuda ({reason})"
        ) from error
