"""Sizes, multiply-accumulates and energy of the shipped spiking detectors, as a Markdown table.

    python benchmarks/detect_table.py [--data FOLDER] [--weights FOLDER] [--energy n s]

Energy is in the papers' convention (profile papers45: 4.6 pJ per multiply-accumulate of the picture, 0.9 pJ per
operation of a spike; a spike of value 3 is three), per picture of 256 x 256, and depends on the firing rates: WEIGHTS
holds NAME.safetensors with state dicts, NAME as in the first column; a detector without a file has random weights, with
BatchNorm statistics of the same pictures. DATA holds pictures; without it they are random.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from snntorch_smixer import cost
from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.detect.head import SpikingHead
from snntorch_smixer.detect.rows import build_rows, read_config
from snntorch_smixer.pruning.pruner import DSTSPConfig

STRIDES = (8, 16, 32)
SIDES = (256, 640)
KINDS = ("conv", "smixer")
PRUNED = {"": DSTSPConfig(ps=0.0, t=None, merge="drop"), "-dstsp": DSTSPConfig(ps=0.2, t=1, merge="drop")}
SPIKEYOLO = {"n": 13_271_632, "s": 23_153_024, "m": 45_784_256, "l": 65_517_760}
"""Parameters of the four models that SpikeYOLO's own builder makes."""
SMIXER_MJ = 21.2
"""Energy that the paper gives for its detector of 39.2 M parameters on COCO, with DSTSP."""


class Detector(nn.Module):
    """All rows of a YAML table, its head included."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        rows, save, build = build_rows(config, 3, lambda k, c: SpikingHead(c, k, strides=STRIDES))
        self.rows, self.save, self.dstsp = rows, frozenset(save), build.dstsp

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Any] = []
        for row in self.rows:
            taken = [x if s == -1 else kept[s] for s in (row.f if isinstance(row.f, list) else [row.f])]
            x = row(taken if isinstance(row.f, list) else taken[0])
            kept.append(x if row.i in self.save else None)
        return x


@dataclass(frozen=True)
class Row:
    """One line: parameters, multiply-accumulates by side, and where measured, spikes per neuron and step and mJ."""

    name: str
    parameters: int
    macs: tuple[float, ...]
    weights: str = ""
    rate: float = 0.0
    energy: float = 0.0


def detector(name: str, weights: Path | None) -> tuple[Detector, str]:
    """A detector and where its weights are from."""
    config = read_config(f"{name.removesuffix('-dstsp')}.yaml")
    path = None if weights is None else weights / f"{name}.safetensors"
    if path is None or not path.exists():
        return Detector(config), "random"
    state = {key.removeprefix("model."): value for key, value in load_file(path).items()}
    last = len(config["backbone"]) + len(config["head"]) - 1
    config["nc"] = state[f"{last}.cv3.0.2.weight"].shape[0]
    if "grid" in config:
        columns = next(v for k, v in state.items() if k.endswith("w_m.weight")).shape[1]
        config["grid"] = [int(columns**0.5)] * 2
    net = Detector(config)
    net.rows.load_state_dict(state)
    return net, path.name


def pictures(folder: Path | None, count: int) -> Tensor:
    """``(B, 3, 256, 256)`` in [0, 1]."""
    if folder is None:
        return torch.rand(count, 3, SIDES[0], SIDES[0], generator=torch.Generator().manual_seed(0))
    from PIL import Image

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    if not paths:
        raise SystemExit(f"detect_table: no picture in {folder}. Pass a folder with .jpg or .png files.")
    arrays = [np.asarray(Image.open(path).convert("RGB").resize((SIDES[0], SIDES[0]))) for path in paths]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


def macs(net: Detector) -> tuple[float, ...]:
    """Multiply-accumulates of a picture of each of `SIDES`, all steps together; nothing is computed."""
    hollow = net.to("meta")
    return tuple(dense_macs(hollow, torch.empty(1, 3, side, side, device="meta")) for side in SIDES)


def statistics(net: Detector, x: Tensor) -> None:
    """BatchNorm takes its statistics from ``x``, so that the neurons of a random net fire."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        net.train()(x)
    net.eval()


def measured(net: Detector, x: Tensor) -> tuple[float, float]:
    """Spikes per neuron and step, and mJ per picture."""
    records = cost.measure(net, x, strict=True)
    neurons = [record for record in records.layers if record.op == "neuron"]
    units = sum(level * count for record in records.layers for level, count in record.levels.items())
    spikes = sum(record["spikes"] for record in neurons)
    events = sum(record["graded"] for record in records.layers)
    mean = units / events if events else 1.0
    rate = mean * spikes / sum(record["updates"] for record in neurons)
    return rate, cost.estimate(records, "papers45").energy_mj


def row(name: str, pruning: DSTSPConfig, x: Tensor | None, weights: Path | None) -> Row:
    """One detector."""
    torch.manual_seed(0)
    net, source = detector(name, weights)
    parameters = sum(p.numel() for p in net.parameters())
    found = (0.0, 0.0)
    if x is not None:
        if source == "random":
            statistics(net, x)
        net.dstsp.settings = pruning
        found = measured(net.eval(), x)
    net.dstsp.settings = pruning
    return Row(name, parameters, macs(net), source if x is not None else "", *found)


def table(rows: Sequence[Row]) -> str:
    """Markdown; the last column compares with the convolution detector of that size that prunes nothing."""
    dense = {one.name: one.energy for one in rows}
    lines = [
        "| detector | parameters | GMAC, 256 px | GMAC, 640 px | weights | spikes per neuron and step | mJ | of conv |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        base = dense["-".join([*one.name.split("-")[:3], "conv"])]
        energy = f"{one.weights} | {one.rate:.3f} | {one.energy:.3f} | {one.energy / base:.0%}" if base else "– | | | "
        small, large = (f"{count / 1e9:.2f}" for count in one.macs)
        lines.append(f"| {one.name} | {one.parameters / 1e6:.2f} M | {small} | {large} | {energy} |")
    lines += [f"| SpikeYOLO {size} | {count / 1e6:.2f} M | | | | | | |" for size, count in SPIKEYOLO.items()]
    lines.append(f"| SMixer with DSTSP, in the paper | 39.2 M | | | trained | | {SMIXER_MJ} | |")
    return "\n".join(lines)


NOTES = """
Ours count all steps: T = 2, and t = 1 behind the second stage with -dstsp (ps = 0.2, t = 1). Multiply-accumulates are
dense, every zero counted; dropped tokens save them in the SMixer blocks only, dropped steps everywhere behind. W_M is
made for 10 x 10 tokens and resized at 640 px. What differs from SpikeYOLO: the letters name other widths, so compare
by parameters; SMixer blocks on the coarse map (convolution blocks in the twins named conv) where SpikeYOLO has
convolution blocks only; means in the place of maxima in the pooling pyramid; T = 2 and up to 4 spikes a step where
SpikeYOLO has T = 1 and up to 4. SpikeYOLO's multiply-accumulates and energy are not given: it was not run here.
The paper's mJ are of a trained detector at its own picture size and firing rates: not to be compared with nets of
random weights, nor with other sizes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with pictures")
    parser.add_argument("--weights", type=Path, help="a folder with NAME.safetensors")
    parser.add_argument("--sizes", nargs="*", default=list("nsml"), choices=list("nsml"))
    parser.add_argument("--energy", nargs="*", default=["n"], help="sizes whose energy is measured")
    parser.add_argument("--pictures", type=int, default=2)
    args = parser.parse_args()
    x = pictures(args.data, args.pictures) if args.energy else None
    names = [f"spike-yolo-{size}-{kind}" for size in args.sizes for kind in KINDS]
    rows = [
        row(name + suffix, pruning, x if name.split("-")[2] in args.energy else None, args.weights)
        for name in names
        for suffix, pruning in PRUNED.items()
    ]
    print(table(rows))
    print(f"\n{args.pictures} pictures, {'random' if args.data is None else 'of the data'}.{NOTES}")


if __name__ == "__main__":
    main()
