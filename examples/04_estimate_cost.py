"""What pruning and what the mixer save on a chip, measured on trained nets and 100 real images.

    python examples/04_estimate_cost.py [--chip horowitz45-fp32]

First the shipped SMixer net against its twin trained with DSTSP; then, where SpikingJelly 2 is installed, its
Spikformer with attention Q K^T V against the same net with W_M, both fine-tuned alike (see 02 and 03). Weights and
images ship with the repository.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snntorch_smixer import cost, from_pretrained
from snntorch_smixer.train.data import normalise
from snntorch_smixer.zoo.registry import model_card

HERE = Path(__file__).parent
NAME = "smixer-2-64-fmnist"


def images(count: int = 100) -> Tensor:
    """Normalised test images (count, 1, 28, 28)."""
    data = np.load(HERE / "data" / "fashion_mnist_test_1000.npz")["images"][:count]
    card = model_card(NAME)
    return normalise(torch.from_numpy(data).unsqueeze(1), card.mean, card.std)


def spikformers() -> list[torch.nn.Module]:
    """SpikingJelly's Spikformer as it is, and with W_M."""
    spec = importlib.util.spec_from_file_location("example", HERE / "02_wrap_spikingjelly.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return [example.load(name) for name in ("control", "fitted")]


def per_sample(records: cost.Records) -> str:
    """The counts that matter, of one sample, in thousands."""
    names = ("ac", "mac", "act_act", "coincidences", "updates")
    return ", ".join(f"{name} {records.per_sample(name) / 1e3:.1f} k" for name in names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", default="horowitz45-fp32")
    args = parser.parse_args()
    x = images()
    pairs = {"DSTSP": [from_pretrained(NAME), from_pretrained(f"{NAME}-dstsp")]}
    if importlib.util.find_spec("spikingjelly") is not None:
        pairs["W_M for Q K^T V"] = spikformers()
    for title, nets in pairs.items():
        before, after = (cost.estimate(net, x, chip=args.chip) for net in nets)
        print(f"== {title} ==\n{cost.compare(before, after)}")
        print(f"before, per image: {per_sample(before.records)}\nafter, per image:  {per_sample(after.records)}\n")
    print(cost.estimate(pairs["DSTSP"][1], x, chip=args.chip))
