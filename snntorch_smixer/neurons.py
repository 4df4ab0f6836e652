"""Spiking neurons on snnTorch's Leaky, and `reset` for any depth."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import snntorch as snn
import torch
from snntorch import utils
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError, check_choice
from snntorch_smixer.kernels.lif import cap_spikes as cap_spikes
from snntorch_smixer.kernels.lif import integer_lif, lif
from snntorch_smixer.surrogates import Dspike as Dspike
from snntorch_smixer.surrogates import SpikeGrad, picklable


class LIF(snn.Leaky):
    """Leaky integrate-and-fire neuron with hard reset: a ``snntorch.Leaky`` that also takes all steps at once.

    ``u[t] = beta * u[t-1] * (1 - s[t-1]) + x[t]``, ``s[t] = u[t] > threshold``. In multi-step mode the input is
    ``(T, B, ...)``, every call starts from rest and nothing is kept afterwards. In step mode the neuron behaves as
    ``snntorch.Leaky(reset_mechanism="zero")``. Spikes have the dtype of the input.

    snnTorch's class-wide list ``SpikingNeuron.instances`` never frees a neuron; this one is listed weakly, and only in
    step mode, for what walks that list (``snntorch.backprop``). Where the installed snnTorch resets only direct
    children, the first neuron in step mode teaches ``snntorch.utils.reset`` to reset the given model, at any depth, and
    only that model.

    Source: SN of the paper; beta = 0.5, threshold = 1 and Dspike are STMixer's.

    Args:
        beta: membrane decay per step, in [0, 1].
        threshold: firing threshold.
        spike_grad: any surrogate of ``snntorch.surrogate`` or `Dspike`; None means ``Dspike(2.5)``.
        step_mode: "m" takes ``(T, B, ...)`` in one call, "s" one step ``(B, ...)``.
        init_hidden: as in snnTorch, for step mode: False passes the membrane in and out, ``spk, mem = lif(x, mem)``.
        output: as in snnTorch, for step mode: return ``(spk, mem)`` with ``init_hidden=True``.
    """

    def __init__(
        self,
        beta: float | Tensor = 0.5,
        *,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeGrad | None = None,
        step_mode: str = "m",
        init_hidden: bool = True,
        output: bool = False,
    ) -> None:
        super().__init__(
            beta,
            threshold,
            Dspike() if spike_grad is None else picklable(spike_grad),
            init_hidden=init_hidden,
            reset_mechanism="zero",
            output=output,
        )
        _leave_instances(self)
        for name in ("beta", "threshold"):
            value = getattr(self, name)
            if not bool(torch.isfinite(value).all()) or (name == "beta" and bool(((value < 0) | (value > 1)).any())):
                wanted = "inside [0, 1]" if name == "beta" else "finite"
                raise SettingError(
                    f"LIF: {name}={value.tolist()} must be {wanted}. Pass the paper's 0.5 and 1.0, or yours."
                )
        self.step_mode = step_mode

    @property
    def step_mode(self) -> str:
        """ "m" (all steps in one call) or "s" (one step a call). Setting it forgets the membrane."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, mode: str) -> None:
        check_choice("LIF", "step_mode", mode, ("m", "s"))
        self._step_mode = mode
        self._join_snntorch()
        self.mem = torch.zeros(0, device=self.beta.device)

    def forward(self, x: Tensor, mem: Tensor | None = None) -> Any:
        """Spikes ``(T, B, ...)`` in multi-step mode; what ``snntorch.Leaky`` returns in step mode.

        Raises:
            LayoutError: a membrane is passed in multi-step mode, or there is no step.
        """
        if self._step_mode == "s":
            # Dspike keeps the dtype, so a half precision current would make the membrane half precision too.
            out = super().forward(x.to(torch.promote_types(x.dtype, torch.float32)), mem)
            return (out[0].to(x.dtype), *out[1:]) if isinstance(out, tuple) else out.to(x.dtype)
        if mem is not None:
            raise LayoutError(
                'LIF: step_mode="m" starts from rest and takes no membrane. Set step_mode="s" to pass one.'
            )
        shapes.check_steps("LIF", x)
        return lif(x, self.beta, self.threshold, self.spike_grad)

    def __getstate__(self) -> dict[str, Any]:
        # A live membrane is a graph node, which neither deepcopy nor pickle accepts; its value travels alone.
        state = dict(self.__dict__)
        state["_buffers"] = {**self._buffers, "mem": self.mem.detach()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._join_snntorch()

    def _join_snntorch(self) -> None:
        if self._step_mode == "s":
            _teach_snntorch_reset()
            _join_instances(self)
        else:
            _leave_instances(self)

    def extra_repr(self) -> str:
        """Decay, threshold, surrogate and mode, for ``print(model)``."""
        numbers = [
            f"{n}={v.item():g}" if v.numel() == 1 and not v.is_meta else n
            for n, v in (("beta", self.beta), ("threshold", self.threshold))
        ]
        return f"{', '.join(numbers)}, spike_grad={self.spike_grad!r}, step_mode={self._step_mode!r}"


class IntegerLIF(nn.Module):
    """Integer LIF (I-LIF): fires 0..levels spikes at once in training, which a chip unrolls to binary steps.

    Multi-step: ``(T, B, ...)`` in one call, from rest, nothing kept. Source: SpikeYOLO and SDT-V3.

    Args:
        levels: D, the most spikes that one step may carry.
        beta: membrane decay per step.
        spike_cap: a lower limit than ``levels``, settable at any time; None for no limit. This is the second half of
            DSTP for nets whose time axis is folded into integer levels.
    """

    def __init__(self, levels: int = 4, *, beta: float = 0.25, spike_cap: int | None = None) -> None:
        super().__init__()
        if levels < 1:
            raise SettingError(f"IntegerLIF: levels={levels} must be at least 1. Pass the D of the net, for example 4.")
        if not 0 <= beta <= 1:
            raise SettingError(f"IntegerLIF: beta={beta} is outside [0, 1]. Pass the membrane decay per step.")
        self.levels, self.beta = levels, beta
        self.spike_cap = spike_cap

    @property
    def spike_cap(self) -> int | None:
        """Most spikes per step, at most ``levels``; None for no limit."""
        return self._spike_cap

    @spike_cap.setter
    def spike_cap(self, cap: int | None) -> None:
        if cap is not None and not 1 <= cap <= self.levels:
            raise SettingError(
                f"IntegerLIF: spike_cap={cap} is outside 1..{self.levels}. Pass a level, or None for no limit."
            )
        self._spike_cap = cap

    def forward(self, x: Tensor) -> Tensor:
        """Integer spikes ``(T, B, ...)`` in the dtype of ``x``."""
        shapes.check_steps("IntegerLIF", x)
        return integer_lif(x, self.beta, self.levels if self._spike_cap is None else self._spike_cap)

    def extra_repr(self) -> str:
        """Levels, decay and cap, for ``print(model)``."""
        return f"levels={self.levels}, beta={self.beta:g}, spike_cap={self._spike_cap}"


def reset(net: nn.Module) -> None:
    """Put every spiking neuron of ``net`` at rest, at any depth, and touch no other model.

    Works for every snnTorch neuron that has ``reset_mem``. Multi-step neurons keep no state, so nothing changes there.
    """
    for module in net.modules():
        if isinstance(module, snn.SpikingNeuron) and hasattr(module, "reset_mem"):
            module.reset_mem()


def check_multi_step(where: str, neuron: nn.Module | None) -> None:
    """Raise `SettingError` for a snnTorch neuron that would take the axis of steps for a batch."""
    if isinstance(neuron, snn.SpikingNeuron) and not isinstance(neuron, LIF):
        raise SettingError(
            f"{where}: got a step-by-step snntorch.{type(neuron).__name__}, expected a neuron that takes all steps at "
            "once. Pass snntorch_smixer.LIF or IntegerLIF."
        )


def _join_instances(neuron: LIF) -> None:
    listed, proxy = snn.SpikingNeuron.instances, weakref.proxy(neuron)
    if not any(entry is proxy for entry in listed):
        listed[:] = [entry for entry in listed if entry is not None]
        listed.append(proxy)
        weakref.finalize(neuron, _forget, proxy).atexit = False


def _leave_instances(neuron: LIF) -> None:
    proxy = weakref.proxy(neuron)
    snn.SpikingNeuron.instances[:] = [e for e in snn.SpikingNeuron.instances if e is not neuron and e is not proxy]


def _forget(proxy: Any) -> None:
    # Not removed: this may run while snnTorch walks the list by index.
    listed = snn.SpikingNeuron.instances
    listed[:] = [None if entry is proxy else entry for entry in listed]


class _CheckAndReset:
    """Stands in for ``snntorch.utils._layer_check``: notes the kinds of neurons as before, and puts the net at rest."""

    def __init__(self, note_kinds: Callable[[nn.Module], None]) -> None:
        self.note_kinds = note_kinds

    def __call__(self, net: nn.Module) -> None:
        self.note_kinds(net)  # snntorch.backprop reads these notes to cut the graph between truncated steps
        reset(net)


def _nothing_left_to_reset() -> None:
    """Stands in for ``snntorch.utils._layer_reset``, which clears every neuron of the process."""


def _teach_snntorch_reset() -> None:
    # snnTorch 1.0.0's utils.reset looks at direct children only and then clears every neuron of the process. It does so
    # through two helpers, so replacing those also serves code that imported `reset` by name. Later releases have no
    # such helpers and walk the model themselves.
    check = getattr(utils, "_layer_check", None)
    if check is not None and not isinstance(check, _CheckAndReset):
        utils._layer_check, utils._layer_reset = _CheckAndReset(check), _nothing_left_to_reset
