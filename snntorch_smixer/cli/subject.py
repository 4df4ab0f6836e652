"""The model, the batch and the device that a command works on."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from snntorch_smixer.cards.card import is_repo_id
from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.network import Network
from snntorch_smixer.patching.wrap import wrap
from snntorch_smixer.pruning.pruner import DSTSP
from snntorch_smixer.zoo.hub import create_model, from_pretrained
from snntorch_smixer.zoo.registry import list_models

MODEL = "a model of the zoo, a folder, org/name of the Hub"
CALLED = f"{MODEL}, or package.module:function"


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `load_model` and `load_batch` read."""
    parser.add_argument("model", help=f"{CALLED}; also audit-paper, chips")
    add_batch(parser)
    parser.add_argument("--axes", choices=["b", "t b", "b t", "(t b)", "(b t)"], help="leading axes of the batch")
    parser.add_argument("--steps", type=int, help="time steps, where neither the batch nor the model shows them")


def add_batch(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `load_batch` reads."""
    parser.add_argument("--input", type=Path, help="batch as a .npy file of numbers; noise without it")
    parser.add_argument("--shape", help="shape of the noise, as 4,3,32,32; models of the zoo know it")
    parser.add_argument("--batch", type=int, default=4, help="samples of noise")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of untrained weights")


def load_model(name: str) -> tuple[nn.Module, str]:
    """A model, and where its weights are from.

    Raises:
        SettingError: a function that cannot be imported, or that makes no module.
        CardError: no such model.
    """
    if is_called(name):
        return call(name), f"{name}: weights as its function made them"
    if is_trained(name):
        return from_pretrained(name), f"{name}: trained weights"
    return create_model(name).eval(), f"{name}: UNTRAINED, firing rates are those of random weights"


def is_called(name: str) -> bool:
    """True for ``package.module:function``."""
    return ":" in name and not Path(name).exists()


def is_trained(name: str) -> bool:
    """True where `from_pretrained` should be asked: a folder, a repository, or a model with weights."""
    return Path(name).is_dir() or is_repo_id(name.partition("@")[0]) or name in list_models(pretrained=True)


def call(name: str) -> nn.Module:
    """The model that ``package.module:function`` makes.

    Raises:
        SettingError: it cannot be imported, fails, or makes no module.
    """
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function)()
    except Exception as error:
        raise SettingError(
            f"model {name!r}: {error}. Expected package.module:function, a function without arguments that returns a "
            "model. Run the command where the package can be imported."
        ) from error
    finally:
        sys.path.pop(0)
    if not isinstance(made, nn.Module):
        raise SettingError(f"model {name!r}: got {type(made).__name__}, expected a torch.nn.Module. Return the model.")
    return made.eval()


def load_batch(args: argparse.Namespace, model: nn.Module) -> tuple[Tensor, str]:
    """The batch, and what it is.

    Raises:
        SettingError: a file that holds no numbers, or no shape for the noise.
    """
    if args.input is not None:
        data = load_array(args.input)
        return torch.from_numpy(data).float(), f"input {args.input.name} {data.shape}"
    if args.batch < 1:
        raise SettingError(f"--batch {args.batch}: expected at least one sample.")
    if args.shape:
        sizes = args.shape.split(",")
        if not all(size.isdigit() and int(size) for size in sizes):
            raise SettingError(f"--shape {args.shape!r}: expected whole numbers as 4,3,32,32.")
        shape = tuple(map(int, sizes))
    elif isinstance(model, Network):
        shape = model.config.input_shape(args.batch)
    else:
        raise SettingError("smixer: no input. Pass --input batch.npy, or --shape for noise.")
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(args.seed))
    return noise, f"input: NOISE {tuple(shape)}"


def load_array(path: Path) -> np.ndarray:
    """A ``.npy`` file of numbers.

    Raises:
        SettingError: it holds none.
    """
    try:
        data = np.ascontiguousarray(np.load(path, allow_pickle=False))
        torch.from_numpy(data)
        return data
    except (ValueError, TypeError, AttributeError, EOFError) as error:
        raise SettingError(f"{path}: no array of numbers. Pass a .npy file made by numpy.save.") from error


def check_pruning(command: str, args: argparse.Namespace) -> None:
    """Raise `SettingError` where ``--t`` comes without ``--ps``, or ``--place`` without ``--t``."""
    if args.t is not None and args.ps is None:
        raise SettingError(f"{command}: --t needs --ps. Pass --ps 0 to drop time steps only.")
    if args.place is not None and args.t is None:
        raise SettingError(f"{command}: --place needs --ps and --t. It says where time steps are dropped; pass --t 1.")


def pruned(net: nn.Module, args: argparse.Namespace, *, swap: bool = True, example: Tensor | None = None) -> nn.Module:
    """``net`` with the pruning of ``--ps``, ``--t``, ``--place``: wrapped, or set where it prunes already.

    Args:
        net: changed in place.
        args: with ``ps``, ``t`` and ``place``.
        swap: attention for ``W_M`` too, where there is attention.
        example: an input.
    """
    dstsp = getattr(net, "dstsp", None)
    if dstsp is None:
        wrap(net, ps=args.ps, t=args.t, swap=swap, example_input=example)
    else:
        dstsp.ps, dstsp.t = args.ps, args.t
    if args.place is not None:
        cast(DSTSP, net.dstsp).place = args.place
    return net


def device(asked: str | None) -> torch.device:
    """The device of ``--device``.

    Raises:
        SettingError: torch does not know it, or it is not there.
    """
    name = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".") + "."
        raise SettingError(f"--device {name}: {reason} Pass cpu, or a device that is there.") from error
    return found
