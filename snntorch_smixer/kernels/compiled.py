"""Which tier runs the small pure functions: plain torch, or the same under ``torch.compile``.

One setting for the process: "eager", "compile" or "auto". "auto" compiles on CUDA devices and stays eager on the CPU:
there compiling costs seconds for each kind of call, which only a long run earns back, so it has to be asked for. Spikes
agree bit for bit between the tiers on the CPU; on CUDA the compiler is asked for the same rounding.
"""

from __future__ import annotations

import functools
import importlib
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from snntorch_smixer.errors import SettingError, check_choice

IMPLS = ("auto", "eager", "compile")

P = ParamSpec("P")
R = TypeVar("R")


class _Setting:
    """What was asked for, and what could not be compiled: all (``failure``), or functions by name (``failures``)."""

    def __init__(self) -> None:
        self.impl = "auto"
        self.failure: str | None = None
        self.failures: dict[str, str] = {}


_setting = _Setting()


def set_impl(impl: str) -> None:
    """Choose the tier for the whole process, one of `IMPLS`.

    Raises:
        SettingError: unknown tier; "triton", which an earlier version had, is one.
    """
    if impl == "triton":
        raise SettingError(
            'compiled.set_impl: got impl="triton", a tier of an earlier version; torch.compile writes the Triton '
            'kernels itself now. Pass "auto", which compiles on CUDA, or "compile".'
        )
    check_choice("compiled.set_impl", "impl", impl, IMPLS)
    _setting.impl = impl
    if impl == "compile" and _setting.failure is None:
        _load_compiler()


@contextmanager
def use(impl: str) -> Iterator[None]:
    """Choose the tier inside ``with``; afterwards the earlier choice holds again. Backward passes count where they run.

    Raises:
        SettingError: as `set_impl`.
    """
    before = _setting.impl
    set_impl(impl)
    try:
        yield
    finally:
        _setting.impl = before


def tier(device: torch.device) -> str:
    """What runs for tensors on ``device``: "eager" or "compile"."""
    if torch.compiler.is_compiling():  # a model that is compiled as a whole takes plain torch into its own graph
        return "eager"
    asked = _setting.impl == "compile" or (_setting.impl == "auto" and device.type == "cuda" and not _why_no_cuda())
    return "compile" if asked and _setting.failure is None and not _is_watched() else "eager"


def active() -> dict[str, str]:
    """What was asked for ("impl"), what runs ("active": "eager" or "compile"), and "why"."""
    impl, no_cuda = _setting.impl, _why_no_cuda()
    if impl == "eager":
        return {"impl": impl, "active": "eager", "why": "asked for"}
    if impl == "auto" and no_cuda is not None:
        why = f"compiling takes seconds, so on the CPU it runs only where it is asked for; {no_cuda}"
        return {"impl": impl, "active": "eager", "why": why}
    if _setting.failure is not None:
        return {"impl": impl, "active": "eager", "why": f"torch.compile failed: {_setting.failure}"}
    why = "asked for" if impl == "compile" else "on the CUDA device; eager on the CPU"
    but = "".join(f"; {name} runs in plain torch: {reason}" for name, reason in _setting.failures.items())
    return {"impl": impl, "active": "compile", "why": f"{why}{but}"}


@functools.cache
def _why_no_cuda() -> str | None:
    """Why "auto" compiles nowhere on this machine; None where it does on CUDA."""
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if find_spec("triton") is None:
        return "Triton, by which torch.compile writes kernels for CUDA, is not installed"
    major, minor = torch.cuda.get_device_capability()
    return None if major >= 7 else f"the device has compute capability {major}.{minor}, and torch.compile needs 7.0"


class Tiered(Generic[P, R]):
    """A pure function of tensors that runs in plain torch or compiled, as was chosen.

    Every kind of call has a compiled function of its own: torch.compile keeps few variants of one function, and then
    runs it uncompiled. A kind is made up of all arguments that are no tensors, and of the dtype, device and rank of
    those that are; sizes are free.

    Args:
        function: takes positional arguments only, changes none of them: tensors, None, what can be hashed, tuples.
        traced: the same function in a form for the compiler; ``function`` itself by default.
    """

    def __init__(self, function: Callable[P, R], traced: Callable[P, R] | None = None) -> None:
        self.function = function
        self.traced: Any = function if traced is None else traced
        self.variants: dict[tuple[object, ...], Callable[P, R]] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result; where compiling fails, that of plain torch, with one warning."""
        if torch.compiler.is_compiling():  # a model that is compiled as a whole takes it into its own graph
            result: R = self.traced(*args, **kwargs)
            return result
        device = _device(args)
        if device is None or tier(device) == "eager":
            return self.function(*args, **kwargs)
        autocast = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
        kind = (*map(_kind, args), autocast, torch.is_inference_mode_enabled())
        try:
            variant = self.variants.get(kind) or self._compile(kind, device)
        except TypeError as error:  # an argument that cannot be hashed, such as a surrogate with == and no hash
            _give_up_on(self.function.__name__, error)
            return self.function(*args, **kwargs)
        if variant is self.function:
            return variant(*args, **kwargs)
        try:
            return variant(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - an OSError, a RuntimeError, and one of the compiler's own
            result = self.function(*args, **kwargs)  # what is wrong with the input, not the compiler, raises here
            if _is_general(error):
                _give_up(error)
            else:
                _give_up_on(self.function.__name__, error)
                self.variants[kind] = self.function
            return result

    def _compile(self, kind: tuple[object, ...], device: torch.device) -> Callable[P, R]:
        _load_compiler()
        if _setting.failure is not None:
            return self.function
        code = self.traced.__code__.replace(co_name=f"{self.traced.__name__}_{len(self.variants)}")
        own = types.FunctionType(code, self.traced.__globals__, code.co_name, None, self.traced.__closure__)
        # A whole graph or an error: otherwise torch runs what it gave up on uncompiled, without a word.
        self.variants[kind] = torch.compile(own, dynamic=True, fullgraph=True, **_numerics(device))
        return self.variants[kind]


def _device(args: Iterable[object]) -> torch.device | None:
    """Of the first tensor among the arguments."""
    return next((arg.device for arg in args if isinstance(arg, Tensor)), None)


def _numerics(device: torch.device) -> dict[str, Any]:
    """Options for the rounding of plain torch: on CUDA the compiler fuses products with sums, which flips spikes."""
    keep = "emulate_precision_casts"  # an older torch has no such option
    known = device.type == "cuda" and hasattr(importlib.import_module("torch._inductor.config"), keep)
    return {"options": {keep: True}} if known else {}


def _is_watched() -> bool:
    """True where somebody wants to see every operator, such as torch's FLOP counter, or has tensors without numbers.

    torch.compile does not compile under the one, and what it compiled reads memory that is not there under the other.
    """
    depth = torch._C._len_torch_dispatch_stack()
    if depth == 0:
        return False
    modes = [torch._C._get_dispatch_stack_at(place) for place in range(depth)]
    return any(isinstance(mode, FakeTensorMode) or not mode.ignore_compile_internals() for mode in modes)


def _kind(arg: object) -> object:
    if isinstance(arg, Tensor):
        return arg.dtype, arg.device, tuple(size == 1 for size in arg.shape), arg.requires_grad
    return tuple(map(_kind, arg)) if isinstance(arg, tuple) else arg


def _is_general(error: Exception) -> bool:
    """True unless the fault lies in tracing or lowering one function, or in the number of its variants."""
    exc = torch._dynamo.exc
    inner = getattr(error, "inner_exception", error)
    if type(inner).__name__ == "LoweringException" or isinstance(error, exc.FailOnRecompileLimitHit):
        return False
    return not isinstance(error, exc.TorchDynamoException) or isinstance(error, exc.BackendCompilerFailed)


def _load_compiler() -> None:
    # torch makes its cache folder while the compiler is imported, and cannot import it where that fails.
    try:
        importlib.import_module("torch._inductor")
    except OSError as error:
        _give_up(error)


def _in_words(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _give_up(error: Exception) -> None:
    if _setting.failure is not None:  # the plain form of one function may call another
        return
    _setting.failure = _in_words(error)
    warnings.warn(
        f"compiled: torch.compile does not work here ({_setting.failure}), so plain torch runs instead, slower but "
        "with the same results. Install a C++ compiler and make the folder TORCHINDUCTOR_CACHE_DIR writable, or set "
        'the impl to "eager".',
        RuntimeWarning,
        stacklevel=3,
    )


def _give_up_on(name: str, error: Exception) -> None:
    is_new = name not in _setting.failures
    _setting.failures[name] = _in_words(error)
    if is_new:
        warnings.warn(
            f"compiled: torch.compile does not take this call of {name} ({_setting.failures[name]}), so it runs in "
            "plain torch, slower but with the same results; the other calls go on compiled.",
            RuntimeWarning,
            stacklevel=3,
        )
