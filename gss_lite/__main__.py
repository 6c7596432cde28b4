"""python -m gss_lite train | evaluate | predict: the experiments of the notebooks, from a shell."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from gss_lite.build import CLASSES, SHIPPED, dataset_for, load_gss
from gss_lite.data.camvid import CORRUPT_TEST_FRAME
from gss_lite.data.transforms import eval_transform
from gss_lite.export import export_weights
from gss_lite.predict import predict_file
from gss_lite.presets import PRESETS, get_preset
from gss_lite.training.checkpoints import write_json
from gss_lite.training.evaluation import evaluate
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
    common.add_argument("--data", help="folder of the data set (default: $GSS_DATA/NAME, then data/NAME)")
    common.add_argument("--seed", type=int, help="instead of the preset's")

    train = commands.add_parser("train", parents=[common], help="train a stage; started again, it goes on from its last checkpoint")
    train.add_argument("--stage", choices=["vqvae", "prior", "all"], default="all")
    train.add_argument("--out", help="folder for weights, checkpoints and records (default: runs/PRESET)")
    train.add_argument("--stage-one", help="folder with palette and VQ-VAE for stage II (default: the folder of --out)")
    train.add_argument("--steps", type=int, help="instead of the preset's, for the stages trained")
    train.add_argument("--save-every", type=int, default=250, help="steps between checkpoints (default: 250)")
    train.add_argument("--workers", type=int, default=0, help="processes that load data (default: 0, in the training process)")

    test = commands.add_parser("evaluate", parents=[common], help="mIoU, mAcc, aAcc and the per-class table")
    test.add_argument("--split", default="test", choices=["train", "val", "test"])
    test.add_argument("--weights", default=str(SHIPPED), help="folder with the weights (default: the shipped ones)")
    test.add_argument("--record", help="where to write the run record (default: runs/PRESET/evaluate-SPLIT.json)")
    test.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")

    predict = commands.add_parser("predict", parents=[common], help="segment pictures: writes mask, maskige and overlay")
    predict.add_argument("pictures", nargs="+", help="picture files")
    predict.add_argument("--out", default="predictions", help="folder for the results")
    predict.add_argument("--weights", default=str(SHIPPED), help="folder with the weights (default: the shipped ones)")

    export = commands.add_parser("export", help="put a run's weights and records into the package, in 16 bits")
    export.add_argument("--preset", required=True)
    export.add_argument("--run", required=True, help="folder that `train` wrote")
    return main


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 with one line on standard error when the input was at fault."""
    arguments = parser().parse_args(argv)
    line = shlex.join(["python", "-m", "gss_lite", *(sys.argv[1:] if argv is None else argv)])
    try:
        COMMANDS[arguments.command](arguments, line)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _preset(arguments: argparse.Namespace):
    preset = get_preset(arguments.preset)
    if getattr(arguments, "seed", None) is not None:
        preset = replace(preset, seed=arguments.seed)
    if getattr(arguments, "steps", None):
        preset = replace(
            preset, vqvae=replace(preset.vqvae, steps=arguments.steps), prior=replace(preset.prior, steps=arguments.steps)
        )
    return preset


def _train(arguments: argparse.Namespace, line: str) -> None:
    preset = _preset(arguments)
    folder = Path(arguments.out or f"runs/{preset.name}")
    options = {"data": arguments.data, "command": line, "save_every": arguments.save_every, "workers": arguments.workers}
    if arguments.stage in {"vqvae", "all"}:
        train_vqvae(preset, folder, **options)
    if arguments.stage in {"prior", "all"}:
        train_prior(preset, folder, stage_one=Path(arguments.stage_one) if arguments.stage_one else None, **options)
    print(f"weights and records are in {folder}")


def _evaluate(arguments: argparse.Namespace, line: str) -> None:
    preset = _preset(arguments)
    dataset = dataset_for(preset, arguments.split, folder=arguments.data, transform=eval_transform())
    result = evaluate(load_gss(preset, arguments.weights), dataset, device=arguments.device)
    scores = result.scores()
    print(f"{preset.name}, {arguments.split} split, {len(result)} pictures, {result.seconds:.0f} s\n")
    print(scores["prediction"].table(CLASSES[preset.data]) + f"\n\n{'':<34}  mIoU    mAcc    aAcc")
    for name, label in ROWS.items():
        print(f"{label:<32}  {100 * scores[name].miou:6.2f}  {100 * scores[name].macc:6.2f}  {100 * scores[name].aacc:6.2f}")
    metrics = {"pictures": len(result), **{name: value.as_dict() for name, value in scores.items()}}
    corrupt = [i for i, name in enumerate(getattr(dataset, "names", [])) if name == CORRUPT_TEST_FRAME]
    if corrupt:
        without = result.scores(leave_out=corrupt)
        metrics["without_corrupt_frame"] = {name: value.miou for name, value in without.items()}
        print(f"\nwithout {CORRUPT_TEST_FRAME}, whose mask is shifted: GSS-FF {100 * without['prediction'].miou:.2f} mIoU")
    metrics["picture_accuracy"] = [round(value, 4) for value in result.picture_accuracy()]
    path = Path(arguments.record or f"runs/{preset.name}/evaluate-{arguments.split}.json")
    write_json(path, run_record(
        kind=f"evaluate {arguments.split}", preset=preset.name, seed=preset.seed, steps=None, seconds=result.seconds,
        metrics=metrics, command=line,
    ))
    print(f"\nrun record: {path}")


def _predict(arguments: argparse.Namespace, line: str) -> None:
    preset = _preset(arguments)
    gss = load_gss(preset, arguments.weights)
    for picture in arguments.pictures:
        for path in predict_file(gss, Path(picture), Path(arguments.out)):
            print(path)


def _export(arguments: argparse.Namespace, line: str) -> None:
    for path in export_weights(get_preset(arguments.preset), Path(arguments.run), SHIPPED):
        print(path)


COMMANDS = {"train": _train, "evaluate": _evaluate, "predict": _predict, "export": _export}

if __name__ == "__main__":
    sys.exit(main())
