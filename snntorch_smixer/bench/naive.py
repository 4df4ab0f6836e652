"""The network run in the plain way, as its authors' code and snnTorch users do: what savings are measured against."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.lif import cap_spikes
from snntorch_smixer.kernels.token_mix import active_weight, expand_to_grid, grid_is_cheaper, restrict_to_kept
from snntorch_smixer.layers.block import EncodingBlock
from snntorch_smixer.layers.encode import encode
from snntorch_smixer.layers.mixer import SMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.unit import Unit
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.neurons import LIF
from snntorch_smixer.rest import leave_instances, reset
from snntorch_smixer.selection import Selection, take_steps


def naive_twin(net: SMixerNet) -> NaiveTwin:
    """The network as STMixer's authors run it: one loop over the steps in each neuron, in plain autograd operators.

    Same weights (copied), same pruning, equal logits. Steps are folded into the batch and channels come first,
    ``(T*B, C, N)``; a static image is repeated T times before the first convolution; a loop runs over the heads of the
    mixer; the reset is part of the gradient. For each neuron and step autograd keeps about 20 bytes: the input of
    BatchNorm and that of the convolution (4 each), and ``u - threshold``, ``u`` and ``1 - s`` (4 each, the last two not
    for the last step).

    Args:
        net: with the paper's mixer. It is not changed.

    Raises:
        SettingError: another mixer, or neurons other than a `LIF` that resets to zero and learns nothing.
    """
    return NaiveTwin(net, NaiveLIF)


def snntorch_layers(net: SMixerNet) -> NaiveTwin:
    """`naive_twin` whose neurons are loops over ``snntorch.Leaky``: one neuron at a time takes all steps."""
    return NaiveTwin(net, LeakyLayer)


def snntorch_loop(net: SMixerNet) -> SnnTorchLoop:
    """`naive_twin` as snnTorch's tutorials run a network: the whole of it is called once for each step.

    BatchNorm sees one step at a time, so in training mode the logits differ.

    Args:
        net: without pruning, which needs all steps at once.

    Raises:
        SettingError: the network prunes, or it is none that `naive_twin` takes.
    """
    if net.dstsp is not None:
        raise SettingError(
            "snntorch_loop: the network prunes, which needs all steps at once. Pass one with prune=None."
        )
    return SnnTorchLoop(net)


class NaiveLIF(nn.Module):
    """Hard-reset LIF over folded steps, ``(T*B, ...)``, with every intermediate left to autograd.

    The spikes are those of `LIF`. The gradient also flows through the reset, and with one step there is no membrane.

    Args:
        like: decay, threshold and surrogate are taken from it.
    """

    decay: Tensor
    threshold: Tensor

    def __init__(self, like: LIF) -> None:
        super().__init__()
        self.register_buffer("decay", like.beta.detach().clamp(0, 1))
        self.register_buffer("threshold", like.threshold.detach().clone())
        self.spike_grad = like.spike_grad

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Spikes ``(T*B, ...)``."""
        # As in the authors' code, whose spikes and membrane are float32 under autocast too.
        wide = torch.promote_types(x.dtype, torch.float32)
        if steps == 1:
            return self.spike_grad(x - self.threshold).to(wide)
        x = x.view(steps, -1, *x.shape[1:])
        mem, spikes = torch.zeros_like(x[0]), torch.zeros_like(x)
        for step in range(steps):
            mem = mem * self.decay + x[step]
            spike = self.spike_grad(mem - self.threshold).to(wide)
            spikes[step] = spike
            mem = mem * (1 - spike)
        return spikes.flatten(0, 1)


class LeakyLayer(nn.Module):
    """``snntorch.Leaky`` looped over folded steps, ``(T*B, ...)``.

    Args:
        like: decay, threshold and surrogate are taken from it.
        keeps: go on from the membrane of the last call, not from rest.
    """

    def __init__(self, like: LIF, *, keeps: bool = False) -> None:
        super().__init__()
        self.leaky = snn.Leaky(
            like.beta.detach().clone(),
            like.threshold.detach().clone(),
            like.spike_grad,
            init_hidden=True,
            reset_mechanism="zero",
        )
        self.keeps = keeps
        leave_instances(self.leaky)  # snnTorch's list of all neurons would keep it alive for good

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Spikes ``(T*B, ...)``."""
        if not self.keeps:
            self.leaky.reset_mem()
        if steps == 1:
            return cast(Tensor, self.leaky(x))
        return torch.cat([self.leaky(current) for current in x.chunk(steps)])


class NaiveTwin(nn.Module):
    """See `naive_twin`.

    Args:
        net: `SMixerNet`; copied.
        neuron: makes the neuron in the place of each `LIF`; called with folded input and the number of steps.
    """

    def __init__(self, net: SMixerNet, neuron: Callable[[LIF], nn.Module]) -> None:
        super().__init__()
        _check(net)
        self.net = copy.deepcopy(net)
        for module in list(self.net.modules()):
            for name, child in module.named_children():
                if isinstance(child, LIF):
                    setattr(module, name, neuron(child))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` or frames ``(T, B, C, H, W)`` to logits ``(B, K)``."""
        frames = self.frames(x)
        return self.step_logits(frames.flatten(0, 1), frames.shape[0]).mean(0)

    def frames(self, x: Tensor) -> Tensor:
        """Frames ``(T, B, C, H, W)``; a static image is copied T times."""
        c = self.net.config
        frames = encode(x, steps=c.T, channels=c.in_channels, size=c.img_size)
        return frames if frames.shape[0] == c.T else frames.repeat(c.T, 1, 1, 1, 1)

    def step_logits(self, frames: Tensor, steps: int) -> Tensor:
        """Folded frames ``(T*B, C, H, W)`` to the logits of each kept step ``(T', B, K)``."""
        net = self.net
        x, kept = self._stem(frames, steps)
        steps = steps if kept is None else kept.num_steps
        for index, block in enumerate(net.blocks):
            x, kept = self._prune(x, steps, kept, index)
            steps = steps if kept is None else kept.num_steps
            x = x + _mixer(_mixer_of(block), x, steps, kept)
            mlp = cast(SpikingMLP, block.mlp)
            x = x + _unit(mlp.contract, _unit(mlp.expand, x, steps, kept), steps, kept)
        return cast(Tensor, net.head.linear(x.mean(2).unflatten(0, (steps, -1))))

    def _stem(self, frames: Tensor, steps: int) -> tuple[Tensor, Selection | None]:
        stem, dstsp, x = self.net.stem, self.net.dstsp, frames
        choice = None if dstsp is None else dstsp.choice_in_stem(steps, self.net.config.num_tokens)
        for index, unit in enumerate(cast(Iterable[Unit], stem.units)):
            kept = None if choice is None else choice.kept
            spikes = _fire(unit.neuron, x, steps, kept)
            if choice is not None and index == choice.unit:
                chosen = choice(spikes.unflatten(0, (steps, -1)))
                spikes, frames = (_at(chosen, maps, steps) for maps in (spikes, frames))
                steps = chosen.shape[1]
                spikes = _fire(None, spikes, steps, choice.kept)
            x = _map(unit, spikes)
        kept = None if choice is None else choice.kept
        return torch.cat([x, _map(stem.short, frames)], 1).flatten(2), kept

    def _prune(self, x: Tensor, steps: int, kept: Selection | None, block: int) -> tuple[Tensor, Selection | None]:
        dstsp = self.net.dstsp
        tokens = x.unflatten(0, (steps, -1)).transpose(2, 3)
        if dstsp is None or not dstsp.prunes(tokens, kept, block):
            return x, kept
        with torch.no_grad():
            spikes = _fire(_mixer_of(self.net.blocks[block]).value.neuron, x, steps, None).unflatten(0, (steps, -1))
        tokens, kept = dstsp(tokens, spikes.transpose(2, 3), kept, block)
        return tokens.transpose(2, 3).flatten(0, 1), kept


class SnnTorchLoop(NaiveTwin):
    """See `snntorch_loop`.

    Args:
        net: `SMixerNet` without pruning; copied.
    """

    def __init__(self, net: SMixerNet) -> None:
        super().__init__(net, partial(LeakyLayer, keeps=True))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` or frames ``(T, B, C, H, W)`` to logits ``(B, K)``."""
        reset(self)
        return torch.cat([self.step_logits(frame, 1) for frame in self.frames(x)]).mean(0)


def _mixer(mixer: SMixer, x: Tensor, steps: int, kept: Selection | None) -> Tensor:
    spikes = _fire(mixer.neuron, _unit(mixer.value, x, steps, kept), steps, kept)
    return _unit(mixer.proj, _mix_kept(spikes, mixer.matrix, steps, kept), steps, kept)


def _mixer_of(block: nn.Module) -> SMixer:
    return cast(SMixer, cast(EncodingBlock, block).mixer)


def _mix_kept(x: Tensor, weight: Tensor, steps: int, kept: Selection | None) -> Tensor:
    """``W_M' X'`` on ``(T'*B, C, N')``, in the form that keeps fewer bytes where there is a choice."""
    if kept is None:
        return _mix(x, weight[None])
    tokens = x.unflatten(0, (steps, -1)).transpose(2, 3)
    own = kept.drops_tokens and kept.w_prime == "gather"
    if not own or not grid_is_cheaper(tokens, weight.shape[0], kept):
        return _mix(x, active_weight(weight, kept))
    grid = expand_to_grid(tokens, kept).transpose(2, 3)
    mixed = _mix(grid.flatten(0, 1), weight[None]).unflatten(0, (steps, -1)).transpose(2, 3)
    return restrict_to_kept(mixed, kept).transpose(2, 3).flatten(0, 1)


def _mix(x: Tensor, weight: Tensor) -> Tensor:
    """``(T'*B, C, N')`` by ``(1, h, N', N')``, or by one matrix per sample ``(B, h, N', N')``, head after head."""
    parts = x.reshape(x.shape[0], weight.shape[1], -1, x.shape[2])
    mixed = torch.zeros_like(parts)
    for head in range(weight.shape[1]):
        mixed[:, head] = _mix_head(parts[:, head], weight[:, head])
    return mixed.reshape(x.shape)


def _mix_head(x: Tensor, weight: Tensor) -> Tensor:
    if weight.shape[0] == 1:
        return F.linear(x, weight[0])
    # Steps beside channels: a product that broadcasts the matrices over the steps would keep a copy for each.
    columns = x.unflatten(0, (-1, weight.shape[0])).transpose(0, 1)
    mixed = (columns.flatten(1, 2) @ weight.transpose(1, 2)).view_as(columns)
    return mixed.transpose(0, 1).flatten(0, 1)


def _unit(unit: Unit, x: Tensor, steps: int, kept: Selection | None = None) -> Tensor:
    """Neuron, convolution, BatchNorm on folded maps or ``(T*B, C, N)``."""
    return _map(unit, _fire(unit.neuron, x, steps, kept))


def _map(unit: Unit, spikes: Tensor) -> Tensor:
    linear = unit.linear
    y = linear(spikes) if isinstance(linear, nn.Conv2d) else F.conv1d(spikes, linear.weight.unsqueeze(2))
    return cast(Tensor, unit.norm(y))


def _at(chosen: Tensor, maps: Tensor, steps: int) -> Tensor:
    """The chosen steps ``(B, T')`` of folded maps ``(T*B, ...)``."""
    return take_steps(maps.unflatten(0, (steps, -1)), chosen).flatten(0, 1)


def _fire(neuron: nn.Module | None, x: Tensor, steps: int, kept: Selection | None) -> Tensor:
    spikes: Tensor = x if neuron is None else neuron(x, steps)
    if kept is None or kept.spike_cap is None:
        return spikes
    return cap_spikes(spikes.unflatten(0, (steps, -1)), kept.spike_cap).flatten(0, 1)


def _check(net: SMixerNet) -> None:
    others = [type(m).__name__ for m in map(_mixer_of, net.blocks) if not isinstance(m, SMixer)]
    others += [repr(m) for m in net.modules() if isinstance(m, snn.SpikingNeuron) and not _is_plain(m)]
    if others:
        raise SettingError(
            f"naive twin: got {others[0]}, expected SMixer, and LIF that resets to zero and learns nothing. "
            "Pass a plain SMixerNet."
        )


def _is_plain(neuron: snn.SpikingNeuron) -> bool:
    return isinstance(neuron, LIF) and neuron.reset_mechanism == "zero" and not list(neuron.parameters())
