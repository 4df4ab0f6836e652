"""Tokens that are not alike: learned ones, and those that the head reads by their place; found by running copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.families import Sites
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.hooks import with_first
from snntorch_smixer.patching.observe import Observation, copied, first_tensor, observe, tensors
from snntorch_smixer.patching.survey import Survey

FEW = 8
"""Rows of a learned table that may be tokens of their own rather than places of N tokens."""


def always_kept(
    model: nn.Module,
    args: tuple[Any, ...],
    seen: Observation,
    sites: Sites,
    surveys: Mapping[str, Survey],
    stem: tuple[str, str] | None,
) -> tuple[str, tuple[int, ...]]:
    """Why no token can be dropped, "" where they can; and the places of those that have to stay, as class tokens.

    Args:
        model: is not touched.
        args: an example.
        seen: the model on that example.
        sites: its blocks.
        surveys: of them.
        stem: (dotted name, layout) of a module whose output is pruned, where no block takes the whole stream.
    """
    layouts = {path: found.layout for path, found in surveys.items()}
    alike, what = special_tokens(model, args, seen, places=layouts, steps=sites.steps)
    if alike and (stem is not None or len(alike) > FEW):
        return f"{what}, which would be ranked and dropped like an image token", ()
    by_place = partial(read_by_place, model, args, sites, surveys, stem)
    why = by_place()
    if not why:
        return "", alike
    call = seen.first_call(sites.blocks[0])
    tokens = None if call is None else _tokens(seen, call.path, layouts[call.path], _known(sites.steps))
    if tokens is None or stem is not None or why.startswith(EACH):
        return why, ()
    last = tokens.shape[2] - 1
    for guess in (alike,) if alike else ((0,), (0, 1), (last,)):
        at_an_end = guess in (tuple(range(len(guess))), tuple(range(last + 1 - len(guess), last + 1)))
        if at_an_end and not by_place(stay=guess):
            return "", guess
    return (f"{what}, and {why}" if what else why), ()


def _known(steps: int | None) -> dict[str, int]:
    return {} if steps is None else {"t": steps}


def special_tokens(
    model: nn.Module, args: tuple[Any, ...], seen: Observation, *, places: Mapping[str, str], steps: int | None
) -> tuple[tuple[int, ...], str]:
    """Places of tokens that are the same for every input, as learned ones, none where all differ; and what they are.

    Args:
        model: is not touched.
        args: an example.
        seen: the model on that example.
        places: layout of the stream where it enters each block, by dotted name.
        steps: T, where the model tells it.
    """
    known = _known(steps)
    alike: dict[str, Tensor] = {}
    for other in _others(model, args, places, known):
        alike = _constant(seen, other, places, known, alike)
        if not alike:
            return (), ""
    path, same = next(iter(alike.items()), ("", None))
    if same is None:
        return (), ""
    numbers = same.nonzero().flatten().tolist()
    token = _tokens(seen, path, places[path], known)[0, 0, numbers[0]]  # type: ignore[index]
    name = next((name for name, p in model.named_parameters() if _holds(p, token)), "")
    what = f"its stream holds {name}" if name else f"tokens {numbers} in front of {path} are the same for every input"
    return tuple(numbers), what


def refuse_streams(
    model: nn.Module, args: tuple[Any, ...], seen: Observation, surveys: Mapping[str, Survey], steps: int | None
) -> None:
    """Raise `FamilyError` for a block whose tokens are not those that the blocks before it gave.

    Every block of a copy gives random tokens; what enters the next one is then no longer what it was.
    """
    twin = copied(model)
    for path, found in surveys.items():
        twin.get_submodule(path).register_forward_hook(_Replace(found.layout, _known(steps), 0))
    try:
        other = observe(twin, args)
    except Exception:  # noqa: BLE001 - third-party code may refuse other values with anything
        return
    for path in list(surveys)[1:]:
        first, second = (None if call is None else call.x for call in (seen.first_call(path), other.first_call(path)))
        if first is not None and second is not None and torch.equal(first, second):
            raise FamilyError(
                f"wrap: {path} takes another stream than {next(iter(surveys))}: what comes in does not follow from "
                "what the blocks before it give, so its tokens are other ones. Wrap the parts of the model apart."
            )


def _others(
    model: nn.Module, args: tuple[Any, ...], places: Mapping[str, str], known: Mapping[str, int]
) -> Iterator[Observation]:
    """The model on other inputs, then with random tokens behind every block too; ends where it refuses them.

    A token that is silent, or always full of spikes, may be another one for stronger inputs. Behind several layers no
    input may reach a token of an untrained model: random tokens do, and what no block gave stays as it is.
    """
    for factor in (1, 4, -4, None):
        twin = copied(model)
        for path, layout in places.items() if factor is None else ():
            twin.get_submodule(path).register_forward_hook(_Replace(layout, known, 0))
        try:
            other = observe(twin, _other(args, factor or 1))
        except Exception:  # noqa: BLE001 - third-party code may refuse other values with anything
            return
        yield other


def _constant(
    seen: Observation,
    other: Observation,
    places: Mapping[str, str],
    known: Mapping[str, int],
    alike: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Which tokens in front of each block, some but not all, are the same in both, not silent, and ``alike`` so far."""
    found = {}
    for path, layout in places.items():
        first, second = (_tokens(one, path, layout, known) for one in (seen, other))
        if first is None or second is None or first.shape != second.shape or (alike and path not in alike):
            continue
        same = ((first == second) & (first == first[:, :1])).all(3).all(1).all(0)
        same &= (first != 0).any(3).any(1).any(0)
        same &= alike.get(path, same)
        if bool(same.any()) and not bool(same.all()):
            found[path] = same
    return found


def _tokens(one: Observation, path: str, layout: str, known: Mapping[str, int]) -> Tensor | None:
    call = one.first_call(path)
    if call is None or call.x is None or call.x.dim() != len(Layout(layout).groups):
        return None
    return Layout(layout).to_tokens(call.x, known)


def _other(args: tuple[Any, ...], factor: int) -> tuple[Any, ...]:
    """Arguments of the same shapes with other values, ``factor`` times as far apart."""
    generator = torch.Generator().manual_seed(factor % 97)

    def redrawn(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.numel():
            return x
        if not x.is_floating_point():
            whole = int(x.min()), max(int(x.max()), 1) + 1
            return torch.randint(*whole, x.shape, generator=generator).to(x)
        low, high = float(x.min()), float(x.max())
        span = (high - low or 1.0) * factor
        return (torch.rand(x.shape, generator=generator) * span + low).to(x)

    return tuple(redrawn(arg) for arg in args)


def _holds(parameter: nn.Parameter, token: Tensor) -> bool:
    if not parameter.dim() or parameter.shape[-1] != len(token):
        return False
    return bool((parameter.detach().reshape(-1, len(token)) == token).all(1).any())


EACH = "its output has an entry for each token"


def read_by_place(
    model: nn.Module,
    args: tuple[Any, ...],
    sites: Sites,
    surveys: Mapping[str, Survey],
    stem: tuple[str, str] | None,
    *,
    stay: tuple[int, ...] = (),
) -> str:
    """Why the order of the tokens matters behind the blocks, "" where it does not.

    What the blocks give is replaced by the same random tokens twice, the second time all one place further, but for
    those at ``stay``. A head that pools over all tokens gives the same; one that reads a place, whichever, does not.
    """
    last = surveys[sites.blocks[-1]]
    if sites.keeps_grid or (stem is None and not last.residual):
        return ""
    places = {path: found.layout for path, found in surveys.items()} | dict([stem] if stem is not None else [])
    known = {} if sites.steps is None else {"t": sites.steps}
    for precise in (True, False):
        try:
            outs = [
                _replaced(model, args, places, partial(_Replace, known=known, shift=n, stay=stay), precise)
                for n in (0, 1)
            ]
        except Exception:  # noqa: BLE001 - third-party code may know no double precision
            continue
        if _differ(*outs, tolerance=1e-6 if precise else 0.02):
            if not _differ(*outs, tolerance=1e-6 if precise else 0.02, first=True):
                return f"{EACH} behind {sites.blocks[-1]}, and would lose some"
            return (
                f"its output changes where tokens behind {sites.blocks[-1]} change places, so its head reads by place"
            )
        return ""
    return ""


class _Replace:
    """Forward hook: random tokens in place of what came out, in their order or rolled."""

    def __init__(self, layout: str, known: Mapping[str, int], shift: int, stay: tuple[int, ...] = ()) -> None:
        self.layout, self.known, self.shift, self.stay = Layout(layout), known, shift, stay

    def __call__(self, _module: nn.Module, _args: Any, out: Any) -> Any:
        x = first_tensor(out)
        if x is None or x.dim() != len(self.layout.groups):
            return None
        tokens = self.layout.to_tokens(x, self.known)
        # Whole values, so that sums over tokens are exact in any order.
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(-8, 9, tokens.shape, generator=generator)
        drawn = drawn * torch.randint(1, 4, (1, 1, tokens.shape[2], 1), generator=generator)
        grid = {name: self.layout.size(x, name) for name in ("y", "x") if name in self.layout}
        moving = [place for place in range(tokens.shape[2]) if place not in self.stay]
        drawn[:, :, moving] = drawn[:, :, moving].roll(self.shift, 2)
        return with_first(out, self.layout.from_tokens(drawn.to(x), grid))


def _replaced(
    model: nn.Module,
    args: tuple[Any, ...],
    places: Mapping[str, str],
    replacing: Callable[[str], _Replace],
    precise: bool,
) -> list[Tensor]:
    """All that the model gives when the tokens at ``places`` are replaced."""
    twin = copied(model)
    if precise:
        twin = twin.double()
        args = tuple(a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
    for path, layout in places.items():
        twin.get_submodule(path).register_forward_hook(replacing(layout))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return list(tensors(twin(*args)))


def _differ(one: list[Tensor], other: list[Tensor], *, tolerance: float, first: bool = False) -> bool:
    """True where results differ; membranes that are given back behind the first may have moved with their tokens.

    With ``first`` that may have moved too.
    """
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        if a.shape == b.shape and a.numel() and a.is_floating_point():
            most = tolerance * max(float(a.abs().max()), 1e-12)
            moved = [a, *(a.roll(1, axis) for axis in range(a.dim()) if number or first)]
            if all(float((way - b).abs().max()) > most for way in moved):
                return True
    return False


def unknown_tokens(model: nn.Module, sites: Sites, channels: int) -> str:
    """Without an example: the learned tables that may be tokens of the stream, in words; "" where there are none."""
    for path, module in model.named_modules():
        layer = any(kind.__module__.startswith("torch.") for kind in type(module).__mro__ if kind is not nn.Module)
        if layer or f"{path}.".startswith(tuple(f"{block}." for block in sites.blocks)):
            continue
        for name, parameter in module._parameters.items():
            if parameter is None or name == "weight" or parameter.dim() < 2 or parameter.shape[-1] != channels:
                continue
            rows = parameter.numel() // channels
            if rows != sites.tokens and (rows < FEW or sites.tokens is not None):
                whole = f"{path}.{name}" if path else name
                return f"without example_input=... it cannot be told whether {whole} is a token of its stream"
    return ""
