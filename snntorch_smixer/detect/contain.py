"""What ultralytics changes for the whole process, restored behind each of its calls."""

from __future__ import annotations

import copy
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snntorch_smixer import extras
from snntorch_smixer.errors import MissingExtra

SUPPORTED = ((8, 4), (8, 5))
"""Releases of ultralytics that this package was run with: from the first, below the second."""

_PATCHED = ("imread", "imwrite", "imshow")
"""Functions of OpenCV that ultralytics puts its own in the place of."""

_QUIET = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "1"}
"""Read when ultralytics is imported: it installs packages by itself and reports what it is used for otherwise."""


def check_installed() -> None:
    """Raise `MissingExtra` unless a release of ultralytics is installed that this package knows."""
    version = _version()
    if version is None:
        raise MissingExtra(
            "detect: ultralytics is not installed. Expected it for SpikeYOLO. Run pip install "
            '"snntorch-smixer[detect]"; SpikingDetector and spiking_fcos need it not.',
            name="ultralytics",
        )
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    (low, high) = SUPPORTED
    if not low <= parts < high:
        wanted = f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"
        raise MissingExtra(
            f"detect: got ultralytics {version}, expected {wanted}: its parser and its head are used by name. Run pip "
            f'install "ultralytics{wanted}".',
            name="ultralytics",
        )


def _version() -> str | None:
    for name in ("ultralytics", "ultralytics-opencv-headless"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


@contextmanager
def contained() -> Iterator[None]:
    """Threads, print options, environment, ``torch.save`` and OpenCV's functions are afterwards as before."""
    threads, environment = torch.get_num_threads(), dict(os.environ)
    printing, numpys = copy.copy(torch._tensor_str.PRINT_OPTS), np.get_printoptions()
    opencv = sys.modules.get("cv2")
    functions = {} if opencv is None else {name: getattr(opencv, name) for name in _PATCHED}
    save, pillow = torch.save, sys.modules.get("PIL.Image")
    opened = None if pillow is None else pillow.open
    opencv_threads = None if opencv is None else opencv.getNumThreads()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch._tensor_str.PRINT_OPTS = printing
        np.set_printoptions(**numpys)
        for key in set(os.environ) - set(environment):
            del os.environ[key]
        os.environ.update(environment)
        torch.save = save
        if pillow is not None:
            setattr(pillow, "open", opened)  # noqa: B010 - a module of no known type
        for name, function in functions.items():
            setattr(opencv, name, function)
        if opencv is not None and opencv_threads is not None:
            opencv.setNumThreads(opencv_threads)


def import_ultralytics() -> Any:
    """Import ultralytics without what it does beside: it installs nothing, reports nothing, and leaves no settings.

    Its settings file lies in a temporary folder, unless there is one already or ``YOLO_CONFIG_DIR`` names a folder. A
    process that imported it before keeps what it has.

    Raises:
        MissingExtra: it is not installed, or of a release that is not known.
    """
    if "ultralytics" in sys.modules:
        return sys.modules["ultralytics"]
    check_installed()
    extras.torchvision_ready()
    importlib.import_module("PIL.Image")  # their functions are taken down before ultralytics replaces them
    importlib.import_module("cv2")

    with contained():
        for key, value in _QUIET.items():
            os.environ.setdefault(key, value)
        if not _has_settings():
            os.environ["YOLO_CONFIG_DIR"] = _scratch().name
        ultralytics = importlib.import_module("ultralytics")
        events = importlib.import_module("ultralytics.utils.events").events
        events.enabled = False
    return ultralytics


def _has_settings() -> bool:
    """True where the user runs ultralytics without this package too: data sets are looked for where it says."""
    folders = (".config", "Library/Application Support", "AppData/Roaming")
    files = (Path.home() / folder / "Ultralytics" / "settings.json" for folder in folders)
    return "YOLO_CONFIG_DIR" in os.environ or any(file.exists() for file in files)


_held: list[tempfile.TemporaryDirectory[str]] = []


def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that lives as long as the process."""
    if not _held:
        _held.append(tempfile.TemporaryDirectory(prefix="snntorch-smixer-", ignore_cleanup_errors=True))
    return _held[0]
