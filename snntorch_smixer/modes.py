"""Running a network without a trace: in a mode not its own, leaving no mode of torch and no random state behind."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def in_mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``net`` into training or evaluation mode; afterwards every submodule is in the mode in which it was."""
    modes = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever ends what runs inside, Ctrl-C too, torch's modes of this thread are afterwards what they were.

    A context manager switches its mode off in Python code, which Ctrl-C can end before it has done so.
    """
    functions, operations = _function_modes(), _dispatch_modes()
    grad, saved = torch.is_grad_enabled(), innermost_saved()
    try:
        yield
    except BaseException as error:
        if _function_modes() != functions:
            while _function_modes():
                torch._C._pop_torch_function_stack()
            for mode in functions:
                torch._C._push_on_torch_function_stack(mode)
        if _dispatch_modes() != operations:
            while _dispatch_modes():
                torch._C._pop_torch_dispatch_stack(None)
            for mode in operations:
                torch._C._push_on_torch_dispatch_stack(mode)
        while innermost_saved() not in (None, saved):
            torch._C._autograd._pop_saved_tensors_default_hooks()
        torch._C._set_grad_enabled(grad)
        if isinstance(error, RuntimeError) and isinstance(error.__context__, (KeyboardInterrupt, SystemExit)):
            raise error.__context__ from None  # a mode that was off already could not be switched off
        raise


def _function_modes() -> list[Any]:
    return [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]


def _dispatch_modes() -> list[Any]:
    return [torch._C._get_dispatch_stack_at(i) for i in range(torch._C._len_torch_dispatch_stack())]


def innermost_saved() -> Any:
    """The function that packs saved tensors now, None without hooks on them. There is no public way to ask."""
    top = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return None if top is None else top[0]


def random_state() -> Callable[[], None]:
    """A function that puts the generators of torch, NumPy and Python into the state of now."""
    cpu, python = torch.get_rng_state(), random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    numpy = sys.modules.get("numpy")
    drawn = None if numpy is None else numpy.random.get_state()

    def restore() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if numpy is not None:
            numpy.random.set_state(drawn)

    return restore


@contextmanager
def random_state_kept(*, failed: bool = False) -> Iterator[None]:
    """Whatever is drawn inside ``with``, the generators are then as they were; ``failed``: after an error only."""
    restore = random_state()
    try:
        yield
    except BaseException:
        restore()
        raise
    if not failed:
        restore()
