"""Weights of one network fitted to another: other classes, other input channels, another resolution."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from snntorch_smixer.errors import CardError
from snntorch_smixer.kernels.token_mix import resize_matrix as resize_matrix
from snntorch_smixer.models.network import Network

MATRIX = "w_m.weight"
"""End of the state-dict key of every ``W_M``, ``(h * N, N, 1)``."""


def adapt(state: Mapping[str, Tensor], net: Network, *, grid: tuple[int, int] | None) -> dict[str, Tensor]:
    """Weights for ``net``: as they are where the shapes agree; else by the three rules below.

    The head is that of ``net``, randomly initialised. Convolutions on the input: `adapt_channels`. Every ``W_M``:
    `resize_matrix`, from ``grid`` to that of ``net``.

    Args:
        state: names as in ``net.state_dict()``; it is not changed.
        net: not changed.
        grid: (rows, columns) of the tokens that the weights were trained for; None where nobody knows.

    Raises:
        CardError: a tensor of another shape that none of the rules covers.
    """
    mine = net.state_dict()
    head = {name for name in {*mine, *state} if name.startswith(f"{net.head_path}.")}
    wrong = sorted((set(state) ^ set(mine)) - head)
    if wrong:
        raise CardError(f"adapt: {wrong[0]} is only in one of the two networks. Use weights of the same architecture.")
    out, wanted = {}, getattr(net.config, "grid", None)
    for name, own in mine.items():
        given = state.get(name)
        if name.endswith(MATRIX) and grid != wanted:
            out[name] = _resized(name, state[name], grid, wanted)
        elif given is not None and given.shape == own.shape:
            out[name] = given
        elif name in head:
            out[name] = own
        elif given is not None and name in net.input_weights:
            out[name] = adapt_channels(given, own.shape[1])
        else:
            found = None if given is None else tuple(given.shape)
            raise CardError(
                f"adapt: {name} has shape {found}, this {type(net).__name__} needs {tuple(own.shape)}. Only classes, "
                "input channels and the resolution can differ."
            )
    return out


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Weights of a convolution on the input for another number of input channels.

    To one channel they are summed, so that a grey image gives what it gave as three equal channels. To several they are
    taken in turn and scaled by old / new, which keeps the sum exactly where new is a multiple of old. The rule of timm.

    Args:
        weight: ``(out, in, kh, kw)``.
        channels: wanted.

    Returns:
        ``(out, channels, kh, kw)``.
    """
    had = weight.shape[1]
    if channels == had:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    index = torch.arange(channels, device=weight.device) % had
    return weight[:, index] * (had / channels)


def _resized(name: str, given: Tensor, before: tuple[int, int] | None, after: tuple[int, int] | None) -> Tensor:
    tokens = given.shape[1]
    if before is None or after is None or tokens != before[0] * before[1]:
        raise CardError(
            f"adapt: {name} mixes {tokens} tokens, and their grid is not known, so it cannot be resized. Use the "
            "resolution of the weights."
        )
    resized = resize_matrix(given.reshape(-1, tokens, tokens).float(), before, after)
    return resized.reshape(-1, resized.shape[2], 1).to(given.dtype)
