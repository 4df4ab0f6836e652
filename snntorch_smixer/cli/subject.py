"""The model and the batch that a command works on."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo.hub import from_pretrained
from snntorch_smixer.zoo.registry import create_model, shipped


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `load_model` and `load_batch` read."""
    parser.add_argument(
        "model", help="a model of the zoo, a folder, or package.module:function; also audit-paper, chips"
    )
    parser.add_argument("--input", type=Path, help="batch as a .npy file of numbers; noise without it")
    parser.add_argument("--shape", help="shape of the noise, as 4,3,32,32; models of the zoo know it")
    parser.add_argument("--batch", type=int, default=4, help="samples of noise")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of untrained weights")
    parser.add_argument("--axes", choices=["b", "t b", "b t", "(t b)", "(b t)"], help="leading axes of the batch")
    parser.add_argument("--steps", type=int, help="time steps, where neither the batch nor the model shows them")


def load_model(name: str) -> tuple[nn.Module, str]:
    """A model, and where its weights are from.

    Raises:
        SettingError: a function that cannot be imported, or that makes no module.
        CardError: no such model.
    """
    if ":" in name:
        return _called(name), f"{name}: weights as its function made them"
    if name in shipped() or Path(name).is_dir():
        return from_pretrained(name), f"{name}: trained weights"
    return create_model(name).eval(), f"{name}: UNTRAINED, firing rates are those of random weights"


def _called(name: str) -> nn.Module:
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, TypeError) as error:
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
        try:
            data = np.load(args.input, allow_pickle=False)
            return torch.from_numpy(np.ascontiguousarray(data)).float(), f"input {args.input.name} {data.shape}"
        except (ValueError, TypeError, AttributeError) as error:
            raise SettingError(f"{args.input}: no array of numbers. Pass a .npy file made by numpy.save.") from error
    if args.shape:
        sizes = args.shape.split(",")
        if not all(size.isdigit() and int(size) for size in sizes):
            raise SettingError(f"--shape {args.shape!r}: expected whole numbers as 4,3,32,32.")
        shape = tuple(map(int, sizes))
    elif isinstance(model, SMixerNet):
        c = model.config
        shape = (args.batch, c.in_channels, *c.img_size)
        shape = (c.T, *shape) if c.in_channels == 2 else shape
    else:
        raise SettingError("cost: no input. Pass --input batch.npy, or --shape for noise.")
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(args.seed))
    return noise, f"input: NOISE {tuple(shape)}"
