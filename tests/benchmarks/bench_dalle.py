"""DALL·E's dVAE at full size on 256 × 256 pixels, against the plain code, module by module.

With two threads it must be at least 1.3 times as fast, in at most half of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from measure import measure, peak_extra_bytes, report
from torch import Tensor, nn

from gss_lite.dalle import GAIN, GROUPS, Block, DalleDVAE, map_pixels, unmap_pixels

SIDE = 256


class PlainBlock(nn.Module):
    """id(x) + gain · res(x) as one module after another."""

    def __init__(self, ours: Block) -> None:
        super().__init__()
        self.id_path = plain(ours.id)
        self.res_path = nn.Sequential(*(m for conv in ours.res for m in (nn.ReLU(), plain(conv))))

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + GAIN * self.res_path(x)


def plain(layer: nn.Module) -> nn.Module:
    """A convolution of the same weights in the usual layout; anything else as it is."""
    if not isinstance(layer, nn.Conv2d):
        return layer
    copy = nn.Conv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding
    )
    copy.load_state_dict({name: value.contiguous() for name, value in layer.state_dict().items()})
    return copy


def plain_encoder(model: DalleDVAE) -> nn.Sequential:
    """The published encoder, layer by layer: pixels (B, 3, H, W) → logits (B, V, H/8, W/8)."""
    groups = [
        nn.Sequential(*map(PlainBlock, group), *([nn.MaxPool2d(2)] if number < GROUPS - 1 else []))
        for number, group in enumerate(model.encoder.groups)
    ]
    output = nn.Conv2d(model.encoder.output.in_features, model.vocab_size, 1)
    output.weight.data = model.encoder.output.weight.data[:, :, None, None]  # (V, C, 1, 1)
    output.bias.data = model.encoder.output.bias.data
    return nn.Sequential(plain(model.encoder.input), *groups, nn.Sequential(nn.ReLU(), output))


def plain_decoder(model: DalleDVAE) -> nn.Sequential:
    """The published decoder, layer by layer: one-hot tokens (B, V, h, w) → (B, 6, 8h, 8w)."""
    table = model.decoder.codes.weight.data  # (V, code_dim)
    first = nn.Conv2d(*table.shape, 1, bias=False)
    first.weight.data = table.T[:, :, None, None].contiguous()
    groups = [
        nn.Sequential(
            *map(PlainBlock, group),
            *([nn.Upsample(scale_factor=2, mode="nearest")] if number < GROUPS - 1 else []),
        )
        for number, group in enumerate(model.decoder.groups)
    ]
    return nn.Sequential(first, *groups, nn.Sequential(nn.ReLU(), plain(model.decoder.output)))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@torch.no_grad()
def test_encode_and_decode(two_threads: None) -> None:
    torch.manual_seed(0)
    model = DalleDVAE().eval()
    # as OpenAI's: torch's own initialisation leaves hardly a signal at the end
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(layer.weight, 0, layer.weight[0].numel() ** -0.5)
            nn.init.zeros_(layer.bias)
    encoder, decoder = plain_encoder(model).eval(), plain_decoder(model).eval()
    picture = torch.rand(1, 3, SIDE, SIDE)

    def plain_way() -> Tensor:
        tokens = encoder(map_pixels(picture)).argmax(1)
        onehot = F.one_hot(tokens, model.vocab_size).permute(0, 3, 1, 2).float()
        return unmap_pixels(decoder(onehot)[:, :3].sigmoid())

    def our_way() -> Tensor:
        return model.decode(model.encode(picture))

    logits = encoder(map_pixels(picture))
    torch.testing.assert_close(
        model.encoder(map_pixels(picture)), logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max())
    )
    best = logits.topk(2, 1).values
    sure = best[:, 0] - best[:, 1] > 1e-4 * logits.abs().max()
    tokens = logits.argmax(1)
    assert torch.equal(model.encode(picture)[sure], tokens[sure]) and sure.float().mean() > 0.5
    expected = decoder(F.one_hot(tokens, model.vocab_size).permute(0, 3, 1, 2).float())
    torch.testing.assert_close(
        model.decoder(tokens), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )

    rows = {
        name: (measure(run, 3), peak_extra_bytes(run))
        for name, run in {"module by module": plain_way, "DalleDVAE": our_way}.items()
    }
    report(f"dVAE encode + decode, {SIDE} x {SIDE}, float32", rows)
    (plain_seconds, plain_size), (seconds, size) = rows.values()
    assert plain_seconds / seconds >= 1.3
    assert plain_size / size >= 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares precisions on a GPU")
@torch.no_grad()
def test_on_a_gpu_bfloat16_compiled_against_float32_eager() -> None:
    """Maskiges of 1024 × 1024, as stage II of the paper's presets encodes them: 3× faster."""
    torch.manual_seed(0)
    picture = torch.rand(4, 3, 1024, 1024, device="cuda")
    exact = DalleDVAE().eval().cuda()
    half = DalleDVAE(dtype=torch.bfloat16).eval().cuda()
    half.load_state_dict(
        {
            name: value.to(half.state_dict()[name].dtype)
            for name, value in exact.state_dict().items()
        }
    )
    encode = torch.compile(half.encode)
    decode = torch.compile(half.decode)
    runs = {
        "float32, eager": lambda: exact.decode(exact.encode(picture)),
        "bfloat16, compiled": lambda: decode(encode(picture)),
    }
    rows = {}
    for name, run in runs.items():
        run()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        rows[name] = measure(run, 5), torch.cuda.max_memory_allocated() - before
    report("dVAE encode + decode, 4 x 1024 x 1024, GPU", rows)
    (plain_seconds, _), (seconds, _) = rows.values()
    assert plain_seconds / seconds >= 3
