"""Batch norm over the global batch of several processes, on GPUs (torch's SyncBatchNorm) and on CPUs (written here)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d, with timm's activation behind it if it had one, whose training statistics are those of all processes' batches together, which must be of equal size.

    torch.nn.SyncBatchNorm does the same, faster, but runs on GPUs only.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.drop, self.act = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return self.act(self.drop(self._normed(x)))

    def _normed(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        values = x.float()
        mean = _average(values.mean((0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _average(centred.square().mean((0, 2, 3)))
        count = x.numel() / x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = (
                self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            )
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * count / max(count - 1, 1), share)
        normed = centred * (variance + self.eps).rsqrt()[:, None, None]
        return (normed * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Replace every BatchNorm2d inside `module`, timm's with an activation too, by one over all processes; parameters, buffers and names stay.

    Raises:
        ValueError: a batch norm of another kind.
    """
    for name, child in module.named_children():
        if type(child) in (nn.BatchNorm2d, BatchNormAct2d):
            setattr(
                module,
                name,
                convert_sync_batchnorm(child) if device.type == "cuda" else _globally(child),
            )
        elif isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(
            child, (GlobalBatchNorm2d, nn.SyncBatchNorm)
        ):
            raise ValueError(
                f"{name} is a {type(child).__name__}; several processes share the statistics of "
                "BatchNorm2d only"
            )
        else:
            synchronize_batch_norm(child, device)


def _globally(norm: nn.BatchNorm2d) -> GlobalBatchNorm2d:
    new = GlobalBatchNorm2d(norm.num_features, norm.eps, norm.momentum).train(norm.training)
    if isinstance(norm, BatchNormAct2d):
        new.drop, new.act = norm.drop, norm.act
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var, new.num_batches_tracked = (
        norm.running_mean,
        norm.running_var,
        norm.num_batches_tracked,
    )
    return new


class _SumOverProcesses(torch.autograd.Function):
    """Σ over the processes of a tensor; so is its gradient."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _SumOverProcesses.apply(gradient)


def _average(value: Tensor) -> Tensor:
    return _SumOverProcesses.apply(value) / dist.get_world_size()
