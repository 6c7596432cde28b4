"""DALL·E's dVAE: blocks against the published formula, the contract, sizes, errors, use in GSS."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from gss_lite import dalle
from gss_lite.contracts import CodeTokenizer
from gss_lite.dalle import Block, DalleDVAE, load_dalle, map_pixels, unmap_pixels
from gss_lite.factory import create_prior
from gss_lite.gss import GSS
from gss_lite.inverse import NearestColor
from gss_lite.palette.maxmin import farthest_point_palette


@pytest.fixture(scope="module")
def model() -> DalleDVAE:
    torch.manual_seed(0)
    small = DalleDVAE(vocab_size=40, width=8, code_dim=8).eval()
    # torch's own initialisation leaves hardly a signal at the end of so many layers
    for layer in small.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.normal_(layer.weight, 0, (2 / layer.weight[0].numel()) ** 0.5)
    return small


def published_block(block: Block, x: torch.Tensor) -> torch.Tensor:
    """id(x) + res(x)/64, step by step, on the enlarged map where the block enlarges."""
    if block.enlarge:
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    h = x
    for conv in block.res:
        h = F.conv2d(h.clamp(min=0), conv.weight, conv.bias, padding=conv.kernel_size[0] // 2)
    return block.id(x) + h / 64


@pytest.mark.parametrize("n_in", [8, 16])
@pytest.mark.parametrize(
    ("kernels", "enlarge"), [((3, 3, 3, 1), False), ((1, 3, 3, 3), False), ((1, 3, 3, 3), True)]
)
def test_block_is_the_published_formula(n_in, kernels, enlarge):
    block = Block(n_in, 16, kernels, enlarge=enlarge).double()
    x = torch.randn(2, n_in, 5, 6, dtype=torch.float64)
    before = x.clone()
    torch.testing.assert_close(block(x), published_block(block, x), rtol=1e-12, atol=1e-12)
    assert torch.equal(x, before), "the block changed its input"


@pytest.mark.parametrize(("kernels", "enlarge"), [((3, 3, 3, 1), False), ((1, 3, 3, 3), True)])
def test_gradients_survive_the_in_place_operations(kernels, enlarge):
    block = Block(4, 8, kernels, enlarge=enlarge).double()
    assert torch.autograd.gradcheck(
        block, torch.randn(1, 4, 3, 4, dtype=torch.float64, requires_grad=True)
    )


def test_only_a_pointwise_beginning_can_be_moved_before_the_enlargement():
    with pytest.raises(ValueError, match="begins with 3×3"):
        Block(8, 8, (3, 3, 3, 1), enlarge=True)


def test_parameters_are_as_many_as_published():
    with torch.device("meta"):
        full = DalleDVAE()
    count = {
        name: sum(p.numel() for p in getattr(full, name).parameters())
        for name in ("encoder", "decoder")
    }
    # The table of codes holds the first layer's 128 biases added to its rows.
    assert count == {"encoder": 53_786_240, "decoder": 43_829_766 - 128}


def test_pixels_are_mapped_as_published():
    x = torch.linspace(0, 1, 11)
    torch.testing.assert_close(map_pixels(x), 0.1 + 0.8 * x)
    torch.testing.assert_close(unmap_pixels(map_pixels(x)), x)
    assert unmap_pixels(torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])).tolist() == pytest.approx(
        [0, 0, 0.5, 1, 1]
    )


@pytest.mark.parametrize("size", [(8, 8), (24, 40)])
def test_tokenizer_contract_at_any_multiple_of_eight(model, size):
    maskige = torch.rand(2, 3, *size)
    tokens = model.encode(maskige)
    assert tokens.shape == (2, size[0] // 8, size[1] // 8) and tokens.dtype == torch.long
    assert tokens.min() >= 0 and tokens.max() < 40
    picture = model.decode(tokens)
    assert picture.shape == maskige.shape and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    assert (model.vocab_size, model.stride) == (40, 8)
    assert isinstance(model, CodeTokenizer)


def test_vectors_of_codes_decode_as_their_tokens_do(model):
    tokens = torch.randint(40, (2, 2, 3))
    vectors = model.code_vectors()[tokens].movedim(-1, 1)
    assert torch.equal(model.decode_vectors(vectors).detach(), model.decode(tokens))


def test_tokens_found_in_pieces_are_the_arg_max_of_all_logits(model, monkeypatch):
    monkeypatch.setattr(dalle, "ROWS", 7)  # 30 tokens: the last piece is shorter
    maskige = torch.rand(2, 3, 24, 40)
    logits = model.encoder(map_pixels(maskige))
    assert logits.shape == (2, 40, 3, 5) and logits.argmax(1).unique().numel() > 1
    assert torch.equal(model.encode(maskige), logits.argmax(1))


def test_decode_shows_the_means(model):
    tokens = torch.randint(40, (1, 2, 3))
    out = model.decoder(tokens)
    assert out.shape == (1, 6, 16, 24)
    expected = ((1 / (1 + torch.exp(-out[:, :3])) - 0.1) / 0.8).clamp(0, 1)
    torch.testing.assert_close(model.decode(tokens), expected)
    assert expected.std() > 0.01


def test_half_precision_keeps_first_and_last_layers(model):
    half = DalleDVAE(vocab_size=40, width=8, code_dim=8, dtype=torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    assert half.encoder.groups[0][0].res[0].weight.dtype == torch.bfloat16
    assert (
        half.encoder.input.weight.dtype
        == half.encoder.output.weight.dtype
        == half.decoder.output.weight.dtype
        == torch.float32
    )
    maskige = torch.rand(1, 3, 64, 64)
    assert (half.encode(maskige) == model.encode(maskige)).float().mean() > 0.8
    tokens = torch.randint(40, (1, 4, 4))
    assert (half.decode(tokens) - model.decode(tokens)).abs().mean() < 0.02


def test_serves_gss(model):
    palette = farthest_point_palette(11)
    prior = create_prior("scenes-tiny", model.vocab_size)
    gss = GSS(palette, model, prior, NearestColor(palette.colors)).eval()
    targets = gss.targets(torch.randint(0, 11, (1, 32, 32)), torch.zeros(1, 11, 8, 8))
    assert targets.mask.shape == (1, 64, 64) and targets.tokens.shape == (1, 8, 8)
    assert gss.predict(torch.randn(1, 3, 32, 48)).mask.shape == (1, 32, 48)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 16, 20), (1, 3, 12, 16)])
def test_a_maskige_of_another_shape_is_refused(model, shape):
    with pytest.raises(ValueError, match="multiples of the stride 8"):
        model.encode(torch.rand(shape))


@pytest.mark.parametrize("token", [-1, 40])
def test_a_token_outside_the_vocabulary_is_refused(model, token):
    with pytest.raises(ValueError, match="0…39"):
        model.decode(torch.full((1, 2, 2), token))


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match="float64"):
        DalleDVAE(16, 8, 8, dtype=torch.float64)


def test_in_bfloat16_the_first_and_last_layers_stay_in_float32():
    torch.manual_seed(0)
    model, seen = DalleDVAE(vocab_size=64, width=8, code_dim=8).eval(), {}
    for layer in model.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.normal_(layer.weight, 0, layer.weight[0].numel() ** -0.5)
    parts = {
        "first": model.encoder.input,
        "between": model.encoder.groups[1][0].res[0],
        "last": model.encoder.output,
    }
    for name, layer in parts.items():
        layer.register_forward_hook(
            lambda module, inputs, out, name=name: seen.update({name: out.dtype})
        )
    picture = torch.rand(1, 3, 64, 64)
    exact = model.encode(picture)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = model.encode(picture)
    assert seen == {"first": torch.float32, "between": torch.bfloat16, "last": torch.float32}
    assert (tokens == exact).float().mean() > 0.9


def test_the_weights_are_found_below_gss_data_and_then_below_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dalle, "__file__", str(tmp_path / "clone" / "gss_lite" / "dalle.py"))
    monkeypatch.setenv("GSS_DATA", str(tmp_path / "sets"))
    with pytest.raises(FileNotFoundError, match="python -m data_scripts.dalle_dvae") as error:
        load_dalle()
    places = [
        tmp_path / folder / "dalle_dvae" / dalle.WEIGHTS
        for folder in ("clone/data", "data", "sets")
    ]
    assert str(places[0]) in str(error.value) and str(places[2]) in str(error.value)
    assert str(places[1].relative_to(tmp_path)) in str(error.value)
    for place in places:  # each goes before the ones made earlier
        place.parent.mkdir(parents=True)
        place.touch()
        assert dalle.find_dalle().resolve() == place
    monkeypatch.setenv("GSS_DATA", "")
    assert dalle.find_dalle().resolve() == places[1]


@pytest.mark.parametrize("fault", ["not finite", "int8"])
def test_weights_that_cannot_be_right_are_refused(tmp_path, model, monkeypatch, fault):
    monkeypatch.setattr(dalle, "DalleDVAE", lambda **options: DalleDVAE(40, 8, 8, **options))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "right.safetensors")
    assert load_dalle(tmp_path / "right.safetensors").vocab_size == 40
    bad = tensors["decoder.codes.weight"].clone()
    bad[3, 5] = float("nan")
    tensors["decoder.codes.weight"] = bad if fault == "not finite" else bad.to(torch.int8)
    save_file(tensors, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match=f"(?s)decoder.codes.weight.*{fault}"):
        load_dalle(tmp_path / "wrong.safetensors")
