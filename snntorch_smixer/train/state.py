"""The folder of a run: the checkpoint of the last epoch, the one before, and ``log.jsonl``.

``state`` holds the weights (safetensors), the optimizer and the random generators (read without unpickling code), the
recipe, the log, and ``run.json``: what is trained, and size and SHA-256 of each file. ``state.old`` is the checkpoint
before it, and goes when the run is finished. A checkpoint is written under a name of its own, read back, and renamed.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snntorch_smixer.cards.folder import read_tensors, record_of
from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.train.identity import differences, shown
from snntorch_smixer.train.lock import only_run
from snntorch_smixer.train.recipe import Recipe

Record = dict[str, Any]

STATE, OLD, NEW = "state", "state.old", "state.new"
WEIGHTS, OPTIMIZER, RANDOM = "model.safetensors", "optimizer.bin", "random_states_0.pkl"
RECIPE, RUN, LOG = "recipe.json", "run.json", "log.jsonl"

FORMAT = 1
"""Version of ``run.json``; raised when an older release would misread it."""

_HASHED = (WEIGHTS, OPTIMIZER, RANDOM, LOG)
"""The files that ``run.json`` vouches for; the recipe is compared with that of the new run, value by value."""

_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

_KEPT = 3
"""Checkpoints that lie in the folder while one is written."""


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, all of it in memory.

    Attributes:
        folder: where it was read.
        about: what is trained, see `describe`.
        recipe: of the run, as its file holds it.
        log: one record per epoch.
        weights: state dict of the net; a shared tensor is there once.
        optimizer: its state dict.
        generators: states of the random generators.
    """

    folder: Path
    about: Mapping[str, Any]
    recipe: Mapping[str, Any]
    log: list[Record]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    generators: Mapping[str, Any]


def has_checkpoint(out: Path) -> bool:
    """Whether a folder holds a checkpoint, whole or damaged."""
    return any((out / name).is_dir() for name in (STATE, OLD))


def epochs_kept(out: Path) -> int:
    """Epochs in the newest checkpoint of a folder, which is not checked; 0 for none."""
    for name in (STATE, OLD):
        if (out / name / LOG).is_file():
            return len((out / name / LOG).read_text(encoding="utf-8").splitlines())
    return 0


def last_checkpoint(out: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a folder, or None where it holds none at all.

    Warns where the newest is damaged and the one before is taken.

    Raises:
        CardError: every checkpoint is damaged.
        SettingError: the run is of a release that did not record what it trains, or of a later one.
    """
    found = [out / name for name in (STATE, OLD) if (out / name).is_dir()]
    failures: list[CardError] = []
    for folder in found:
        try:
            checkpoint = _read(folder)
        except CardError as error:
            failures.append(error)
            continue
        if failures:
            warnings.warn(
                f"fit: {failures[0]} The run continues from the checkpoint before it, after epoch "
                f"{len(checkpoint.log)}.",
                stacklevel=4,
            )
        return checkpoint
    if failures:
        raise CardError(f"fit: {failures[0]} There is no other checkpoint. Start again in another folder.")
    return None


def check_same(out: Path, checkpoint: Checkpoint, about: Mapping[str, Any], recipe: Recipe) -> None:
    """Raise `SettingError` that names the first thing that is not as it was when the run began."""
    # A run of an older release lacks the settings that came later; it ran with their defaults.
    before = {**dataclasses.asdict(Recipe()), **checkpoint.recipe}
    now = dataclasses.asdict(recipe)
    for key, old, new in (*differences(before, now), *differences(checkpoint.about, about)):
        raise SettingError(
            f"fit: {out} holds a run with {key}={shown(old)}, got {key}={shown(new)}. Pass another folder, or delete "
            "this one to start again."
        )


def repair(out: Path, checkpoint: Checkpoint | None, *, finished: bool) -> None:
    """Bring the folder into the condition in which the last whole checkpoint left it.

    Removes what an interrupted write left and a newest checkpoint that is damaged, and writes ``log.jsonl`` where it
    does not hold the epochs of the checkpoint.

    Raises:
        SettingError: a log without a checkpoint: the epochs in it cannot be continued.
    """
    for path in (*out.glob(f"{NEW}*"), *out.glob(f".{LOG}-*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if checkpoint is None:
        if (out / LOG).exists():
            raise SettingError(
                f"fit: {out / LOG} is of a run whose checkpoint is gone. Pass another folder, or delete it to start "
                "again."
            )
        return
    if checkpoint.folder.name == OLD:
        shutil.rmtree(out / STATE, ignore_errors=True)
        checkpoint.folder.rename(out / STATE)
    if finished:
        shutil.rmtree(out / OLD, ignore_errors=True)
    write_log(out, checkpoint.log)


def restore(checkpoint: Checkpoint, net: nn.Module, optimizer: Any, device: torch.device) -> None:
    """Set weights, optimizer and random generators to those of a checkpoint that `check_same` has passed."""
    # A tensor that has two names was saved under one of them; `check_same` has compared all names.
    net.load_state_dict(checkpoint.weights, strict=False)
    optimizer.load_state_dict(checkpoint.optimizer)
    states = checkpoint.generators
    version, position, gauss = states["python"]
    random.setstate((version, tuple(position), gauss))
    name, keys, *rest = states["numpy"]
    # The global generator is what third-party data sets draw from.
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    kind, state = states["device"]
    if kind != device.type:
        warnings.warn(
            f"fit: the run was on {kind} and continues on {device.type}, so its results will not be those of an "
            "uninterrupted run.",
            stacklevel=3,
        )
    elif state is not None:
        getattr(torch, kind).set_rng_state(state)


def write_checkpoint(
    out: Path, accelerator: Any, net: nn.Module, *, about: Mapping[str, Any], recipe: Recipe, log: list[Record]
) -> None:
    """Write the state of now beside the last one, check it, and let it take its place.

    Raises:
        SettingError: it cannot be written, or is not read as it was written; the last one stays.
    """
    fresh = out / f"{NEW}-{uuid.uuid4().hex[:12]}"
    try:
        with writing(out):
            accelerator.save_state(str(fresh))
            torch.save(_generators(accelerator.device), fresh / RANDOM)
            (fresh / LOG).write_text(_lines(log), encoding="utf-8")
            (fresh / RECIPE).write_text(_json(dataclasses.asdict(recipe)), encoding="utf-8")
            (fresh / RUN).write_text(_run(fresh, about), encoding="utf-8")
            for path in (*fresh.iterdir(), fresh):
                _sync(path)
            _check_written(fresh, net)
            if (out / STATE).exists():
                shutil.rmtree(out / OLD, ignore_errors=True)
                (out / STATE).rename(out / OLD)
            fresh.rename(out / STATE)
            _sync(out)
            if len(log) == recipe.total_epochs:
                shutil.rmtree(out / OLD, ignore_errors=True)
            write_log(out, log)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_log(out: Path, log: list[Record]) -> None:
    """Write ``log.jsonl``, all of it or nothing, where it does not hold these records already."""
    path, text = out / LOG, _lines(log).encode()
    if path.is_file() and path.read_bytes() == text:
        return
    fresh = out / f".{LOG}-{uuid.uuid4().hex[:12]}"
    try:
        fresh.write_bytes(text)
        _sync(fresh)
        fresh.replace(path)
        _sync(out)
    finally:
        fresh.unlink(missing_ok=True)


def check_room(out: Path, net: nn.Module, epochs: int) -> None:
    """Raise `SettingError` where the folder does not take the checkpoints of the epochs that are left.

    The space of one is reserved and released, which finds quotas and limits on the size of a file too.
    """
    weights = sum(value.nbytes for value in net.state_dict().values())
    # AdamW keeps two values per weight that is trained.
    size = weights + 2 * sum(p.nbytes for p in net.parameters() if p.requires_grad) + (1 << 16)
    there = sum((out / name).is_dir() for name in (STATE, OLD))
    probe = out / f"{NEW}-{uuid.uuid4().hex[:12]}"
    with writing(out):
        try:
            with probe.open("xb") as file:
                _reserve(file.fileno(), size)
            wanted = size * max(1, min(_KEPT, there + epochs) - there)
            if (free := shutil.disk_usage(out).free) < wanted:
                raise OSError(f"{free:,} bytes are free, the checkpoints take {wanted:,}")
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def run_folder(out: Path) -> Iterator[None]:
    """Make the folder of a run where it does not exist, and hold its lock.

    Raises:
        SettingError: another run holds it, or it cannot be written.
    """
    with ExitStack() as stack:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_run(out))
        yield


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Turn what a full disk or a folder that is read-only raises, in whatever library, into one `SettingError`."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).strip().splitlines()[0]
        raise SettingError(
            f"fit: the run cannot be written to {out}: {reason}. Free space, or pass a folder that takes it; what was "
            "written before stays."
        ) from error


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
        except OSError as error:
            # Some file systems cannot reserve; what is free is asked for in any case.
            if error.errno not in _CANNOT_RESERVE:
                raise


def _read(folder: Path) -> Checkpoint:
    """A checkpoint whose every file is what its record says.

    Raises:
        CardError: naming the file that is not.
        SettingError: there is no record, or one of a later release.
    """
    if not (folder / RUN).is_file() and (folder / WEIGHTS).is_file():
        raise SettingError(
            f"fit: {folder} does not say which model and data it is of: a run of an earlier release, or without its "
            f"{RUN}. Start again in another folder."
        )
    raw = _object(folder / RUN)
    if raw.pop("sha256", None) != _digest(raw):
        raise CardError(f"{folder / RUN} is damaged.")
    if raw.get("format") != FORMAT:
        raise SettingError(f"fit: {folder} is of a later release. Update snntorch-smixer, or pass another folder.")
    for name, (size, digest) in raw["files"].items():
        path = folder / name
        if not path.is_file():
            raise CardError(f"{path} is missing.")
        if (record := record_of(path)).size_bytes != size or record.sha256 != digest:
            raise CardError(f"{path} is damaged: its size or SHA-256 is not the recorded one.")
    log = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    return Checkpoint(
        folder,
        raw["about"],
        _object(folder / RECIPE),
        log,
        read_tensors(folder / WEIGHTS),
        _load(folder / OPTIMIZER),
        _load(folder / RANDOM),
    )


def _object(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CardError(f"{path} is missing.") from error
    except (ValueError, RecursionError) as error:
        raise CardError(f"{path} is damaged.") from error
    if not isinstance(raw, dict):
        raise CardError(f"{path} is damaged.")
    return raw


def _load(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return found
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CardError(f"{path} holds more than plain values and tensors, or is damaged.") from error


def _run(fresh: Path, about: Mapping[str, Any]) -> str:
    records = {name: record_of(fresh / name) for name in _HASHED}
    files = {name: [record.size_bytes, record.sha256] for name, record in records.items()}
    raw = {"format": FORMAT, "about": about, "files": files}
    return _json({**raw, "sha256": _digest(raw)})


def _digest(raw: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()


def _check_written(fresh: Path, net: nn.Module) -> None:
    try:
        weights = _read(fresh).weights
    except CardError as error:
        raise OSError(f"it is not read as it was written ({error})") from error
    state = net.state_dict()
    wrong = [name for name, value in weights.items() if not _equal(value, state[name])]
    if wrong:
        raise OSError(f"{wrong[0]} is not read as it was written")


def _equal(one: Tensor, other: Tensor) -> bool:
    # Bytes, so that a buffer with NaN is equal to itself.
    first, second = (value.detach().cpu().contiguous().flatten().view(torch.uint8) for value in (one, other))
    return torch.equal(first, second)


def _generators(device: torch.device) -> dict[str, Any]:
    """States of all random generators as tensors, numbers and strings, which are read without unpickling code."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    kind = device.type
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys, np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "device": (kind, None if kind == "cpu" else getattr(torch, kind).get_rng_state()),
    }


def _json(value: Any) -> str:
    # NaN and Infinity are no JSON.
    return json.dumps(value, allow_nan=False)


def _lines(log: list[Record]) -> str:
    return "".join(_json(record) + "\n" for record in log)


def _sync(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to disk; Windows opens no folders."""
    with suppress(PermissionError):
        file = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(file)
        finally:
            os.close(file)
