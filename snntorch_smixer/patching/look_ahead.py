"""See the stream in front of the blocks in all steps before the first step runs through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.modes import random_state_kept
from snntorch_smixer.patching.hooks import Hook
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.patching.observe import Observation, tensors
from snntorch_smixer.patching.state import restored
from snntorch_smixer.patching.trace import map_tensors


def passable(blocks: tuple[str, ...], seen: Observation) -> dict[str, Any]:
    """What each block returns, with an ellipsis for each tensor; empty where one returns more tensors than it takes."""
    last = {call.path: call for call in seen.calls if call.path in blocks}
    returned = {path: map_tensors(call.returned, lambda _: ...) for path, call in last.items()}
    fits = all(len(list(tensors(c.returned))) <= len(list(tensors(c.given))) for c in last.values())
    return returned if fits else {}


def look_ahead(model: nn.Module, dstsp: WrappedDSTSP, forward: Callable[[], Any], *, graph: bool) -> Tensor:
    """The stream ``(T, B, N, C)`` in front of the first block in all steps, with the model left as it was.

    Blocks that give what they take, and membranes, are passed over. Batch statistics, membranes and random generators
    are as before.

    Args:
        model: the root.
        dstsp: its pruning.
        forward: runs all steps.
        graph: True where the stream is used afterwards and not only counted, so that gradients pass.
    """
    streams: list[Tensor] = []
    passed: Mapping[str, Any] = {} if dstsp.loop is None else dstsp.loop.passed
    dstsp.sequence.scout = streams
    try:
        with restored(model) as before, random_state_kept(), torch.set_grad_enabled(graph and torch.is_grad_enabled()):
            before.set_aside()
            for path, returned in passed.items():
                _pass_over(model.get_submodule(path), returned)
            forward()
    finally:
        dstsp.sequence.scout = None
    if not streams:
        raise LayoutError(
            f"wrapped model: its forward did not reach {dstsp.place_of_steps.where}, where steps and tokens are chosen."
        )
    return torch.cat(streams)


def _pass_over(block: Any, returned: Any) -> None:
    """Let a block give what it takes, unseen by the hooks of others, until its `State` is restored."""
    block.forward = partial(_as_it_is, returned)
    block._forward_hooks.clear()
    for number in [n for n, hook in block._forward_pre_hooks.items() if not isinstance(hook, Hook)]:
        del block._forward_pre_hooks[number]


def _as_it_is(returned: Any, *args: Any, **kwargs: Any) -> Any:
    given = tensors((args, kwargs))
    return _filled(returned, next(given), given)


def _filled(returned: Any, x: Tensor, given: Iterator[Tensor]) -> Any:
    """``returned`` with ``x``, then ``given``, in place of each ellipsis; empty for a membrane that is not made yet."""
    waiting = iter([x])
    return _put(returned, lambda: next(waiting, None), lambda: next(given, x.new_zeros(0)))


def _put(returned: Any, first: Callable[[], Tensor | None], further: Callable[[], Tensor]) -> Any:
    if returned is ...:
        x = first()
        return further() if x is None else x
    if isinstance(returned, Mapping):
        return {key: _put(one, first, further) for key, one in returned.items()}
    if isinstance(returned, (list, tuple)):
        return type(returned)([_put(one, first, further) for one in returned])
    return returned
