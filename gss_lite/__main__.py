"""Run the experiments: python -m gss_lite train | evaluate | predict | data | export | import.

`gss_lite.cli` defines the options.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch

from gss_lite.cli import parser, print_anything, stage_two_options
from gss_lite.contracts import Segmenter
from gss_lite.data import DATASETS, create_dataset
from gss_lite.data.choice import (
    class_names_of,
    default_split,
    map_classes,
    number_of_classes,
    with_data,
)
from gss_lite.data.folders import broken_frames
from gss_lite.data.inspection import check_files, open_splits
from gss_lite.distributed import init_distributed, is_main, world_size
from gss_lite.evaluation import Evaluation, evaluate
from gss_lite.export import export_weights
from gss_lite.factory import INVERSES, MODELS, create_model, load_inverse
from gss_lite.gss import GSS
from gss_lite.official import export_checkpoint, import_checkpoint
from gss_lite.predict import check_outputs, predict_file
from gss_lite.presets import Preset, get_preset, learned_palette
from gss_lite.records import run_record
from gss_lite.storage import check_replaceable, check_writable, read_json, weights_hash, write_json
from gss_lite.training import LoopOptions, train
from gss_lite.training.checks import WORKER_DIED, is_out_of_memory
from gss_lite.training.tokenizer import owns_palette, trains_tokenizer

EXPECTED = (ValueError, OSError, FloatingPointError, MemoryError, ImportError)


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when it worked; 2 after an error that was expected, with one message on standard error.

    Raises:
        Exception: an error that was not expected. Its traceback and its notes are shown.
    """
    print_anything()
    arguments = parser().parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    line = shlex.join(["python", "-m", "gss_lite", *given])
    try:
        COMMANDS[arguments.command](arguments, line)
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        explained = any(note.startswith(WORKER_DIED) for note in notes)
        # A process that loses another one in training gets a plain RuntimeError from torch.
        explained |= isinstance(error, RuntimeError) and bool(notes) and world_size() > 1
        if is_out_of_memory(error) and not notes:  # training adds its own advice
            said = _out_of_memory(error)
        elif isinstance(error, EXPECTED) or explained:
            said = " ".join([str(error), *notes])
        else:
            raise
        _say(f"error: {said}", sys.stderr)
        return 2
    return 0


def _out_of_memory(error: BaseException) -> str:
    """Say what to do when memory runs out in evaluation or prediction."""
    where, remedy = "machine", "End what else runs on it, or take smaller pictures"
    if isinstance(error, torch.OutOfMemoryError):
        where, remedy = "GPU", f"{remedy}, or --device cpu"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"the {where} ran out of memory ({reason}). {remedy}"


def _say(text: object, stream: TextIO | None = None) -> None:
    """Print a line. A closed pipe does not end the command."""
    stream = stream or sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # Without a place to write to, Python would report a failure when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _preset(arguments: argparse.Namespace) -> Preset:
    if arguments.classes and not arguments.data:
        raise ValueError("--classes describes the masks of your own folder; name it with --data")
    preset = get_preset(arguments.preset)
    if arguments.seed is not None:
        preset = replace(preset, seed=arguments.seed)
    return preset


def _run_name(arguments: argparse.Namespace) -> str:
    """Name the folder of a run after the preset, and after the data if they are not its own."""
    other = arguments.set or (Path(arguments.data).resolve().name if arguments.classes else None)
    return f"{arguments.preset}-{other}" if other else arguments.preset


def _train(arguments: argparse.Namespace, line: str) -> None:
    preset = with_data(_preset(arguments), arguments.set, arguments.classes)
    stage = arguments.stage
    if stage.startswith("palette-"):
        preset = learned_palette(preset, stage.removeprefix("palette-"))
    if arguments.maskige and not stage.startswith("inverse-"):
        raise ValueError(
            f"--maskige says what X⁻¹ is trained on, but --stage {stage} trains no X⁻¹. Leave "
            "--maskige out, or choose --stage inverse-…"
        )
    if arguments.steps and stage == "inverse-gaussian":
        raise ValueError("--stage inverse-gaussian takes no training steps; leave --steps out")
    changes, how = stage_two_options(arguments)
    for name in ("prior", "uvim-code"):
        if name in preset.schedules and changes:
            preset = preset.with_schedule(name, **changes)
    if arguments.steps:
        for name in preset.schedules:
            preset = preset.with_schedule(name, steps=arguments.steps)
    folder = Path(arguments.out or f"runs/{_run_name(arguments)}")
    options = LoopOptions(
        save_every=arguments.save_every,
        workers=arguments.workers,
        tensorboard=arguments.tensorboard,
    )
    train(
        preset,
        folder,
        stage=stage,
        model=arguments.model,
        data=arguments.data,
        stage_one=arguments.stage_one,
        maskige=arguments.maskige or "noisy",
        options=options,
        command=line,
        **how,
    )
    if not is_main():
        return
    makes_tokenizer = stage == "vqvae" or (stage == "all" and arguments.model == "gss")
    if makes_tokenizer and not trains_tokenizer(preset):
        shared = isinstance(preset.tokenizer, str)
        owner = f"the trained tokenizer of {preset.tokenizer}" if shared else "OpenAI's dVAE"
        done = "made its palette" if owns_palette(preset) else "took its palette too"
        _say(f"{preset.name} shares {owner}: stage I {done}, and trained nothing")
    _say(f"weights and records are in {folder}")


def _evaluate(arguments: argparse.Namespace, line: str) -> None:
    given = _preset(arguments)
    other = with_data(given, arguments.set, arguments.classes)
    preset = given if arguments.map else other
    arguments.split = arguments.split or default_split(other)
    name, kind = _what_is_evaluated(arguments, preset)
    run = _run_name(arguments)
    path = Path(arguments.record or f"runs/{run}/{_record_name(arguments, kind)}.json")
    if arguments.record:
        _check_is_a_record(path)
    check_replaceable(path)
    dataset = create_dataset(other, arguments.split, folder=arguments.data)
    label_map = None
    if arguments.map:
        source = class_names_of(preset)
        label_map, dataset = map_classes(source, dataset, arguments.map, arguments.map_truth)
        _say(label_map.table() + "\n")
    elif arguments.map_truth:
        raise ValueError("--map-truth maps the masks to the classes of --map; give that too")
    device = init_distributed(torch.device(arguments.device))
    model = create_model(
        preset,
        pretrained=arguments.weights,
        inverse=arguments.inverse,
        model=arguments.model,
    )
    check_writable(path.parent)
    result = evaluate(
        model,
        dataset,
        flip=arguments.flip,
        scales=arguments.scales,
        label_map=label_map,
        device=device,
    )
    if not is_main():
        return
    metrics = _metrics(result, model, preset, arguments)
    broken = broken_frames(dataset)
    without = result.scores(leave_out=broken)
    if broken:
        metrics["without_corrupt_frame"] = {k: scores.miou for k, scores in without.items()}
    record = run_record(
        kind=f"evaluate {arguments.split} {kind}".strip(),
        preset=preset.name,
        seed=preset.seed,
        steps=None,
        seconds=result.seconds,
        metrics=metrics,
        command=line,
        device=device,
    )
    if not arguments.record:
        path = _free(path, record)
    write_json(path, record)
    count = len(result)
    _say(f"{preset.name}, {arguments.split} split, {count} pictures, {result.seconds:.0f} s\n")
    _say(result.table(f"{name} prediction"))
    if broken:
        names = ", ".join(dataset.names[i] for i in broken)
        miou = 100 * without["prediction"].miou
        _say(f"\nwithout {names}, whose mask is shifted: {name} prediction {miou:.2f} mIoU")
    _say(f"\nrun record: {path}")


def _check_is_a_record(path: Path) -> None:
    """Raise FileExistsError if --record names a file that is there and is no run record."""
    if not path.is_file():
        return
    try:
        is_record = {"kind", "metrics"} <= read_json(path).keys()
    except (ValueError, OSError):
        is_record = False
    if not is_record:
        raise FileExistsError(
            f"{path} is there and is no run record; name another file, or remove it first"
        )


def _free(path: Path, record: dict) -> Path:
    """Return the path, or PATH-2, PATH-3 …: the first that overwrites no other result."""
    number = 1
    candidate = path
    while candidate.exists() and not _says_the_same(candidate, record):
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}.json")
    return candidate


def _says_the_same(path: Path, record: dict) -> bool:
    """Whether a file is a record of the same command with the same result."""
    try:
        there = read_json(path)
    except (ValueError, OSError):
        return False
    # JSON turns tuples into lists, so the new record is converted before it is compared.
    return all(there.get(k) == json.loads(json.dumps(record[k])) for k in ("command", "metrics"))


def _what_is_evaluated(arguments: argparse.Namespace, preset: Preset) -> tuple[str, str]:
    """Return the prediction's name, and its word in records: "", "pixel" or "inverse-…"."""
    if arguments.model != "gss":
        return MODELS[arguments.model], arguments.model
    choice = arguments.inverse
    if choice.endswith(".safetensors"):
        _, choice = load_inverse(choice)
    return INVERSES.get(choice, choice), "" if choice == "ff" else f"inverse-{choice}"


def _record_name(arguments: argparse.Namespace, kind: str) -> str:
    """Name a record after the split and the views, so that no result replaces another."""
    parts = [f"evaluate-{arguments.split}", kind]
    if arguments.map:
        parts.append(f"map-{Path(arguments.map).stem}")
    if arguments.seed is not None:
        parts.append(f"seed-{arguments.seed}")
    if arguments.flip:
        parts.append("flip")
    if arguments.scales != [1.0]:
        parts.append("scales-" + "-".join(f"{factor:g}" for factor in arguments.scales))
    return "-".join(part for part in parts if part)


def _metrics(
    result: Evaluation, model: Segmenter, preset: Preset, arguments: argparse.Namespace
) -> dict:
    """Return a record's metrics: the scores, and the views that they were measured on."""
    metrics: dict = {"pictures": len(result)}
    metrics |= {name: scores.as_dict() for name, scores in result.scores().items()}
    # A picture without labels has NaN, and JSON has no NaN.
    accuracies = result.picture_accuracy()
    metrics["picture_accuracy"] = [None if v != v else round(v, 4) for v in accuracies]
    if isinstance(model, GSS):
        metrics["prior_sha256"] = weights_hash(model.prior)
    if preset.view.window:
        metrics["window"] = list(preset.view.window)
    if preset.view.size:
        metrics["test_size"] = list(preset.view.size)
    if arguments.flip:
        metrics["flip"] = True
    if arguments.scales != [1.0]:
        metrics["scales"] = arguments.scales
    if isinstance(model, GSS) and (arguments.flip or len(arguments.scales) > 1 or arguments.map):
        metrics["averaged"] = "probabilities of X⁻¹"
    if arguments.map:
        metrics["label_map"] = Path(arguments.map).name
    return metrics


def _predict(arguments: argparse.Namespace, line: str) -> None:
    folder = Path(arguments.out)
    pictures = [Path(path) for path in arguments.pictures]
    check_outputs(pictures, folder, arguments.overwrite)
    check_writable(folder)
    model = create_model(
        arguments.preset,
        pretrained=arguments.weights,
        inverse=arguments.inverse,
        model=arguments.model,
    )
    model = model.to(arguments.device)
    for picture in pictures:
        for path in predict_file(model, picture, folder):
            _say(path)


def _data(arguments: argparse.Namespace, line: str) -> None:
    if arguments.action == "list":
        for name, kind in DATASETS.items():
            splits = "drawn by the code" if kind.drawn else ", ".join(kind.splits)
            _say(f"{name:<16} {number_of_classes(name):>3} classes   {splits}")
        return
    datasets = open_splits(arguments.name, arguments.data, arguments.classes, arguments.split)
    check_files(datasets, arguments.list, leave_out=arguments.exclude, say=_say)


def _export(arguments: argparse.Namespace, line: str) -> None:
    if arguments.released:
        _say(export_checkpoint(arguments.preset, arguments.run, arguments.released))
        return
    for path in export_weights(arguments.preset, arguments.run):
        _say(path)


def _import(arguments: argparse.Namespace, line: str) -> None:
    paths, report = import_checkpoint(
        arguments.checkpoint,
        arguments.config,
        arguments.out,
        palette=arguments.palette,
        dvae=arguments.dvae,
        command=line,
    )
    for path in paths:
        _say(path)
    _say(report)
    inverse = " --inverse ft-w" if any("inverse-ft-w" in path.name for path in paths) else ""
    use = f"--preset {arguments.config} --weights {shlex.quote(arguments.out)}{inverse}"
    _say(f"use it with: python -m gss_lite predict PICTURE {use}")


COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "data": _data,
    "export": _export,
    "import": _import,
}

if __name__ == "__main__":
    sys.exit(main())
