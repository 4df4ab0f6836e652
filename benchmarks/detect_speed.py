"""CPU time per picture of our n detector, dense and pruned, against ultralytics' yolov8n of the same picture size.

    python benchmarks/detect_speed.py [--side 256] [--rounds 11] [--threads 1]

Needs ultralytics. One process; the models take turns, so compare the ratios, not the milliseconds. Forward passes in
evaluation mode with random weights, without reading pictures and without non-maximum suppression: dense kernels do not
depend on the weights. Ours take BatchNorm statistics from a random picture, so that their neurons fire.
"""

from __future__ import annotations

import argparse
import platform
import time
from functools import partial

import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.bench.pairs import paired
from snntorch_smixer.detect.yolo import SpikeDetectionModel
from snntorch_smixer.modes import in_mode


def ours(kind: str, x: Tensor, *, pruned: bool) -> nn.Module:
    """An n detector whose neurons fire."""
    torch.manual_seed(0)
    net = SpikeDetectionModel(f"spike-yolo-n-{kind}.yaml")
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad(), in_mode(net, training=True):
        net(x)
    return (dstsp.wrap(net, ps=0.2, t=1) if pruned else net).eval()


def run(net: nn.Module, x: Tensor) -> None:
    """One picture."""
    with torch.inference_mode():
        net(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    from ultralytics.nn.tasks import DetectionModel

    torch.set_num_threads(args.threads)
    x = torch.rand(1, 3, args.side, args.side, generator=torch.Generator().manual_seed(0))
    nets = {
        "yolov8n": DetectionModel("yolov8n.yaml", verbose=False).eval(),
        "spike-yolo-n-conv": ours("conv", x, pruned=False),
        "spike-yolo-n-smixer": ours("smixer", x, pruned=False),
        "spike-yolo-n-smixer, ps=0.2, t=1": ours("smixer", x, pruned=True),
    }
    calls = {name: partial(run, net, x) for name, net in nets.items()}
    found = paired(calls, rounds=args.rounds, warmup=2, clock=time.perf_counter)
    print("| detector | parameters | ms per picture | time over yolov8n (quartiles) |\n|---|---|---|---|")
    for name, timing in found.items():
        count = sum(p.numel() for p in nets[name].parameters()) / 1e6
        ratio = f"{timing.ratio:.2f} ({timing.low:.2f} to {timing.high:.2f})"
        print(f"| {name} | {count:.2f} M | {timing.seconds * 1e3:.1f} | {ratio} |")
    print(
        f"\n{args.side} px, batch 1, {args.threads} threads, {args.rounds} rounds, torch {torch.__version__}, ", end=""
    )
    print(platform.processor() or platform.machine())


if __name__ == "__main__":
    main()
