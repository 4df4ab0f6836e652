"""A trained net on a chip without a clock: spikes with arrival times, delays, jitter and losses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer import shapes
from snntorch_smixer.errors import SettingError
from snntorch_smixer.layers.block import EncodingBlock
from snntorch_smixer.layers.encode import encode
from snntorch_smixer.layers.mixer import SMixer, is_plain
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.unit import Unit
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.neurons import LIF


@dataclass(frozen=True)
class Timing:
    """How spikes travel. All times are in time steps of the net.

    Attributes:
        bins: M, moments that a step is divided into; times are rounded up to them.
        delay: time that every spike takes.
        jitter: J; every spike takes a further time, uniform in [0, J].
        loss: share of the spikes that never arrive.
        mismatch: standard deviation of the thresholds, relative to their value.
        seed: of all that is random.

    Examples:
        >>> from snntorch_smixer import events
        >>> events.Timing(bins=16, jitter=0.5).jitter
        0.5
    """

    bins: int = 1
    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    mismatch: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or self.bins < 1:
            raise SettingError(f"Timing: got bins={self.bins!r}, expected a whole number from 1. Pass 1, or 16.")
        for name in ("delay", "jitter", "mismatch", "loss"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (name == "loss" and value > 1):
                wanted = "a share in [0, 1]" if name == "loss" else "a finite value from 0"
                raise SettingError(f"Timing: got {name}={value!r}, expected {wanted}. Pass 0 to switch it off.")


@dataclass(frozen=True)
class Simulation:
    """What a simulated run gave.

    Attributes:
        logits: ``(B, K)``.
        trains: spikes per neuron layer by dotted path, ``(T * M, B, ...)``: 1 in the moment that the neuron fired.
        events: synaptic events per layer with weights, by dotted path, over the batch; a late or lost spike has none.
        late: spikes that would have arrived after the last step.
        lost: spikes that `Timing.loss` took.
        silent: neuron layers that never fired.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import events, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist").eval(), torch.rand(2, 1, 28, 28)
        >>> events.simulate(net, x).logits.shape
        torch.Size([2, 10])
    """

    logits: Tensor
    trains: Mapping[str, Tensor]
    events: Mapping[str, int]
    late: int
    lost: int
    silent: tuple[str, ...]

    def energy_pj(self, price: float) -> float:
        """Energy of the synaptic events of the batch in pJ, at ``price`` pJ for each."""
        return price * sum(self.events.values())


@torch.no_grad()
def simulate(net: SMixerNet, x: Tensor, timing: Timing | None = None) -> Simulation:
    """Run a net as an asynchronous chip does: every spike arrives at a time of its own.

    A neuron decays by ``beta ** dt`` between events, adds the weights of the spikes that arrive together, and fires at
    once when it exceeds its threshold, several times in a step where its input does. The image, the biases and the
    shifts of BatchNorm are constant currents, delivered at the start of each step. A shortcut is a second synapse of
    the same spike. With no delay, jitter, loss and mismatch the spikes are those of the net, for any ``bins``. All
    moments of a layer go through one operation of torch.

    Args:
        net: an `SMixerNet` with mixers, in evaluation mode, that does not prune.
        x: images ``(B, C, H, W)`` or event frames ``(T, B, C, H, W)``.
        timing: default: nothing late, lost or mismatched.

    Raises:
        SettingError: another module, training mode, or pruning.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import events, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist").eval(), torch.rand(2, 1, 28, 28)
        >>> run = events.simulate(net, x)
        >>> run.late, run.lost, torch.allclose(run.logits, net(x), atol=1e-4)
        (0, 0, True)
    """
    _check(net)
    return _Run(net, Timing() if timing is None else timing).go(x)


def _check(net: nn.Module) -> None:
    """Refuse what is not simulated, by module."""
    if not isinstance(net, SMixerNet):
        raise SettingError(
            f"simulate: got a {type(net).__name__}, expected an SMixerNet. Build one, or use events.audit."
        )
    if net.training:
        raise SettingError("simulate: the net is in training mode, where BatchNorm sees the batch. Call net.eval().")
    if net.dstsp is not None and (net.dstsp.ps or net.dstsp.t is not None):
        raise SettingError("simulate: dstsp ranks all spikes, which is a barrier. Set net.dstsp.ps = 0 and .t = None.")
    for name, module in net.named_modules():
        if isinstance(module, EncodingBlock) and type(module.mixer) is not SMixer:
            kind = type(module.mixer).__name__
            raise SettingError(f"simulate: {name}.mixer is a {kind}, which multiplies spikes. Use mixer='smixer'.")
        if isinstance(module, SMixer) and not is_plain(module.w_m):
            raise SettingError(f"simulate: {name}.w_m has more than a weight. Merge its adapter.")
        neuron = getattr(module, "neuron", None)
        if neuron is not None and (type(neuron) is not LIF or neuron.reset_mechanism != "zero"):
            raise SettingError(f"simulate: {name}.neuron is {neuron}, expected LIF with reset to zero. Train with it.")


class _Run:
    """One simulation; a drive is the input current of every moment, ``(T * M, B, ...)``."""

    def __init__(self, net: SMixerNet, timing: Timing) -> None:
        self.net, self.timing = net, timing
        self.random = torch.Generator().manual_seed(timing.seed)
        self.names = {module: name for name, module in net.named_modules()}
        self.trains: dict[str, Tensor] = {}
        self.events: Counter[str] = Counter()
        self.late = self.lost = 0

    def go(self, x: Tensor) -> Simulation:
        """Stem, blocks and head."""
        config = self.net.config
        frames = encode(x, steps=config.T, channels=config.in_channels, size=config.img_size)
        frames = frames.expand(config.T, *frames.shape[1:])
        units = [cast(Unit, unit) for unit in self.net.stem.units]
        main, short = (self._spread(unit.apply_linear(frames)) for unit in (units[0], self.net.stem.short))
        for unit in units[1:]:
            main = self._unit(unit, main)
        stream = shapes.grid_to_tokens(torch.cat([main, short], 2))
        for block in self.net.blocks:
            mixer, mlp = cast(SMixer, block.mixer), cast(SpikingMLP, block.mlp)
            spikes = self._fire(cast(LIF, mixer.neuron), self._unit(mixer.value, stream))
            mixed = self._synapses(spikes, mixer.mix)
            self.events[self.names[mixer.w_m]] += int(spikes.sum()) * mixer.num_tokens
            stream = stream + self._unit(mixer.proj, mixed)
            stream = stream + self._unit(mlp.contract, self._unit(mlp.expand, stream))
        logits = self.net.forward_head(stream.sum(0, keepdim=True) / config.T)
        silent = tuple(name for name, train in self.trains.items() if not train.any())
        return Simulation(logits, self.trains, dict(self.events), self.late, self.lost, silent)

    def _spread(self, currents: Tensor) -> Tensor:
        """Currents ``(T, B, ...)`` at the starts of the steps."""
        drive = currents.new_zeros(currents.shape[0] * self.timing.bins, *currents.shape[1:])
        drive[:: self.timing.bins] = currents
        return drive

    def _unit(self, unit: Unit, drive: Tensor) -> Tensor:
        """``BN(linear(spikes))`` of the spikes that arrive."""
        spikes = self._fire(cast(LIF, unit.neuron), drive)
        self.events[self.names[unit.linear]] += _fan_out(unit.linear, spikes)
        return self._synapses(spikes, unit.apply_linear)

    def _synapses(self, spikes: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        """What arrives at the next neurons in every moment: constants at the starts of steps, weights with events."""
        starts = torch.arange(len(spikes)) % self.timing.bins == 0
        busy = starts | spikes.flatten(1).any(1).cpu()
        arrived = apply(spikes[busy])
        between = ~starts[busy]
        if bool(between.any()):
            arrived[between] -= apply(torch.zeros_like(spikes[:1]))
        drive = arrived.new_zeros(len(spikes), *arrived.shape[1:])
        drive[busy] = arrived
        return drive

    def _fire(self, neuron: LIF, drive: Tensor) -> Tensor:
        """Fire event by event, and let the spikes travel."""
        spikes = self._integrate(neuron, drive)
        self.trains[self.names[neuron]] = spikes
        return self._travel(spikes)

    def _integrate(self, neuron: LIF, drive: Tensor) -> Tensor:
        """Spikes of a layer; silent moments between the starts of steps are skipped, decay is as long as the pause."""
        noise = torch.randn(drive.shape[2:], generator=self.random).to(drive) if self.timing.mismatch else 0.0
        threshold = neuron.threshold * (1 + self.timing.mismatch * noise)
        spikes, membrane, last = torch.zeros_like(drive), torch.zeros_like(drive[0]), 0
        for now, current in enumerate(drive):
            if now % self.timing.bins and not bool(current.any()):
                continue
            pause = (now - last) / self.timing.bins
            membrane = membrane * (neuron.beta if pause == 1 else neuron.beta**pause) + current
            spikes[now] = membrane > threshold
            membrane, last = membrane * (1 - spikes[now]), now
        return spikes

    def _travel(self, spikes: Tensor) -> Tensor:
        """The number of spikes that arrive in every moment, ``(T * M, B, ...)``."""
        timing = self.timing
        if not (timing.delay or timing.jitter or timing.loss):
            return spikes
        when, *place = spikes.nonzero(as_tuple=True)
        uniform = torch.rand(2, len(when), generator=self.random).to(spikes.device)
        taken = ((timing.delay + timing.jitter * uniform[0]) * timing.bins).ceil().long()
        kept = uniform[1] >= timing.loss
        in_time = when + taken < len(spikes)
        self.lost += int((~kept).sum())
        self.late += int((kept & ~in_time).sum())
        use = kept & in_time
        index = ((when + taken)[use], *(axis[use] for axis in place))
        ones = torch.ones(len(index[0]), dtype=spikes.dtype, device=spikes.device)
        return torch.zeros_like(spikes).index_put(index, ones, accumulate=True)


def _fan_out(linear: nn.Module, spikes: Tensor) -> int:
    """Synaptic events: synapses that the spikes reach."""
    if isinstance(linear, nn.Conv2d):
        ones = torch.ones_like(linear.weight)
        maps = F.conv2d(
            spikes.flatten(0, 1), ones, None, linear.stride, cast(int, linear.padding), linear.dilation, linear.groups
        )
        return int(maps.double().sum())
    return int(spikes.sum()) * cast(nn.Linear, linear).out_features
