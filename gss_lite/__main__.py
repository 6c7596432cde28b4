"""python -m gss_lite train | evaluate | predict | export: the experiments, from a shell.

`gss_lite.cli` has the options.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from gss_lite.cli import parser, stage_two_options
from gss_lite.contracts import Segmenter
from gss_lite.data import DATASETS, create_dataset
from gss_lite.distributed import init_distributed, is_main
from gss_lite.evaluation import Evaluation, evaluate
from gss_lite.export import export_weights
from gss_lite.factory import INVERSES, create_model, load_inverse
from gss_lite.gss import GSS
from gss_lite.predict import check_outputs, predict_file
from gss_lite.presets import Preset, get_preset
from gss_lite.storage import check_replaceable, run_record, weights_hash, write_json
from gss_lite.training import LoopOptions, train
from gss_lite.training.tokenizer import owns_palette, trains_tokenizer

EXPECTED = (ValueError, OSError, FloatingPointError, MemoryError, ImportError)


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when it worked, 2 with one message on standard error when the input was at fault.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that cannot show a letter loses no work
            stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    line = shlex.join(["python", "-m", "gss_lite", *given])
    try:
        COMMANDS[arguments.command](arguments, line)
    except torch.OutOfMemoryError as error:
        # Training explains this itself. Here a model was placed, evaluated or asked to predict.
        reason = str(error).splitlines()[0]
        print(
            f"error: the GPU ran out of memory ({reason}). End what else runs on it, take smaller "
            "pictures, or --device cpu",
            file=sys.stderr,
        )
        return 2
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        if not isinstance(error, EXPECTED) and not notes:
            raise
        print(f"error: {' '.join([str(error), *notes])}", file=sys.stderr)
        return 2
    return 0


def _preset(arguments: argparse.Namespace) -> Preset:
    preset = get_preset(arguments.preset)
    if arguments.seed is not None:
        preset = replace(preset, seed=arguments.seed)
    return preset


def _train(arguments: argparse.Namespace, line: str) -> None:
    preset = _preset(arguments)
    stage = arguments.stage
    if arguments.maskige and not stage.startswith("inverse-"):
        raise ValueError(
            f"--maskige says what X⁻¹ is trained on, with --stage inverse-…; --stage {stage} "
            "trains none. Leave it out."
        )
    if arguments.steps and stage == "inverse-gaussian":
        raise ValueError("--stage inverse-gaussian measures, in no steps; leave --steps out")
    changes, how = stage_two_options(arguments)
    if "prior" in preset.schedules and changes:
        preset = preset.with_schedule("prior", **changes)
    if arguments.steps:
        for name in preset.schedules:
            preset = preset.with_schedule(name, steps=arguments.steps)
    folder = Path(arguments.out or f"runs/{preset.name}")
    options = LoopOptions(
        save_every=arguments.save_every,
        workers=arguments.workers,
        tensorboard=arguments.tensorboard,
    )
    train(
        preset,
        folder,
        stage=stage,
        data=arguments.data,
        stage_one=arguments.stage_one,
        maskige=arguments.maskige or "noisy",
        options=options,
        command=line,
        **how,
    )
    if not is_main():
        return
    if stage in ("vqvae", "all") and not trains_tokenizer(preset):
        shared = isinstance(preset.tokenizer, str)
        owner = f"the trained tokenizer of {preset.tokenizer}" if shared else "OpenAI's dVAE"
        done = "made its palette" if owns_palette(preset) else "took its palette too"
        print(f"{preset.name} shares {owner}: stage I {done}, and trained nothing")
    print(f"weights and records are in {folder}")


def _evaluate(arguments: argparse.Namespace, line: str) -> None:
    preset = _preset(arguments)
    name, kind = _what_is_evaluated(arguments, preset)
    path = Path(arguments.record or f"runs/{preset.name}/{_record_name(arguments, kind)}.json")
    check_replaceable(path)
    dataset = create_dataset(preset, arguments.split, folder=arguments.data)
    device = init_distributed(torch.device(arguments.device))
    model = create_model(
        preset,
        pretrained=arguments.weights,
        inverse=arguments.inverse,
        model=arguments.model,
    )
    result = evaluate(model, dataset, flip=arguments.flip, scales=arguments.scales, device=device)
    if not is_main():
        return
    count = len(result)
    print(f"{preset.name}, {arguments.split} split, {count} pictures, {result.seconds:.0f} s\n")
    print(result.table(f"{name} prediction"))
    metrics = _metrics(result, model, preset, arguments)
    left_out = _frames_to_leave_out(preset, dataset)
    if left_out:
        without = result.scores(leave_out=left_out)
        metrics["without_corrupt_frame"] = {k: scores.miou for k, scores in without.items()}
        names = ", ".join(dataset.names[i] for i in left_out)
        miou = 100 * without["prediction"].miou
        print(f"\nwithout {names}, whose mask is shifted: {name} prediction {miou:.2f} mIoU")
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
    write_json(path, record)
    print(f"\nrun record: {path}")


def _what_is_evaluated(arguments: argparse.Namespace, preset: Preset) -> tuple[str, str]:
    """What the prediction is called, and the word for it in records: "", "pixel", "inverse-…"."""
    if arguments.model == "pixel":
        return "pixel twin", "pixel"
    choice = arguments.inverse
    if choice.endswith(".safetensors"):
        _, choice = load_inverse(choice)
    return INVERSES.get(choice, choice), "" if choice == "ff" else f"inverse-{choice}"


def _record_name(arguments: argparse.Namespace, kind: str) -> str:
    """A record's file name says how the pictures were looked at: no result replaces another."""
    parts = [f"evaluate-{arguments.split}", kind]
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
    """What a record holds of a result, and of how the pictures were looked at."""
    metrics: dict = {"pictures": len(result)}
    metrics |= {name: scores.as_dict() for name, scores in result.scores().items()}
    # NaN where nothing is labelled, which JSON cannot hold.
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
    if isinstance(model, GSS) and (arguments.flip or len(arguments.scales) > 1):
        metrics["averaged"] = "probabilities of X⁻¹"
    return metrics


def _frames_to_leave_out(preset: Preset, dataset: object) -> list[int]:
    """Numbers of the frames that the registry knows to be broken."""
    names = list(getattr(dataset, "names", []))
    broken = DATASETS[preset.data.name].leave_out
    return [i for i, name in enumerate(names) if name in broken]


def _predict(arguments: argparse.Namespace, line: str) -> None:
    folder = Path(arguments.out)
    pictures = [Path(path) for path in arguments.pictures]
    check_outputs(pictures, folder, arguments.overwrite)
    model = create_model(arguments.preset, pretrained=arguments.weights, inverse=arguments.inverse)
    model = model.to(arguments.device)
    for picture in pictures:
        for path in predict_file(model, picture, folder):
            print(path)


def _export(arguments: argparse.Namespace, line: str) -> None:
    for path in export_weights(arguments.preset, arguments.run):
        print(path)


COMMANDS = {"train": _train, "evaluate": _evaluate, "predict": _predict, "export": _export}

if __name__ == "__main__":
    sys.exit(main())
