"""What training SpikingJelly's Spikformer keeps: as upstream, after its memopt, and in the memory modes of dstsp.wrap.

    python benchmarks/wrap_memory.py [--batch 16] [--rounds 5]

Needs SpikingJelly 2. Spikformer-4-384 for CIFAR, T=4, fp32, CPU. "held" is alive between forward and backward, "peak"
is the highest level in a step; both are MiB per image without parameters, their gradients and the images. Time is that
of a training step over upstream's, process CPU time of one thread, models take turns. "wrapped" has its attention and
all its tokens; "pruned" has W_M, ps=0.3 and t=1, and is another network: compare it with its own reference.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp, set_memory
from snntorch_smixer.bench.pairs import paired
from snntorch_smixer.bench.peak import held_bytes, peak_bytes
from snntorch_smixer.bench.peers import spikingjelly_peers
from snntorch_smixer.memory import MODES

KEPT = {"ps": 0, "t": None, "swap": False}
PRUNED = {"ps": 0.3, "t": 1}


def variants(batch: int) -> tuple[dict[str, nn.Module], Tensor]:
    """Networks by name, and images."""
    (_, upstream, x), (_, memopt, _) = spikingjelly_peers(batch)
    made = {"upstream": upstream, "memopt level 1": memopt}
    for name, settings in (("wrapped", KEPT), ("pruned", PRUNED)):
        for mode in MODES:
            twin = copy.deepcopy(upstream)
            set_memory(dstsp.wrap(twin.net, example_input=x[:1], **settings), mode)
            made[f"{name}, {mode}"] = twin
    return {name: net.train() for name, net in made.items()}, x


def step(net: nn.Module, x: Tensor) -> Callable[[], None]:
    """A training step without an optimizer."""

    def run() -> None:
        net.zero_grad()
        net(x).square().mean().backward()

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    nets, x = variants(args.batch)
    for net in nets.values():
        step(net, x)()  # the modes look for what they can do in the first forward
    sizes = {name: (held_bytes(net, x) / 2**20, peak_bytes(net, x) / 2**20) for name, net in nets.items()}
    times = paired({name: step(net, x) for name, net in nets.items()}, rounds=args.rounds)
    print(f"{'':22}{'held':>8}{'peak':>8}{'time':>8}  quartiles")
    for name, (held, peak) in sizes.items():
        time = times[name]
        print(f"{name:22}{held:8.2f}{peak:8.2f}{time.ratio:8.2f}  {time.low:.2f}-{time.high:.2f}")
