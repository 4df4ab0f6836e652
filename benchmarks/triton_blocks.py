"""Block sizes of the Triton kernels: time of BatchNorm and LIF, forward and backward, and the bytes moved per second.

    python benchmarks/triton_blocks.py

Needs a CUDA device and Triton. The shapes are those of smixer-4-384 at batch 64: the stem's second unit, its last one,
and a block's expansion. The first choice is what the package uses; ratios are against it, medians of rounds that take
turns. A better choice belongs into `snntorch_smixer.kernels.triton_tools.Blocks`.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import torch

from snntorch_smixer.bench.pairs import paired
from snntorch_smixer.kernels import norm_fire_triton as twin
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.norm_fire import NormCall
from snntorch_smixer.kernels.triton_tools import Blocks, using, watched
from snntorch_smixer.surrogates import Dspike

SHAPES = {
    "maps (4, 64, 96, 32, 32)": (4, 64, 96, 32, 32),
    "maps (4, 64, 384, 8, 8)": (4, 64, 384, 8, 8),
    "tokens (4, 64, 64, 1536)": (4, 64, 64, 1536),
}
CHOICES = (
    Blocks(),
    Blocks(held=2048),
    Blocks(held=8192),
    Blocks(row_values=2048),
    Blocks(row_values=512),
    Blocks(programs=1024),
    Blocks(programs=4096),
    Blocks(warps=8),
    Blocks(held=8192, row_values=2048, warps=8),
)


def step(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Callable[[], None]:
    """Forward and backward of one BatchNorm and LIF."""
    channels = shape[-3] if len(shape) == 5 else shape[-1]
    z = torch.randn(shape, device=device).to(dtype)
    grad = torch.randn(shape, device=device).to(dtype)
    weight, bias, mean, var = (torch.ones(channels, device=device) for _ in range(4))
    neuron = Firing(torch.tensor(0.5, device=device), torch.tensor(1.0, device=device), Dspike())
    call = NormCall(mean, var, True, 0.1, 1e-5)

    def run() -> None:
        _, _, *kept = twin.norm_fire_forward(z, weight, bias, call, neuron, shape[0])
        needs = (True, True, True, False, False)
        twin.norm_fire_backward(z, grad, (weight, bias, *kept), call, neuron, needs)

    return run


def chosen(run: Callable[[], None], blocks: Blocks) -> None:
    with using(blocks):
        run()


def sweep(
    run: Callable[[], None], choices: tuple[Blocks, ...], *, rounds: int, clock: Callable[[], float]
) -> Mapping[Blocks, tuple[float, float, float]]:
    """Seconds, ratio to the first choice, and bytes moved per second, by choice."""
    moved: list[int] = []
    with watched(lambda _, nbytes: moved.append(nbytes)):
        run()
    calls = {str(at): partial(chosen, run, blocks) for at, blocks in enumerate(choices)}
    timings = paired(calls, rounds=rounds, warmup=2, clock=clock)
    return {
        blocks: (timing.seconds, timing.ratio, sum(moved) / timing.seconds)
        for blocks, timing in zip(choices, timings.values(), strict=True)
    }


if __name__ == "__main__":
    from snntorch_smixer.bench.meter import CudaMeter

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    args = parser.parse_args()
    for name, shape in SHAPES.items():
        print(name)
        run = step(shape, getattr(torch, args.dtype), "cuda")
        clock = CudaMeter(torch.device("cuda", torch.cuda.current_device())).clock
        for blocks, (seconds, ratio, rate) in sweep(run, CHOICES, rounds=args.rounds, clock=clock).items():
            print(f"  {blocks!s:<72}{seconds * 1e3:8.3f} ms  x{ratio:.2f}  {rate / 1e9:7.0f} GB/s")
