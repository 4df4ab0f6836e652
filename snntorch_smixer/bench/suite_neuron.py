"""``smixer bench neuron``: the LIF alone, and BatchNorm with the LIF behind it, against a loop over snntorch.Leaky."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.goals import Goal, judged
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.naive import LeakyLayer
from snntorch_smixer.bench.pairs import Timing, paired
from snntorch_smixer.bench.peers import FromRest
from snntorch_smixer.bench.progress import Progress, silent
from snntorch_smixer.bench.result import BenchResult, Value
from snntorch_smixer.kernels.compiled import use
from snntorch_smixer.kernels.fire import fire
from snntorch_smixer.kernels.norm_fire import norm_fire
from snntorch_smixer.layers.memory import firing_of
from snntorch_smixer.neurons import LIF

_STEPS = 4

GOALS = (
    Goal("R5", "train_ratio", 1 / 3, {"part": "LIF", "neuron": "fire", "tier": "compile"}),
    Goal("R5", "forward_ratio", 1 / 8, {"part": "LIF", "neuron": "fire", "tier": "compile"}),
    Goal("R5", "train_ratio", 1, {"part": "LIF", "neuron": "fire", "tier": "eager"}),
    Goal("R5", "forward_ratio", 1, {"part": "LIF", "neuron": "fire", "tier": "eager"}),
)


def neuron(
    *,
    batch: int = 32,
    tokens: int = 64,
    dim: int = 384,
    rounds: int = 10,
    compiled: bool = True,
    progress: Progress = silent,
) -> BenchResult:
    """Time and kept bytes of neurons on tokens ``(4, B, N, C)``, alone and behind a BatchNorm1d in training mode.

    Args:
        batch: B.
        tokens: N.
        dim: C.
        rounds: timed rounds, at least 2.
        compiled: also run the tier under ``torch.compile``, which is compiled in the rounds that are not timed.
        progress: watches the rounds.

    Returns:
        Rows with ``train_ratio`` (forward and backward) and ``forward_ratio`` (without gradients), both of process CPU
        time to the loop over ``snntorch.Leaky`` of the same part, and ``saved_bytes`` per element: neuron and step.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_STEPS, batch, tokens, dim, generator=generator)
    pair = partial(paired, rounds=rounds, warmup=2, progress=progress)
    rows = [row for part in ("LIF", "BN+LIF") for row in _rows(part, x, pair, compiled)]
    return BenchResult(
        "neuron",
        judged(rows, GOALS),
        f"smixer bench neuron --batch {batch} --rounds {rounds}",
        notes=(
            "Ratios of process CPU time to the snntorch.Leaky loop of the same part, median of the rounds.",
            f"Input (4, {batch}, {tokens}, {dim}), {x.nbytes / 2**20:.1f} MiB in fp32, {rounds} rounds.",
            "Saved bytes: per neuron and step; the neuron's input counts where it is kept.",
            "SpikingJelly's neuron has its own surrogate (sigmoid); the others have Dspike.",
        ),
    )


def _rows(part: str, x: Tensor, pair: Callable[..., dict[str, Timing]], compiled: bool) -> list[dict[str, Value]]:
    models = _models(part, x.shape[-1])
    if compiled:
        ours = {"LIF": "fire", "BN+LIF": "norm_fire"}[part]
        models[f"{ours}|compile"] = models[f"{ours}|eager"]
    trains: dict[str, Callable[[], None]] = {
        name: partial(_train, model, x, torch.ones_like(x), name.split("|")[1]) for name, model in models.items()
    }
    forwards: dict[str, Callable[[], None]] = {
        name: partial(_forward, model, x, name.split("|")[1]) for name, model in models.items()
    }
    train, forward = pair(trains), pair(forwards)
    rows: list[dict[str, Value]] = []
    for key, model in models.items():
        name, tier = key.split("|")
        kept = saved_bytes(nn.Sequential(_Scale(), model), x) * x.shape[0] / x.numel()
        ratios: dict[str, Value] = {"train_ratio": train[key].ratio, "forward_ratio": forward[key].ratio}
        rows.append({"part": part, "neuron": name, "tier": tier, **ratios, "saved_bytes": kept})
    return rows


def _models(part: str, dim: int) -> dict[str, nn.Module]:
    neurons: dict[str, nn.Module] = {"snntorch.Leaky loop|eager": _Loop(LIF()), "lif|eager": _plain()}
    if part == "LIF":
        neurons["fire|eager"] = _Fire(LIF())
    if find_spec("spikingjelly") is not None:
        neurons["spikingjelly LIFNode|eager"] = _spikingjelly_lif()
    if part == "LIF":
        return neurons
    models: dict[str, nn.Module] = {name: _Normed(dim, module) for name, module in neurons.items()}
    models["norm_fire|eager"] = _NormFire(dim, LIF())
    return models


def _plain() -> LIF:
    plain = LIF()
    plain.memory = "reference"
    return plain


def _spikingjelly_lif() -> nn.Module:
    home = "spikingjelly.activation_based"
    nodes, functional = importlib.import_module(f"{home}.neuron"), importlib.import_module(f"{home}.functional")
    # Decay 1 - 1 / tau = 0.5, threshold 1, reset to 0 behind the spike: the dynamics of the others.
    node = nodes.LIFNode(tau=2.0, decay_input=False, v_threshold=1.0, v_reset=0.0, detach_reset=True, step_mode="m")
    return FromRest(node, functional)


def _train(model: nn.Module, x: Tensor, grad: Tensor, tier: str) -> None:
    x = x.detach().requires_grad_()
    with use(tier):
        model(x).backward(grad)


def _forward(model: nn.Module, x: Tensor, tier: str) -> None:
    with torch.no_grad(), use(tier):
        model(x)


class _Scale(nn.Module):
    """Makes the input of what follows a tensor of the graph, so that it counts where it is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class _Loop(nn.Module):
    def __init__(self, like: LIF) -> None:
        super().__init__()
        self.leaky = LeakyLayer(like)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.leaky(x.flatten(0, 1), x.shape[0])
        return spikes.view(x.shape)


class _Normed(nn.Module):
    def __init__(self, dim: int, inner: nn.Module) -> None:
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(dim), inner

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.inner(self.norm(x.flatten(0, 2)).view(x.shape))
        return spikes


class _Fire(nn.Module):
    def __init__(self, lif: LIF) -> None:
        super().__init__()
        self.lif = lif

    def forward(self, x: Tensor) -> Tensor:
        return fire(x, self.lif.beta, self.lif.threshold, self.lif.spike_grad).values


class _NormFire(nn.Module):
    def __init__(self, dim: int, lif: LIF) -> None:
        super().__init__()
        self.norm, self.lif = nn.BatchNorm1d(dim), lif

    def forward(self, x: Tensor) -> Tensor:
        return norm_fire(x, self.norm, firing_of(self.lif)).values
