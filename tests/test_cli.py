"""python -m gss_lite: train, evaluate, predict and export, and one clear line for bad input."""

import json
from dataclasses import MISSING, asdict, fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from gss_lite import __main__ as cli
from gss_lite import factory as export
from gss_lite.data import dataset_for
from gss_lite.data.transforms import eval_transform
from gss_lite.evaluation import evaluate, view_of
from gss_lite.factory import SHIPPED, build_palette, load_gss
from gss_lite.gss import Prediction
from gss_lite.inference import predict_file
from gss_lite.inverse import NearestColor
from gss_lite.palette.palette import paint
from gss_lite.presets import PRESETS, get_preset
from gss_lite.presets.parts import Schedule
from gss_lite.storage import hardware, run_record


def test_evaluate_prints_the_table_and_the_record_agrees(tiny_run, tmp_path, capsys):
    path = tmp_path / "record.json"
    assert (
        cli.main(
            [
                "evaluate",
                "--preset",
                "scenes-tiny",
                "--weights",
                str(tiny_run),
                "--record",
                str(path),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    record = json.loads(path.read_text())
    for row, key in [("GSS-FF prediction", "prediction"), ("auxiliary pixel head", "pixel_head")]:
        line = next(line for line in printed.splitlines() if line.startswith(row))
        assert float(line.split()[-3]) == pytest.approx(
            100 * record["metrics"][key]["miou"], abs=0.006
        )
    assert (
        "Bicyclist" in printed
        and record["metrics"]["pictures"] == PRESETS["scenes-tiny"].eval_pictures
    )
    assert record["command"].startswith("python -m gss_lite evaluate --preset scenes-tiny")


def test_evaluation_does_not_depend_on_the_batch(tiny_run):
    preset = get_preset("scenes-tiny")
    gss = load_gss(preset, tiny_run)
    dataset = dataset_for(preset, "test", transform=eval_transform())
    one, four = (
        evaluate(gss, dataset, batch=b, progress=False).scores()["prediction"] for b in (1, 4)
    )
    assert one.aacc == pytest.approx(four.aacc, abs=1e-3)


def test_leaving_pictures_out_equals_never_having_seen_them(tiny_run):
    preset = get_preset("scenes-tiny")
    gss, dataset = (
        load_gss(preset, tiny_run),
        dataset_for(preset, "test", transform=eval_transform()),
    )
    whole = evaluate(gss, dataset, progress=False)
    part = evaluate(gss, torch.utils.data.Subset(dataset, [0, 1, 3]), batch=1, progress=False)
    assert whole.scores(leave_out=[2])["prediction"].aacc == pytest.approx(
        part.scores()["prediction"].aacc, abs=1e-3
    )
    assert whole.scores()["prediction"].aacc != part.scores()["prediction"].aacc


def test_predict_writes_mask_maskige_and_overlay(tiny_run, tmp_path, capsys):
    Image.effect_noise((70, 50), 60).convert("RGB").save(tmp_path / "street.jpg")
    out = tmp_path / "out"
    assert (
        cli.main(
            [
                "predict",
                "--preset",
                "scenes-tiny",
                "--weights",
                str(tiny_run),
                "--out",
                str(out),
                str(tmp_path / "street.jpg"),
            ]
        )
        == 0
    )
    assert sorted(p.name for p in out.iterdir()) == [
        "street_mask.png",
        "street_maskige.png",
        "street_overlay.png",
    ]
    mask = Image.open(out / "street_mask.png")
    assert mask.size == (70, 50) and mask.mode == "P" and np.array(mask).max() < 11
    colour = np.array(mask.convert("RGB"))[0, 0] / 255
    expected = load_gss(get_preset("scenes-tiny"), tiny_run).colors[np.array(mask)[0, 0]]
    assert np.abs(colour - expected.numpy()).max() < 1 / 255
    for name in ("maskige", "overlay"):
        assert Image.open(out / f"street_{name}.png").size == (70, 50)


class Brightness:
    """Stands where GSS is: class 1 where the picture is bright. Notes the sizes and the device it is given."""

    colors = torch.tensor([[0.0, 0, 1], [1, 1, 0]])

    def __init__(self, stride=4):
        self.tokenizer, self.sizes, self.device, self.inverse = (
            SimpleNamespace(stride=stride),
            [],
            None,
            NearestColor(self.colors),
        )

    def to(self, device):
        self.device = torch.device(device)
        return self

    def predict(self, image):
        assert image.device == self.device
        self.sizes.append(tuple(image.shape[2:]))
        height, width = image.shape[2:]
        padded = F.pad(image, (0, -width % 32, 0, -height % 32), mode="replicate")
        mask, times = (padded.mean(1) > 0).long(), self.tokenizer.stride // 4
        maskige = paint(mask.repeat_interleave(times, 1).repeat_interleave(times, 2), self.colors)
        return Prediction(mask[:, :height, :width], None, maskige, None)

    def predict_maskige(self, image):
        return self.predict(image).maskige


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize(
    "shape, seen", [((200, 300), (100, 150)), ((300, 200), (150, 100)), ((90, 110), (90, 110))]
)
def test_large_pictures_are_shrunk_for_the_model_and_results_have_their_size(
    tmp_path, stride, shape, seen
):
    bright = np.zeros(shape, bool)
    bright[: shape[0] // 2, shape[1] // 5 * 2 :] = True
    Image.fromarray(np.uint8(255 * bright)).convert("RGB").save(tmp_path / "a.png")
    model = Brightness(stride)
    paths = predict_file(model, tmp_path / "a.png", tmp_path / "out", size=(100, 140))
    assert model.sizes == [seen]
    mask, maskige, overlay = (np.array(Image.open(path)) for path in paths)
    assert [path.name for path in paths] == ["a_mask.png", "a_maskige.png", "a_overlay.png"]
    # every border lies between the same two pixels as in the picture
    assert np.array_equal(mask, bright)
    painted = np.where(bright[..., None], [255, 255, 0], [0, 0, 255])
    assert np.array_equal(maskige, painted)
    assert np.abs(overlay - (0.45 * 255 * bright[..., None] + 0.55 * painted)).max() <= 1


@pytest.mark.parametrize("stride", [4, 8])
def test_a_preset_with_a_sliding_window_predicts_with_it(tmp_path, stride):
    bright = np.zeros((90, 140), bool)
    bright[:45, 56:] = True
    Image.fromarray(np.uint8(255 * bright)).convert("RGB").save(tmp_path / "a.png")
    model = Brightness(stride)
    paths = predict_file(
        model, tmp_path / "a.png", tmp_path / "out", size=(100, 140), view=view_of((64, 40))
    )
    assert model.sizes == [(64, 64)] * 6  # 2 rows of 3 windows
    mask, maskige, _ = (np.array(Image.open(path)) for path in paths)
    painted = np.where(bright[..., None], [255, 255, 0], [0, 0, 255])
    assert np.array_equal(mask, bright) if stride == 4 else (mask == bright).mean() > 0.98
    assert (
        np.array_equal(maskige, painted)
        if stride == 4
        else np.abs(maskige - painted.astype(int)).mean() < 4
    )


@pytest.mark.parametrize(
    "how, sizes", [({"window": (64, 32)}, [(64, 64)] * 4), ({"test_size": (96, 400)}, [(96, 110)])]
)
def test_predict_looks_as_the_preset_evaluates(monkeypatch, tmp_path, tiny_run, how, sizes):
    Image.new("RGB", (80, 70)).save(tmp_path / "a.png")
    preset, views = replace(get_preset("scenes-tiny"), **how), []
    monkeypatch.setattr(cli, "get_preset", lambda name: preset)
    monkeypatch.setattr(cli, "predict_file", lambda *args: views.append(args[-1]) or [])
    assert (
        cli.main(
            [
                "predict",
                "--preset",
                "scenes-tiny",
                "--weights",
                str(tiny_run),
                "--out",
                str(tmp_path / "out"),
                str(tmp_path / "a.png"),
            ]
        )
        == 0
    )
    seen = []
    views[0](lambda image: seen.append(image.shape[2:]) or image)(torch.zeros(1, 3, 70, 80))
    assert [tuple(s) for s in seen] == sizes


def test_git_ignores_where_predict_writes():
    folder = cli.parser().parse_args(["predict", "a.png"]).out
    assert f"{folder}/" in (SHIPPED.parents[1] / ".gitignore").read_text().splitlines()


def test_predict_refuses_two_pictures_that_would_be_written_to_one_place(tmp_path, capsys):
    out, twins = tmp_path / "out", [tmp_path / "one" / "x.jpg", tmp_path / "two" / "x.png"]
    for path in twins:
        path.parent.mkdir()
        Image.new("RGB", (40, 40)).save(path)
    assert (
        cli.main(
            [
                "predict",
                "--preset",
                "scenes-tiny",
                "--weights",
                "nowhere",
                "--out",
                str(out),
                *map(str, twins),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert (
        all(str(path) in error for path in twins)
        and "would both be written to" in error
        and not out.exists()
    )


def test_predict_refuses_to_overwrite_a_picture_it_is_given(tmp_path, capsys):
    pictures = [tmp_path / "x.png", tmp_path / "x_mask.png"]
    for path in pictures:
        Image.new("RGB", (40, 40)).save(path)
    assert (
        cli.main(
            [
                "predict",
                "--preset",
                "scenes-tiny",
                "--weights",
                "nowhere",
                "--out",
                str(tmp_path),
                *map(str, pictures),
            ]
        )
        == 2
    )
    assert "would overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "deeper"])
def test_predict_into_a_file_is_one_line(tiny_run, tmp_path, capsys, inside):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "taken").write_text("a file")
    arguments = [
        "predict",
        "--preset",
        "scenes-tiny",
        "--weights",
        str(tiny_run),
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "taken" / inside),
    ]
    assert cli.main([*arguments, str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "taken" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--steps", "0"], "--steps: must be a whole number, 1 or more; got '0'"),
        (["train", "--steps", "-3"], "--steps: must be a whole number, 1 or more; got '-3'"),
        (["train", "--steps", "1e3"], "--steps: must be a whole number, 1 or more; got '1e3'"),
        (["train", "--save-every", "0"], "--save-every: must be a whole number, 1 or more"),
        (["train", "--workers", "-1"], "--workers: must be a whole number, 0 or more"),
        (["train", "--seed", "-1"], "--seed: must be a whole number, 0 or more"),
        (["predict", "--seed", "1", "a.png"], "unrecognized arguments: --seed"),
        (["predict", "--data", "data", "a.png"], "unrecognized arguments: --data"),
        (["predict", "--device", "abacus", "a.png"], "--device: no device 'abacus' to use here"),
        (["evaluate", "--device", "cuda:99"], "--device: no device 'cuda:99' to use here"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_at_the_door(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_predict_runs_on_the_device_asked_for(monkeypatch, tmp_path):
    model = Brightness()
    monkeypatch.setattr(cli, "load_gss", lambda preset, weights: model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert cli.parser().parse_args(["predict", "--device", "meta", "a.png"]).device == torch.device(
        "meta"
    )
    assert (
        cli.main(
            [
                "predict",
                "--preset",
                "scenes-tiny",
                "--out",
                str(tmp_path / "out"),
                str(tmp_path / "a.png"),
            ]
        )
        == 0
    )
    assert model.device == torch.device("cpu") and model.sizes == [(40, 40)]


def test_records_name_what_the_run_was_on_and_not_what_else_there_is(
    monkeypatch, tiny_run, tmp_path
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"a GPU called {device}")
    assert (
        hardware("cuda:1") == "a GPU called cuda:1"
        and hardware() == "a GPU called cuda"
        and "CPU threads" in hardware("cpu")
    )
    record = run_record(
        kind="k", preset="p", seed=0, steps=1, seconds=1.0, metrics={}, command="c", device="cpu"
    )
    assert record["hardware"] == hardware("cpu")
    path = tmp_path / "record.json"
    assert (
        cli.main(
            [
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
        )
        == 0
    )
    assert json.loads(path.read_text())["hardware"] == hardware("cpu")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["predict", "--preset", "nonsense", "a.png"], "no preset named 'nonsense'; there are: "),
        (
            ["evaluate", "--preset", "camvid", "--data", "nowhere"],
            "CamVid was not found in nowhere",
        ),
        (["evaluate", "--preset", "scenes-tiny", "--weights", "nowhere"], "no weights at nowhere"),
        (
            ["evaluate", "--preset", "scenes-tiny", "--data", "streets"],
            "preset scenes-tiny draws its pictures and reads none from streets",
        ),
        (
            ["train", "--preset", "scenes-tiny", "--stage-one", "runs"],
            "--stage all trains them itself",
        ),
        (
            ["train", "--preset", "scenes-tiny", "--data", "streets"],
            "preset scenes-tiny draws its pictures and reads none from streets",
        ),
    ],
)
def test_bad_input_is_one_line_on_standard_error(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_a_palette_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="no palette at .*--preset scenes-cpu --stage vqvae.*or pass the folder that holds it",
    ):
        build_palette(get_preset("scenes-cpu"), tmp_path)


def test_predict_refuses_what_is_not_a_picture(tiny_run, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    assert (
        cli.main(
            [
                "predict",
                "--preset",
                "scenes-tiny",
                "--weights",
                str(tiny_run),
                str(tmp_path / "notes.txt"),
            ]
        )
        == 2
    )
    assert "is not a picture that can be read" in capsys.readouterr().err


def test_export_halves_the_weights_and_keeps_the_record(tiny_run, tmp_path):
    preset = get_preset("scenes-tiny")
    paths = export.export_weights(preset, tiny_run, tmp_path)
    assert [p.name for p in paths] == [
        f"scenes-tiny.{s}.{e}" for s in ("vqvae", "prior") for e in ("safetensors", "json")
    ]
    assert paths[2].stat().st_size < 0.7 * (tiny_run / paths[2].name).stat().st_size
    card = json.loads(paths[3].read_text())
    assert (
        card["stored_as"] == "float16" and card["bytes"] == paths[2].stat().st_size and card["log"]
    )
    for path in paths[::2]:
        full, half = load_file(tiny_run / path.name), load_file(path)
        assert full.keys() == half.keys()
        for name, values in full.items():
            assert torch.equal(
                half[name], values.half() if values.is_floating_point() else values
            ), name
    full, half = (load_gss(preset, folder) for folder in (tiny_run, tmp_path))
    picture = dataset_for(preset, "test", transform=eval_transform())[0][0][None]
    with torch.no_grad():
        for ours, rounded in zip(full.prior(picture), half.prior(picture)):
            # 16 bits hold 11 binary digits: 5e-4 a weight
            assert float((ours - rounded).abs().max()) < 1e-2 * float(ours.abs().max())
    assert "data_licence" not in card


def test_cards_of_weights_trained_on_camvid_say_its_licence(tiny_run, tmp_path):
    paths = export.export_weights(
        replace(get_preset("scenes-tiny"), data="camvid"), tiny_run, tmp_path
    )
    for card in [
        *paths[1::2],
        *SHIPPED.glob("camvid*.vqvae.json"),
        *SHIPPED.glob("generic*.json"),
        *SHIPPED.glob("camvid*.prior.json"),
    ]:
        assert json.loads(card.read_text())["data_licence"].startswith("CC BY-NC 4.0"), card


def test_shipped_weights_are_small_and_have_cards():
    files = sorted(SHIPPED.glob("*.safetensors"))
    assert {
        f"{p}.{s}.safetensors" for p in ("scenes-cpu", "camvid") for s in ("vqvae", "prior")
    } <= {f.name for f in files}
    assert sum(f.stat().st_size for f in files) <= 20e6
    for file in files:
        card = json.loads(file.with_suffix(".json").read_text())
        assert card["bytes"] == file.stat().st_size and card["command"].startswith(
            "python -m gss_lite train"
        )


@pytest.mark.parametrize(
    "path",
    sorted(p for s in ("vqvae", "prior") for p in SHIPPED.glob(f"*.{s}.json")),
    ids=lambda p: p.stem,
)
def test_the_shipped_weights_were_trained_by_the_presets_schedule(path):
    name, stage = path.stem.split(".")
    card, schedule = json.loads(path.read_text()), getattr(get_preset(name), stage)
    # for fields that the card is too old to have
    default = {f.name: f.default for f in fields(Schedule) if f.default is not MISSING}
    assert json.loads(json.dumps({**default, **card["schedule"]})) == json.loads(
        json.dumps(asdict(schedule))
    )
    assert card["steps"] == schedule.steps and card["preset"] == name
