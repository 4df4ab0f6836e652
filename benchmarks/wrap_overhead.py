"""What wrapping costs where nothing is pruned, and what pruning saves: forward time against the unwrapped model.

    python benchmarks/wrap_overhead.py [--rounds 21]

Needs SpikingJelly 2. Models take turns, so compare the ratios. "kept": swap=False, ps=0, t=None, which leaves the hooks
as the only difference. "swapped": W_M for the attention, nothing pruned. "pruned": swapped, ps=0.3, t=1.
"""

import argparse
import copy

import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.qkformer import QKFormer
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.bench.throughput import throughput


class Reset(nn.Module):
    """Puts neurons at rest before each forward, for all variants alike."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        functional.reset_net(self.net)
        return self.net(x)


def variants(net: nn.Module, x: Tensor) -> dict[str, nn.Module]:
    """The unwrapped model and its wrapped copies."""
    made = {
        "unwrapped": copy.deepcopy(net),
        "kept": dstsp.wrap(copy.deepcopy(net), ps=0, t=None, swap=False, example_input=x),
        "swapped": dstsp.wrap(copy.deepcopy(net), ps=0, t=None, example_input=x),
        "pruned": dstsp.wrap(copy.deepcopy(net), ps=0.3, t=1, example_input=x),
    }
    return {name: Reset(model).eval() for name, model in made.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nets = {
        "Spikformer, 4 blocks of 384, 64 tokens": Spikformer(4, 3, 32, 32, 4, embed_dims=384, num_heads=12, depths=4),
        "Spikformer, 2 blocks of 64, 64 tokens": Spikformer(4, 3, 32, 32, 4, embed_dims=64, num_heads=4, depths=2),
        "QKFormer, 1-1-2 blocks of 64": QKFormer(embed_dims=64, num_heads=(2, 4, 4), depths=(1, 1, 2)),
    }
    x = torch.rand(args.batch, 3, 32, 32)
    print(f"{'time over that of the unwrapped model':42}{'kept':>9}{'swapped':>9}{'pruned':>9}")
    for name, net in nets.items():
        rates = throughput(variants(net, x), x, rounds=args.rounds)
        ratios = [rates["unwrapped"] / rates[kind] for kind in ("kept", "swapped", "pruned")]
        print(f"{name:42}" + "".join(f"{ratio:9.3f}" for ratio in ratios), flush=True)
