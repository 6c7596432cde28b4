"""python -m gss_lite train | evaluate | predict | export: the experiments of the notebooks, from a shell. `gss_lite.cli` has the options."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import torch

from gss_lite.baselines.pixel import load_twin
from gss_lite.cli import parser, stage_two_options
from gss_lite.data import dataset_for
from gss_lite.data.folders import CORRUPT_TEST_FRAME
from gss_lite.data.transforms import eval_transform
from gss_lite.distributed import is_main, join
from gss_lite.evaluation import evaluate, evaluate_pixel, view_of
from gss_lite.factory import (
    SHIPPED,
    TITLES,
    comes_with_tokenizer,
    export_weights,
    load_gss,
    with_inverse,
)
from gss_lite.inference import check_outputs, predict_file
from gss_lite.presets import get_preset
from gss_lite.presets.parts import Preset
from gss_lite.presets.plans import plan_for, shortened
from gss_lite.storage import run_record, weights_hash, write_json
from gss_lite.training.inverse import gaussian_stage, train_inverse
from gss_lite.training.prior import train_pixel, train_prior
from gss_lite.training.tokenizer import train_vqvae, trains_tokenizer


def main(argv: list[str] | None = None) -> int:
    """Run a command; 0 when it worked, 2 with one line on standard error when the input was at fault."""
    arguments = parser().parse_args(argv)
    line = shlex.join(["python", "-m", "gss_lite", *(sys.argv[1:] if argv is None else argv)])
    try:
        COMMANDS[arguments.command](arguments, line)
    # where no training step can say more: placing the model, evaluating, predicting
    except torch.OutOfMemoryError as error:
        print(
            f"error: the GPU ran out of memory ({str(error).splitlines()[0]}). End what else runs "
            "on it, take smaller pictures, or --device cpu",
            file=sys.stderr,
        )
        return 2
    except (ValueError, OSError, FloatingPointError, MemoryError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _preset(arguments: argparse.Namespace) -> Preset:
    preset = get_preset(arguments.preset)
    if arguments.seed is not None:
        preset = replace(preset, seed=arguments.seed)
    if getattr(arguments, "steps", None) is not None:
        preset = replace(
            preset,
            vqvae=replace(preset.vqvae, steps=arguments.steps),
            prior=preset.prior and replace(preset.prior, steps=arguments.steps),
        )
    return preset


def _train(arguments: argparse.Namespace, line: str) -> None:
    preset, stage = _preset(arguments), arguments.stage
    inverse = stage.removeprefix("inverse-") if stage.startswith("inverse-") else None
    if arguments.stage_one and stage != "prior" and not inverse:
        raise ValueError(
            "--stage-one is where --stage prior finds palette and VQ-VAE, and --stage inverse-… a "
            f"trained model; --stage {stage} "
            "trains them itself. Leave one out."
        )
    if arguments.maskige and not inverse:
        raise ValueError(
            f"--maskige says what X⁻¹ is trained on, with --stage inverse-…; --stage {stage} "
            "trains none. Leave it out."
        )
    schedule, stage_two = stage_two_options(arguments)
    # before anything is written: the first process does that
    device = join(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if schedule and preset.prior:
        preset = replace(preset, prior=replace(preset.prior, **schedule))
    folder = Path(arguments.out or f"runs/{preset.name}")
    stage_one = SHIPPED if arguments.stage_one == "shipped" else Path(arguments.stage_one or folder)
    options = {
        "data": arguments.data,
        "command": line,
        "save_every": arguments.save_every,
        "workers": arguments.workers,
        "tensorboard": arguments.tensorboard,
    }
    if stage in {"vqvae", "all"}:
        train_vqvae(preset, folder, **options)
        if not trains_tokenizer(preset) and is_main():
            owner = (
                f"the trained tokenizer of {preset.tokenizer_from}"
                if preset.tokenizer_from
                else "OpenAI's dVAE"
            )
            done = "took its palette too" if comes_with_tokenizer(preset) else "made its palette"
            print(f"{preset.name} shares {owner}: stage I {done}, and trained nothing")
    if stage == "prior" or (stage == "all" and preset.prior):
        train_prior(preset, folder, stage_one=stage_one, **options, **stage_two)
    if stage == "pixel":
        train_pixel(preset, folder, **options, **stage_two)
    if inverse:
        _train_inverse(preset, folder, stage_one, inverse, arguments, options, device)
    if is_main():
        print(f"weights and records are in {folder}")


def _train_inverse(
    preset: Preset,
    folder: Path,
    stage_one: Path,
    kind: str,
    arguments: argparse.Namespace,
    options: dict,
    device: torch.device,
) -> None:
    if not (stage_one / f"{preset.name}.prior.safetensors").is_file():
        raise FileNotFoundError(
            f"no trained prior of {preset.name} in {stage_one}, and X⁻¹ is trained on what it "
            "predicts. Train it first "
            f"(--stage all --out {stage_one}), or say where it is: --stage-one FOLDER, or "
            "--stage-one shipped for the one in the package"
        )
    gss, maskige = load_gss(preset, stage_one).to(device), arguments.maskige or "noisy"
    if kind != "gaussian":
        plan = plan_for(preset, kind)
        train_inverse(
            preset,
            folder,
            kind,
            maskige=maskige,
            gss=gss,
            plan=shortened(plan, arguments.steps or plan.schedule.steps),
            **options,
        )
    elif arguments.steps:
        raise ValueError("--stage inverse-gaussian measures, in no steps; leave --steps out")
    else:
        gaussian_stage(
            preset, folder, gss, maskige=maskige, data=arguments.data, command=options["command"]
        )


def _evaluate(arguments: argparse.Namespace, line: str) -> None:
    preset, pixel = _preset(arguments), arguments.model == "pixel"
    if pixel and arguments.inverse != "ff":
        raise ValueError(
            "the discriminative twin paints no maskige and has no X⁻¹; leave --inverse or --model "
            "pixel out"
        )
    dataset = dataset_for(
        preset, arguments.split, folder=arguments.data, transform=eval_transform()
    )
    view, device = (
        view_of(preset.window, arguments.flip, preset.test_size, arguments.scales),
        join(torch.device(arguments.device)),
    )
    soft, known = arguments.flip or len(arguments.scales) > 1, {}
    if pixel:
        result, name = (
            evaluate_pixel(load_twin(preset, arguments.weights), dataset, view=view, device=device),
            "pixel",
        )
    else:
        gss, name = with_inverse(
            load_gss(preset, arguments.weights), preset, arguments.inverse, arguments.weights
        )
        known["prior_sha256"] = weights_hash(gss.prior)
        result = evaluate(
            gss, dataset, view=view, soft=soft, batch=1 if preset.test_size[0] else 4, device=device
        )
    if not is_main():
        return
    kind = {"ff": "", "pixel": "pixel"}.get(name, f"inverse-{name}")
    labels = {
        "prediction": f"{TITLES.get(name, 'pixel twin')} prediction",
        "pixel_head": "auxiliary pixel head",
        "reconstruction": "reconstruction of the true masks",
    }
    scores = result.scores()
    print(
        f"{preset.name}, {arguments.split} split, {len(result)} pictures, {result.seconds:.0f} s\n"
    )
    print(scores["prediction"].table(dataset.classes) + f"\n\n{'':<34}  mIoU    mAcc    aAcc")
    for key in (key for key in labels if key in scores):
        print(
            f"{labels[key]:<32}  {100 * scores[key].miou:6.2f}  {100 * scores[key].macc:6.2f}  "
            f"{100 * scores[key].aacc:6.2f}"
        )
    metrics = {"pictures": len(result), **{key: value.as_dict() for key, value in scores.items()}}
    corrupt = [
        i for i, file in enumerate(getattr(dataset, "names", [])) if file == CORRUPT_TEST_FRAME
    ]
    if corrupt:
        without = result.scores(leave_out=corrupt)
        metrics["without_corrupt_frame"] = {key: value.miou for key, value in without.items()}
        print(
            f"\nwithout {CORRUPT_TEST_FRAME}, whose mask is shifted: {labels['prediction']} "
            f"{100 * without['prediction'].miou:.2f} mIoU"
        )
    # NaN: nothing labelled
    metrics["picture_accuracy"] = [
        None if value != value else round(value, 4) for value in result.picture_accuracy()
    ]
    how = {
        key: list(value)
        for key, value in (("window", preset.window), ("test_size", preset.test_size))
        if value[0]
    }
    metrics |= {
        **known,
        **how,
        **({"flip": True} if arguments.flip else {}),
        **({"scales": arguments.scales} if arguments.scales != [1.0] else {}),
        **({"averaged": "probabilities of X⁻¹"} if soft and not pixel else {}),
    }
    path = Path(
        arguments.record
        or f"runs/{preset.name}/evaluate-{arguments.split}{kind and '-' + kind}.json"
    )
    write_json(
        path,
        run_record(
            kind=f"evaluate {arguments.split} {kind}".strip(),
            preset=preset.name,
            seed=preset.seed,
            steps=None,
            seconds=result.seconds,
            metrics=metrics,
            command=line,
            device=device,
        ),
    )
    print(f"\nrun record: {path}")


def _predict(arguments: argparse.Namespace, line: str) -> None:
    preset, folder, pictures = (
        get_preset(arguments.preset),
        Path(arguments.out),
        [Path(p) for p in arguments.pictures],
    )
    check_outputs(pictures, folder)
    gss, _ = with_inverse(
        load_gss(preset, arguments.weights), preset, arguments.inverse, arguments.weights
    )
    view = view_of(preset.window, size=preset.test_size)
    for picture in pictures:
        for path in predict_file(gss, picture, folder, preset.size, arguments.device, view):
            print(path)


def _export(arguments: argparse.Namespace, line: str) -> None:
    for path in export_weights(get_preset(arguments.preset), Path(arguments.run), SHIPPED):
        print(path)


COMMANDS = {"train": _train, "evaluate": _evaluate, "predict": _predict, "export": _export}


if __name__ == "__main__":
    sys.exit(main())
