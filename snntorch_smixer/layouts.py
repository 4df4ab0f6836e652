"""Layout strings of foreign models, and their conversion to tokens ``(T, B, N, C)`` and back.

A layout names the axes of a tensor: ``t`` steps, ``b`` samples, ``n`` tokens or ``y x`` rows and columns of the token
grid, ``c`` channels or ``g d`` heads and channels of a head; ``w`` windows, which count as samples. Parentheses merge
axes, slowest first: "(t b) c n".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from snntorch_smixer.errors import LayoutError

Groups = tuple[tuple[str, ...], ...]


def parse_layout(layout: str) -> Groups:
    """Axes of a layout string, each a tuple of the letters that are merged in it.

    Raises:
        LayoutError: an unknown or repeated letter, or no axis of samples, tokens or channels.
    """
    groups = tuple(tuple(group.strip("()").split()) for group in re.findall(r"\([^()]*\)|[^\s()]+", layout))
    letters = [letter for group in groups for letter in group]
    token, channel = {"n"} & set(letters) or {"y", "x"}, {"c"} & set(letters) or {"g", "d"} & set(letters)
    if sorted(letters) != sorted({"b"} | ({"t", "w"} & set(letters)) | token | channel) or not channel:
        raise LayoutError(
            f"layout {layout!r} is not understood. Expected t, b, n or y x, c or g d, each once, merged in parentheses."
        )
    return groups


class Layout:
    """A parsed layout string.

    Args:
        text: for example "t b c y x".
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.groups = parse_layout(text)
        self.letters = tuple(letter for group in self.groups for letter in group)

    def __repr__(self) -> str:
        return f"Layout({self.text!r})"

    def __contains__(self, letter: str) -> bool:
        return letter in self.letters

    def size(self, x: Tensor, letter: str) -> int:
        """Length of an axis of ``x`` that is not merged with others."""
        return x.shape[self.groups.index((letter,))]

    def to_tokens(self, x: Tensor, sizes: Mapping[str, int]) -> Tensor:
        """``x`` as tokens ``(T, B, N, C)``; T is 1 where the layout has no steps.

        Args:
            x: a tensor in this layout.
            sizes: lengths of merged axes, all but one of each merged group.

        Raises:
            LayoutError: ``x`` has another number of axes.
        """
        if x.dim() != len(self.groups):
            raise LayoutError(f"layout {self.text!r} has {len(self.groups)} axes, got shape {tuple(x.shape)}.")
        for axis in reversed(range(len(self.groups))):
            if len(self.groups[axis]) > 1:
                x = x.unflatten(axis, [sizes.get(letter, -1) for letter in self.groups[axis]])
        x = x.permute([self.letters.index(letter) for letter in self._canonical])
        if "t" not in self:
            x = x.unsqueeze(0)
        if "w" in self:
            x = x.flatten(1, 2)
        if "n" not in self:
            x = x.flatten(2, 3)
        return x if "c" in self or "g" not in self else x.flatten(3, 4)

    def from_tokens(self, x: Tensor, sizes: Mapping[str, int]) -> Tensor:
        """The inverse of `to_tokens`: tokens ``(T, B, N, C)`` to a tensor in this layout.

        Args:
            x: tokens.
            sizes: "y" for rows of the grid; without it, or where ``y`` does not divide N, the tokens become one
                column, ``y = N`` and ``x = 1``. "g" for heads, "w" for windows.
        """
        if "g" in self:
            x = x.unflatten(3, (sizes["g"], -1))
        if "n" not in self:
            tokens, width = x.shape[2], sizes.get("x", 1)
            fits = tokens == sizes.get("y", 0) * width
            x = x.unflatten(2, (sizes["y"], width) if fits else (tokens, 1))
        if "w" in self:
            x = x.unflatten(1, (-1, sizes["w"]))
        if "t" not in self:
            x = x.squeeze(0)
        x = x.permute([self._canonical.index(letter) for letter in self.letters])
        for axis in range(len(self.groups)):
            if len(self.groups[axis]) > 1:
                x = x.flatten(axis, axis + len(self.groups[axis]) - 1)
        return x

    @property
    def _canonical(self) -> tuple[str, ...]:
        return tuple(letter for letter in ("t", "b", "w", "n", "y", "x", "c", "g", "d") if letter in self.letters)
