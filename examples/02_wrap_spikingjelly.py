"""Wrap SpikingJelly's own, unmodified Spikformer: W_M for its attention, then DSTSP, on 1,000 Fashion-MNIST images.

    python examples/02_wrap_spikingjelly.py [--data DATA]

Needs SpikingJelly 2 (pip install --no-deps spikingjelly loguru h5py). Weights and images ship with the repository;
03_train_spikingjelly.py makes the weights. With DATA, the folder that holds FashionMNIST/raw, it evaluates all 10,000
test images, which takes minutes.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import Tensor

from snntorch_smixer import dstsp
from snntorch_smixer.train.data import fashion_mnist, normalise

DATA = Path(__file__).parent / "data"
MEAN, STD = (0.2860,), (0.3530,)


def load(name: str) -> Spikformer:
    """The class as SpikingJelly ships it, with trained weights; wrapped where these are of a wrapped net."""
    sizes = {"img_size_h": 28, "img_size_w": 28, "patch_size": 4, "in_channels": 1, "num_classes": 10}
    net = Spikformer(T=4, embed_dims=64, num_heads=4, depths=2, **sizes)
    state = load_file(DATA / f"spikformer_{name}.safetensors")
    if any(key.endswith("w_m.weight") for key in state):
        dstsp.wrap(net, ps=0, t=None)
    net.load_state_dict(state)
    return net.eval()


def images(name: str) -> tuple[Tensor, Tensor]:
    """Normalised images (n, 1, 28, 28) and labels (n,)."""
    data = np.load(DATA / f"fashion_mnist_{name}.npz")
    return normalise(torch.from_numpy(data["images"]).unsqueeze(1), MEAN, STD), torch.from_numpy(data["labels"]).long()


@torch.no_grad()
def accuracy(net: Spikformer, x: Tensor, y: Tensor) -> float:
    """Share of right answers; neurons are put at rest before each batch, as SpikingJelly asks."""
    right = 0
    for batch, labels in zip(x.split(250), y.split(250), strict=True):
        functional.reset_net(net)
        right += int((net(batch).mean(0).argmax(1) == labels).sum())
    return right / len(y)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="evaluate all 10,000 test images of this folder")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads of a net this small mostly wait for each other
    x, y = images("test_1000")
    if args.data:
        x, y = normalise(fashion_mnist(args.data).test[0], MEAN, STD), fashion_mnist(args.data).test[1].long()
    torch.manual_seed(0)
    net = load("ssa")
    print(f"{'unmodified, attention Q K^T V':42}{accuracy(net, x, y):7.1%}", flush=True)
    dstsp.wrap(net, ps=0, t=None)
    print(f"{'swapped, random W_M':42}{accuracy(net, x, y):7.1%}", flush=True)
    dstsp.fit(net, images("train_500")[0].split(100))
    print(f"{'swapped, W_M fitted to 500 images':42}{accuracy(net, x, y):7.1%}", flush=True)
    for name in ("random", "fitted"):
        print(f"{f'{name} W_M, one epoch of fine-tuning':42}{accuracy(load(name), x, y):7.1%}", flush=True)
    print(f"{'unmodified, one epoch of fine-tuning':42}{accuracy(load('control'), x, y):7.1%}\n", flush=True)
    net = dstsp.wrap(load("ssa"), ps=0.3, t=1, calibrate=images("train_500")[0].split(100))
    print(dstsp.summary(net))
    print(f"{'fitted W_M, pruned without any training':42}{accuracy(net, x, y):7.1%}")
