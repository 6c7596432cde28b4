"""The VQ-VAE: contract, codebook arithmetic, straight-through gradient, restarts, learning."""

import pytest
import torch

from gss_lite.dalle import DalleDVAE
from gss_lite.palette.maxmin import farthest_point_palette
from gss_lite.vqvae import VQVAE, Codebook
from notebooks.experiments.gumbel_vae import GumbelVAE


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_tokenizer_contract(stride):
    model = VQVAE(vocab_size=32, stride=stride, width=16, code_dim=8, depth=1).eval()
    maskige = torch.rand(2, 3, 32, 48)
    tokens = model.encode(maskige)
    assert tokens.shape == (2, 32 // stride, 48 // stride) and tokens.dtype == torch.long
    assert tokens.min() >= 0 and tokens.max() < 32
    picture = model.decode(tokens)
    assert picture.shape == maskige.shape and picture.min() >= 0 and picture.max() <= 1
    assert (model.vocab_size, model.stride) == (32, stride)


def test_a_one_hot_mask_of_k_channels_meets_the_same_contract():
    model = VQVAE(vocab_size=32, stride=8, width=16, code_dim=8, depth=1, channels=11).eval()
    one_hot = torch.nn.functional.one_hot(torch.randint(11, (2, 16, 24)), 11).movedim(-1, 1).float()
    tokens = model.encode(one_hot)
    assert tokens.shape == (2, 2, 3) and model.channels == 11
    assert model.decode(tokens).shape == model(one_hot)[0].shape == one_hot.shape
    with pytest.raises(ValueError, match=r"\(B, 11, H, W\).*got \(1, 3, 16, 16\)"):
        model.encode(torch.zeros(1, 3, 16, 16))


def test_channels_change_the_outermost_layers_alone():
    shapes = {
        c: {k: v.shape for k, v in VQVAE(vocab_size=8, width=16, channels=c).state_dict().items()}
        for c in (3, 11)
    }
    assert shapes[3].keys() == shapes[11].keys()
    outermost = {
        "encoder.0.weight",
        *(k for k in shapes[3] if k.startswith(f"decoder.{len(VQVAE(8, width=16).decoder) - 1}.")),
    }
    assert {k for k in shapes[3] if shapes[3][k] != shapes[11][k]} == outermost
    assert shapes[11]["encoder.0.weight"] == (8, 11, 4, 4)


def test_forward_and_encode_decode_agree_in_eval_mode():
    model = VQVAE(vocab_size=32, width=16, code_dim=8, depth=1).eval()
    maskige = torch.rand(1, 3, 16, 16)
    reconstruction, quantized = model(maskige)
    assert torch.equal(quantized.tokens, model.encode(maskige))
    torch.testing.assert_close(
        reconstruction.clamp(0, 1), model.decode(quantized.tokens), atol=1e-5, rtol=1e-5
    )


def test_nearest_code_against_brute_force():
    codebook = Codebook(50, 6)
    vectors = torch.randn(300, 6)
    brute = (vectors[:, None].double() - codebook.codes[None].double()).square().sum(2).argmin(1)
    assert torch.equal(codebook.nearest(vectors), brute)


def test_gradient_passes_straight_through():
    codebook = Codebook(8, 4).eval()
    vectors = torch.randn(1, 4, 3, 3, requires_grad=True)
    weight = torch.randn(1, 4, 3, 3)
    (codebook(vectors).vectors * weight).sum().backward()
    torch.testing.assert_close(vectors.grad, weight)


def test_codes_are_the_moving_average_of_what_they_were_given():
    codebook = Codebook(3, 2, decay=0.9, restart_below=0.0).train()
    codebook.started.fill_(True)
    codebook.codes.copy_(torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]))
    codebook.sums.copy_(codebook.codes)
    codebook.counts.fill_(1.0)
    given = torch.tensor([[1.0, 1.0], [9.0, 1.0], [9.0, 3.0], [1.0, 8.0]])
    codebook(given.T.reshape(1, 2, 2, 2))
    expected_count = 0.9 + 0.1 * 2
    torch.testing.assert_close(
        codebook.codes[1],
        (0.9 * torch.tensor([10.0, 0.0]) + 0.1 * torch.tensor([18.0, 4.0])) / expected_count,
    )


def test_a_dead_code_moves_to_badly_served_data():
    torch.manual_seed(0)
    codebook = Codebook(2, 2, restart_below=0.5).train()
    codebook.started.fill_(True)
    codebook.codes.copy_(torch.tensor([[0.0, 0.0], [500.0, 500.0]]))
    codebook.sums.copy_(codebook.codes)
    codebook.counts.copy_(torch.tensor([100.0, 0.1]))
    vectors = torch.zeros(1, 2, 10, 10)
    vectors[0, :, 0, 0] = 5.0  # the only vector that code 0 serves badly
    codebook(vectors)
    assert (codebook.codes[1] - 5.0).abs().max() < 0.1


def test_usage_and_perplexity():
    assert Codebook.usage(torch.tensor([0, 1, 2, 3]), 8) == pytest.approx((0.5, 4.0))
    assert Codebook.usage(torch.tensor([5, 5, 5, 5]), 8) == pytest.approx((0.125, 1.0))


def test_eval_mode_changes_no_buffer():
    model = VQVAE(vocab_size=16, width=16, code_dim=8, depth=1).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.rand(1, 3, 16, 16))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_it_learns_to_reproduce_painted_masks():
    torch.manual_seed(0)
    palette = farthest_point_palette(4)
    # flat 8×8 squares
    masks = torch.randint(0, 4, (64, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    model = VQVAE(vocab_size=32, width=16, code_dim=8, depth=1).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(200):
        maskige = palette(masks[torch.randint(64, (16,))])
        loss, scalars = model.losses(maskige, *model(maskige))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first = loss.item() if step == 0 else first
    assert loss.item() < 0.25 * first
    assert scalars["usage"] > 0.2 and scalars["perplexity"] > 3


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 4, 16, 16), (1, 3, 18, 16)])
def test_a_maskige_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match="multiples of the stride 4"):
        VQVAE(vocab_size=8, width=16).encode(torch.zeros(shape))


def test_a_stride_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="power of two.*got 6"):
        VQVAE(stride=6)


def test_no_channels_are_refused():
    with pytest.raises(ValueError, match="channels must be at least 1.*got 0"):
        VQVAE(channels=0)


def test_tokens_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"0…7; got 3 … 8"):
        VQVAE(vocab_size=8, width=16).decode(torch.tensor([[[3, 8]]]))


@pytest.mark.parametrize(
    "tokenizer",
    [
        VQVAE(8, width=8, code_dim=4, depth=1),
        GumbelVAE(8, width=8, code_dim=4, depth=1),
        DalleDVAE(8, 4, 4),
    ],
)
@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(2, 2, dtype=torch.long),
        torch.zeros(1, 2, 2),
        torch.zeros(0, 2, 2, dtype=torch.long),
    ],
)
def test_every_tokenizer_refuses_what_are_no_tokens(tokenizer, tokens):
    with pytest.raises(ValueError, match=r"whole numbers \(B, h, w\)"):
        tokenizer.decode(tokens)
    assert tokenizer.eval().decode(torch.zeros(1, 2, 2, dtype=torch.uint8)).ndim == 4
