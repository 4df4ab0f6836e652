"""Accuracy on Fashion-MNIST with time steps dropped behind the stem, or at one of the neurons inside it.

    python benchmarks/prune_place_accuracy.py --data DATA --compile

Trains one net for each place, and one without pruning, with the recipe of the zoo's smixer-2-64-fmnist (fewer epochs),
and evaluates it on the 10,000 test images. DATA is the folder that holds FashionMNIST/raw. A run that was stopped goes
on where it was. What each place costs: `smixer bench prune_place`.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.place import PLACES
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.train.datasets import load_data
from snntorch_smixer.train.loop import fit
from snntorch_smixer.train.recipe import Recipe
from snntorch_smixer.zoo.registry import zoo_folder

ZOO = zoo_folder() / "smixer-2-64-fmnist"


def net_at(place: str) -> SMixerNet:
    """The zoo's net with DSTSP (ps=0.3, t=1) at ``place``; without pruning for "none"."""
    config = SMixerConfig.from_dict(json.loads((ZOO / "config.json").read_text())["config"])
    prune = None if place == "none" else DSTSPConfig(ps=0.3, t=1, place=place)
    return SMixerNet(dataclasses.replace(config, prune=prune))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--places", nargs="+", default=["none", *PLACES], choices=["none", *PLACES])
    parser.add_argument("--compile", action="store_true", help="train through torch.compile")
    parser.add_argument("--out", type=Path, default=Path("runs/prune_place"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = dataclasses.replace(Recipe.load(ZOO / "recipe.toml"), epochs=args.epochs, seed=args.seed)
    data = load_data("fashion-mnist", args.data)
    for place in args.places:
        torch.manual_seed(args.seed)
        torch.compiler.reset()
        out = args.out / f"{place}-{args.seed}"
        log = fit(net_at(place), recipe, data=data, out=out, compile_net=args.compile, progress=False)
        print(f"{place}: {log[-1]['test_accuracy']:.2%} of 10,000 test images after {args.epochs} epochs", flush=True)
