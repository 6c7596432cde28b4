"""python -m gss_lite train | evaluate | predict: the experiments of the notebooks, from a shell."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from gss_lite.baselines.pixel import load_twin
from gss_lite.build import CLASSES, SHIPPED, dataset_for, load_gss
from gss_lite.data.camvid import CORRUPT_TEST_FRAME
from gss_lite.data.transforms import eval_transform
from gss_lite.export import export_weights
from gss_lite.predict import check_outputs, predict_file
from gss_lite.presets import PRESETS, get_preset
from gss_lite.training.checkpoints import write_json
from gss_lite.training.evaluation import evaluate
from gss_lite.training.pixel_stage import evaluate_pixel, train_pixel
from gss_lite.training.records import run_record
from gss_lite.training.stages import train_prior, train_vqvae


ROWS = {
    "prediction": "GSS-FF prediction", "pixel_head": "auxiliary pixel head", "reconstruction": "reconstruction of the true masks",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main = argparse.ArgumentParser(prog="python -m gss_lite", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--preset", default="scenes-cpu", help=f"one of {', '.join(PRESETS)}")
    from_data = argparse.ArgumentParser(add_help=False)
    from_data.add_argument("--data", help="folder of a data set that is on disk (default: $GSS_DATA/NAME, then data/NAME)")
    from_data.add_argument("--seed", type=whole_number(0), help="instead of the preset's")
    with_weights = argparse.ArgumentParser(add_help=False)
    with_weights.add_argument("--weights", default=str(SHIPPED), help="folder with the weights (default: the shipped ones)")
    with_weights.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")

    train = commands.add_parser("train", parents=[common, from_data], help="train a stage; started again, it goes on from its last checkpoint")
    train.add_argument("--stage", choices=["vqvae", "prior", "pixel", "all"], default="all",
                       help="vqvae: stage I; prior: stage II; all: both (default); pixel: the discriminative twin of stage II")
    train.add_argument("--out", help="folder for weights, checkpoints and records (default: runs/PRESET)")
    train.add_argument("--stage-one", help="with --stage prior: folder of palette and VQ-VAE (default: that of --out)")
    train.add_argument("--steps", type=whole_number(1), help="instead of the preset's, for the stages trained")
    train.add_argument("--save-every", type=whole_number(1), default=250, help="steps between checkpoints (default: 250)")
    train.add_argument("--workers", type=whole_number(0), default=0, help="processes that load data (default: 0, in the training process)")

    test = commands.add_parser("evaluate", parents=[common, from_data, with_weights], help="mIoU, mAcc, aAcc and the per-class table")
    test.add_argument("--split", default="test", choices=["train", "val", "test"])
    test.add_argument("--model", default="gss", choices=["gss", "pixel"], help="pixel: the discriminative twin")
    test.add_argument("--record", help="where to write the run record (default: runs/PRESET/evaluate-SPLIT.json)")

    predict = commands.add_parser("predict", parents=[common, with_weights], help="segment pictures: writes mask, maskige and overlay")
    predict.add_argument("pictures", nargs="+", help="picture files")
    predict.add_argument("--out", default="predictions", help="folder for the results")

    export = commands.add_parser("export", help="put a run's weights and records into the package, in 16 bits")
    export.add_argument("--preset", required=True)
    export.add_argument("--run", required=True, help="folder that `train` wrote")
    return main


def whole_number(least: int):
    """An argument type: the text of a whole number, `least` or more."""
    def parse(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, {least} or more; got {text!r}")
        return int(text)
    return parse


def device(text: str) -> torch.device:
    """An argument type: the name of a device that is there."""
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the way it was built
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"no device {text!r} to use here, as cpu or cuda ({reason})") from error


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 with one line on standard error when the input was at fault."""
    arguments = parser().parse_args(argv)
    line = shlex.join(["python", "-m", "gss_lite", *(sys.argv[1:] if argv is None else argv)])
    try:
        COMMANDS[arguments.command](arguments, line)
    except (ValueError, OSError, FloatingPointError, MemoryError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _preset(arguments: argparse.Namespace):
    preset = get_preset(arguments.preset)
    if arguments.seed is not None:
        preset = replace(preset, seed=arguments.seed)
    if getattr(arguments, "steps", None) is not None:
        preset = replace(
            preset, vqvae=replace(preset.vqvae, steps=arguments.steps),
            prior=preset.prior and replace(preset.prior, steps=arguments.steps),
        )
    return preset


def _train(arguments: argparse.Namespace, line: str) -> None:
    preset = _preset(arguments)
    if arguments.stage_one and arguments.stage != "prior":
        raise ValueError(f"--stage-one is where --stage prior finds palette and VQ-VAE; --stage {arguments.stage} trains them itself. Leave one out.")
    folder = Path(arguments.out or f"runs/{preset.name}")
    options = {"data": arguments.data, "command": line, "save_every": arguments.save_every, "workers": arguments.workers}
    if arguments.stage in {"vqvae", "all"}:
        train_vqvae(preset, folder, **options)
    if arguments.stage == "prior" or (arguments.stage == "all" and preset.prior):
        train_prior(preset, folder, stage_one=Path(arguments.stage_one) if arguments.stage_one else None, **options)
    if arguments.stage == "pixel":
        train_pixel(preset, folder, **options)
    print(f"weights and records are in {folder}")


def _evaluate(arguments: argparse.Namespace, line: str) -> None:
    preset = _preset(arguments)
    dataset = dataset_for(preset, arguments.split, folder=arguments.data, transform=eval_transform())
    if arguments.model == "pixel":
        result = evaluate_pixel(load_twin(preset, arguments.weights), dataset, device=arguments.device)
    else:
        result = evaluate(load_gss(preset, arguments.weights), dataset, device=arguments.device)
    scores = result.scores()
    print(f"{preset.name}, {arguments.split} split, {len(result)} pictures, {result.seconds:.0f} s\n")
    print(scores["prediction"].table(CLASSES[preset.data]) + f"\n\n{'':<34}  mIoU    mAcc    aAcc")
    for name, label in ((name, label) for name, label in ROWS.items() if name in scores):
        print(f"{label:<32}  {100 * scores[name].miou:6.2f}  {100 * scores[name].macc:6.2f}  {100 * scores[name].aacc:6.2f}")
    metrics = {"pictures": len(result), **{name: value.as_dict() for name, value in scores.items()}}
    corrupt = [i for i, name in enumerate(getattr(dataset, "names", [])) if name == CORRUPT_TEST_FRAME]
    if corrupt:
        without = result.scores(leave_out=corrupt)
        metrics["without_corrupt_frame"] = {name: value.miou for name, value in without.items()}
        print(f"\nwithout {CORRUPT_TEST_FRAME}, whose mask is shifted: GSS-FF {100 * without['prediction'].miou:.2f} mIoU")
    metrics["picture_accuracy"] = [round(value, 4) for value in result.picture_accuracy()]
    path = Path(arguments.record or f"runs/{preset.name}/evaluate-{arguments.split}{'-pixel' if arguments.model == 'pixel' else ''}.json")
    write_json(path, run_record(
        kind=f"evaluate {arguments.split}" + (" pixel" if arguments.model == "pixel" else ""), preset=preset.name, seed=preset.seed, steps=None, seconds=result.seconds,
        metrics=metrics, command=line, device=arguments.device,
    ))
    print(f"\nrun record: {path}")


def _predict(arguments: argparse.Namespace, line: str) -> None:
    preset, folder, pictures = get_preset(arguments.preset), Path(arguments.out), [Path(p) for p in arguments.pictures]
    check_outputs(pictures, folder)
    gss = load_gss(preset, arguments.weights)
    for picture in pictures:
        for path in predict_file(gss, picture, folder, preset.size, arguments.device):
            print(path)


def _export(arguments: argparse.Namespace, line: str) -> None:
    for path in export_weights(get_preset(arguments.preset), Path(arguments.run), SHIPPED):
        print(path)


COMMANDS = {"train": _train, "evaluate": _evaluate, "predict": _predict, "export": _export}

if __name__ == "__main__":
    sys.exit(main())
