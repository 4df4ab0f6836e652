"""Accuracy of the shipped nets over ps and t, with dense MACs and kept bytes beside it.

    python benchmarks/sweep_ps_t.py [--data DATA]

Prints two Markdown tables: the net trained without pruning, and the one trained with ps=0.3, t=1. Without DATA it
evaluates the 1,000 test images that the repository ships; with DATA, the
folder that holds FashionMNIST/raw, all 10,000.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp, from_pretrained
from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.train.data import fashion_mnist

SHIPPED = Path(__file__).parents[1] / "examples" / "data" / "fashion_mnist_test_1000.npz"
RATES = (0.0, 0.1, 0.2, 0.3, 0.5)
STEPS = (None, 2, 1)


def load(data: str | None) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28), uint8, and labels (n,)."""
    if data is not None:
        return fashion_mnist(data).test
    shipped = np.load(SHIPPED)
    return torch.from_numpy(shipped["images"]).unsqueeze(1), torch.from_numpy(shipped["labels"]).long()


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    logits = torch.cat([net(batch) for batch in x.split(250)])
    return float((logits.argmax(1) == y).float().mean())


def sweep(name: str, images: Tensor, labels: Tensor) -> None:
    """One table: rows are ps, columns t."""
    net = from_pretrained(name)
    if net.dstsp is None:
        dstsp.wrap(net, ps=0, t=None)
    x = net.card.preprocess(images)
    print(f"\n{name}, {len(labels):,} images\n\n| ps | all steps | t=2 | t=1 |\n|---|---|---|---|")
    for ps in RATES:
        row = []
        for t in STEPS:
            net.dstsp.ps, net.dstsp.t = ps, t
            row.append(f"{accuracy(net, x, labels):.1%}, {dense_macs(net, x[:1]) / 1e6:.1f} M MACs")
        print(f"| {ps} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="evaluate all 10,000 test images of this folder")
    chosen = load(parser.parse_args().data)
    torch.set_num_threads(1)
    for model in ("smixer-2-64-fmnist", "smixer-2-64-fmnist-dstsp"):
        sweep(model, *chosen)
