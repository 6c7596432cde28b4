"""What `train` can be asked for stage II, and how `evaluate` looks at a picture. Several processes: test_launched.py."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file

from gss_lite import __main__ as cli
from gss_lite.baselines.pixel import load_twin
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.evaluation import evaluate, view_of
from gss_lite.factory import load_gss
from gss_lite.gss import GSS
from gss_lite.inference import flipped, mask_scorer, multi_scale, sliding
from gss_lite.metrics import SegmentationMetrics
from gss_lite.presets import get_preset
from gss_lite.storage import load_checkpoint

TINY = get_preset("scenes-tiny")


@pytest.fixture
def stage_one(tiny_run, tmp_path):
    """A folder with nothing but the tiny model's palette and VQ-VAE."""
    for path in tiny_run.glob("scenes-tiny.vqvae.*"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def train(folder, *options, stage="prior"):
    return cli.main(
        [
            "train",
            "--preset",
            "scenes-tiny",
            "--stage",
            stage,
            "--out",
            str(folder),
            "--steps",
            "6",
            *options,
        ]
    )


@pytest.mark.parametrize("stage", ["prior", "pixel"])
def test_the_best_of_the_validations_is_kept_and_on_request_exported(stage_one, stage):
    assert (
        train(stage_one, "--validate-every", "2", "--keep", "best", "--tensorboard", stage=stage)
        == 0
    )
    record = json.loads((stage_one / f"scenes-tiny.{stage}.json").read_text())
    scores = {e["step"]: e["score"] for e in record["log"] if "score" in e}
    assert list(scores) == [2, 4, 6] and record["kept"]["score"] == pytest.approx(
        max(scores.values()), rel=1e-4
    )
    best = torch.load(stage_one / stage / "best.pt", weights_only=True)
    written = load_file(stage_one / f"scenes-tiny.{stage}.safetensors")
    assert best["step"] == record["kept"]["step"] and all(
        torch.equal(v, written[k]) for k, v in best["learner"].items()
    )
    judged = dataset_for(replace(TINY, seed=0), "val", transform=eval_transform())
    if stage == "prior":
        assert evaluate(load_gss(TINY, stage_one), judged, progress=False).scores()[
            "prediction"
        ].miou == pytest.approx(best["score"])
    assert list((stage_one / stage / "tensorboard").iterdir())


def test_without_it_the_last_weights_are_written(stage_one):
    assert train(stage_one, "--validate-every", "2") == 0
    last = load_checkpoint(
        stage_one / "prior" / "checkpoint.pt",
        torch.load(stage_one / "prior" / "checkpoint.pt", weights_only=True)["run"],
    )
    written = load_file(stage_one / "scenes-tiny.prior.safetensors")
    average = {
        k.removeprefix("module."): v for k, v in last["average"].items() if k.startswith("module.")
    }
    assert all(torch.equal(v, average[k]) for k, v in written.items())
    assert "kept" not in json.loads((stage_one / "scenes-tiny.prior.json").read_text())


def test_keep_best_of_a_run_that_was_never_validated_is_refused(stage_one, capsys):
    assert train(stage_one) == 0
    assert train(stage_one, "--validate-every", "2", "--keep", "best") == 2
    assert "no best.pt in" in capsys.readouterr().err


def test_what_saves_memory_is_passed_on_and_the_run_may_go_on_with_it(stage_one, monkeypatch):
    assert train(stage_one, "--precision", "bf16") == 0
    record = json.loads((stage_one / "scenes-tiny.prior.json").read_text())
    assert record["schedule"]["precision"] == "bf16"
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    assert (
        train(stage_one, "--precision", "bf16", "--accumulate", "2", "--checkpointing", "--compile")
        == 0
    )
    schedule = json.loads((stage_one / "scenes-tiny.prior.json").read_text())["schedule"]
    assert (schedule["accumulate"], schedule["checkpointing"], schedule["compile"]) == (
        2,
        True,
        True,
    ) and len(compiled) == 1


def test_another_precision_is_another_run(stage_one, capsys):
    assert train(stage_one) == 0 and train(stage_one, "--precision", "bf16") == 2
    assert "belongs to another run (plan:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--stage", "vqvae", "--validate-every", "5", "--compile"],
            "--compile, --validate-every: for --stage prior, all or pixel only",
        ),
        (
            ["--stage", "prior", "--keep", "best"],
            "--keep best keeps the best of --validate-every N",
        ),
        (["--stage", "pixel", "--pretrained"], "preset scenes-tiny names no pretrained weights"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, arguments, message, capsys):
    assert cli.main(["train", "--preset", "scenes-tiny", "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1


def test_pretrained_weights_that_cannot_be_had_are_one_line(stage_one, monkeypatch, capsys):
    monkeypatch.setattr(
        cli, "get_preset", lambda name: replace(TINY, pretrained="resnet18d.ra2_in1k")
    )
    real = timm.create_model

    def offline(name, *, pretrained, **kwargs):
        if pretrained:
            raise ConnectionError("no route")
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    assert train(stage_one, "--pretrained") == 2
    error = capsys.readouterr().err
    assert (
        "the pretrained weights of 'resnet18d.ra2_in1k' could not be loaded" in error
        and "connect once" in error
        and len(error.splitlines()) == 1
    )


@pytest.mark.parametrize("stage", ["prior", "pixel"])
def test_pretrained_weights_are_where_training_starts(stage_one, monkeypatch, stage):
    real, asked = timm.create_model, []

    def create(name, *, pretrained, **kwargs):
        model = real(name.split(".")[0], pretrained=False, **kwargs)
        asked.append((name, pretrained))
        if pretrained:
            torch.nn.init.constant_(model.conv1[0].weight, 0.25)
        return model

    monkeypatch.setattr(
        cli,
        "get_preset",
        lambda name: replace(TINY, pretrained="resnet18d.tag", prior=replace(TINY.prior, lr=0.0)),
    )
    monkeypatch.setattr(timm, "create_model", create)
    assert train(stage_one, "--pretrained", stage=stage) == 0
    assert asked[-1] == ("resnet18d.tag", True)
    weights = load_file(stage_one / f"scenes-tiny.{stage}.safetensors")
    assert bool((weights["backbone.conv1.0.weight"] == 0.25).all())
    run = torch.load(stage_one / stage / "checkpoint.pt", weights_only=True)["run"]
    assert run["pretrained"] == "resnet18d.tag"


def test_evaluate_looks_through_the_presets_windows_and_mirrors(
    tiny_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(cli, "get_preset", lambda name: replace(TINY, window=(32, 16)))
    path = tmp_path / "record.json"
    common = [
        "evaluate",
        "--preset",
        "scenes-tiny",
        "--weights",
        str(tiny_run),
        "--device",
        "cpu",
        "--record",
        str(path),
    ]
    sizes, predict = [], GSS.predict_maskige
    monkeypatch.setattr(
        GSS,
        "predict_maskige",
        lambda gss, image: sizes.append(tuple(image.shape[2:])) or predict(gss, image),
    )
    assert cli.main([*common, "--flip"]) == 0
    monkeypatch.setattr(GSS, "predict_maskige", predict)
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["window"] == [32, 16] and metrics["flip"] is True
    gss, expected = load_gss(TINY, tiny_run), SegmentationMetrics(11)
    for image, mask in (dataset_for(TINY, "test", transform=eval_transform())[i] for i in range(4)):
        expected.update(
            sliding(flipped(mask_scorer(gss, soft=True)), 32, 16)(image[None]).argmax(1), mask[None]
        )
    # batches of 4 round another way
    assert metrics["prediction"]["aacc"] == pytest.approx(expected.compute().aacc, abs=2e-3)
    whole = evaluate(
        gss, dataset_for(TINY, "test", transform=eval_transform()), progress=False
    ).scores()
    assert metrics["reconstruction"]["miou"] == pytest.approx(
        whole["reconstruction"].miou, abs=1e-6
    )
    assert sizes == [(32, 32)] * 9 * 2  # nine windows of the batch of four, and their mirror images
    assert view_of() is None and view_of(flip=True) is flipped


def test_a_full_card_is_one_line_too(tiny_run, monkeypatch, capsys):
    def full(gss, image):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(GSS, "predict", full)
    assert (
        cli.main(
            ["evaluate", "--preset", "scenes-tiny", "--weights", str(tiny_run), "--device", "cpu"]
        )
        == 2
    )
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        error.startswith(
            "error: the GPU ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)"
        )
        and "--device cpu" in error
    )


def test_views_are_put_together_with_the_size_outermost():
    seen = []

    def scorer(image):
        seen.append(tuple(image.shape[2:]))
        return image

    view_of((16, 16), True, (32, 128))(scorer)(torch.rand(1, 3, 64, 128))
    # brought to 32 × 64, in windows of 16, each with its mirror image
    assert seen == [(16, 16)] * 2 * 2 * 4
    seen.clear()
    view_of((16, 16), True, (32, 128), (0.5, 1.0))(scorer)(torch.rand(1, 3, 64, 128))
    assert seen == [(16, 16)] * 2 * (2 + 2 * 4)  # and the same at half that size first
    assert get_preset("ade20k-swin-l").test_size == (512, 2048) and get_preset(
        "cityscapes-swin-l"
    ).test_size == (0, 0)


def test_the_twin_is_looked_at_in_the_same_way(tiny_run, tmp_path, monkeypatch):
    assert train(tmp_path, stage="pixel") == 0
    path = tmp_path / "record.json"
    common = [
        "evaluate",
        "--preset",
        "scenes-tiny",
        "--model",
        "pixel",
        "--weights",
        str(tmp_path),
        "--device",
        "cpu",
        "--record",
        str(path),
    ]
    assert cli.main([*common, "--flip", "--scales", "1", "1.5"]) == 0
    twin, expected = load_twin(TINY, tmp_path), SegmentationMetrics(11)
    for image, mask in (dataset_for(TINY, "test", transform=eval_transform())[i] for i in range(4)):
        expected.update(
            multi_scale(flipped(twin.scores), (1, 1.5))(image[None]).argmax(1), mask[None]
        )
    metrics = json.loads(path.read_text())["metrics"]
    assert metrics["prediction"]["aacc"] == pytest.approx(expected.compute().aacc, abs=2e-3)
    assert metrics["flip"] is True and metrics["scales"] == [1.0, 1.5]


def test_a_scale_that_is_no_positive_number_is_refused(tiny_run, capsys):
    for text in ("0", "-1", "big", "inf"):
        with pytest.raises(SystemExit):
            cli.main(
                [
                    "evaluate",
                    "--preset",
                    "scenes-tiny",
                    "--weights",
                    str(tiny_run),
                    "--scales",
                    text,
                ]
            )
        assert f"must be a positive number, as 1.25; got '{text}'" in capsys.readouterr().err
