"""``smixer viz``: what pruning saw and kept, as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snntorch_smixer.cli.arguments import Commands, add_command, add_json, add_out, add_pruning
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.cli.subject import MODEL, check_pruning, load_array, load_model, pruned
from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.viz.tokens import draw_pruning, trace_pruning

MOST = 16
"""Images in one picture."""

_EXAMPLES = """
  smixer viz smixer-2-64-fmnist-dstsp --input images.npy                         writes pruning.png
  smixer viz smixer-2-64-fmnist --input images.npy --ps 0.3 --t 1 --out a.pdf  another model, pruned for the picture
"""


def add(commands: Commands) -> None:
    """Add the command."""
    text = "draw the tokens and steps that a model keeps"
    parser = add_command(commands, "viz", text=text, examples=_EXAMPLES)
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--input", type=Path, required=True, help=f".npy file, uint8 (B, C, H, W) or (B, H, W), B <= {MOST}"
    )
    add_pruning(parser, "prune the model, or change its pruning")
    add_out(parser, "picture; default: pruning.png", default=Path("pruning.png"))
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, trace, draw."""
    check_pruning("viz", args)
    images = load_images(args.input)
    net, origin = load_model(args.model)
    if not isinstance(net, SMixerNet):
        raise SettingError(
            f"viz: got a {type(net).__name__}, expected an SMixerNet. Pass a model that smixer list names smixer."
        )
    wanted = (net.config.in_channels, *net.config.img_size)
    if images.shape[1:] != wanted:
        raise SettingError(
            f"viz: {args.input} has images {tuple(images.shape)}, expected {wanted[0]} channels of {wanted[1]} x "
            f"{wanted[2]}. Save images of the size of the model."
        )
    if args.ps is not None:
        pruned(net, args)
    card = net.card
    x = card.preprocess(images) if card is not None and card.mean else images.float() / 255
    trace = trace_pruning(net, x)
    with torch.no_grad():
        guesses = net(x).argmax(1).tolist()
    names = card.classes if card is not None else ()
    titles = [names[k] if k < len(names) else f"class {k}" for k in guesses]
    figure = draw_pruning(images, trace, titles)
    try:
        figure.savefig(args.out, dpi=110)
    except ValueError as error:
        raise SettingError(f"--out {args.out}: {error}. Pass a name that ends in .png or .pdf.") from error
    kept, steps = trace.kept.float().mean().item(), trace.steps.shape[1]
    if args.json:
        found = {"model": args.model, "images": len(images), "classes": titles, "kept": kept, "steps": steps}
        print_json({**found, "out": str(args.out)})
    else:
        print(f"{origin}\n{args.out}: {len(images)} images, {kept:.1%} of the tokens and {steps} steps kept")
    return 0


def load_images(path: Path) -> Tensor:
    """uint8 ``(B, C, H, W)``; grey images may come as ``(B, H, W)``.

    Raises:
        SettingError: other numbers, another rank, or too many.
    """
    data = load_array(path)
    if data.dtype != np.uint8 or data.ndim not in (3, 4):
        raise SettingError(
            f"{path}: {data.dtype} {data.shape}, expected uint8 (B, C, H, W) or (B, H, W). Save the images before they "
            "are normalised."
        )
    if not 1 <= len(data) <= MOST:
        raise SettingError(f"{path}: {len(data)} images, a picture has 1 to {MOST}. Save fewer.")
    images = torch.from_numpy(data)
    return images if images.dim() == 4 else images.unsqueeze(1)
