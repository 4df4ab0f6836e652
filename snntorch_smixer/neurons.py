"""Spiking neurons on snnTorch's Leaky that take all steps at once."""

from __future__ import annotations

from typing import Any, Self

import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError, check_choice
from snntorch_smixer.kernels.fire import Firing, fire_values
from snntorch_smixer.kernels.integer_fire import integer_spikes
from snntorch_smixer.kernels.lif import RESETS, lif, lif_with_membranes
from snntorch_smixer.kernels.lif import cap_spikes as cap_spikes
from snntorch_smixer.memory import KeepsLess
from snntorch_smixer.rest import join_instances, leave_instances, teach_snntorch_reset
from snntorch_smixer.rest import reset as reset
from snntorch_smixer.surrogates import Dspike as Dspike
from snntorch_smixer.surrogates import SpikeGrad, is_repeatable, picklable

_STATE_FUNCTIONS = {"zero": "_base_zero", "subtract": "_base_sub", "none": "_base_int"}  # of snntorch.Leaky


class LIF(KeepsLess, snn.Leaky):
    """Leaky integrate-and-fire neuron: a ``snntorch.Leaky`` that also takes all steps at once.

    ``u[t] = beta * u[t-1] * (1 - s[t-1]) + x[t]``, ``s[t] = u[t] > threshold``; for the other resets see
    `kernels.lif.lif`. In multi-step mode the input is ``(T, B, ...)``, every call starts from rest and nothing is kept
    afterwards: the spikes and gradients of a loop over ``snntorch.Leaky``. In step mode the neuron behaves as that
    ``snntorch.Leaky``. Spikes have the dtype of the input. `from_leaky` makes one from a ``snntorch.Leaky``.

    A ``beta`` or ``threshold`` that is an ``nn.Parameter`` is learned. It is held itself and not copied, so several
    neurons can share one.

    snnTorch's class-wide list ``SpikingNeuron.instances`` never frees a neuron; this one is listed weakly, and only in
    step mode, for what walks that list (``snntorch.backprop``). Where the installed snnTorch resets only direct
    children, the first neuron in step mode teaches ``snntorch.utils.reset`` to reset the given model, at any depth, and
    only that model.

    For the backward pass multi-step mode keeps its input, not to be changed in place meanwhile, and nothing else. With
    ``memory = "reference"`` (see `set_memory`), and with surrogates that are not `is_repeatable`, it keeps all that
    autograd does, which second derivatives need. Results are the same.

    Source: SN of the paper; beta = 0.5, threshold = 1 and Dspike are STMixer's.

    Args:
        beta: membrane decay per step, in [0, 1]. One value, or one per neuron in the trailing axes of a step.
        threshold: firing threshold; one value or one per neuron.
        spike_grad: any surrogate of ``snntorch.surrogate`` or `Dspike`; None means ``Dspike(2.5)``.
        reset_mechanism: as in snnTorch: what a spike does to the membrane one step later, "zero", "subtract" or "none".
        step_mode: "m" takes ``(T, B, ...)`` in one call, "s" one step ``(B, ...)``.
        init_hidden: as in snnTorch, for step mode: False passes the membrane in and out, ``spk, mem = lif(x, mem)``.
            snnTorch's ``output`` is an attribute here: ``lif.output = True`` returns ``(spk, mem)`` in step mode.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import LIF
        >>> LIF(0.9)(torch.rand(8, 16, 20)).shape  # (T, B, features), all steps at once
        torch.Size([8, 16, 20])
    """

    beta: Tensor
    threshold: Tensor
    mem: Tensor
    reset_mechanism_val: Tensor
    reset_dict: dict[str, int]
    spike_grad: SpikeGrad

    def __init__(
        self,
        beta: float | Tensor = 0.5,
        *,
        threshold: float | Tensor = 1.0,
        spike_grad: SpikeGrad | None = None,
        reset_mechanism: str = "zero",
        step_mode: str = "m",
        init_hidden: bool = True,
    ) -> None:
        check_choice("LIF", "reset_mechanism", reset_mechanism, RESETS)
        surrogate = Dspike() if spike_grad is None else picklable(spike_grad)
        super().__init__(beta, threshold, surrogate, init_hidden=init_hidden, reset_mechanism=reset_mechanism)
        leave_instances(self)
        for name, given in (("threshold", threshold), ("beta", beta)):  # in the order of snnTorch, for optimisers
            value = getattr(self, name)
            if not bool(torch.isfinite(value).all()) or (name == "beta" and bool(((value < 0) | (value > 1)).any())):
                wanted = "inside [0, 1]" if name == "beta" else "finite"
                raise SettingError(
                    f"LIF: {name}={value.tolist()} must be {wanted}. Pass the paper's 0.5 and 1.0, or yours."
                )
            if isinstance(given, nn.Parameter):
                setattr(self, name, given)
        self.step_mode = step_mode

    @classmethod
    def from_leaky(cls, leaky: snn.Leaky, *, step_mode: str = "m") -> Self:
        """A neuron with every setting of ``leaky``, at rest; it shares the parameters and buffers of ``leaky``.

        So an optimiser that has them goes on training them, and state dicts of the two are interchangeable.

        Args:
            leaky: a ``snntorch.Leaky``; its subclasses have dynamics of their own.
            step_mode: as of `LIF`.

        Raises:
            SettingError: ``leaky`` does what a `LIF` does not: inhibition, ``state_quant``, a factor on its spikes, or
                ``reset_delay=False``; or it has hooks, which would be lost.
        """
        _check_convertible(leaky)
        spike_grad, reset_mechanism = leaky.spike_grad, leaky.reset_mechanism
        neuron = cls(
            spike_grad=spike_grad, reset_mechanism=reset_mechanism, step_mode=step_mode, init_hidden=leaky.init_hidden
        ).to(leaky.beta.device)
        for name in ("threshold", "graded_spikes_factor", "beta"):
            value = getattr(leaky, name)
            if name in leaky._parameters:
                setattr(neuron, name, value)
            else:
                neuron.register_buffer(name, value)
        neuron.output, neuron.surrogate_disable = leaky.output, leaky.surrogate_disable
        return neuron.train(leaky.training)

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

    @property
    def reset_mechanism(self) -> str:
        """ "zero", "subtract" or "none". Setting it changes both step modes, unlike ``snntorch.Leaky``'s own."""
        return self._reset_mechanism

    @reset_mechanism.setter
    def reset_mechanism(self, how: str) -> None:
        check_choice("LIF", "reset_mechanism", how, RESETS)
        self._reset_mechanism = how
        self.reset_mechanism_val = torch.full_like(self.reset_mechanism_val, self.reset_dict[how])
        self.state_function = getattr(self, _STATE_FUNCTIONS[how])

    def forward(self, x: Tensor, mem: Tensor | None = None) -> Any:
        """Spikes ``(T, B, ...)`` in multi-step mode; what ``snntorch.Leaky`` returns in step mode.

        Raises:
            LayoutError: a membrane is passed in multi-step mode, there is no step, or ``beta`` or ``threshold`` has
                more values than a step.
        """
        if self._step_mode == "s":
            # Dspike keeps the dtype, so a half precision current would make the membrane half precision too.
            out = super().forward(x.to(torch.promote_types(x.dtype, torch.float32)), mem)
            return (out[0].to(x.dtype), *out[1:]) if isinstance(out, tuple) else out.to(x.dtype)
        if mem is not None:
            raise LayoutError(
                'LIF: step_mode="m" starts from rest and takes no membrane. Set step_mode="s" to pass one.'
            )
        self._check_steps(x)
        if x.is_floating_point() and self.keeps_less():
            return fire_values(x, Firing(self.beta, self.threshold, self.spike_grad, self._reset_mechanism))
        return lif(x, self.beta, self.threshold, self.spike_grad, reset=self._reset_mechanism)

    def keeps_less(self) -> bool:
        """True where multi-step mode keeps its input alone; ``torch.compile`` of a model fuses the plain loop."""
        return self.memory != "reference" and is_repeatable(self.spike_grad) and not torch.compiler.is_compiling()

    def spikes_and_membranes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membranes of all steps ``(T, B, ...)``, from rest, for losses on the membrane.

        The membranes are what a loop over ``snntorch.Leaky`` collects: before the reset, in at least float32. The step
        mode plays no part, and a membrane that step mode keeps is not touched.
        """
        self._check_steps(x)
        return lif_with_membranes(x, self.beta, self.threshold, self.spike_grad, reset=self._reset_mechanism)

    def _check_steps(self, x: Tensor) -> None:
        shapes.check_steps("LIF", x)
        for name, value in (("beta", self.beta), ("threshold", self.threshold)):
            sizes = zip(value.shape[::-1], x.shape[:0:-1], strict=False)
            if value.dim() > x.dim() - 1 or not all(own in (1, size) for own, size in sizes):
                raise LayoutError(
                    f"LIF: {name} of shape {tuple(value.shape)} does not fit steps of shape {tuple(x.shape[1:])}. "
                    "Give it the trailing axes of a step: (C,) for (T, B, C), (C, 1, 1) for (T, B, C, H, W)."
                )

    def __getstate__(self) -> dict[str, Any]:
        # A live membrane is a graph node, which neither deepcopy nor pickle accepts; its value travels alone.
        state = dict(self.__dict__)
        state["_buffers"] = {**self._buffers, "mem": self.mem.detach()}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._join_snntorch()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # snnTorch loads both numbers and goes on as constructed, which gives other spikes without a word.
        wanted = {"reset_mechanism_val": self.reset_dict[self._reset_mechanism], "graded_spikes_factor": 1}
        for name, value in wanted.items():
            loaded = state_dict.get(prefix + name)
            if loaded is not None and not loaded.is_meta and bool((loaded != value).any()):
                args[-1].append(
                    f"LIF: {prefix}{name} is {loaded.tolist()}, expected {value}. Another reset needs a LIF with that "
                    f"reset_mechanism, of {self.reset_dict}; spikes of another size need a snntorch.Leaky."
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _join_snntorch(self) -> None:
        if self._step_mode == "s":
            teach_snntorch_reset()
            join_instances(self)
        else:
            leave_instances(self)

    def extra_repr(self) -> str:
        """Decay, threshold, surrogate, reset unless to zero, and mode, for ``print(model)``."""
        settings = [
            f"{n}={v.item():g}" if v.numel() == 1 and not v.is_meta else n
            for n, v in (("beta", self.beta), ("threshold", self.threshold))
        ]
        settings.append(f"spike_grad={self.spike_grad!r}")
        if self._reset_mechanism != "zero":
            settings.append(f"reset_mechanism={self._reset_mechanism!r}")
        return ", ".join([*settings, f"step_mode={self._step_mode!r}"])


class IntegerLIF(KeepsLess):
    """Integer LIF (I-LIF): fires 0..levels spikes at once in training, which a chip unrolls to binary steps.

    Multi-step: ``(T, B, ...)`` in one call, from rest, without state; one bit per element is kept for backward,
    see `set_memory`. Source: SpikeYOLO and SDT-V3.

    Args:
        levels: D, the most spikes that one step may carry.
        beta: membrane decay per step.
        spike_cap: a lower limit than ``levels``, settable at any time; None for no limit. This is the second half of
            DSTP for nets whose time axis is folded into integer levels.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import IntegerLIF
        >>> IntegerLIF()(torch.full((1, 1, 1), 2.7)).item()
        3.0
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
        return integer_spikes(x, self.beta, self._spike_cap or self.levels, memory=self.memory)

    def extra_repr(self) -> str:
        """Levels, decay and cap, for ``print(model)``."""
        return f"levels={self.levels}, beta={self.beta:g}, spike_cap={self._spike_cap}"


def check_multi_step(where: str, neuron: nn.Module | None) -> None:
    """Raise `SettingError` for a snnTorch neuron that would take the axis of steps for a batch."""
    if isinstance(neuron, snn.SpikingNeuron) and not isinstance(neuron, LIF):
        raise SettingError(
            f"{where}: got a step-by-step snntorch.{type(neuron).__name__}, expected a neuron that takes all steps at "
            "once. Pass snntorch_smixer.LIF or IntegerLIF."
        )


def _check_convertible(leaky: snn.Leaky) -> None:
    if type(leaky) is not snn.Leaky:
        raise SettingError(
            f"LIF.from_leaky: got {type(leaky).__name__}, expected a snntorch.Leaky itself. Keep other neurons in a "
            "loop over steps; of a LIF set the step_mode."
        )
    factor = leaky.graded_spikes_factor
    lacks = {
        "inhibition": leaky.inhibition,
        "state_quant": leaky.state_quant,
        "reset_delay=False": not leaky.reset_delay,
        "graded_spikes_factor": isinstance(factor, nn.Parameter) or bool((factor != 1).any()),
        "hooks of the old neuron": leaky._forward_hooks or leaky._forward_pre_hooks or leaky._backward_hooks,
        "reset_mechanism that was set too late for snntorch.Leaky to follow": leaky.state_function.__name__
        != _STATE_FUNCTIONS[leaky.reset_mechanism],
    }
    found = ", ".join(name for name, is_set in lacks.items() if is_set)
    if found:
        raise SettingError(
            f"LIF.from_leaky: a LIF has no {found}. Make the snntorch.Leaky without, or keep it in a loop over steps."
        )
