"""Make an untrained model spike: silent layers would let every test of equality pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.fakes.neurons import NEURONS, reset

LOW, HIGH = 0.02, 0.95


def images(batch: int = 2, seed: int = 0, *, size: int = 16, channels: int = 3) -> Tensor:
    """Coarse blobs under noise, (B, channels, size, size): tokens of one image differ, and so do images."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, 4, 4, generator=draw)
    return coarse.repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3) + 0.5 * torch.randn(
        batch, channels, size, size, generator=draw
    )


def events(batch: int = 2, seed: int = 0, *, size: int = 16, steps: int = 4) -> Tensor:
    """Frames of counted events, (B, T, 2, size, size): denser where a blob is, and other ones in each step."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 1, 2, 4, 4, generator=draw) * 2
    rate = coarse.repeat_interleave(size // 4, 3).repeat_interleave(size // 4, 4).repeat(1, steps, 1, 1, 1)
    return torch.poisson(rate, generator=draw)


class _Rate:
    """Forward hook: share of the outputs that are not 0."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def __call__(self, module: nn.Module, args: object, spikes: Tensor) -> None:
        self.values.append(spikes.count_nonzero().item() / spikes.numel())


def rates(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Share of the outputs that are not 0, by path, of each neuron that ran; all are reset before and after."""
    # SpikingJelly's neurons are known by their threshold.
    kinds = {name: isinstance(m, NEURONS) or hasattr(m, "v_threshold") for name, m in model.named_modules()}
    seen = {name: _Rate() for name, fires in kinds.items() if fires}
    hooks = [model.get_submodule(name).register_forward_hook(hook) for name, hook in seen.items()]
    reset(model)
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    reset(model)
    return {name: sum(hook.values) / len(hook.values) for name, hook in seen.items() if hook.values}


def calibrate(model: nn.Module, example: Callable[..., Tensor], *, drive: float = 0.8) -> nn.Module:
    """Give every BatchNorm the statistics of its input and switch to evaluation; silent neurons are an error.

    Biases have the mean ``drive``: more where three spikes have to meet in a product, less where residuals add up
    before the neuron. Parameters are drawn from torch's global generator: seed it first.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean over all batches, not an exponential one
        nn.init.constant_(norm.weight, 2.0)
        nn.init.normal_(norm.bias, drive, 0.3)
    model.train()
    with torch.no_grad():
        for seed in range(4):
            reset(model)
            model(example(8, 1000 + seed))
    reset(model)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    silent = {name: rate for name, rate in rates(model.eval(), example(8, 0)).items() if not LOW < rate < HIGH}
    assert norms, "no BatchNorm to calibrate"
    assert not silent, f"{type(model).__name__}: these neurons are silent or never stop: {silent}"
    return model
