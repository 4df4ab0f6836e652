"""``smixer info``: one model, or what is installed here."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from snntorch_smixer.bench.expected import expected_bytes
from snntorch_smixer.cards.card import CARD, Card, is_repo_id
from snntorch_smixer.cards.folder import check_file
from snntorch_smixer.cli.arguments import Commands, add_command, add_json
from snntorch_smixer.cli.counts import count, parameter_shapes
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.cli.subject import MODEL
from snntorch_smixer.kernels.compiled import active
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.zoo import registry
from snntorch_smixer.zoo.locate import locate
from snntorch_smixer.zoo.registry import configured, model_blueprint

_EXAMPLES = """
  smixer info                                   versions, device, optional extras, where models are kept
  smixer info smixer-2-64-fmnist                card, configuration, parameters, memory that training needs
  smixer info runs/my-model                     of a folder
  smixer info org/name                          of the Hub; downloads it
  smixer info smixer-8-768 --json               for programs
"""

EXTRA_MODULES = {
    "vision": ("torchvision",),
    "detect": ("ultralytics", "torchmetrics", "faster_coco_eval"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "viz": ("matplotlib", "pandas"),
    "train": ("accelerate",),
}
"""Modules that each extra brings."""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "info", text="show one model, or what is installed here", examples=_EXAMPLES)
    parser.add_argument("model", nargs="?", help=f"{MODEL}; nothing for the installation")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    known = installation() if args.model is None else model(args.model)
    if args.json:
        print_json(known)
    else:
        print("\n\n".join(_section(title, content) for title, content in known.items() if content))
    return 0


def model(name: str) -> dict[str, Any]:
    """Card, configuration and size of a model.

    Raises:
        CardError: no such model, or its card is about other files.
    """
    folder = _folder(name)
    blueprint = model_blueprint(name) if folder is None else Blueprint.load(folder)
    card = None if folder is None else _card(folder)
    shapes = parameter_shapes(blueprint, folder)
    total, mixing = count(shapes), count(shapes, "w_m.weight")
    raw = json.loads(blueprint.to_json())
    config = {"architecture": blueprint.config.architecture, **raw["config"]}
    return {
        "model": {"name": name, "folder": None if folder is None else str(folder)},
        "card": None if card is None else dataclasses.asdict(card),
        "config": config | ({"wrapped": raw["wrapped"]} if "wrapped" in raw else {}),
        "parameters": {"total": total, "w_m": mixing, "w_m_share": mixing / total},
        "training_memory": _training_memory(blueprint),
        "kernels": _kernels(),
    }


def _card(folder: Path) -> Card | None:
    """The card of a folder, None without one; files that are there must be those that it is about."""
    if not (folder / CARD).is_file():
        return None
    card = Card.load(folder)
    for name, record in card.files.items():
        if (folder / name).is_file():
            check_file(folder / name, record, owner=card.name)
    return card


def installation() -> dict[str, Any]:
    """Versions, hardware, extras and places, each a table; what a report of a problem should show."""
    found = {"versions": _versions(), "device": _device(), "kernels": _kernels()}
    return found | {"extras": _extras(), "places": _places()}


def _folder(name: str) -> Path | None:
    if name in configured():
        return registry.zoo_folder() / name
    if Path(name).is_dir():
        return Path(name)
    return locate(name).folder if is_repo_id(name.partition("@")[0]) else None


def _versions() -> dict[str, str]:
    packages = ("snntorch-smixer", "torch", "snntorch", "numpy", "huggingface-hub", "safetensors")
    return {name: _version(name) for name in packages} | {"python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _kernels() -> dict[str, str]:
    """Which tier computes BatchNorm and neurons, and why."""
    found = active()
    return {"tier": found["active"], "why": found["why"]}


def _training_memory(blueprint: Blueprint) -> dict[str, Any]:
    """MiB per input that training keeps in each memory mode; counted on shapes, in seconds."""
    kept = {mode: size / 2**20 for mode, size in expected_bytes(blueprint.config).items()}
    if not kept:
        return {}
    notes = ["MiB per input for the backward pass, float32, batch 16; set_memory(net, mode), smixer train --memory"]
    if kept["fused"] == kept["recompute"]:
        notes.append('here "recompute" is "fused": of neurons alone there is no map to compute again')
    if blueprint.wrapped is not None:
        notes.append("before dstsp.wrap, without pruning")
    return {**kept, "default": "fused", "note": "; ".join(notes)}


def _device() -> dict[str, str]:
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cuda": ", ".join(cards) or "none", "cpu": f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"}


def _extras() -> dict[str, str]:
    found = {}
    for extra, modules in EXTRA_MODULES.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        found[extra] = f'no: pip install "snntorch-smixer[{extra}]"' if missing else "yes"
    return found


def _places() -> dict[str, str]:
    from huggingface_hub import constants

    return {
        "zoo": str(registry.zoo_folder()),
        "hub cache": str(constants.HF_HUB_CACHE),
        "hub": constants.ENDPOINT,
        "offline": "yes, HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "no",
    }


def _section(title: str, content: dict[str, Any]) -> str:
    rows = []
    for key, value in content.items():
        several = isinstance(value, (list, tuple)) and value and isinstance(value[0], dict)
        rows += [(key, _text(row)) for row in value] if several else [(key, _text(value))]
    shown = [(key, text) for key, text in rows if text]
    width = max((len(key) for key, _ in shown), default=0)
    return "\n".join([title.replace("_", " "), *(f"  {key:<{width}}  {text}" for key, text in shown)])


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_text(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
