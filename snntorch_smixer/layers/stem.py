"""Spiking patch splitting with an information-protection branch (IPSPS)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.layers.memory import KeepsLess, chain, is_lean
from snntorch_smixer.layers.unit import Unit, fire
from snntorch_smixer.neurons import LIF, cap_spikes
from snntorch_smixer.selection import take_steps

CIFAR_STRIDES = (1, 1, 1, 2, 2)
IMAGENET_STRIDES = (1, 2, 2, 2, 2)


class StepChoice(Protocol):
    """What drops steps inside the stem.

    Attributes:
        unit: the unit, 1 to 4, whose neuron's spikes are asked.
        spike_cap: limit on the spikes of a neuron over the kept steps, from that neuron on; None for no limit.
    """

    unit: int
    spike_cap: int | None

    def __call__(self, spikes: Tensor | Spikes) -> Tensor:
        """Spikes ``(T, B, C, H, W)`` to the kept steps ``(B, T')``."""
        ...


class SpikingPatchSplitting(KeepsLess):
    """Image or event frames to tokens: five 3x3 convolutions beside one strided convolution from the input.

    Main path: in -> D/8 -> D/4 -> D/2 -> D -> 7D/8, each convolution behind a neuron except the first, BatchNorm after
    each, no neuron at the end. Short path: one convolution (kernel = stride = the total stride) in -> D/8, BatchNorm.
    The two are concatenated, so the tokens are real valued. No max pooling, no bias. Source: STMixer, IPSPS.

    Args:
        in_channels: channels of the input: 1, 2 (events) or 3.
        dim: D, channels of a token; a multiple of 8.
        strides: strides of the five convolutions: `CIFAR_STRIDES` for 32 x 32, `IMAGENET_STRIDES` for 224 x 224 or
            events.
        neuron: makes one spiking neuron.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import SpikingPatchSplitting
        >>> SpikingPatchSplitting(3, 32)(torch.rand(4, 2, 3, 16, 16)).shape  # (T, B, N, C)
        torch.Size([4, 2, 16, 32])
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        *,
        strides: Sequence[int] = CIFAR_STRIDES,
        neuron: Callable[[], nn.Module] = LIF,
    ) -> None:
        super().__init__()
        if dim % 8 or dim < 8:
            raise SettingError(
                f"SpikingPatchSplitting: dim={dim} is no multiple of 8; the stem divides it by 8. Round it."
            )
        if len(strides) != 5 or min(strides) < 1:
            raise SettingError(
                f"SpikingPatchSplitting: strides={tuple(strides)} must be five positive numbers. "
                "Pass one for each convolution, for example (1, 1, 1, 2, 2)."
            )
        widths = [in_channels, dim // 8, dim // 4, dim // 2, dim, dim - dim // 8]
        self.in_channels, self.stride = in_channels, prod(strides)
        self.units = nn.ModuleList(
            Unit(nn.Conv2d(a, b, 3, stride=s, padding=1, bias=False), neuron() if i else None)
            for i, (a, b, s) in enumerate(zip(widths[:-1], widths[1:], strides, strict=True))
        )
        self.short = Unit(nn.Conv2d(in_channels, dim // 8, self.stride, stride=self.stride, bias=False), None)

    def forward(self, x: Tensor, *, steps: int | None = None, choice: StepChoice | None = None) -> Tensor:
        """``(T, B, C, H, W)`` to tokens ``(T, B, N, D)``, or ``(T', B, N, D)`` with ``choice``.

        Args:
            x: frames; a static image has one step, ``(1, B, C, H, W)``.
            steps: T to show a static image for: both first convolutions and their BatchNorm run once, not T times. The
                tokens equal those of T repeated frames; the running variance differs by the sample-size correction
                ``(n - 1/T) / (n - 1)`` of BatchNorm's n values per channel.
            choice: drops steps at one of the neurons; what follows, and the short path, see the kept ones only, each
                neuron from rest.

        Raises:
            LayoutError: wrong rank, channels or number of steps, or a size that the total stride does not divide.
        """
        steps = x.shape[0] if steps is None else steps
        self._check(x, steps)
        units = [cast(Unit, unit) for unit in self.units]
        lean = is_lean(self, units) and (choice is None or choice.spike_cap is None)
        run = partial(chain, self) if lean else _plain
        if choice is None:
            main, short = run(units, x, steps=steps), _show(self.short(x), steps)
        else:
            at = choice.unit
            spikes = run(units[:at], x, then=units[at].neuron, steps=steps)
            kept = choice(spikes)
            spikes, steps = _take(spikes, kept), kept.shape[1]
            main = (
                chain(self, units[at:], spikes) if lean else _go_on(units[at:], cast(Tensor, spikes), choice.spike_cap)
            )
            short = _show(self.short(x if x.shape[0] == 1 else take_steps(x, kept)), steps)
        return shapes.grid_to_tokens(torch.cat([cast(Tensor, main), short], 2))

    def _check(self, x: Tensor, steps: int) -> None:
        if x.dim() != 5 or x.shape[2] != self.in_channels:
            raise LayoutError(
                f"SpikingPatchSplitting: expected (T, B, {self.in_channels}, H, W), got shape {tuple(x.shape)}; "
                "did you forget the time axis?"
            )
        if x.shape[0] not in (1, steps):
            raise LayoutError(
                f"SpikingPatchSplitting: expected 1 or {steps} steps on the first axis, got shape {tuple(x.shape)}; "
                "only a static image is repeated, so pass steps=None for frames"
            )
        if x.shape[3] % self.stride or x.shape[4] % self.stride:
            raise LayoutError(
                f"SpikingPatchSplitting: {x.shape[3]} x {x.shape[4]} is no multiple of the total stride {self.stride}; "
                "pad or resize the input, or choose other strides"
            )


def _plain(units: Sequence[Unit], x: Tensor, *, steps: int, then: nn.Module | None = None) -> Tensor:
    """Units one after the other, the first on a real-valued input, and a neuron behind the last; as `chain` does."""
    main = _show(units[0](x), steps)
    for unit in units[1:]:
        main = unit(main)
    return fire(then, main)


def _go_on(units: Sequence[Unit], spikes: Tensor, cap: int | None) -> Tensor:
    """Units one after the other, the first on spikes of its own neuron."""
    main = units[0].apply_linear(spikes if cap is None else cap_spikes(spikes, cap))
    for unit in units[1:]:
        main = unit(main, cap)
    return main


def _take(spikes: Tensor | Spikes, steps: Tensor) -> Tensor | Spikes:
    if isinstance(spikes, Tensor):
        return take_steps(spikes, steps)
    return Spikes.of(take_steps(spikes.values, steps), bits=take_steps(spikes.bits, steps))


def _show(x: Tensor, steps: int) -> Tensor:
    """Repeat a static map for ``steps`` steps without copying it."""
    return x if x.shape[0] == steps else x.expand(steps, *x.shape[1:])
