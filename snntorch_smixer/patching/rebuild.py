"""What autograd keeps between forward and backward, kept smaller: as bits, or as the call that makes it again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from snntorch_smixer.patching.packed import packed

SMALL = 4096
"""Bytes below which a tensor is kept as it is."""


class Source(Protocol):
    """Something that gives a whole tensor again."""

    def whole(self) -> Tensor:
        """The tensor."""


class Kept:
    """A tensor that is kept as it is, and checked as autograd does, which does not where hooks are on."""

    def __init__(self, tensor: Tensor) -> None:
        # Detached: the output of a node holds the node, which would hold this and never die.
        self.tensor = tensor.detach()
        self.version = None if tensor.is_inference() else tensor._version

    def get(self) -> Tensor:
        """The tensor."""
        if self.version is not None and self.tensor._version != self.version:
            raise RuntimeError(
                f"wrapped model: a tensor of shape {tuple(self.tensor.shape)} that the backward pass needs was changed "
                f"by an inplace operation: it is at version {self.tensor._version}, expected {self.version}. Call "
                "backward() first, or clone() what is written into."
            )
        return self.tensor


class View:
    """A tensor as a part of a source."""

    def __init__(self, source: Source, tensor: Tensor) -> None:
        self.source = source
        self.place = tensor.size(), tensor.stride(), tensor.storage_offset()

    def get(self) -> Tensor:
        """The tensor, made again."""
        return self.source.whole().as_strided(*self.place)

    def borrow(self) -> Tensor:
        """The tensor, for a call; see `Call.borrow`."""
        whole = self.source.borrow() if isinstance(self.source, Call) else self.source.whole()
        return whole.as_strided(*self.place)


class Call:
    """A call that can be made again with the same result.

    Args:
        name: of what was called, for people.
        function: pure.
        args: positional; tensors are kept in some form already.
        kwargs: by name; no tensors.
        like: a tensor on its device.
    """

    def __init__(
        self, name: str, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], like: Tensor
    ) -> None:
        self.name, self.function, self.args, self.kwargs = name, function, args, kwargs
        kind = like.device.type
        self.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self.is_saved = False
        self._left: Tensor | None = None

    def whole(self) -> Tensor:
        """The result."""
        if self._left is not None:
            out, self._left = self._left, None
            return out
        kind, dtype, enabled = self.autocast
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=enabled):
            return self.function(*(_got(arg) for arg in self.args), **self.kwargs)

    def borrow(self) -> Tensor:
        """The result for a call that takes it.

        What is made of it is needed first in the backward pass, and then autograd asks for it, if it saved it: so it is
        left for that, and a chain of calls is made once and not once for each of its links.
        """
        out = self.whole()
        self._left = out if self.is_saved else None
        return out


def _got(arg: Any) -> Any:
    return arg.borrow() if isinstance(arg, View) else arg.get() if isinstance(arg, Kept) else arg


class Remembered:
    """Sources by the storage that they give again. It holds no storage alive by itself."""

    def __init__(self) -> None:
        self._sources: dict[int, tuple[weakref.ref[torch.UntypedStorage], Any, Source | None]] = {}

    def pack(self, tensor: Tensor) -> Kept | View:
        """For `torch.autograd.graph.saved_tensors_hooks`."""
        kept = self.keep(tensor)
        if isinstance(kept, View) and isinstance(kept.source, Call):
            kept.source.is_saved = True
        return kept

    @staticmethod
    def unpack(kept: Kept | View) -> Tensor:
        """For `torch.autograd.graph.saved_tensors_hooks`."""
        return kept.get()

    def keep(self, tensor: Tensor) -> Kept | View:
        """The smallest form of a tensor that gives the same values again."""
        if not _is_plain(tensor):
            return Kept(tensor)
        known, source = self.find(tensor)
        if not known:
            source = _small(tensor)
            self.put(tensor, source)
        return Kept(tensor) if source is None else View(source, tensor)

    def find(self, tensor: Tensor) -> tuple[bool, Source | None]:
        """Whether something is known of the storage of ``tensor``, and its source; None to keep it as it is."""
        if tensor.layout is not torch.strided:
            return False, None
        found = self._sources.get(id(tensor.untyped_storage()))
        if found is None or found[1] != (tensor._version, tensor.dtype):
            return False, None
        return True, found[2]

    def put(self, tensor: Tensor, source: Source | None) -> None:
        """Remember a source of the whole storage of ``tensor``, as long as that lives and is not written into."""
        if tensor.layout is not torch.strided:  # no storage of its own
            return
        storage = tensor.untyped_storage()
        key = id(storage)
        ref = weakref.ref(storage, partial(_forget, weakref.ref(self), key))
        self._sources[key] = (ref, (tensor._version, tensor.dtype), source)

    def clear(self) -> None:
        """Forget everything; what was packed can still be unpacked."""
        self._sources.clear()

    def forget(self, key: int, ref: object) -> None:
        """The storage is gone."""
        if key in self._sources and self._sources[key][0] is ref:
            del self._sources[key]


def _forget(remembered: weakref.ref[Remembered], key: int, ref: object) -> None:
    alive = remembered()
    if alive is not None:
        alive.forget(key, ref)


def _is_plain(tensor: Tensor) -> bool:
    # What only looks like a storage of numbers is kept as it is: fake and other subclasses, sparse, conjugated.
    return (
        type(tensor) is Tensor
        and tensor.layout is torch.strided
        and tensor.device.type != "meta"
        and not (tensor.is_inference() or tensor.is_conj() or tensor.is_neg())
        and not (tensor.is_leaf and tensor.requires_grad)
    )


def _small(tensor: Tensor) -> Source | None:
    storage = tensor.untyped_storage()
    if storage.nbytes() < SMALL or tensor.numel() * tensor.itemsize * 4 < storage.nbytes():
        return None
    return packed(tensor.detach().as_strided((storage.nbytes() // tensor.itemsize,), (1,), 0))
