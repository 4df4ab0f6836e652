"""``smixer viz``: what pruning kept, what was learned, how often neurons fire and what it costs, as a picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from snntorch_smixer import cost
from snntorch_smixer.cards.card import Card
from snntorch_smixer.cli.arguments import Commands, add_command, add_json, add_out, add_pruning
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.cli.subject import CALLED, check_pruning, load_array, load_model, pruned
from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need
from snntorch_smixer.models.network import Network
from snntorch_smixer.pictures import read_picture
from snntorch_smixer.pruning.pruner import DSTSP
from snntorch_smixer.viz.comparison import draw_comparison
from snntorch_smixer.viz.cost import draw_cost
from snntorch_smixer.viz.tokens import draw_pruning, trace_pruning
from snntorch_smixer.viz.weights import draw_firing_rates, draw_w_m

MOST = 16
"""Images in one picture."""

_EXAMPLES = """
  smixer viz smixer-2-64-fmnist-dstsp --input images.npy                       kept tokens and steps: pruning.png
  smixer viz smixer-2-64-fmnist --input a.png b.jpg --ps 0.3 --t 1 --out a.pdf   of picture files, pruned for it
  smixer viz smixer-2-64-fmnist --what weights --out w_m.png                   learned W_M
  smixer viz smixer-2-64-fmnist-dstsp --what comparison --input images.npy --out saved.svg
  smixer viz mine.nets:build --input a.png --ps 0.3 --t 1                      your model; images of its size
"""


def add(commands: Commands) -> None:
    """Add the command."""
    text = "draw what a model keeps, learned, fires and costs"
    parser = add_command(commands, "viz", text=text, examples=_EXAMPLES)
    parser.add_argument("model", help=CALLED)
    parser.add_argument("--what", choices=tuple(PICTURES), default="tokens", help="the picture; default: tokens")
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        help=f".npy file, uint8 (B, C, H, W) or (B, H, W), B <= {MOST}; or picture files. weights needs none",
    )
    parser.add_argument("--chip", default="horowitz45-fp32", help="for cost and comparison; default: horowitz45-fp32")
    add_pruning(parser, "prune the model, or change its pruning")
    add_out(parser, "picture; default: pruning.png", default=Path("pruning.png"))
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, draw, say what was drawn."""
    check_pruning("viz", args)
    net, origin = load_model(args.model)
    images = x = None
    if args.input is not None:
        images = load_images(args.input, net)
        x = _prepared(net, images)
    elif args.what != "weights":
        raise SettingError(f"viz: --what {args.what} needs images. Pass --input images.npy, or picture files.")
    if args.ps is not None:
        pruned(net, args, example=None if x is None else x[:1])
    figure, found = PICTURES[args.what](net, images, x, args)
    try:
        figure.savefig(args.out, dpi=110)
    except ValueError as error:
        raise SettingError(f"--out {args.out}: {error}. Pass a name that ends in .png or .pdf.") from error
    text = found.pop("text")
    if args.json:
        print_json({"model": args.model, "what": args.what, **found, "out": str(args.out)})
    else:
        print(f"{origin}\n{args.out}: {text}")
    return 0


def _prepared(net: nn.Module, images: Tensor) -> Tensor:
    card: Card | None = getattr(net, "card", None)
    return card.preprocess(images) if card is not None and card.mean else images.float() / 255


Drawn = tuple[Any, dict[str, Any]]


def _tokens(net: nn.Module, images: Tensor, x: Tensor, _args: argparse.Namespace) -> Drawn:
    trace = trace_pruning(net, x)
    with torch.no_grad():
        out = net(x)
    logits = out if isinstance(out, Tensor) and out.dim() == 2 else None
    guesses = [] if logits is None else logits.argmax(1).tolist()
    names = card.classes if (card := getattr(net, "card", None)) is not None else ()
    titles = [names[k] if k < len(names) else f"class {k}" for k in guesses] or [""] * len(images)
    kept, steps = trace.kept.float().mean().item(), trace.steps.shape[1]
    text = f"{len(images)} images, {kept:.1%} of the tokens and {steps} steps kept"
    found = {"images": len(images), "classes": titles, "kept": kept, "steps": steps, "text": text}
    return draw_pruning(images, trace, titles), found


def _weights(net: nn.Module, *_: Any) -> Drawn:
    return draw_w_m(net), {"text": "the learned W_M of each block"}


def _rates(net: nn.Module, _images: Tensor, x: Tensor, _args: argparse.Namespace) -> Drawn:
    return draw_firing_rates(cost.measure(net, x)), {"text": f"firing rate of each neuron layer, {len(x)} images"}


def _cost(net: nn.Module, _images: Tensor, x: Tensor, args: argparse.Namespace) -> Drawn:
    report = cost.estimate(net, x, chip=args.chip)
    text = f"energy by layer on {args.chip}, {report.energy_mj:.3g} mJ per image"
    return draw_cost(report), {"energy_mj": report.energy_mj, "text": text}


def _comparison(net: nn.Module, _images: Tensor, x: Tensor, args: argparse.Namespace) -> Drawn:
    dstsp: Any = getattr(net, "dstsp", None)
    if not isinstance(dstsp, DSTSP):
        raise SettingError("viz: --what comparison is of a net that prunes with itself unpruned. Pass --ps and --t.")
    after, active = cost.estimate(net, x, chip=args.chip), dstsp.active
    dstsp.active = "never"
    try:
        before = cost.estimate(net, x, chip=args.chip)
    finally:
        dstsp.active = active
    saved = 1 - after.energy_mj / before.energy_mj
    figure = draw_comparison(cost.compare(before, after))
    return figure, {"saved": saved, "text": f"pruning saves {saved:.1%} of the energy on {args.chip}"}


PICTURES: Mapping[str, Callable[..., Drawn]] = {
    "tokens": _tokens,
    "weights": _weights,
    "rates": _rates,
    "cost": _cost,
    "comparison": _comparison,
}
"""What can be drawn, by the word that asks for it."""


def load_images(paths: list[Path], net: nn.Module) -> Tensor:
    """uint8 ``(B, C, H, W)``: an array, grey ones ``(B, H, W)`` too, or picture files, brought to the size of ``net``.

    Raises:
        SettingError: other numbers, another rank or size, or too many.
        CardError: a file that is no picture.
    """
    wanted = (net.config.in_channels, *net.config.img_size) if isinstance(net, Network) else None
    if paths[0].suffix == ".npy":
        if len(paths) > 1:
            raise SettingError(f"viz: got {len(paths)} files, expected one .npy file, or pictures alone.")
        images = _array(paths[0])
    else:
        pictures = [_picture(path, wanted) for path in paths]
        sizes = {tuple(picture.shape) for picture in pictures}
        if len(sizes) > 1:
            raise SettingError(
                f"viz: the pictures are of the sizes {sorted(sizes)}. Pass pictures of the model's size."
            )
        images = torch.stack(pictures)
    if not 1 <= len(images) <= MOST:
        raise SettingError(f"{paths[0]}: {len(images)} images, a picture has 1 to {MOST}. Save fewer.")
    if wanted is not None and images.shape[1:] != wanted:
        raise SettingError(
            f"viz: {paths[0]} has images {tuple(images.shape)}, expected {wanted[0]} channels of {wanted[1]} x "
            f"{wanted[2]}. Save images of the size of the model."
        )
    return images


def _array(path: Path) -> Tensor:
    data = load_array(path)
    if data.dtype != np.uint8 or data.ndim not in (3, 4):
        raise SettingError(
            f"{path}: {data.dtype} {data.shape}, expected uint8 (B, C, H, W) or (B, H, W). Save the images before they "
            "are normalised."
        )
    images = torch.from_numpy(data)
    return images if images.dim() == 4 else images.unsqueeze(1)


def _picture(path: Path, wanted: tuple[int, ...] | None) -> Tensor:
    image = read_picture(path)
    if wanted is not None:
        image = image.convert("L") if wanted[0] == 1 else image
        image = image.resize((wanted[2], wanted[1]), need("PIL.Image", extra="vision").Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
