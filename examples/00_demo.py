"""Two small SMixer nets on 1,000 real images: unpruned, pruned at inference only, and trained with pruning.

    python examples/00_demo.py

Prints a table and writes demo_out/pruning.png. Needs no network and no data but what the repository ships.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snntorch_smixer import SMixerNet, dstsp, from_pretrained
from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.throughput import throughput
from snntorch_smixer.train.data import normalise
from snntorch_smixer.train.loop import accuracy
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


def measure(nets: dict[str, SMixerNet], x: Tensor, labels: Tensor) -> list[dict[str, float | str]]:
    """One record per net; deterministic but for images_per_s."""
    speed = throughput(nets, x[:200], rounds=5)
    records: list[dict[str, float | str]] = []
    for name, net in nets.items():
        features, _ = net.forward_features(x[:1])
        records.append(
            {
                "net": name,
                "accuracy": accuracy(net, x, labels),
                "tokens": features.shape[2],
                "steps": features.shape[0],
                "dense_macs": dense_macs(net, x[:1]),
                "saved_bytes": saved_bytes(net, x[:64]),
                "images_per_s": speed[name],
            }
        )
    return records


def show(records: list[dict[str, float | str]]) -> None:
    """Print the records as a table; shares and ratios are against the first row."""
    head = ("accuracy", "tokens", "steps", "dense MACs", "kept for backward", "images/s")
    print(f"{'1,000 test images':<21}{head[0]:>9}{head[1]:>8}{head[2]:>7}{head[3]:>20}{head[4]:>22}{head[5]:>15}")
    for r in records:
        share = {k: float(r[k]) / float(records[0][k]) for k in ("dense_macs", "saved_bytes", "images_per_s")}
        macs = f"{float(r['dense_macs']) / 1e6:.2f} M ({share['dense_macs']:.0%})"
        saved = f"{float(r['saved_bytes']) / 2**20:.2f} MiB ({share['saved_bytes']:.0%})"
        speed = f"{float(r['images_per_s']):.0f} (x{share['images_per_s']:.2f})"
        print(f"{r['net']:<21}{r['accuracy']:>9.1%}{r['tokens']:>8}{r['steps']:>7}{macs:>20}{saved:>22}{speed:>15}")


if __name__ == "__main__":
    images, labels = load_images()
    card = model_card(NAME)
    x = normalise(images, card.mean, card.std)
    nets = load_nets()
    show(measure(nets, x, labels))
    net = nets["trained with DSTSP"]
    chosen = [int((labels == k).nonzero()[0]) for k in range(10)]
    with torch.no_grad():
        guesses = net(x[chosen]).argmax(1).tolist()
    titles = [card.classes[g] + ("" if g == labels[i] else " (wrong)") for g, i in zip(guesses, chosen, strict=True)]
    out = Path("demo_out")
    out.mkdir(exist_ok=True)
    draw_pruning(images[chosen], trace_pruning(net, x[chosen]), titles).savefig(out / "pruning.png", dpi=110)
    print(f"\n{out / 'pruning.png'}: dropped tokens greyed out, SIV heat map, kept step")
