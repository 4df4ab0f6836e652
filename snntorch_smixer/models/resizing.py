"""A network for pictures of another size, on the same weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.token_mix import resize_matrix
from snntorch_smixer.layers.mixer import SMixer, matrix
from snntorch_smixer.models.network import Network

Grid = tuple[int, int]
Net = TypeVar("Net", bound=Network)


class ResizedMatrix(nn.Module):
    """``W_M`` of one token grid, resized to another in every call, so that its gradient reaches the weight.

    Args:
        w_m: the grouped convolution that holds the weight.
        heads: h.
        before: (rows, columns) that the weight is for.
        after: wanted.
    """

    def __init__(self, w_m: nn.Module, heads: int, before: Grid, after: Grid) -> None:
        super().__init__()
        self.w_m, self.groups, self.before, self.after = w_m, heads, before, after

    def forward(self, tokens: Tensor) -> Tensor:
        """``(M, h N', C / h)`` to the same shape."""
        here = matrix(self.w_m, heads=self.groups, columns=self.before[0] * self.before[1])
        weight = resize_matrix(here, self.before, self.after).to(tokens.dtype)
        return torch.einsum("hnm,shmc->shnc", weight, tokens.unflatten(1, (self.groups, -1))).flatten(1, 2)


def at_size(net: Net, size: tuple[int, int]) -> Net:
    """The network for pictures of another size; parameters, buffers and ``dstsp`` are those of ``net`` itself.

    Training either trains both. Every ``W_M`` is resized over its token grid, see `resize_matrix`; all else of the
    networks here takes any number of tokens. ``net`` itself where the size is its own.

    Args:
        net: a network of this package.
        size: (H, W) in pixels.

    Raises:
        SettingError: a size that the stem does not divide, or a network that `dstsp.wrap` changed for one size.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import create_model
        >>> from snntorch_smixer.models.resizing import at_size
        >>> net = create_model("smixer-2-64-fmnist").eval()
        >>> at_size(net, (56, 28))(torch.rand(1, 1, 56, 28)).shape
        torch.Size([1, 10])
    """
    if tuple(size) == tuple(net.config.img_size):
        return net
    kept_mixers = [m for m in net.modules() if isinstance(m, SMixer)]
    if _is_changed(net, len(kept_mixers)):
        raise SettingError(
            f"at_size: this {type(net).__name__} was wrapped for pictures of {net.config.img_size}, so it cannot take "
            f"{tuple(size)}. Build it at that size, create_model(..., img_size={tuple(size)}), and wrap it then."
        )
    config = replace(net.config, img_size=(size[0], size[1]))
    own = [*net.parameters(), *net.buffers(), *(m for n, m in net.named_children() if n == "dstsp")]
    view = copy.deepcopy(net, {id(one): one for one in (*own, net.card, net.described) if one is not None})
    view.config = config
    grids = (net.config.grid, config.grid) if kept_mixers else None  # type: ignore[attr-defined]
    for mixer in (m for m in view.modules() if isinstance(m, SMixer) and grids):
        mixer.w_m = ResizedMatrix(mixer.w_m, mixer.heads, *grids)  # type: ignore[assignment,misc]
        mixer.num_tokens = config.grid[0] * config.grid[1]  # type: ignore[attr-defined]
    return view


def _is_changed(net: Network, mixers: int) -> bool:
    """True where a ``W_M`` is in it that is not of an `SMixer`, or its pruning is not its own."""
    matrices = sum(name.rpartition(".")[2] == "w_m" for name, _ in net.named_modules())
    return matrices != mixers or (not hasattr(type(net), "prune") and hasattr(net, "dstsp"))
