"""The published files: parity with OpenAI's own code, containers, damage, wrong tensors."""

import pickle
import random
import struct
import zipfile

import pytest
import torch
from dalle_samples import build, read, save, wrap
from torch import nn

from data_scripts.dalle_dvae import import_published, published_shapes
from data_scripts.dalle_pickles import RefusedFile
from gss_lite import dalle
from gss_lite.dalle import DalleDVAE, load_dalle, map_pixels
from gss_lite.storage import save_weights


@pytest.mark.parametrize("decoder", ["decoder.pkl", "decoder_legacy.pkl"])
def test_parity_with_openais_code(parity, decoder):
    expected = torch.load(parity / "dvae" / "expected.pth", weights_only=True)
    model = DalleDVAE(8192, width=8, code_dim=8).eval()
    import_published(parity / "dvae" / "encoder.pkl", parity / "dvae" / decoder, model)
    tokens = model.encode(expected["image"])
    sure = expected["margin"].reshape(tokens.shape) > 1e-3
    assert sure.float().mean() > 0.5
    assert torch.equal(tokens[sure], expected["tokens"][sure])
    with torch.no_grad():
        output = model.decoder(expected["tokens"])
    scale = float(expected["decoder_output"].abs().max())
    torch.testing.assert_close(output, expected["decoder_output"], rtol=1e-4, atol=1e-4 * scale)
    torch.testing.assert_close(
        model.decode(expected["tokens"]), expected["reconstruction"], rtol=1e-4, atol=1e-4
    )


def test_published_files_hold_74_and_76_tensors():
    shapes = {part: published_shapes(part) for part in ("encoder", "decoder")}
    assert {part: len(s) for part, s in shapes.items()} == {"encoder": 74, "decoder": 76}
    count = {
        part: sum(torch.Size(shape).numel() for shape in s.values()) for part, s in shapes.items()
    }
    assert count == {"encoder": 53_786_240, "decoder": 43_829_766}
    assert shapes["decoder"]["blocks.group_2.block_1.res_path.conv_1.w"] == (256, 2048, 1, 1)
    assert shapes["encoder"]["blocks.group_2.block_1.id_path.w"] == (512, 256, 1, 1)
    assert shapes["encoder"]["blocks.group_4.block_2.res_path.conv_4.b"] == (2048,)
    assert shapes["encoder"]["blocks.input.w"] == (256, 3, 7, 7)
    assert shapes["encoder"]["blocks.output.conv.w"] == (8192, 2048, 1, 1)
    assert shapes["decoder"]["blocks.input.w"] == (128, 8192, 1, 1)
    assert shapes["decoder"]["blocks.input.b"] == (128,)
    assert shapes["decoder"]["blocks.output.conv.b"] == (6,)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_every_tensor_is_read_exactly(tmp_path, dall_e, part, container):
    module = build(part, dall_e)
    tensors = read(save(module, tmp_path / "x.pkl", container), part)
    expected = dict(module.named_parameters())
    assert tensors.keys() == expected.keys()
    assert all(
        torch.equal(tensors[name], expected[name]) and tensors[name].dtype == torch.float32
        for name in expected
    )


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_numbers_may_lie_in_any_order(tmp_path, dall_e, part, container):
    """The published weights are not row-major (lucidrains/DALLE-pytorch, issue 330)."""
    module = build(part, dall_e).to(memory_format=torch.channels_last)
    expected = dict(module.named_parameters())
    assert not all(tensor.is_contiguous() for tensor in expected.values())
    tensors = read(save(module, tmp_path / "x.pkl", container), part)
    assert all(torch.equal(tensors[n], expected[n]) for n in expected)
    assert all(tensor.is_contiguous() for tensor in tensors.values())


def test_weights_survive_safetensors(tmp_path, dall_e, monkeypatch):
    model = DalleDVAE(16, 4, 4).eval()
    import_published(
        *(save(build(part, dall_e), tmp_path / f"{part}.pkl") for part in ("encoder", "decoder")),
        model,
    )
    save_weights(tmp_path / "x.safetensors", model)
    monkeypatch.setattr(dalle, "DalleDVAE", lambda **options: DalleDVAE(16, 4, 4, **options))
    loaded = load_dalle(tmp_path / "x.safetensors")
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    maskige = torch.rand(1, 3, 16, 24)
    assert torch.equal(loaded.encoder(map_pixels(maskige)), model.encoder(map_pixels(maskige)))
    assert (
        load_dalle(tmp_path / "x.safetensors", dtype=torch.bfloat16)
        .decoder.groups[0][0]
        .res[0]
        .weight.dtype
        == torch.bfloat16
    )
    with pytest.raises(FileNotFoundError, match="data_scripts.dalle_dvae"):
        load_dalle(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    "member",
    [
        "../outside",
        "/etc/passwd",
        "archive/../../outside",
        "archive\\data\\0",
        "other/data/0",
        "archive/",
        "loose",
    ],
)
def test_zip_members_with_odd_paths_are_refused(tmp_path, member):
    with pytest.raises(
        RefusedFile, match="not named as torch.save names them|do not lie in one folder"
    ):
        read(wrap(b"}.", tmp_path / "x.pkl", "zip", {member: b"x"}))
    assert not (tmp_path.parent / "outside").exists()


def test_compressed_doubled_and_oversized_zip_members_are_refused(tmp_path):
    path = tmp_path / "bomb.pkl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 24))
    with pytest.raises(RefusedFile, match="is compressed or encrypted"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("archive/data.pkl", b"}.")
        archive.writestr("archive/data.pkl", b"N.")
    with pytest.raises(RefusedFile, match=r"archive/data\.pkl' is not named"):
        read(path)
    claims = wrap(b"}.", path, "zip").read_bytes()
    # the last member's entry in the directory: both its sizes become 2 GiB
    end = claims.rindex(b"PK\x01\x02")
    path.write_bytes(claims[: end + 20] + struct.pack("<II", 1 << 31, 1 << 31) + claims[end + 28 :])
    with pytest.raises(RefusedFile, match="claim more bytes than the file has"):
        read(path)
    with pytest.raises(RefusedFile, match="not little-endian"):
        read(wrap(b"}.", path, "zip", {"archive/byteorder": b"big"}))


def test_a_legacy_file_of_another_version_or_byte_order_is_refused(tmp_path):
    whole = wrap(b"}.", tmp_path / "x.pkl", "legacy").read_bytes()
    version, order = (pickle.dumps(value, 2) for value in (1001, {"little_endian": True}))
    assert whole.count(version) == whole.count(order) == 1
    (tmp_path / "x.pkl").write_bytes(whole.replace(version, pickle.dumps(1000, 2)))
    with pytest.raises(RefusedFile, match="of another version"):
        read(tmp_path / "x.pkl")
    big = pickle.dumps({"little_endian": False}, 2)
    (tmp_path / "x.pkl").write_bytes(whole.replace(order, big))
    with pytest.raises(RefusedFile, match="not little-endian"):
        read(tmp_path / "x.pkl")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, dall_e, container):
    whole = save(build("encoder", dall_e), tmp_path / "x.pkl", container).read_bytes()
    for size in [0, 1, 2, 10, 100, *range(1000, len(whole), len(whole) // 12), len(whole) - 1]:
        (tmp_path / "cut.pkl").write_bytes(whole[:size])
        with pytest.raises(RefusedFile, match="cut short|neither of torch.save's"):
            read(tmp_path / "cut.pkl")


@pytest.mark.slow
def test_damage_anywhere_never_ends_in_another_error(tmp_path, dall_e):
    whole = save(build("encoder", dall_e), tmp_path / "x.pkl", "legacy").read_bytes()
    dice, refused = random.Random(0), 0
    expected = {name: tuple(tensor.shape) for name, tensor in read(tmp_path / "x.pkl").items()}
    for _ in range(30):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[dice.randrange(30_000)] = dice.randrange(256)
        (tmp_path / "damaged.pkl").write_bytes(damaged)
        try:
            found = {
                name: tuple(tensor.shape) for name, tensor in read(tmp_path / "damaged.pkl").items()
            }
        except RefusedFile:
            refused += 1
        else:  # a number was hit, and nothing but numbers
            assert found == expected
    assert refused


def test_a_web_page_instead_of_the_file_is_refused(tmp_path):
    (tmp_path / "x.pkl").write_text("<!DOCTYPE html><title>404</title>")
    with pytest.raises(RefusedFile, match="no such file at all"):
        read(tmp_path / "x.pkl")
    with pytest.raises(FileNotFoundError, match="absent"):
        read(tmp_path / "absent.pkl")


def conv(module: nn.Module) -> nn.Module:
    return module.blocks.group_2.block_1.res_path.conv_3


@pytest.mark.slow
@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda m: conv(m).register_parameter("w", nn.Parameter(torch.zeros(2, 2, 5, 5))),
            "conv_3.w has the shape (2, 2, 5, 5); expected (2, 2, 3, 3)",
        ),
        (
            lambda m: delattr(conv(m), "b"),
            "1 of the 74 expected tensors are missing (first: "
            "blocks.group_2.block_1.res_path.conv_3.b)",
        ),
        (lambda m: delattr(m.blocks, "group_4"), "18 of the 74 expected tensors are missing"),
        (
            lambda m: m.register_parameter("more", nn.Parameter(torch.zeros(1))),
            "1 tensors beyond the 74 expected (first: more)",
        ),
        (
            lambda m: m.blocks.register_buffer("mean", torch.zeros(3)),
            "beyond the 74 expected (first: blocks.mean)",
        ),
        (lambda m: m.half(), "asks for 'torch.HalfStorage', which a dVAE in float32"),
        (lambda m: m.double(), "asks for 'torch.DoubleStorage', which a dVAE in float32"),
        (
            lambda m: conv(m).w.data[0].fill_(float("nan")),
            "conv_3.w holds numbers that are not finite",
        ),
    ],
)
def test_tensors_other_than_the_published_are_refused(tmp_path, dall_e, change, named, container):
    module = build("encoder", dall_e)
    change(module)
    with pytest.raises(RefusedFile) as refusal:
        read(save(module, tmp_path / "x.pkl", container))
    assert named in str(refusal.value)


def test_encoder_and_decoder_cannot_be_mixed_up(tmp_path, dall_e):
    path = save(build("decoder", dall_e), tmp_path / "x.pkl")
    with pytest.raises(
        RefusedFile,
        match=r"holds an object of dall_e\.decoder\.Decoder, where an object of "
        r"dall_e\.encoder\.Encoder",
    ):
        read(path, "encoder")
