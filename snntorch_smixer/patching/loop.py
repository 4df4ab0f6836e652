"""Pruning of models that take one step at a time: what is dropped is chosen once for a sequence, and held."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, LayoutError, SettingError
from snntorch_smixer.patching.hooks import PruneInput, PruneOutput
from snntorch_smixer.patching.look_ahead import look_ahead, passable
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.patching.observe import Observation, copied, first_tensor, tensors
from snntorch_smixer.patching.reader import Reader
from snntorch_smixer.patching.sequence import Loop, Sequence
from snntorch_smixer.patching.state import State
from snntorch_smixer.patching.trace import holds_tensors, map_tensors
from snntorch_smixer.pruning.rates import rate_at
from snntorch_smixer.pruning.softmatch import joined, merge_dropped
from snntorch_smixer.pruning.temporal import choose_steps, step_siv
from snntorch_smixer.rest import reset_all
from snntorch_smixer.selection import Selection, take_tokens


def find_loop(model: nn.Module, blocks: tuple[str, ...], seen: Observation | None, args: tuple[Any, ...]) -> Loop:
    """How a model whose blocks take one step at a time is called, by an example.

    Raises:
        FamilyError: without an example.
    """
    if seen is None:
        raise FamilyError(
            f"wrap: {blocks[0]} takes one step at a time, and whether the model or its caller loops over the steps is "
            "only seen when it runs. Pass example_input=..., an input of one call of the model."
        )
    calls = [call for call in seen.calls if call.path == blocks[0]]
    passed = passable(blocks, seen)
    if len(calls) < 2:
        carries = isinstance(seen.out, (tuple, list)) and any(map(holds_tensors, seen.out[1:]))
        return Loop(blocks, own=False, passed=passed, carries=carries)
    first_axis = _runs(model, blocks[0], _shortened(args, len(calls) - 1)) == len(calls) - 1
    counter = "" if first_axis else _counter(model, blocks[0], len(calls), args)
    return Loop(blocks, own=True, counter=counter, first_axis=first_axis, passed=passed)


def _shortened(args: tuple[Any, ...], steps: int) -> tuple[Any, ...]:
    """The arguments with the first ``steps`` entries of the first one alone."""
    return (args[0][:steps], *args[1:]) if args and isinstance(args[0], Tensor) and args[0].dim() else args


def _runs(model: nn.Module, block: str, args: tuple[Any, ...], changed: tuple[str, int] = ("", 0)) -> int:
    """How often ``block`` runs in one forward of a copy; -1 where that fails.

    Args:
        model: is copied.
        block: dotted name.
        args: of the forward.
        changed: dotted attribute of the copy, and its value.
    """
    twin, count = copied(model), _Count()
    if changed[0]:
        path, _, attribute = changed[0].rpartition(".")
        setattr(twin.get_submodule(path), attribute, changed[1])
    twin.get_submodule(block).register_forward_pre_hook(count)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            twin(*args)
    except Exception:  # noqa: BLE001 - third-party code may raise anything when a size is changed
        return -1
    return count.calls


def _counter(model: nn.Module, block: str, steps: int, args: tuple[Any, ...]) -> str:
    """The attribute of ``model`` that says how often its loop runs, found by changing each that could on a copy."""
    names = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) is int and value == steps and not path.startswith(block.partition(".")[0] + ".")
    ]
    return next((name for name in names if _runs(model, block, args, (name, steps - 1)) == steps - 1), "")


class _Count:
    """Forward pre-hook that counts."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, _module: nn.Module, _args: Any) -> None:
        self.calls += 1


class _Steps:
    """What a place that prunes one step at a time does; beside `Prune`, which gives it settings and layout.

    The tokens are chosen at the first step of a sequence, by the spikes of the steps that were looked at ahead, else by
    those of the first step. Every later step loses the same ones, so that the membranes behind stay those of the same
    tokens.
    """

    where = ""
    """Dotted name of the block."""
    dstsp: WrappedDSTSP
    reader: Reader
    block: int
    first: bool
    layout: Any
    current: Any

    def prune(self, x: Tensor) -> Tensor:
        """The stream of one step, without the dropped tokens, in its own layout."""
        sequence: Sequence = self.dstsp.sequence
        tokens = self.layout.to_tokens(x, {})
        if sequence.scout is not None:
            if self.first:
                sequence.scout.append(tokens)
            return x
        if self.first:
            self.current.stream = sequence.size or tuple(tokens.shape[:3])
            sequence.step += 1
        if not self.dstsp.is_active():
            return x
        before = None if self.first else self.current.kept
        kept = sequence.kept.get(self.block)
        if kept is None:
            kept = self._chosen(x, tokens, before)
        self._check(tokens, kept, before)
        if self.first and sequence.stream is not None:
            pruned = sequence.stream[sequence.step - 1 : sequence.step]
        else:
            pruned = self._apply(tokens, kept, before)
        steps = self.current.stream[0] if sequence.stream is None else len(sequence.stream)
        self.current.kept, self.current.left = kept, (steps, pruned.shape[2])
        return x if pruned is tokens else self.layout.from_tokens(pruned, self._grid(x))  # type: ignore[attr-defined]

    def _chosen(self, x: Tensor, tokens: Tensor, before: Selection | None) -> Selection:
        """What this step tells."""
        everything = before if before is not None else _all(tokens)
        if self.dstsp.tokens_left(everything.full_tokens, self.block) < everything.tokens.shape[1]:
            spikes = self.layout.to_tokens(first_tensor(self.reader.spikes(x)), {})
            everything = self.dstsp.choose_tokens(spikes, everything, self.block)
        self.dstsp.sequence.kept[self.block] = everything
        return everything

    def _check(self, tokens: Tensor, kept: Selection, before: Selection | None) -> None:
        expected = kept.full_tokens if before is None or self.dstsp.keeps_grid else before.num_tokens
        samples = kept.tokens.shape[0]
        if tokens.shape[1] != samples or tokens.shape[2] != expected:
            raise LayoutError(
                f"wrapped model: {self.where} got {tokens.shape[1]} samples of {tokens.shape[2]} tokens in the middle "
                f"of a sequence of {samples} samples of {expected}. Reset all neurons, snntorch_smixer.reset(net), "
                "before a new sequence."
            )

    def _apply(self, tokens: Tensor, kept: Selection, before: Selection | None) -> Tensor:
        if not kept.drops_tokens or self.dstsp.keeps_grid:
            return tokens
        here = self.dstsp.within(kept, before)
        if not here.drops_tokens:
            return tokens
        merge, joins = self.dstsp.settings.merge, self.dstsp.sequence.joins
        if merge in ("drop", "fuse"):
            return merge_dropped(tokens, here, merge)
        if self.block not in joins:
            joins[self.block] = joined(tokens, here)
        return merge_dropped(tokens, here, merge, joins=joins[self.block])


class PruneStepInput(_Steps, PruneInput):
    """Forward pre-hook of a block that takes one step at a time; membranes of all its tokens lose the same ones."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Arguments with the pruned stream, and membranes of its kept tokens."""
        before = first_tensor((args, kwargs))
        args, kwargs = super().__call__(module, args, kwargs)
        after, kept = first_tensor((args, kwargs)), self.current.kept
        if before is None or after is None or after.shape == before.shape or kept is None:
            return args, kwargs
        keep = partial(self._membrane, shape=before.shape, kept=kept)
        return map_tensors(args, keep), map_tensors(kwargs, keep)

    def _membrane(self, x: Tensor, *, shape: torch.Size, kept: Selection) -> Tensor:
        if x.shape != shape:
            return x
        tokens = self.layout.to_tokens(x, {})
        everything = kept.full_tokens == tokens.shape[2]
        return self.layout.from_tokens(take_tokens(tokens, kept.tokens), self._grid(x)) if everything else x


class PruneStepOutput(_Steps, PruneOutput):
    """Forward hook of a stem that gives one step at a time."""


def _all(tokens: Tensor) -> Selection:
    samples, count = tokens.shape[1:3]
    every = torch.arange(count, device=tokens.device).expand(samples, count)
    return Selection(torch.zeros(samples, 1, dtype=torch.long, device=tokens.device), every, 1, count)


@contextmanager
def sequence_of(model: nn.Module, dstsp: WrappedDSTSP, inputs: tuple[Any, Any]) -> Iterator[tuple[Any, ...]]:
    """Around one call of a model that takes one step at a time.

    Where the model loops itself, its stem is looked at ahead for all steps, and what is dropped is chosen as in a model
    that takes all steps at once; dropped steps are not run. Where its caller loops, this call is one step.

    Args:
        model: the root.
        dstsp: its pruning.
        inputs: arguments and keyword arguments of the call.

    Yields:
        The arguments to call it with.
    """
    args, kwargs = inputs
    loop, sequence = dstsp.loop, dstsp.sequence
    if loop is None or sequence.scout is not None:
        yield args
    elif not loop.own:
        _go_on(model, dstsp, fresh=loop.carries and not any(t.any() for t in tensors((args[1:], kwargs))))
        yield args
        sequence.membranes = {path: weakref.ref(mem) for path, mem in _membranes(model, dstsp).items()}
    else:
        sequence.start()
        drops_steps = dstsp.settings.t not in (None, _steps_now(model, dstsp, args))
        drops_tokens = dstsp.looks_ahead and rate_at(dstsp.settings.ps, 0, dstsp.plan.depth) > 0
        if dstsp.is_active() and (drops_steps or drops_tokens):
            forward = partial(model.forward, *args, **kwargs)
            _choose(dstsp, look_ahead(model, dstsp, forward, graph=drops_steps))
        if sequence.stream is not None and loop.first_axis:
            args = _shortened(args, len(sequence.stream))
        with _shorter(model, loop, sequence):
            yield args
        sequence.start()


def _steps_now(model: nn.Module, dstsp: WrappedDSTSP, args: tuple[Any, ...]) -> int | None:
    """T of this call, which need not be that of the example: frames may be more, and the attribute may be set since.

    Raises:
        LayoutError: the model loops over the first axis of its input, and that is no positional argument.
    """
    loop = loop_of(dstsp)
    if loop.first_axis:
        if not args or not isinstance(args[0], Tensor):
            raise LayoutError(
                f"wrapped {type(model).__name__}: it loops over the first axis of its input, expected that as the "
                "first argument. Call net(x) without a keyword."
            )
        return args[0].shape[0]
    if not loop.counter:
        return dstsp.plan.steps[0]
    path, _, name = loop.counter.rpartition(".")
    return int(getattr(model.get_submodule(path), name))


@contextmanager
def _shorter(model: nn.Module, loop: Loop, sequence: Sequence) -> Iterator[None]:
    """The loop of the model runs over the kept steps alone."""
    if sequence.stream is None or not loop.counter:
        yield
        return
    path, _, name = loop.counter.rpartition(".")
    holder = model.get_submodule(path)
    steps = getattr(holder, name)
    setattr(holder, name, sequence.stream.shape[0])
    try:
        yield
    finally:
        setattr(holder, name, steps)


def _choose(dstsp: WrappedDSTSP, tokens: Tensor, steps: list[int] | None = None) -> None:
    """Choose steps and tokens by the spikes of all steps, and hold them.

    Args:
        dstsp: holds what is chosen.
        tokens: stream of all steps.
        steps: those that run, where they are chosen already.
    """
    place, sequence = dstsp.place_of_steps, dstsp.sequence
    spikes = _spikes(place, tokens)
    kept: Selection | None = None
    sequence.size = (tokens.shape[0], tokens.shape[1], tokens.shape[2]) if loop_of(dstsp).own else None
    if steps is not None:
        tokens, spikes = tokens[steps], spikes[steps]
        rows = torch.tensor(steps, device=tokens.device).expand(tokens.shape[1], -1)
        kept = replace(_all(tokens), steps=rows)
    pruned, chosen = dstsp(tokens, spikes, kept, 0)
    if chosen is None:
        return
    sequence.kept[0] = chosen
    if steps is None and chosen.num_steps < tokens.shape[0]:
        sequence.stream = pruned
    elif chosen.drops_tokens and not dstsp.keeps_grid and dstsp.settings.merge in ("softmatch", "sum"):
        sequence.joins[0] = joined(tokens, chosen)


def _spikes(place: Any, tokens: Tensor) -> Tensor:
    """Spikes ``(T, B, N, C)`` of the first neuron behind the stream, from rest; the neuron is left as it was."""
    neuron = place.reader.neuron
    if neuron is None:
        return tokens.detach()
    before = State(neuron)
    try:
        reset_all(neuron)
        with torch.no_grad():
            steps = [place.layout.from_tokens(one[None], {}) for one in tokens]
            spikes = [place.layout.to_tokens(first_tensor(neuron.forward(one)), {}) for one in steps]
        return torch.cat(spikes)
    finally:
        before.put_back()


def _go_on(model: nn.Module, dstsp: WrappedDSTSP, *, fresh: bool) -> None:
    """One step of a loop that is the caller's: is it the first of a sequence?

    Args:
        model: the root.
        dstsp: its pruning.
        fresh: the caller carries the membranes, and passed none, or such that are all zero.
    """
    sequence = dstsp.sequence
    if sequence.step and (fresh if loop_of(dstsp).carries else _was_reset(model, dstsp)):
        sequence.start()
    if not dstsp.is_active():
        return
    if sequence.planned is None and dstsp.settings.t is not None:
        raise SettingError(
            f"wrapped {type(model).__name__}: t={dstsp.settings.t}, but the loop over the steps is yours. Run the "
            "kept steps only, `for i in dstsp.steps(net, x): net(x[i])`, or set net.dstsp.t = None to run all."
        )
    if sequence.planned is not None and sequence.step >= len(sequence.planned):
        raise SettingError(
            f"wrapped {type(model).__name__}: the {len(sequence.planned)} steps that were kept of this sequence have "
            "run. Reset all neurons, snntorch_smixer.reset(net), before the next one."
        )


def loop_of(dstsp: WrappedDSTSP) -> Loop:
    """How the model is called; `sequence_of` and `steps` see to it that there is one."""
    return cast(Loop, dstsp.loop)


def _membranes(model: nn.Module, dstsp: WrappedDSTSP) -> dict[str, Tensor]:
    """Membranes of the neurons in the patched blocks, by dotted name."""
    found = {}
    for block in loop_of(dstsp).blocks:
        for path, module in model.get_submodule(block).named_modules():
            mem = getattr(module, "mem", None)
            mem = getattr(module, "v", None) if mem is None else mem
            if isinstance(mem, Tensor) and mem.numel():
                found[f"{block}.{path}"] = mem
    return found


def _was_reset(model: nn.Module, dstsp: WrappedDSTSP) -> bool:
    """True where the membranes were reset since the last call; those that hold the same tensor were not.

    Raises:
        SettingError: some were and others were not.
    """
    now, before = _membranes(model, dstsp), dstsp.sequence.membranes
    fresh: list[str] = []
    held: list[str] = []
    for path, ref in before.items():
        mem = now.get(path)
        untouched = mem is not None and mem is ref()
        (held if untouched or (mem is not None and bool(mem.any())) else fresh).append(path)
    if not fresh or not held:
        return bool(fresh)
    busy = next((path for path in held if bool(now[path].any())), None)
    if busy is None:
        return True
    raise SettingError(
        f"wrapped {type(model).__name__}: {fresh[0]} was reset in the middle of a sequence and {busy} was not. Reset "
        "all neurons, snntorch_smixer.reset(net)."
    )


def steps(model: nn.Module, x: Any, *, num_steps: int | None = None) -> list[int]:
    """Which steps of a sequence a loop of your own should run, and choose the tokens that they keep.

    For a wrapped model that takes one step a call. The model is called on every step, its blocks passed over, and is
    then as it was; the t steps with the most spikes in the whole batch are kept. Reset the neurons first.

    Args:
        model: wrapped.
        x: the inputs of all steps, ``(T, B, ...)``; or one input, with ``num_steps``.
        num_steps: T where the same input is shown in every step.

    Returns:
        The kept steps in their order: ``for i in dstsp.steps(net, x): out = net(x[i])``.

    Raises:
        SettingError: the model takes all steps at once or loops by itself, or t is larger than T.

    Examples:
        >>> import snntorch as snn, torch
        >>> from torch import nn
        >>> from snntorch_smixer import dstsp
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        ...         self.lifs = nn.ModuleList(snn.Leaky(0.5, threshold=0.1, init_hidden=True) for _ in range(5))
        ...
        ...     def forward(self, x):  # one step, (B, N, C)
        ...         s = self.lifs[4](x)
        ...         q, k, v = (lif(f(s)) for lif, f in zip(self.lifs, (self.q, self.k, self.v)))
        ...         return x + self.o(self.lifs[3](q @ k.transpose(1, 2) @ v))
        >>> class Mean(nn.Module):
        ...     def forward(self, x):
        ...         return x.mean(1)
        >>> first = nn.Linear(3, 8), snn.Leaky(0.5, threshold=0.1, init_hidden=True)
        >>> net = nn.Sequential(*first, Block(), Block(), Mean())
        >>> x = torch.rand(6, 2, 10, 3)  # six steps
        >>> _ = dstsp.wrap(net, ps=0.3, t=2, example_input=x[0])
        >>> steps = dstsp.steps(net, x)
        >>> len(steps), net(x[steps[0]]).shape
        (2, torch.Size([2, 8]))
    """
    pruning = getattr(model, "dstsp", None)
    if not isinstance(pruning, WrappedDSTSP) or pruning.loop is None or pruning.loop.own:
        raise SettingError(
            f"steps: got a {type(model).__name__} that is not wrapped, takes all steps at once, or loops by itself. "
            "Just call it; a wrapped one drops steps by itself."
        )
    inputs = list(x) if num_steps is None else [x] * num_steps
    t = pruning.settings.t
    if not inputs or (t or 1) > len(inputs):
        raise SettingError(
            f"steps: t={t} is outside 1..{len(inputs)}, the steps that were passed. Pass x as (T, B, ...), or one "
            "input and num_steps=T."
        )
    pruning.sequence.start()
    tokens = look_ahead(model, pruning, _Each(model, inputs, carries=pruning.loop.carries), graph=False)
    kept = list(range(len(inputs)))
    if t is not None and t < len(inputs) and pruning.is_active():
        scores = step_siv(_spikes(pruning.place_of_steps, tokens)).sum(1, keepdim=True)
        kept = choose_steps(scores, t, pruning.settings.ranking)[0].tolist()
    if pruning.is_active():
        _choose(pruning, tokens, kept)
    pruning.sequence.planned = kept
    return kept


class _Each:
    """Runs a model on every input; what it gives besides its first result is what it takes besides its first input."""

    def __init__(self, model: nn.Module, inputs: list[Any], *, carries: bool) -> None:
        self.model, self.inputs, self.carries = model, inputs, carries

    def __call__(self) -> None:
        states: tuple[Any, ...] = ()
        for one in self.inputs:
            out = self.model.forward(one, *states)
            states = tuple(out[1:]) if self.carries else ()
