"""The VQ-VAE: contract, codebook arithmetic, straight-through gradient, restarts, learning."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gss_lite.contracts import CodeTokenizer, Tokenizer
from gss_lite.dalle import DalleDVAE
from gss_lite.palette.maxmin import farthest_point_palette
from gss_lite.vqvae import VQVAE, Codebook, ResidualBlock
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


def as_map(vectors, height, width):
    """Vectors (h·w, C), row by row → (1, C, h, w), as an encoder gives them."""
    return vectors.T.reshape(1, -1, height, width)


def trained_codebook(codes, **options):
    """A codebook in train mode that has started, with these codes and a count of 1 for each."""
    codebook = Codebook(*codes.shape, **options).train()
    codebook.started.fill_(True)
    codebook.codes.copy_(codes)
    codebook.sums.copy_(codes)
    codebook.counts.fill_(1.0)
    return codebook


@pytest.mark.parametrize("training", [False, True])
def test_the_output_is_the_nearest_codes_of_before_the_step(training):
    codes = torch.randn(8, 4)
    codebook = trained_codebook(codes).train(training)
    vectors = torch.randn(2, 4, 3, 5)
    quantized = codebook(vectors)
    tokens = torch.cdist(vectors.movedim(1, -1).reshape(-1, 4), codes).argmin(1).view(2, 3, 5)
    assert torch.equal(quantized.tokens, tokens)
    torch.testing.assert_close(quantized.vectors, codes[tokens].movedim(-1, 1))
    error = (vectors - codes[tokens].movedim(-1, 1)).square().mean()
    torch.testing.assert_close(quantized.commitment, error)


@pytest.mark.parametrize("training", [False, True])
def test_gradient_passes_straight_through(training):
    codebook = trained_codebook(torch.randn(8, 4)).train(training)
    vectors = torch.randn(1, 4, 3, 3, requires_grad=True)
    weight = torch.randn(1, 4, 3, 3)
    (codebook(vectors).vectors * weight).sum().backward()
    torch.testing.assert_close(vectors.grad, weight)


@pytest.mark.parametrize("training", [False, True])
def test_commitment_pulls_the_vectors_to_their_codes(training):
    codes = torch.randn(8, 4)
    codebook = trained_codebook(codes).train(training)
    vectors = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantized = codebook(vectors)
    (slope,) = torch.autograd.grad(quantized.commitment, vectors)
    chosen = codes[quantized.tokens].movedim(-1, 1)
    torch.testing.assert_close(slope, 2 * (vectors.detach() - chosen) / vectors.numel())
    assert not codebook.codes.requires_grad  # the codes follow by their averages alone


def test_the_loss_is_squared_and_absolute_error_and_a_quarter_of_the_commitment():
    model = VQVAE(vocab_size=8, width=8, code_dim=4, depth=1).eval()
    maskige = torch.rand(2, 3, 8, 8)
    picture, quantized = model(maskige)
    error = picture - maskige
    reconstruction = error.square().mean() + error.abs().mean()
    loss, scalars = model.losses(maskige, picture, quantized)
    torch.testing.assert_close(loss, reconstruction + 0.25 * quantized.commitment)
    torch.testing.assert_close(scalars["reconstruction"], reconstruction.detach())
    usage = Codebook.usage(quantized.tokens, 8)
    assert (float(scalars["usage"]), float(scalars["perplexity"])) == pytest.approx(usage)
    heavy, _ = model.losses(maskige, picture, quantized, commitment=2.0)
    # It reaches the encoder: its gradient there is that of the commitment, as often as it counts.
    weight = model.encoder[0].weight
    extra, alone = (
        torch.autograd.grad(value, weight, retain_graph=True)[0]
        for value in (heavy - loss, quantized.commitment)
    )
    assert float(alone.norm()) > 0
    torch.testing.assert_close(extra, 1.75 * alone, atol=1e-6, rtol=1e-3)


def test_codes_are_the_moving_average_of_what_they_were_given():
    codes = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [50.0, 50.0]])
    codebook = trained_codebook(codes, decay=0.9, restart_below=0.0)
    given = torch.tensor([[1.0, 1.0], [9.0, 1.0], [9.0, 3.0], [1.0, 8.0]])
    counts = torch.ones(4)
    sums = codes.clone()
    for _ in range(3):
        codebook(as_map(given, 2, 2))
        counts = 0.9 * counts + 0.1 * torch.tensor([1.0, 2.0, 1.0, 0.0])
        sums = 0.9 * sums + 0.1 * torch.tensor([[1.0, 1.0], [18.0, 4.0], [1.0, 8.0], [0.0, 0.0]])
        torch.testing.assert_close(codebook.counts, counts)
        torch.testing.assert_close(codebook.sums, sums)
        torch.testing.assert_close(codebook.codes, sums / counts[:, None])
    torch.testing.assert_close(codebook.codes[3], codes[3])  # nobody chose it: it stays


def test_the_first_training_step_puts_every_code_on_a_vector_of_the_batch():
    codebook = Codebook(64, 2, decay=1.0).train()  # averages that never move: the start itself
    vectors = torch.randn(10, 2) + 100
    codebook(as_map(vectors, 2, 5))
    distance = torch.cdist(codebook.codes, vectors)
    spread = float(vectors.std())
    assert float(distance.amin(1).max()) < 0.1 * spread
    assert len(distance.argmin(1).unique()) > 5  # of ten: 64 draws leave hardly one out
    assert len(codebook.codes.unique(dim=0)) == 64  # equal vectors give unequal codes
    assert bool(codebook.started) and bool((codebook.counts == 1).all())
    assert torch.equal(codebook.sums, codebook.codes)
    before = codebook.codes.clone()
    codebook(as_map(vectors + 50, 2, 5))  # it starts once
    assert torch.equal(codebook.codes, before)


def test_a_start_draws_all_vectors_alike():
    vectors = torch.cat([torch.zeros(90, 2), torch.full((10, 2), 9.0)])
    codebook = Codebook(2000, 2, decay=1.0).train()
    codebook(as_map(vectors, 10, 10))
    far = (codebook.codes.mean(1) > 4.5).float().mean()
    assert float(far) == pytest.approx(0.1, abs=0.04)  # six standard deviations


def test_a_dead_code_moves_to_badly_served_data():
    codebook = trained_codebook(torch.tensor([[0.0, 0.0], [500.0, 500.0]]), restart_below=0.5)
    codebook.counts.copy_(torch.tensor([100.0, 0.1]))
    vectors = torch.zeros(1, 2, 10, 10)
    vectors[0, :, 0, 0] = 5.0  # the only vector that code 0 serves badly
    codebook(vectors)
    assert (codebook.codes[1] - 5.0).abs().max() < 0.1


def test_only_codes_below_the_threshold_are_moved():
    codes = torch.tensor([[0.0, 0.0], [500.0, 0.0], [0.0, 500.0], [500.0, 500.0]])
    codebook = trained_codebook(codes, decay=0.5, restart_below=1.0)
    counts = torch.tensor([1.0, 1.999, 2.0, 2.001])  # halved in this step, but for code 0
    codebook.counts.copy_(counts)
    codebook.sums.copy_(codes * counts[:, None])
    vectors = torch.randn(9, 2)
    codebook(as_map(vectors, 3, 3))
    torch.testing.assert_close(codebook.counts, torch.tensor([5.0, 1.0, 1.0, 1.0005]))
    assert float(codebook.codes[1].norm()) < 10  # moved onto the batch
    torch.testing.assert_close(codebook.sums[1], codebook.codes[1])
    torch.testing.assert_close(codebook.codes[2:], codes[2:])
    torch.testing.assert_close(codebook.codes[0], 0.5 * vectors.sum(0) / 5)


def test_dead_codes_are_drawn_in_proportion_to_the_squared_error():
    codes = torch.full((2001, 2), 500.0)
    codes[0] = 0.0
    codebook = trained_codebook(codes, restart_below=0.999)
    codebook.counts[0] = 100.0
    vectors = torch.zeros(100, 2)
    vectors[:20, 0] = 1.0  # squared error 1
    vectors[20:30, 0] = -3.0  # squared error 9
    codebook(as_map(vectors, 10, 10))
    moved = codebook.codes[1:, 0]
    shares = [float(((moved - x).abs() < 0.2).float().mean()) for x in (0.0, 1.0, -3.0)]
    # 20 · 1 and 10 · 9 of 110; the tolerance is five standard deviations of 2,000 draws
    assert shares == pytest.approx([0, 20 / 110, 90 / 110], abs=0.045)


class Spy(torch.nn.Module):
    """Stands where a network is: keeps what it is given and gives what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        self.given = x
        return self.answer


def test_the_networks_work_between_minus_one_and_one():
    model = VQVAE(vocab_size=4, stride=2, width=4, code_dim=2, depth=0).eval()
    maskige = torch.rand(1, 3, 4, 4)
    painted = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 0.5]).view(1, 1, 1, 6).expand(1, 3, 4, 6)
    model.encoder = Spy(torch.randn(1, 2, 2, 2))
    model.decoder = Spy(painted)
    reconstruction, _ = model(maskige)
    assert torch.equal(model.encoder.given, 2 * maskige - 1)
    assert reconstruction[0, 0, 0].tolist() == [-0.5, 0, 0.5, 1, 1.5, 0.75]
    model.encode(maskige / 2)
    torch.testing.assert_close(model.encoder.given, maskige - 1)
    tokens = torch.zeros(1, 2, 3, dtype=torch.long)
    assert model.decode(tokens)[0, 0, 0].tolist() == [0, 0, 0.5, 1, 1, 0.75]
    vectors = torch.randn(1, 2, 2, 3)
    assert model.decode_vectors(vectors)[0, 0, 0].tolist() == [0, 0, 0.5, 1, 1, 0.75]
    assert torch.equal(model.decoder.given, vectors)


def test_a_residual_block_adds_to_its_input():
    block = ResidualBlock(4)
    x = torch.randn(2, 4, 5, 6)
    wide, narrow = block.body[1], block.body[3]
    added = F.conv2d(x.relu(), wide.weight, wide.bias, padding=1).relu()
    added = F.conv2d(added, narrow.weight, narrow.bias)
    torch.testing.assert_close(block(x), x + added)
    assert wide.kernel_size == (3, 3) and narrow.kernel_size == (1, 1)


def test_the_layers_of_a_tokenizer():
    model = VQVAE(vocab_size=8, stride=8, width=16, code_dim=4, depth=1, decay=0.9)
    layers = [[type(layer).__name__ for layer in net] for net in (model.encoder, model.decoder)]
    down = ["Conv2d", "ReLU"] * 2 + ["Conv2d"]
    up = ["ReLU", "ConvTranspose2d"] * 3
    assert layers == [[*down, "ResidualBlock", "ReLU", "Conv2d"], ["Conv2d", "ResidualBlock", *up]]
    widths = [layer.out_channels for layer in model.encoder if isinstance(layer, nn.Conv2d)]
    assert widths == [8, 8, 16, 4]
    widths = [layer.out_channels for layer in model.decoder if hasattr(layer, "out_channels")]
    assert widths == [16, 8, 8, 3]
    assert (model.codebook.decay, model.codebook.codes.shape) == (0.9, (8, 4))
    standard = VQVAE()
    assert (standard.codebook.decay, standard.codebook.restart_below) == (0.99, 1.0)
    assert standard.codebook.codes.shape == (256, 16)


def test_the_vq_vae_meets_the_contracts_and_its_tokens_stand_for_its_code_vectors():
    model = VQVAE(vocab_size=8, width=8, code_dim=4, depth=1).eval()
    assert isinstance(model, Tokenizer) and isinstance(model, CodeTokenizer)
    tokens = torch.randint(8, (2, 3, 5))
    vectors = model.code_vectors()[tokens].movedim(-1, 1)
    assert torch.equal(model.decode(tokens), model.decode_vectors(vectors))


def test_usage_and_perplexity():
    assert Codebook.usage(torch.tensor([0, 1, 2, 3]), 8) == pytest.approx((0.5, 4.0))
    assert Codebook.usage(torch.tensor([5, 5, 5, 5]), 8) == pytest.approx((0.125, 1.0))
    uneven = torch.tensor([[[0, 7, 0], [0, 0, 0]], [[0, 7, 2], [0, 0, 0]]])
    entropy = -sum(n / 12 * math.log(n / 12) for n in (9, 2, 1))
    assert Codebook.usage(uneven, 8) == pytest.approx((3 / 8, math.exp(entropy)))


def test_eval_mode_changes_no_buffer():
    model = VQVAE(vocab_size=16, width=16, code_dim=8, depth=1).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(torch.rand(1, 3, 16, 16))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.slow
def test_it_learns_to_reproduce_painted_masks():
    torch.manual_seed(0)
    palette = farthest_point_palette(4)
    # flat 8×8 squares
    masks = torch.randint(0, 4, (64, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    model = VQVAE(vocab_size=32, width=16, code_dim=8, depth=1).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(200):
        maskige = palette(masks[torch.randint(64, (16,))])
        loss, scalars = model.losses(maskige, *model(maskige))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
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
