"""Modules that patching adds to a model: the pruning, and ``W_M`` in a foreign layout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.token_mix import expand_to_grid
from snntorch_smixer.layers.mixer import matrix, mix_tokens
from snntorch_smixer.layouts import Layout
from snntorch_smixer.memory import KeepsLess
from snntorch_smixer.patching.record import Found, Plan, check_fits
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from snntorch_smixer.selection import Selection, take_tokens


@dataclass(eq=False)
class Current:
    """What the running forward of a wrapped model has kept; shared by its patched modules.

    Attributes:
        kept: set where pruning happens, None before it.
    """

    kept: Selection | None = None


class WrappedDSTSP(DSTSP, KeepsLess):
    """A `DSTSP` that `wrap` put in and `unwrap` takes out again.

    Its ``memory`` is that of the whole wrapped model, for whatever in it has no mode of its own. "reference" unless
    told otherwise: foreign code is left as its author wrote it until somebody asks for less.

    Args:
        settings: see `DSTSPConfig`.
        plan: what `wrap` did.
        swap: argument of `wrap`; a model that is saved is wrapped alike when it is loaded.
    """

    def __init__(self, settings: DSTSPConfig, plan: Plan, *, swap: bool | str = True) -> None:
        self.plan, self.swap = plan, swap
        self.keeps_grid = plan.keeps_grid
        super().__init__(settings, depth=plan.depth)
        self.found = Found()

    _memory = "reference"

    def check(self, settings: DSTSPConfig) -> None:
        """Raise `SettingError` when ``settings`` do not fit the wrapped model."""
        super().check(settings)
        check_fits(self.plan, settings)

    def level_cap(self) -> int | None:
        """Most spikes of an integer neuron, where t counts levels and the pruning is active; else None."""
        levels, t = self.plan.levels, self.settings.t
        return t if levels is not None and t is not None and t < levels and self.is_active() else None

    def _steps_to_keep(self, steps: int) -> int:
        return steps if self.plan.levels is not None else super()._steps_to_keep(steps)


class LazyTokenMatrix(LazyModuleMixin, nn.Conv1d):
    """``W_M`` whose token count is not known yet; it becomes a plain ``nn.Conv1d`` when the first tokens arrive."""

    cls_to_become = nn.Conv1d

    def __init__(self, heads: int, stride: int) -> None:
        super().__init__(0, 0, 1, bias=False)
        self.groups, self.rows_per_column = heads, stride
        self.weight = UninitializedParameter()

    def reset_parameters(self) -> None:
        """Nothing to initialise before the token count is known."""

    def initialize_parameters(self, x: Tensor) -> None:
        """Make ``W_M`` for tokens ``(M, h*N, C/h)``; keeps a weight that was loaded before."""
        width = x.shape[1]
        if self.has_uninitialized_params():
            cast(UninitializedParameter, self.weight).materialize(
                (width * self.rows_per_column, width // self.groups, 1)
            )
            nn.init.normal_(self.weight, std=(2 * self.groups / width) ** 0.5)
        self.in_channels, self.out_channels = width, self.weight.shape[0]


def token_matrix(heads: int, tokens: int | None, stride: int = 1) -> nn.Conv1d:
    """``W_M``, Kaiming-normal as in `SpikingTokenMixer`; lazy when the number of tokens is not known."""
    if tokens is None:
        return LazyTokenMatrix(heads, stride)
    columns = tokens // stride
    w_m = nn.Conv1d(heads * columns, heads * tokens, 1, groups=heads, bias=False)
    nn.init.normal_(w_m.weight, std=(2 / columns) ** 0.5)
    return w_m


class TokenMixing(nn.Module):
    """``W_M V`` in the layout of the attention that it replaces, or ``W_M' V'`` on the tokens that pruning kept.

    Args:
        w_m: see `token_matrix`.
        value_layout: of V.
        out_layout: of the result.
        current: shared by the patched modules of one model.
    """

    def __init__(self, w_m: nn.Conv1d, *, value_layout: str, out_layout: str, current: Current) -> None:
        super().__init__()
        self.w_m = w_m
        self.value_layout, self.out_layout = Layout(value_layout), Layout(out_layout)
        self.current = current

    @property
    def heads(self) -> int:
        """H."""
        return self.w_m.groups

    @property
    def matrix(self) -> Tensor:
        """``W_M`` as ``(h, N, N)``."""
        return matrix(self.w_m)

    def tokens(self, value: Tensor) -> Tensor:
        """V as ``(T, B, N, C)``."""
        kept = self.current.kept
        sizes = {"g": self.heads, "t": 1}
        if kept is not None:
            del sizes["t"]
            sizes["b"] = kept.tokens.shape[0]
        return self.value_layout.to_tokens(value, sizes)

    def forward(self, value: Tensor) -> Tensor:
        """Mix the tokens of V.

        Raises:
            LayoutError: V has another token count than ``W_M``.
        """
        x, kept = self.tokens(value), self.current.kept
        if isinstance(self.w_m, LazyTokenMatrix):
            stride = self.w_m.rows_per_column
            full = x.shape[2] * stride if kept is None or stride > 1 else kept.full_tokens
            self.materialize(full, x.device)
        rows, whole = self.matrix.shape[1:]
        kept = kept if kept is not None and kept.drops_tokens else None
        expected = whole if kept is None or x.shape[2] == whole else kept.num_tokens
        if x.shape[2] != expected or (kept is not None and kept.full_tokens != rows):
            raise LayoutError(
                f"wrapped attention: W_M was built for {whole} tokens, got {x.shape[2]} of shape {tuple(value.shape)}. "
                "Feed the resolution that the model was wrapped for, or unwrap it and wrap it for the new one."
            )
        return self.out_layout.from_tokens(self._mix(x, kept), {"g": self.heads})

    def _mix(self, x: Tensor, kept: Selection | None) -> Tensor:
        rows, columns = self.matrix.shape[1:]
        if kept is None or rows != columns or x.shape[2] != columns:
            return mix_tokens(self.w_m, x, kept if rows == columns else None)
        # The grid is kept around this layer: gather, mix, and put back; dropped positions are silent.
        return expand_to_grid(mix_tokens(self.w_m, take_tokens(x, kept.tokens), kept), kept)

    def materialize(self, tokens: int, device: torch.device) -> None:
        """Make ``W_M`` for ``tokens`` tokens where it was not known yet; nothing else."""
        if isinstance(self.w_m, LazyTokenMatrix):
            columns = tokens // self.w_m.rows_per_column
            self.w_m.to(device)
            self.w_m._infer_parameters(self.w_m, (torch.empty(0, self.heads * columns, 0, device=device),))

    def extra_repr(self) -> str:
        """Heads and layouts, for ``print(model)``."""
        return f"heads={self.heads}, value={self.value_layout.text!r}, out={self.out_layout.text!r}"
