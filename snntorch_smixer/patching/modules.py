"""Modules that patching adds to a model: the pruning, and ``W_M`` in a foreign layout."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels.token_mix import expand_to_grid, mix_shared
from snntorch_smixer.layers.mixer import is_plain, matrix, mix_tokens
from snntorch_smixer.layouts import Layout
from snntorch_smixer.memory import KeepsLess
from snntorch_smixer.patching.record import Found, Plan, check_fits
from snntorch_smixer.patching.sequence import Loop, Sequence
from snntorch_smixer.patching.unpruned import Weights
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from snntorch_smixer.rest import HoldsSequence
from snntorch_smixer.selection import Selection, take_tokens


class Call:
    """One forward of a wrapped model.

    Attributes:
        kept: set where pruning happens, None before it.
        units: of the parts of blocks that run on the kept tokens now: sizes of the grid, and the input where it is
            added inside.
        compiled: its forward is compiled as a whole.
    """

    def __init__(self, *, compiled: bool = False) -> None:
        self.kept: Selection | None = None
        self.units: list[tuple[dict[str, int], Tensor | None]] = []
        self.compiled = compiled


class Current:
    """The forwards of a wrapped model that run now; shared by its patched modules. Each thread has its own.

    With gradients, the last one of a thread stays until its next: blocks may run again in the backward pass (activation
    checkpointing, where T is not stored).

    Attributes:
        threads: in how many a forward runs.
        stream: (T, B, N) of the stream where the last forward began to prune.
        left: (T, N) of what was left of it.
        saves_less: a forward that runs does, see `snntorch_smixer.patching.lean`.
    """

    def __init__(self) -> None:
        self.threads, self.saves_less = 0, False
        self._running: dict[int, list[Call]] = {}  # by thread, nested calls behind one another
        self._last: dict[int, Call] = {}
        self._latest, self._alone = Call(), threading.local()
        self.stream: tuple[int, int, int] | None = None
        self.left: tuple[int, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Current, ()

    @property
    def kept(self) -> Selection | None:
        """What the forward that runs here has kept; raises as `call`."""
        return self.call().kept

    @kept.setter
    def kept(self, kept: Selection | None) -> None:
        self.call().kept = kept

    def call(self) -> Call:
        """The forward that runs here, the last one of this thread where none does.

        Raises:
            SettingError: it cannot be told, because other threads run forwards of this model.
        """
        # A compiler cannot look into what belongs to a thread; where there are several, this is not compiled.
        if torch.compiler.is_compiling() and self.threads < 2:
            return self._latest
        here = threading.get_ident()
        running = self._running.get(here)
        if running or self._latest.compiled:
            return running[-1] if running else self._latest
        last = self._last.get(here) or self._alone.__dict__.get("call")
        if last is not None:
            return last
        in_backward = torch._C._current_graph_task_id() >= 0  # on a GPU in threads of autograd
        if in_backward and len(self._last) == 1:
            return next(iter(self._last.values()))
        if in_backward or self.threads:
            raise SettingError(
                "wrapped model: a part of it runs in a thread of its own, and it is not known to which call of the "
                "model it belongs. Call the whole model in each thread; with activation checkpointing, in one only."
            )
        return self._alone.__dict__.setdefault("call", Call())

    def begin(self, call: Call) -> None:
        """A forward starts in this thread."""
        here = threading.get_ident()
        if not self._running:
            alive = {thread.ident for thread in threading.enumerate()}
            self._last = {thread: last for thread, last in self._last.items() if thread in alive and thread != here}
        self._last.pop(here, None)
        self._alone.__dict__.clear()
        self._running.setdefault(here, []).append(call)
        self.threads, self._latest = len(self._running), call

    def end(self, call: Call, *, keep: bool) -> None:
        """It has ended; may be called again.

        Args:
            call: which.
            keep: its blocks may run again.
        """
        here = threading.get_ident()
        running = self._running.get(here, [])
        if call in running:
            del running[running.index(call) :]
            call.units.clear()
        if not running:
            self._running.pop(here, None)
            if keep:
                self._last[here] = call
        self.threads = len(self._running)
        self._latest = next((calls[-1] for calls in self._running.values() if calls), Call())

    def is_running(self, call: Call) -> bool:
        """True until `end`."""
        return call in self._running.get(threading.get_ident(), [])

    def others(self) -> bool:
        """True while other threads run forwards of this model."""
        return any(calls and thread != threading.get_ident() for thread, calls in list(self._running.items()))

    def begin_compiled(self) -> None:
        """A forward starts that a compiler follows."""
        self._latest = Call(compiled=True)


class StoredSteps:
    """The attributes of a model that store T, and its initial value.

    Attributes:
        places: (module, attribute) pairs.
    """

    def __init__(self) -> None:
        self.places: tuple[tuple[nn.Module, str], ...] = ()
        self.before: int | None = None

    def get(self) -> int | None:
        """T, None where none is stored."""
        return getattr(*self.places[0]) if self.places else None

    def set(self, steps: int, *, alone: bool = True) -> None:
        """Let every place say ``steps`` until `restore`.

        Raises:
            SettingError: forwards of the model run in several threads, which would read it.
        """
        if not self.places or steps == self.get():
            return
        if not alone:
            self.refuse()
        self.before = self.get() if self.before is None else self.before
        for module, name in self.places:
            setattr(module, name, steps)

    @staticmethod
    def refuse() -> None:
        """Raise `SettingError`: several threads would share a T that pruning changes."""
        raise SettingError(
            "wrapped model: forwards run in several threads, and the model stores T in its modules, which pruning "
            "changes while a forward runs. Call it from one thread at a time, or set model.dstsp.t = None."
        )

    def restore(self) -> None:
        """Let every place say what it said before."""
        if self.before is not None:
            for module, name in self.places:
                setattr(module, name, self.before)
            self.before = None


class WrappedDSTSP(DSTSP, KeepsLess, HoldsSequence):
    """A `DSTSP` that `wrap` put in and `unwrap` takes out again.

    Its ``memory`` is that of the whole wrapped model, for whatever in it has no mode of its own. "reference" unless
    told otherwise: foreign code is left as its author wrote it until somebody asks for less.

    Args:
        settings: see `DSTSPConfig`.
        plan: what `wrap` did.
        swap: argument of `wrap`; a model that is saved is wrapped alike when it is loaded.
        loop: how a model that takes one step at a time is called; None for one that takes all.

    Attributes:
        sequence: what was chosen for the sequence that runs, in a model that takes one step at a time.
        place_of_steps: its hook in front of the first block.
        only: blocks that `wrap` touched, None for all.
        looks_ahead: where such a model loops by itself, its stem runs twice and tokens are chosen by the spikes of all
            steps. False: by those of the first step.
        unpruned: weights that `unwrap` restores, by name; None where only training changed them.
    """

    plan: Plan
    swap: bool | str
    found: Found
    current: Current
    stored: StoredSteps
    loop: Loop | None
    sequence: Sequence
    place_of_steps: Any
    looks_ahead: bool
    only: tuple[str, ...] | None
    unpruned: Weights | None
    _more_settings = ("memory", "chunks", "looks_ahead")

    def __init__(self, settings: DSTSPConfig, plan: Plan, *, swap: bool | str = True, loop: Loop | None = None) -> None:
        self.current, self.stored = Current(), StoredSteps()
        self.loop, self.sequence, self.place_of_steps = loop, Sequence(), None
        self.looks_ahead, self.unpruned = True, None
        self.plan, self.swap, self.only = plan, swap, None
        self.keeps_grid = plan.keeps_grid
        super().__init__(settings, depth=plan.depth)
        self.found = Found()

    _memory = "reference"

    @property
    def always(self) -> tuple[int, ...]:  # type: ignore[override]
        """Places of tokens that are never dropped, see `Plan`."""
        return self.plan.always

    def check(self, settings: DSTSPConfig) -> None:
        """Raise `SettingError` when ``settings`` do not fit the wrapped model."""
        super().check(settings)
        check_fits(self.plan, settings)

    def reset_mem(self) -> None:
        """A new sequence, where the caller loops over the steps; resets of snnTorch and of this package call it."""
        if self.loop is not None and not self.loop.own:
            self.sequence.start()

    def level_cap(self) -> int | None:
        """Most spikes of an integer neuron, where t counts levels and the pruning is active; else None."""
        levels, t = self.plan.levels, self.settings.t
        return t if levels is not None and t is not None and t < levels and self.is_active() else None

    def _steps_to_keep(self, steps: int) -> int:
        return steps if self.plan.levels is not None else super()._steps_to_keep(steps)


_MAKING = threading.Lock()
"""Held while a ``W_M`` is made: two threads may run the first forward of a model."""


class CausalTokenMatrix(nn.Conv1d):
    """``W_M`` whose rows read no token behind their own, whatever its weight holds above the diagonal."""

    def masked(self) -> Tensor:
        """The weight, lower triangular in each head."""
        columns = self.weight.shape[1]
        return self.weight.view(self.groups, -1, columns).tril().view(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """``W_M`` on tokens ``(M, h*N, C/h)``."""
        return nn.functional.conv1d(x, self.masked(), groups=self.groups)


class LazyTokenMatrix(LazyModuleMixin, nn.Conv1d):
    """``W_M`` whose token count is not known yet; it becomes a plain ``nn.Conv1d`` when the first tokens arrive."""

    cls_to_become = nn.Conv1d

    def __init__(self, heads: int, stride: int, height: float = 1.0) -> None:
        super().__init__(0, 0, 1, bias=False)
        self.groups, self.rows_per_column, self.height = heads, stride, height
        self.weight = UninitializedParameter()

    def reset_parameters(self) -> None:
        """Nothing to initialise before the token count is known."""

    def initialize_parameters(self, x: Tensor) -> None:
        """Make ``W_M`` for tokens ``(M, h*N, C/h)``; keeps a weight that was loaded before."""
        width = x.shape[1]
        if self.has_uninitialized_params():
            shape = (width * self.rows_per_column, width // self.groups, 1)
            drawn = torch.empty(shape, dtype=self.weight.dtype, device=self.weight.device)
            _start(drawn, width // self.groups, self.height)
            # As materialize(), but without a moment in which Ctrl-C would leave memory that nobody filled.
            self.weight.data = drawn
            self.weight.__class__ = nn.Parameter
        self.in_channels, self.out_channels = width, self.weight.shape[0]


class LazyCausalTokenMatrix(LazyTokenMatrix):
    """`CausalTokenMatrix` whose token count is not known yet."""

    cls_to_become = CausalTokenMatrix


def token_matrix(
    heads: int, tokens: int | None, stride: int = 1, *, height: float = 1.0, causal: bool = False
) -> nn.Conv1d:
    """``W_M``, Kaiming-normal as in `SMixer`; lazy when the number of tokens is not known.

    Args:
        heads: h.
        tokens: N.
        stride: tokens per token of V.
        height: what one spike of V counts. ``W_M`` starts larger for lower spikes, so that the neuron behind it fires.
        causal: lower triangular.
    """
    if tokens is None:
        return (LazyCausalTokenMatrix if causal else LazyTokenMatrix)(heads, stride, height)
    columns = tokens // stride
    kind = CausalTokenMatrix if causal else nn.Conv1d
    w_m = kind(heads * columns, heads * tokens, 1, groups=heads, bias=False)
    _start(w_m.weight, columns, height)
    return w_m


def _start(weight: Tensor, columns: int, height: float) -> None:
    nn.init.normal_(weight, std=(2 / columns) ** 0.5 / height)


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
        # A tool may put another module in the place of ``w_m``, so what it has to be is kept here.
        self.w_m, self._heads, self._shape = w_m, w_m.groups, (0, 0)
        if isinstance(w_m, LazyTokenMatrix):
            self._stride: int = w_m.rows_per_column
        else:
            self._stride = self.shape[0] // self.shape[1]
        self.value_layout, self.out_layout = Layout(value_layout), Layout(out_layout)
        self.current = current

    in_windows = False
    """True where the tokens are those of one window, and pruning is left to what is around them."""

    @property
    def heads(self) -> int:
        """H."""
        return self.w_m.groups if is_plain(self.w_m) else self._heads

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of one head's matrix, (0, 0) before they are known."""
        if is_plain(self.w_m) or isinstance(self.w_m, CausalTokenMatrix):
            weight = self.w_m.weight
            shape = weight.shape[0] // self.heads, weight.shape[1]
            if shape != self._shape:
                self._shape = shape
        return self._shape

    @property
    def matrix(self) -> Tensor:
        """``W_M`` as ``(h, N, N)``.

        Raises:
            LayoutError: its number of tokens is not known before the first forward.
        """
        if not self.shape[1]:
            raise LayoutError("wrapped attention: W_M has no size before the first forward. Run the model once.")
        return matrix(self.w_m, heads=self.heads, columns=self.shape[1])

    def tokens(self, value: Tensor) -> Tensor:
        """V as ``(T, B, N, C)``."""
        kept = self._kept()
        sizes = {"g": self.heads, "t": 1}
        if kept is not None:
            del sizes["t"]
            sizes["b"] = kept.tokens.shape[0]
        if ("t", "n") in self.value_layout.groups or ("n", "t") in self.value_layout.groups:
            sizes = {"g": self.heads} | self._steps(kept)
        return self.value_layout.to_tokens(value, sizes)

    def _kept(self) -> Selection | None:
        return None if self.in_windows else self.current.kept

    def _steps(self, kept: Selection | None) -> dict[str, int]:
        """T, or N, of a V whose steps and tokens are one axis."""
        if kept is not None:
            return {"t": kept.num_steps}
        if self.shape[1]:
            return {"n": self.shape[1]}
        if self.current.stream is None:
            raise LayoutError(
                "wrapped attention: its V has steps and tokens on one axis, and how many are steps is not known before "
                "W_M has a size. Pass example_input=... to wrap."
            )
        return {"t": self.current.stream[0]}

    def forward(self, value: Tensor) -> Tensor:
        """Mix the tokens of V.

        Raises:
            LayoutError: V has another token count than ``W_M``.
        """
        x, kept = self.tokens(value), self._kept()
        if not self.shape[1]:
            unpruned = kept is None or self._stride > 1
            self.materialize(x.shape[2] * self._stride if unpruned else kept.full_tokens, x.device)  # type: ignore[union-attr]
        rows, whole = self.shape
        kept = kept if kept is not None and kept.drops_tokens else None
        if kept is None and isinstance(self.w_m, CausalTokenMatrix) and x.shape[2] < whole:  # the start of a text
            count = x.shape[2]
            mixed = mix_shared(x, self.matrix[:, :count, :count])
            return self.out_layout.from_tokens(mixed, {"g": self.heads})
        expected = whole if kept is None or x.shape[2] == whole else kept.num_tokens
        if x.shape[2] != expected or (kept is not None and kept.full_tokens != rows):
            got = x.shape[2] * (rows // whole) if kept is None else kept.full_tokens
            pruned = "" if kept is None else " (counted before pruning)"
            raise LayoutError(
                f"wrapped attention: W_M was built for {rows} tokens, got {got} of shape {tuple(value.shape)}{pruned}. "
                "Feed the resolution that the model was wrapped for, or unwrap it and wrap it for the new one."
            )
        sizes = {"g": self.heads}
        if "w" in self.value_layout:
            sizes["w"] = self.value_layout.size(value, "w")
        return self.out_layout.from_tokens(self._mix(x, kept), sizes)

    def _mix(self, x: Tensor, kept: Selection | None) -> Tensor:
        rows, columns = self.shape
        if kept is None or rows != columns or x.shape[2] != columns:
            return mix_tokens(self.w_m, x, kept if rows == columns else None, heads=self.heads)
        # The grid is kept around this layer: gather, mix, and put back; dropped positions are silent.
        return expand_to_grid(mix_tokens(self.w_m, take_tokens(x, kept.tokens), kept, heads=self.heads), kept)

    def materialize(self, tokens: int, device: torch.device) -> None:
        """Make ``W_M`` for ``tokens`` tokens where it was not known yet; nothing else."""
        with nullcontext() if torch.compiler.is_compiling() else _MAKING:
            columns = tokens // self._stride
            if isinstance(self.w_m, LazyTokenMatrix):
                self.w_m.to(device)
                self.w_m._infer_parameters(self.w_m, (torch.empty(0, self.heads * columns, 0, device=device),))
            if not self.shape[1]:  # an adapter around one that is not made yet makes it when it is called
                self._shape = tokens, columns

    def extra_repr(self) -> str:
        """Heads and layouts, for ``print(model)``."""
        return f"heads={self.heads}, value={self.value_layout.text!r}, out={self.out_layout.text!r}"
