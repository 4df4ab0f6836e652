"""Inputs for copies of blocks and attentions, made so that the sizes of their axes tell which is which."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.prepare import STORED_STEPS
from snntorch_smixer.patching.products import Sizes

LAYOUTS = (
    *("t b c y x", "t b c n", "t b n c", "b t c y x", "b t c n", "b t n c"),
    *("b c y x", "b c n", "b n c", "(t b) c n", "(t b) n c", "(t b) c y x"),
    *("t b y x c", "b t y x c", "b y x c", "(t b) y x c", "n b c"),
)


def fabricate(
    module: nn.Module,
    layout: str,
    channels: int,
    *,
    grid: tuple[int, int] | None = None,
    square: bool = False,
    steps: int | None = None,
) -> tuple[Tensor, Sizes]:
    """An input of ``module`` whose axes all have different sizes, none of them a width of the module.

    Args:
        module: what takes it.
        layout: of the input.
        channels: C.
        grid: rows and columns of the token grid, where the module takes no others.
        square: as many rows as columns.
        steps: T; None for the one that the module stores, 0 for any.
    """
    taken = {size for p in module.parameters() for size in p.shape} | {channels}
    taken |= {size // k for size in taken for k in (2, 3)}
    counts = {v for m in module.modules() for v in vars(m).values() if type(v) is int and v > 0}
    stored = {v for m in module.modules() for n in STORED_STEPS if type(v := getattr(m, n, None)) is int}
    counts -= stored if steps is not None else set()
    stored = stored if steps is None else {steps} - {0}
    taken |= counts | {channels // count for count in counts}
    edges = (4, 6, 10, 14, 22, 26, 34)
    sides = [(edge, edge) for edge in edges] if square else list(itertools.permutations(edges, 2))
    allowed = stored if grid is None else stored | {*grid, grid[0] * grid[1]}
    for (y, x), t, b in itertools.product(
        [grid] if grid else sides, stored or (7, 11, 13, 5, 3), (11, 13, 17, 19, 7, 5)
    ):
        used = [t, b, t * b, *([y] if y == x or x == 1 else [y, x]), *([] if x == 1 else [y * x])]
        if len(set(used)) == len(used) and not set(used) & taken - allowed:
            break
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stream = torch.rand(t if "t" in Layout(layout) else 1, b, y * x, channels) * 4
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if weight is not None:
        stream = stream.to(weight)
    sizes = Sizes(t if "t" in Layout(layout) else None, b, y, x)
    return Layout(layout).from_tokens(stream, {"y": y, "x": x}), sizes


def layout_of(x: Tensor | None, sizes: Sizes) -> tuple[str, int]:
    """Layout and channels of a tensor by the sizes of its axes; "" where they do not tell."""
    if x is None:
        return "", 0
    known = {sizes.y: "y", sizes.x: "x", sizes.n: "n", sizes.b: "b", (sizes.t or 1) * sizes.b: "(t b)"}
    if sizes.t is not None:
        known[sizes.t] = "t"
    else:
        known[sizes.b] = "b"
    letters = [known.get(size, "c") for size in x.shape]
    if sizes.x == sizes.y and letters.count("x") == 2:
        letters[letters.index("x")] = "y"
    if sizes.x == 1 and "y" in letters and "x" not in letters:
        letters[letters.index("y")] = "n"
    text = " ".join(letters)
    if letters.count("c") != 1 or text not in LAYOUTS:
        return "", 0
    return text, x.shape[letters.index("c")]
