"""Axis letters and the only reshaping code of the package.

Inside the package tokens are ``(T, B, N, C)``: steps, samples, tokens, channels. Images and event frames are
``(T, B, C, H, W)``. Token ``n`` of an ``H x W`` grid is row-major: ``n = row * W + column``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from snntorch_smixer.errors import LayoutError

TOKEN_AXES = "t b n c"
MAP_AXES = "t b c h w"


def square(size: Any) -> Any:
    """``(n, n)`` for one whole number n; any other value as it is, for the check that follows."""
    return (size, size) if type(size) is int else size


def axis(letter: str, axes: str = TOKEN_AXES) -> int:
    """Position of an axis letter in ``axes``: `TOKEN_AXES` or `MAP_AXES`."""
    letters = axes.split()
    if letter not in letters:
        raise LayoutError(f"shapes.axis: got axis {letter!r}. Expected one of {axes}.")
    return letters.index(letter)


def check_tokens(where: str, x: Tensor, *, tokens: int | None = None, channels: int | None = None) -> None:
    """Raise `LayoutError` unless ``x`` is ``(T, B, N, C)`` with the wanted token and channel counts."""
    if x.dim() != 4:
        hint = "did you forget the time axis?" if x.dim() == 3 else "convert with shapes.grid_to_tokens"
        raise LayoutError(f"{where}: expected tokens (T, B, N, C), got shape {tuple(x.shape)}; {hint}")
    check_token_axes(where, x, tokens=tokens, channels=channels)


def check_token_axes(where: str, x: Tensor, *, tokens: int | None = None, channels: int | None = None) -> None:
    """Raise `LayoutError` unless the last two axes of ``x`` hold the wanted token and channel counts."""
    if x.dim() < 3:
        raise LayoutError(
            f"{where}: expected (T, B, N, C) or (B, N, C), got shape {tuple(x.shape)}; add the batch axis"
        )
    if tokens is not None and x.shape[-2] != tokens:
        raise LayoutError(
            f"{where}: expected {tokens} tokens, got {x.shape[-2]} in shape {tuple(x.shape)}; "
            "feed the resolution that W_M was built for, or pass the Selection that pruned these tokens"
        )
    if channels is not None and x.shape[-1] != channels:
        raise LayoutError(
            f"{where}: expected {channels} channels on the last axis, got {x.shape[-1]} in shape {tuple(x.shape)}; "
            "tokens are (T, B, N, C), channels last"
        )


def check_steps(where: str, x: Tensor) -> None:
    """Raise `LayoutError` unless ``x`` is ``(T, B, ...)`` with at least one step, in a dtype that torch adds up in."""
    if x.dim() < 2 or x.shape[0] == 0:
        raise LayoutError(
            f"{where}: expected (T, B, ...) with at least one step, got {tuple(x.shape)}; add the time axis"
        )
    if x.is_complex() or (x.is_floating_point() and x.element_size() < 2):
        raise LayoutError(
            f"{where}: expected real numbers of 16 bits or more, or integers, got {x.dtype}; convert them, x.float()"
        )


def grid_to_tokens(x: Tensor) -> Tensor:
    """``(T, B, C, H, W)`` to ``(T, B, N, C)`` with ``N = H * W``, row-major."""
    return x.flatten(3).transpose(2, 3)


def tokens_to_grid(x: Tensor, height: int, width: int) -> Tensor:
    """``(T, B, N, C)`` to ``(T, B, C, H, W)``: the inverse of `grid_to_tokens`."""
    if height * width != x.shape[2]:
        raise LayoutError(f"shapes.tokens_to_grid: {x.shape[2]} tokens do not fill a {height} x {width} grid")
    return x.transpose(2, 3).unflatten(3, (height, width))


def fold_steps(x: Tensor) -> Tensor:
    """``(T, B, ...)`` to ``(T*B, ...)``, step-major, for layers that know no time."""
    return x.flatten(0, 1)


def unfold_steps(x: Tensor, steps: int) -> Tensor:
    """``(T*B, ...)`` to ``(T, B, ...)``: the inverse of `fold_steps`."""
    return x.unflatten(0, (steps, -1))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``(..., N, C)`` to ``(M, h*N, C/h)``: head-major token rows, ``M`` the product of the leading axes."""
    n, c = x.shape[-2:]
    return x.reshape(-1, n, heads, c // heads).transpose(1, 2).flatten(1, 2)


def join_heads(x: Tensor, like: Tensor) -> Tensor:
    """``(M, h*N, C/h)`` to ``(..., N, C)`` with the leading axes and channels of ``like``: undoes `split_heads`."""
    c = like.shape[-1]
    heads = c // x.shape[-1]
    # No -1 in the shape: of an empty batch it could be any number.
    return x.unflatten(1, (heads, -1)).transpose(1, 2).reshape(*like.shape[:-2], x.shape[1] // heads, c)
