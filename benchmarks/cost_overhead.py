"""What measuring costs: time of `cost.measure` over the time of a plain forward, side by side.

    python benchmarks/cost_overhead.py

Needs SpikingJelly 2. One CPU thread; the median of repetitions that take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import snntorch as snn
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import Tensor, nn

from snntorch_smixer import create_model
from snntorch_smixer.cost import measure


class Reset(nn.Module):
    """Puts neurons at rest before each forward."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self.net)
        return self.net(x)


class Loop(nn.Module):
    """A net as in snnTorch's tutorials: three linear layers, 25 steps."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (784, 1000, 1000, 10)
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.neurons = nn.ModuleList(snn.Leaky(0.9) for _ in self.linear)

    def forward(self, x: Tensor) -> Tensor:
        states, out = [neuron.init_leaky() for neuron in self.neurons], []
        for _ in range(25):
            step = x
            for i, (linear, neuron) in enumerate(zip(self.linear, self.neurons, strict=True)):
                step, states[i] = neuron(linear(step), states[i])
            out.append(step)
        return torch.stack(out)


def subjects() -> dict[str, tuple[nn.Module, Tensor]]:
    """Models and their inputs."""
    found: dict[str, tuple[nn.Module, Tensor]] = {
        "smixer-4-384, batch 8": (create_model("smixer-4-384"), torch.randn(8, 3, 32, 32)),
        "smixer-2-64-fmnist, batch 32": (create_model("smixer-2-64-fmnist"), torch.randn(32, 1, 28, 28)),
        "snnTorch loop 784-1000-1000-10, T 25, batch 128": (Loop(), torch.rand(128, 784)),
    }
    spikformer = Spikformer(4, 3, 32, 32, 4, embed_dims=384, num_heads=12, depths=4)
    found["SpikingJelly Spikformer 4 x 384, batch 8"] = (Reset(spikformer), torch.randn(8, 3, 32, 32))
    return found


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def ratio(model: nn.Module, x: Tensor, repeats: int) -> tuple[float, float]:
    """Median time of measuring over that of a forward, and the latter in ms."""
    model.eval()

    def forward() -> Tensor:
        with torch.inference_mode():
            return model(x)

    forward(), measure(model, x)
    pairs = [(seconds(forward), seconds(lambda: measure(model, x))) for _ in range(repeats)]
    plain, measured = (statistics.median(times) for times in zip(*pairs, strict=True))
    return measured / plain, plain * 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, (model, x) in subjects().items():
        over, plain = ratio(model, x, args.repeats)
        print(f"{name:<50}{over:.2f} x a forward of {plain:.0f} ms")
