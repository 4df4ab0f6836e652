"""What late, lost and mismatched spikes do: the drive of single layers, and the accuracy of the zoo's small net.

    python benchmarks/event_jitter.py --data DATA --samples 200 --seeds 1

Drives: spikes at random times of 16 steps, each late by a time uniform in [0, J] steps, in a window that loses none;
the relative error of the sum over time. Products and maxima see the spikes that arrive in one step. Accuracy:
`events.simulate` on the first test images of Fashion-MNIST; DATA is the folder that holds FashionMNIST/raw.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from snntorch_smixer import events, from_pretrained
from snntorch_smixer.events import Timing
from snntorch_smixer.train.datasets import load_data

STEPS, TOKENS, CHANNELS = 16, 64, 24


def late(spikes: Tensor, jitter: float, random: torch.Generator) -> Tensor:
    """Spikes ``(T, N, C)`` by the step of arrival, ``(T', N, C)``: the number that arrives together."""
    when, *place = spikes.nonzero(as_tuple=True)
    sent, taken = torch.rand(2, len(when), generator=random, dtype=torch.float64)
    arrival = (when + sent + jitter * taken).long()
    out = torch.zeros(STEPS + int(jitter) + 2, *spikes.shape[1:], dtype=torch.float64)
    return out.index_put((arrival, *place), torch.ones(len(when), dtype=torch.float64), accumulate=True)


def drives(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> dict[str, Tensor]:
    """The sum over time of what three layers hand on, from the spikes of each step."""
    maps = v.transpose(1, 2).unflatten(-1, (8, 8))
    return {
        "SSA (Q K^T) V": (q @ k.transpose(1, 2) @ v).sum(0),
        "max-pool": F.max_pool2d(maps, 2).sum(0),
        "mixer W_M X": (w @ v).sum(0),
    }


def layer_table(seed: int) -> None:
    """Print the error of the drive for each layer and jitter; weights are integers, so sums are exact."""
    random = torch.Generator().manual_seed(seed)
    spikes = [(torch.rand(STEPS, TOKENS, CHANNELS, generator=random) < 0.2).double() for _ in range(3)]
    w = torch.randint(-8, 9, (TOKENS, TOKENS), generator=random).double()
    wanted = drives(*(late(x, 0.0, random) for x in spikes), w)
    print(f"| J (steps) | {' | '.join(wanted)} |\n|{'---|' * (len(wanted) + 1)}")
    for jitter in (0.1, 1.0, 4.0, 16.0):
        got = drives(*(late(x, jitter, random) for x in spikes), w)
        errors = [float((got[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted]
        print(f"| {jitter:g} | {' | '.join('0 exactly' if e == 0 else f'{e:.1%}' for e in errors)} |", flush=True)


def accuracy(images: Tensor, classes: Tensor, timing: Timing) -> tuple[float, float]:
    """Accuracy, and synaptic events per picture."""
    net, right, count = from_pretrained("smixer-2-64-fmnist").eval(), 0, 0
    for x, y in zip(images.split(100), classes.split(100), strict=True):
        run = events.simulate(net, x, timing)
        right, count = right + int((run.logits.argmax(1) == y).sum()), count + sum(run.events.values())
    return right / len(images), count / len(images)


def accuracy_table(data: Path, samples: int, seeds: int) -> None:
    """Print accuracy and events of the trained net for several timings."""
    images, classes = next(iter(load_data("fashion-mnist", data).test_batches(samples)))
    rows = [("clocked", {})]
    rows += [
        (f"J = {j:g}", {"bins": 4, "jitter": j}) for j in (0.5, 1.0)
    ]  # up to 1/4 is a delay of one of the four moments
    rows += [("delay 1/4", {"bins": 4, "delay": 0.25})]
    rows += [(f"{share:.0%} lost", {"loss": share}) for share in (0.01, 0.05)]
    rows += [(f"thresholds +- {m:.0%}", {"mismatch": m}) for m in (0.05, 0.2)]
    print(f"\n| timing | accuracy on {samples}, mean of {seeds} (min, max) | events per picture |\n|---|---|---|")
    for name, settings in rows:
        runs = [accuracy(images, classes, Timing(seed=seed, **settings)) for seed in range(seeds if settings else 1)]
        scores, counts = zip(*runs, strict=True)
        spread = f"{sum(scores) / len(scores):.1%} ({min(scores):.1%}, {max(scores):.1%})"
        print(f"| {name} | {spread} | {sum(counts) / len(counts):,.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    layer_table(0)
    accuracy_table(args.data, args.samples, args.seeds)
