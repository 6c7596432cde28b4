"""GSS, its discriminative twin and UViM, trained on the same pictures with one backbone.

For each seed this command trains stage II of GSS, its X⁻¹ FT-W, the twin, UViM's stage I, and
UViM's language model with both ways of decoding. Stage II has the same backbone, number of steps
and batch for all of them. GSS's stage I (palette and VQ-VAE) is the trained one in --weights. It is
the same for all seeds, and its seconds are those of its own record.

For every system the record holds mIoU, the reconstruction from true masks, the parameters and the
seconds of each stage, and the seconds of the evaluation. A stage that two systems share is trained
once and named in both. Tables 4 and 5 of the paper have 70.77 and 43.71 for UViM, and 78.90 and
46.29 for GSS-FF. Started again with the same settings, the command skips what is in its record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch.utils.data import Dataset

import gss_lite as gss
from gss_lite.factory import create_stage_one, stage_one_hashes
from gss_lite.storage import read_json
from gss_lite.tables import spread, text_table
from gss_lite.training.run import schedule_hash
from notebooks.experiments.runner import Run, new_parser, option, subset

# System → the stages that it is made of, and what `create_model` needs to put it together.
SYSTEMS = {
    "GSS-FF": (("vqvae", "prior"), {}),
    "GSS-FT-W": (("vqvae", "prior", "inverse-ft-w"), {"inverse": "ft-w"}),
    "twin": (("pixel",), {"model": "pixel"}),
    "UViM, one pass": (("uvim-base", "uvim-code"), {"model": "uvim"}),
    "UViM, autoregressive": (("uvim-base", "uvim-code-ar"), {"model": "uvim-ar"}),
}
TRAINED = ("prior", "inverse-ft-w", "uvim-base", "uvim-code")  # schedules in the record


def run_one(
    preset: gss.Preset,
    system: str,
    folder: Path,
    weights: Path,
    dataset: Dataset,
    options: gss.LoopOptions,
    **how: object,
) -> dict:
    """Train one system and evaluate it; stages that are finished in `folder` are taken up.

    Args:
        system: a key of SYSTEMS.
        folder: for the weights of this seed.
        weights: the folder of GSS's trained stage I.
        dataset: for the evaluation.
        options: for the training.
        how: device and more of `train` and `evaluate`: "data", "command" and "device".
    """
    stages, parts = SYSTEMS[system]
    training = {"data": how["data"], "command": how["command"], "options": options}
    for stage in stages:
        if stage != "vqvae":
            source = weights if stage == "prior" else None
            gss.train(preset, folder, stage=stage, stage_one=source, **training)
    model = gss.create_model(preset, pretrained=folder, **parts)
    result = gss.evaluate(model, dataset, device=how["device"], progress=options.progress)
    cards = {}
    for stage in stages:
        path = folder / f"{preset.name}.{stage}.json"
        if path.is_file():  # a shared tokenizer has no card here
            cards[stage] = read_json(path)
    return {
        "miou": round(100 * result.miou, 3),
        "scores": {name: round(100 * s.miou, 3) for name, s in result.scores().items()},
        "seconds": {stage: card["seconds"] for stage, card in cards.items()},
        "parameters": {stage: card["parameters"] for stage, card in cards.items()},
        "evaluation_seconds": round(result.seconds, 1),
    }


def table(rows: Mapping[str, Mapping[str, Mapping]]) -> str:
    """Format the record's rows: mean ± standard deviation over the seeds."""
    lines = {}
    for system, seeds in rows.items():
        found = list(seeds.values())
        stages = found[0]["seconds"]
        first = [name for name in stages if name in ("vqvae", "uvim-base")]
        others = [name for name in stages if name not in first]
        parameters = sum(found[0]["parameters"].values())
        lines[system] = [
            spread([each["miou"] for each in found], 1),
            spread([each["scores"].get("reconstruction") for each in found], 1),
            *[
                spread([sum(each["seconds"][name] for name in names) for each in found], 0)
                for names in (first, others)
            ],
            spread([each["evaluation_seconds"] for each in found], 0),
            f"{parameters / 1e6:.2f}",
        ]
    head = (
        "",
        "mIoU",
        "from true masks",
        "stage I, s",
        "stage II and X⁻¹, s",
        "evaluation, s",
        "10⁶ parameters",
    )
    return text_table(head, lines)


parser = partial(
    new_parser,
    __file__,
    __doc__,
    preset="scenes-cpu",
    weights={},
    data=None,
    split="test",
    pictures=None,
    seeds=3,
    steps=option(600, "of stage II, for every system"),
    work="runs/{preset}/uvim-comparison",
    record="runs/{preset}/uvim-comparison.json",
)


def main(argv: list[str] | None = None) -> None:
    """Train and measure every system and seed. The record is written after each one."""
    run = Run(parser(), argv)
    given = run.given
    preset = gss.get_preset(given.preset)
    warmup = max(1, given.steps // 10)
    batch = preset.schedule("prior").batch
    preset = preset.with_schedule("prior", steps=given.steps, warmup=warmup, ema=0.98)
    preset = preset.with_schedule(
        "uvim-code", steps=given.steps, warmup=warmup, ema=0.98, batch=batch
    )
    weights = Path(given.weights)
    settings = {
        "split": given.split,
        "pictures_asked_for": given.pictures,
        "plans": {name: schedule_hash(preset, name, preset.schedule(name)) for name in TRAINED},
        "stage_one": stage_one_hashes(*create_stage_one(preset, weights)),
    }
    before = read_json(run.record) if run.record.exists() else {"metrics": {}}
    same = settings.items() <= before["metrics"].items()
    rows = before["metrics"]["rows"] if same else {}
    if same:
        run.started -= before["seconds"]
    elif before["metrics"]:
        print(f"{run.record} has other settings; it begins anew", flush=True)
    dataset = subset(gss.create_dataset(preset, given.split, folder=given.data), given.pictures)
    options = gss.LoopOptions(save_every=100, progress=not given.quiet)
    how = {"data": given.data, "command": run.command, "device": given.device}
    for seed in range(given.seeds):
        folder = run.path(given.work) / f"{given.steps}-steps-seed-{seed}"
        for system in SYSTEMS:
            if str(seed) in rows.get(system, {}):
                continue
            its_preset = replace(preset, seed=seed)
            found = run_one(its_preset, system, folder, weights, dataset, options, **how)
            rows.setdefault(system, {})[str(seed)] = found
            run.write(preset.name, {**settings, "pictures": len(dataset), "rows": rows})
            print(f"seed {seed}, {system}: {found['miou']:.1f} mIoU", flush=True)
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
