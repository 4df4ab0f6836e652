"""What makes a LIF fire: the settings that the kernels hand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, check_choice
from snntorch_smixer.kernels.lif import RESETS
from snntorch_smixer.kernels.unrolled import Rule

SpikeGrad = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Firing:
    """What makes a LIF fire.

    Attributes:
        beta: membrane decay per step, clipped to [0, 1]; a single number, or one per neuron (broadcast).
        threshold: firing threshold; as ``beta``.
        spike_grad: maps ``u - threshold`` to binary spikes and carries the surrogate gradient, element by element. An
            optional method ``derivative(v)`` says that the spikes are ``v > 0`` and that their derivative is its value;
            with ``at_threshold = True`` they are ``v >= 0`` instead, and ``spike_grad`` is asked for them. Without
            the method torch's autograd is asked, one step at a time. Gradients of parameters that ``spike_grad``
            itself may hold are not computed.
        reset: "zero", "subtract" or "none", as in `kernels.lif.lif`.
    """

    beta: Tensor
    threshold: Tensor
    spike_grad: SpikeGrad
    reset: str = "zero"

    def __post_init__(self) -> None:
        check_choice("Firing", "reset", self.reset, RESETS)

    @property
    def rule(self) -> Rule:
        """Everything but the two tensors."""
        return self.spike_grad, self.reset

    @property
    def is_analytic(self) -> bool:
        """True when the surrogate states its derivative, and that it fires on ``v > 0``."""
        return hasattr(self.spike_grad, "derivative") and not getattr(self.spike_grad, "at_threshold", False)

    def work_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of a membrane for input of ``dtype``: at least float32, and that of parameters with axes of their own."""
        for parameter in (self.beta, self.threshold):
            dtype = torch.promote_types(dtype, parameter.dtype) if parameter.dim() else dtype
        return torch.promote_types(dtype, torch.float32)

    def check(self, where: str, x: Tensor) -> None:
        """Raise `LayoutError` unless ``x`` is ``(T, ...)`` and beta and threshold spread over one step of it."""
        shapes.check_steps(where, x)
        for name in ("beta", "threshold"):
            got, step = getattr(self, name).shape, x.shape[1:]
            short = len(got) <= len(step)
            if not short or any(a not in (1, b) for a, b in zip(got[::-1], step[::-1], strict=False)):
                raise LayoutError(
                    f"{where}: {name} of shape {tuple(got)} does not spread over one step {tuple(step)}; pass one "
                    "number, or one per channel: (C,) for tokens, (C, 1, 1) for maps"
                )
