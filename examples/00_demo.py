"""Two small SMixer nets on 1,000 real images: unpruned, pruned at inference only, and trained with pruning.

    python examples/00_demo.py [--data DATA]

Prints a table and writes demo_out/pruning.png. Needs no network and no data but what the repository ships; with DATA,
the folder that holds FashionMNIST/raw, it evaluates all 10,000 test images.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snntorch_smixer import SMixerNet, dstsp, from_pretrained
from snntorch_smixer.bench.compare import compare
from snntorch_smixer.bench.report import table
from snntorch_smixer.train.data import fashion_mnist, normalise
from snntorch_smixer.viz.tokens import draw_pruning, trace_pruning
from snntorch_smixer.zoo.registry import model_card

DATA = Path(__file__).parent / "data" / "fashion_mnist_test_1000.npz"
NAME = "smixer-2-64-fmnist"


def load_images() -> tuple[Tensor, Tensor]:
    """uint8 images (1000, 1, 28, 28) and labels (1000,): the first 1,000 test images of Fashion-MNIST."""
    data = np.load(DATA)
    return torch.from_numpy(data["images"]).unsqueeze(1), torch.from_numpy(data["labels"]).long()


def load_nets() -> dict[str, SMixerNet]:
    """The three rows of the table."""
    return {
        "unpruned": from_pretrained(NAME),
        "pruned at inference": dstsp.wrap(from_pretrained(NAME), ps=0.3, t=1),
        "trained with DSTSP": from_pretrained(f"{NAME}-dstsp"),
    }


def draw(net: SMixerNet, images: Tensor, labels: Tensor) -> Path:
    """Picture of what the net dropped on the first image of six classes."""
    card = model_card(NAME)
    chosen = [int((labels == k).nonzero()[0]) for k in (0, 1, 2, 5, 7, 8)]
    x = normalise(images[chosen], card.mean, card.std)
    with torch.no_grad():
        guesses = net(x).argmax(1).tolist()
    titles = [card.classes[g] + ("" if g == labels[i] else "\n(wrong)") for g, i in zip(guesses, chosen, strict=True)]
    path = Path("demo_out/pruning.png")
    path.parent.mkdir(exist_ok=True)
    draw_pruning(images[chosen], trace_pruning(net, x), titles).savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="evaluate all 10,000 test images of this folder")
    args = parser.parse_args()
    torch.set_num_threads(1)  # threads of a net this small mostly wait for each other
    images, labels = fashion_mnist(args.data).test if args.data else load_images()
    card = model_card(NAME)
    nets = load_nets()
    print(f"Fashion-MNIST, {len(images):,} test images, float32, one CPU thread\n")
    print(table(compare(nets, normalise(images, card.mean, card.std), labels)))
    path = draw(nets["trained with DSTSP"], images, labels)
    print(f"\n{path}: image, spikes per token, dropped tokens greyed out, kept step in orange")
