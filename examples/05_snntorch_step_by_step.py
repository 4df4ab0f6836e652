"""A small spiking transformer as a snnTorch tutorial would write it, trained, wrapped, fitted and fine-tuned.

    python examples/05_snntorch_step_by_step.py [--data DATA] [--epochs 30]

One time step at a time, with explicit membranes, in a loop over the steps. Nothing in the net knows of this package.
It trains on the 500 Fashion-MNIST images that ship with the repository and is tested on the 1,000 others: two to three
minutes on one core. With DATA, the folder that holds FashionMNIST/raw, it takes 10,000 and 10,000.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from snntorch_smixer import cost, dstsp
from snntorch_smixer.train.data import fashion_mnist, normalise

SHIPPED = Path(__file__).parent / "data"
MEAN, STD = (0.2860,), (0.3530,)
DIM, HEADS, STEPS = 64, 4, 4


def leaky() -> snn.Leaky:
    return snn.Leaky(beta=0.5, spike_grad=surrogate.atan(), reset_mechanism="zero")


class Block(nn.Module):
    """Attention on spikes, then an MLP, for one time step; its membranes come in and go out."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(DIM, 2 * DIM), nn.Linear(2 * DIM, DIM)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in (DIM, DIM, DIM, DIM, 2 * DIM, DIM))
        self.lifs = nn.ModuleList(leaky() for _ in range(7))

    def init_leaky(self) -> list[Tensor]:
        return [lif.init_leaky() for lif in self.lifs]

    def fire(self, i: int, x: Tensor, mems: list[Tensor]) -> Tensor:
        spikes, mems[i] = self.lifs[i](x, mems[i])
        return spikes

    def norm(self, i: int, x: Tensor) -> Tensor:
        return self.norms[i](x.flatten(0, 1)).view(x.shape)

    def forward(self, x: Tensor, mems: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        mems = list(mems)
        b, n, _ = x.shape
        q = self.fire(0, self.norm(0, self.q(x)), mems).view(b, n, HEADS, -1).transpose(1, 2)
        k = self.fire(1, self.norm(1, self.k(x)), mems).view(b, n, HEADS, -1).transpose(1, 2)
        v = self.fire(2, self.norm(2, self.v(x)), mems).view(b, n, HEADS, -1).transpose(1, 2)
        attended = (q @ k.transpose(-2, -1)) @ v * 0.125
        attended = self.fire(3, attended.transpose(1, 2).reshape(b, n, DIM), mems)
        x = x + self.fire(4, self.norm(3, self.proj(attended)), mems)
        hidden = self.fire(5, self.norm(4, self.fc1(x)), mems)
        return x + self.fire(6, self.norm(5, self.fc2(hidden)), mems), mems


class Net(nn.Module):
    """Pictures (B, 1, 28, 28), shown num_steps times, to logits (B, 10); 49 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.num_steps = STEPS
        self.conv1, self.norm1, self.lif1 = nn.Conv2d(1, 32, 3, 2, 1), nn.BatchNorm2d(32), leaky()
        self.conv2, self.norm2, self.lif2 = nn.Conv2d(32, DIM, 3, 2, 1), nn.BatchNorm2d(DIM), leaky()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(DIM, 10)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2 = self.lif1.init_leaky(), self.lif2.init_leaky()
        states = [block.init_leaky() for block in self.blocks]
        out = 0
        for _ in range(self.num_steps):
            spikes, mem1 = self.lif1(self.norm1(self.conv1(x)), mem1)
            spikes, mem2 = self.lif2(self.norm2(self.conv2(spikes)), mem2)
            tokens = spikes.flatten(2).transpose(1, 2)
            for i, block in enumerate(self.blocks):
                tokens, states[i] = block(tokens, states[i])
            out = out + self.head(tokens.mean(1))
        return out / self.num_steps


def train(net: nn.Module, x: Tensor, y: Tensor, epochs: int, lr: float) -> None:
    """Plain AdamW with shifts of a pixel or two and mirror images."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(x.split(25)))
    net.train()
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(25):
            images = x[part].flip(-1) if torch.rand(()) < 0.5 else x[part]
            images = images.roll(tuple(torch.randint(-2, 3, (2,)).tolist()), (-2, -1))
            loss = F.cross_entropy(net(images), y[part], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


@torch.no_grad()
def report(name: str, net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Accuracy, seconds for all images; and per image MACs of dense arithmetic, events and spikes times spikes."""
    net.eval()
    start = time.perf_counter()
    right = sum(int((net(a).argmax(1) == b).sum()) for a, b in zip(x.split(250), y.split(250), strict=True))
    seconds = time.perf_counter() - start
    with FlopCounterMode(display=False) as flops:
        net(x[:16])
    macs, records = flops.get_total_flops() / 2 / 16, cost.measure(net, x[:16])
    events, products = records.per_sample("ac"), records.per_sample("act_act")
    counts = "".join(f"{count / 1e6:>10.2f} M" for count in (macs, events, products))
    print(f"{name:<34}{right / len(y):>9.1%}{counts}{seconds:>9.1f} s", flush=True)


def load(data: str | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if data:
        both = fashion_mnist(data)
        return (
            both.normalise(both.train[0][:10_000]),
            both.train[1][:10_000],
            both.normalise(both.test[0]),
            both.test[1],
        )
    found: list[Tensor] = []
    for name in ("train_500", "test_1000"):
        part = np.load(SHIPPED / f"fashion_mnist_{name}.npz")
        found += [
            normalise(torch.from_numpy(part["images"]).unsqueeze(1), MEAN, STD),
            torch.from_numpy(part["labels"]).long(),
        ]
    return found[0], found[1], found[2], found[3]


def main(data: str | None, epochs: int) -> None:
    torch.manual_seed(0)
    x, y, test_x, test_y = load(data)
    print(f"{'':<34}{'accuracy':>9}{'MACs':>12}{'events':>12}{'products':>12}{'time':>11}")
    net = Net()
    train(net, x, y, epochs, 3e-3)
    report("as written, attention Q K^T V", net, test_x, test_y)

    control = copy.deepcopy(net)
    train(control, x, y, max(1, epochs // 3), 1e-3)
    report("the same, trained on", control, test_x, test_y)

    dstsp.wrap(net, ps=0.3, t=2, example_input=x[:2], calibrate=x[:500].split(50))  # W_M fitted to the attention
    net.dstsp.active = "never"
    report("W_M fitted, nothing dropped", net, test_x, test_y)
    net.dstsp.active = "both"
    report("W_M fitted, ps=0.3, t=2", net, test_x, test_y)
    train(net, x, y, max(1, epochs // 3), 1e-3)
    report("fine-tuned with ps=0.3, t=2", net, test_x, test_y)
    print(f"\n{dstsp.summary(net)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="train on 10,000 images of this folder and test on 10,000")
    parser.add_argument("--epochs", type=int, default=30, help="of the first training; default: 30")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads of a net this small mostly wait for each other
    main(arguments.data, arguments.epochs)
