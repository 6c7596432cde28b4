"""AdamW as the released configs use it, SGD for palettes, and the learning rate."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gss_lite.presets.parts import Schedule

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def make_optimizer(module: nn.Module, schedule: Schedule) -> Optimizer:
    """Make the optimizer that a schedule names."""
    if schedule.optimizer == "sgd":
        trained = [p for p in module.parameters() if p.requires_grad]
        return SGD(trained, lr=schedule.lr, momentum=0.9, weight_decay=schedule.weight_decay)
    return adamw(module, schedule)


def adamw(module: nn.Module, schedule: Schedule) -> AdamW:
    """Make an AdamW without weight decay on normalisation layers and relative position biases.

    The released configs exclude the same parameters.
    """
    free = set()
    for part in module.modules():
        if isinstance(part, NORMS):
            free |= {id(p) for p in part.parameters(recurse=False)}
    for name, parameter in module.named_parameters():
        if name.endswith("relative_position_bias_table"):
            free.add(id(parameter))
    trained = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in trained if id(p) not in free]
    others = [p for p in trained if id(p) in free]
    groups = [
        {"params": decayed, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return AdamW(groups, lr=schedule.lr, betas=(0.9, 0.999))


def poly_with_warmup(step: int, schedule: Schedule) -> float:
    """Factor of the learning rate: a linear decay from 1 to 0, times a linear warm-up from 1e-6."""
    decay = max(0.0, 1 - step / schedule.steps)
    if not schedule.warmup:
        return decay
    return decay * min(1.0, 1e-6 + (1 - 1e-6) * step / schedule.warmup)


class Average(AveragedModel):
    """A moving average of weights and statistics, but not of constant buffers.

    torch also averages buffers of whole numbers and cuts off the fractions, which would change the
    index tables of attention layers. Such constants are not in the module's state_dict.
    """

    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with the model's weights."""
        super().update_parameters(model)
        weights = model.state_dict().keys()
        for (name, ours), theirs in zip(self.module.named_buffers(), model.buffers()):
            if name not in weights:
                ours.copy_(theirs)


def averaged(module: nn.Module, schedule: Schedule) -> Average | None:
    """Make an exponential moving average of the weights if the schedule has a decay `ema`.

    After n updates the decay is at most (1 + n) / (10 + n). A short run therefore soon forgets the
    random weights that it began with.
    """
    if not schedule.ema:
        return None

    def update(averages: list[Tensor], values: list[Tensor], count: int) -> None:
        decay = min(schedule.ema, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(decay)(averages, values, count)

    return Average(module, multi_avg_fn=update, use_buffers=True)
