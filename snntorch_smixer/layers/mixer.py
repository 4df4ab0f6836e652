"""SMixer, ``SN(W_M X)``: spikes are mixed over tokens by a learned matrix, never multiplied with spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError, check_choice
from snntorch_smixer.kernels import token_mix
from snntorch_smixer.kernels.recompute import recompute_mix
from snntorch_smixer.kernels.spike_linear import spike_mix
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.kernels.token_mix import active_weight as active_weight
from snntorch_smixer.layers.memory import KeepsLess, chain, fire_lean, firing_of, has_hooks, is_lean
from snntorch_smixer.layers.unit import Unit, fire
from snntorch_smixer.neurons import LIF, check_multi_step
from snntorch_smixer.selection import Selection


class SMixer(KeepsLess):
    """``SMixer(X) = SN(W_M X)`` between two projections: the paper's replacement for spiking self-attention.

    neuron - linear - BN - neuron - ``W_M`` - neuron - linear - BN. ``W_M`` sees spikes, so it only adds up weights. It
    is a 1x1 ``nn.Conv1d`` whose channels are tokens and whose groups are heads, so that tools which hook modules
    (torchinfo, NeuroBench, NIR) see a linear map; on pruned tokens they see it only where ``W_M'`` is applied on the
    whole grid (``w_prime="gather"``, many heads). No bias; Kaiming-normal, fan-out N. Source: paper, SMixer; STMixer's
    STM.

    Args:
        dim: C, channels of a token.
        num_tokens: N that ``W_M`` is built for.
        heads: h groups of channels, each with a matrix of its own; divides ``dim``.
        neuron: makes one spiking neuron.
        step_mode: "m" takes ``(T, B, N, C)`` in one call; "s" takes one step ``(B, N, C)`` a call and keeps the
            membranes, beside ``snn.Leaky(init_hidden=True)`` in an ``nn.Sequential``. The two agree in evaluation mode;
            in training BatchNorm sees one step at a time in "s", so train in "m".

    Examples:
        >>> import torch
        >>> from snntorch_smixer import SMixer
        >>> SMixer(32, num_tokens=16, heads=4)(torch.randn(4, 2, 16, 32)).shape  # (T, B, N, C)
        torch.Size([4, 2, 16, 32])
    """

    def __init__(
        self,
        dim: int,
        *,
        num_tokens: int,
        heads: int = 1,
        neuron: Callable[[], nn.Module] = LIF,
        step_mode: str = "m",
    ) -> None:
        super().__init__()
        check_heads("SMixer", dim, heads)
        if num_tokens < 1:
            raise SettingError(f"SMixer: num_tokens={num_tokens} must be positive. Pass H * W of the token grid.")
        self.dim, self.num_tokens, self.heads = dim, num_tokens, heads
        self.value = Unit(nn.Linear(dim, dim, bias=False), neuron())
        self.neuron = neuron()
        self.w_m = nn.Conv1d(heads * num_tokens, heads * num_tokens, 1, groups=heads, bias=False)
        self.proj = Unit(nn.Linear(dim, dim, bias=False), neuron())
        check_multi_step("SMixer", self.neuron)
        nn.init.normal_(self.w_m.weight, std=(2 / num_tokens) ** 0.5)
        self.step_mode = step_mode

    @property
    def matrix(self) -> Tensor:
        """``W_M`` as ``(h, N, N)``: row i gives output token i, column j takes input token j."""
        return matrix(self.w_m, heads=self.heads, columns=self.num_tokens)

    @property
    def step_mode(self) -> str:
        """ "m" or "s", of this layer and of its neurons."""
        return self._step_mode

    @step_mode.setter
    def step_mode(self, mode: str) -> None:
        check_choice("SMixer", "step_mode", mode, ("m", "s"))
        neurons = (self.value.neuron, self.neuron, self.proj.neuron)
        others = [type(neuron).__name__ for neuron in neurons if not isinstance(neuron, LIF)]
        if mode == "s" and others:
            raise SettingError(
                f"SMixer: step_mode='s' needs neurons that keep their membrane, got {others[0]}. Pass neuron=LIF."
            )
        self._step_mode = mode
        for neuron in neurons:
            if isinstance(neuron, LIF):
                neuron.step_mode = mode

    def forward(self, x: Tensor, kept: Selection | None = None) -> Tensor:
        """Mix tokens.

        Args:
            x: ``(T, B, N', C)``, or ``(B, N, C)`` in step mode.
            kept: what pruning kept of the N tokens; None when all are there.

        Raises:
            LayoutError: wrong rank, token or channel count.
        """
        self._check(x, kept)
        cap = None if kept is None else kept.spike_cap
        if cap is None and self._mixes_plainly() and is_lean(self, (self.value, self.proj), (self.neuron,)):
            return self._lean(x, kept)
        spikes = fire(self.neuron, self.value(x, cap), cap)
        return self.proj(self.mix(spikes, kept), cap)

    def _mixes_plainly(self) -> bool:
        """True where `mix` is the product with ``w_m.weight`` and nothing else."""
        own_mix = type(self).mix is not SMixer.mix or "mix" in vars(self)
        return not own_mix and is_plain(self.w_m) and not has_hooks(self.w_m)

    def _lean(self, x: Tensor, kept: Selection | None) -> Tensor:
        spikes = cast(Spikes, chain(self, (self.value,), x, then=self.neuron))
        if self.memory == "recompute":
            fired = recompute_mix(spikes, self.matrix, kept, firing_of(cast(nn.Module, self.proj.neuron)))
        else:
            fired = fire_lean(cast(nn.Module, self.proj.neuron), spike_mix(spikes, self.matrix, kept))
        return cast(Tensor, chain(self, (self.proj,), fired))

    def mix(self, spikes: Tensor, kept: Selection | None = None) -> Tensor:
        """``W_M X``, or ``W_M' X'`` on kept tokens: spikes in, real values out, same shape."""
        return mix_tokens(self.w_m, spikes, kept, heads=self.heads)

    def _check(self, x: Tensor, kept: Selection | None) -> None:
        if self._step_mode == "s" and (x.dim() != 3 or kept is not None):
            got = "a Selection" if kept is not None else f"shape {tuple(x.shape)}"
            raise LayoutError(
                f"SMixer: step_mode='s' expects one step (B, N, C) and no pruning, got {got}; "
                "set step_mode='m' for (T, B, N, C)"
            )
        tokens = self.num_tokens if kept is None else kept.num_tokens
        check = shapes.check_tokens if self._step_mode == "m" else shapes.check_token_axes
        check("SMixer", x, tokens=tokens, channels=self.dim)
        if kept is not None and kept.full_tokens != self.num_tokens:
            raise LayoutError(
                f"SMixer: the Selection was made for {kept.full_tokens} tokens, W_M for {self.num_tokens}; "
                "use the Selection of this network's own stem"
            )

    def extra_repr(self) -> str:
        """Tokens, channels, heads and mode, for ``print(model)``."""
        return f"dim={self.dim}, num_tokens={self.num_tokens}, heads={self.heads}, step_mode={self._step_mode!r}"


SpikingTokenMixer = SMixer
"""The name that the layer had first."""


def is_plain(w_m: nn.Module) -> bool:
    """True where ``w_m.weight`` alone is ``W_M``: no adapter, parametrization, quantised layer or bias beside it."""
    return type(w_m) is nn.Conv1d and w_m._parameters.get("weight") is not None and w_m.bias is None


def matrix(w_m: nn.Module, *, heads: int | None = None, columns: int | None = None) -> Tensor:
    """``W_M`` as ``(h, M, N)``: the weight of a grouped 1x1 convolution over tokens, or what ``w_m`` makes of it.

    Args:
        w_m: takes and gives ``(samples, h * tokens, channels)``.
        heads: h; default: the groups of ``w_m``.
        columns: N; default: the columns of its weight.
    """
    convolution = cast(nn.Conv1d, w_m)
    heads = convolution.groups if heads is None else heads
    columns = convolution.weight.shape[1] if columns is None else columns
    if is_plain(w_m):
        return convolution.weight.view(heads, -1, columns)
    like = next((t for t in (*w_m.parameters(), *w_m.buffers()) if t.is_floating_point()), torch.empty(0))
    one_each = torch.eye(columns, dtype=like.dtype, device=like.device).repeat(heads, 1)
    return cast(Tensor, w_m(one_each[None]))[0].unflatten(0, (heads, -1))


def mix_tokens(w_m: nn.Module, x: Tensor, kept: Selection | None = None, *, heads: int | None = None) -> Tensor:
    """``W_M X``, or ``W_M' X'`` on kept tokens.

    Args:
        w_m: 1x1 convolution over tokens, one group per head; or what a tool put in its place, which is only called.
        x: tokens ``(..., N, C)``, or ``(T', B, N', C)`` with ``kept``.
        kept: what pruning kept of the N tokens.
        heads: h; default: the groups of ``w_m``.
    """
    groups = cast(nn.Conv1d, w_m).groups if heads is None else heads
    if is_plain(w_m):
        weight = matrix(w_m, heads=groups)
        return token_mix.mix(x, weight, kept, lambda tokens: _mix_all(w_m, tokens, groups, weight))
    if kept is None or not kept.drops_tokens:
        return _mix_all(w_m, x, groups)
    return token_mix.mix_on_grid(x, kept, lambda tokens: _mix_all(w_m, tokens, groups))


def _mix_all(w_m: nn.Module, x: Tensor, heads: int, weight: Tensor | None = None) -> Tensor:
    # Calling the module lets hooks see it. Compiled code runs no hooks, and torch's Inductor (seen with 2.13) fails
    # on this grouped convolution when the batch size is dynamic, so there the same product is a bmm.
    if weight is not None and torch.compiler.is_compiling():
        return token_mix.mix_shared(x, weight)
    return shapes.join_heads(w_m(shapes.split_heads(x, heads)), x)


def check_heads(where: str, dim: int, heads: int) -> None:
    """Raise `SettingError` unless ``heads`` divides ``dim``."""
    if heads < 1 or dim % heads:
        raise SettingError(
            f"{where}: heads={heads} does not divide dim={dim}. Pass a divisor, each head takes dim / heads."
        )
