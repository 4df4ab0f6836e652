"""Figures and a table of two trainings by benchmarks/detect_coco128.py: loss curves, mAP, photos with boxes.

    python benchmarks/detect_report.py --dense runs/dense --dstsp runs/dstsp --data DATA --out docs/images/detection

Each run has train/results.csv, and model/, the detector that it saved at its end.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np

from snntorch_smixer import from_pretrained
from snntorch_smixer.detect import BoxData, BoxFolder, draw_boxes, dropped_tokens, evaluate
from snntorch_smixer.viz.style import COLOURS, new_figure, open_frame

LOSSES = {"train/box_loss": "box", "train/cls_loss": "class", "train/dfl_loss": "distances"}
RUNS = {"dense": "dense, T = 2", "dstsp": "ps = 0.2, t = 1"}
PHOTOS = {"train": (3, 9), "val": (6, 9)}
"""Which pictures of each split are drawn, by number in the sorted folder."""


def curves(runs: dict[str, Path]) -> Any:
    figure = new_figure(9, 3.2)
    for place, (column, text) in enumerate(LOSSES.items()):
        axes = figure.add_subplot(1, 3, place + 1)
        for number, (name, folder) in enumerate(runs.items()):
            rows = list(csv.DictReader((folder / "train" / "results.csv").open()))
            values = [float(row[column]) for row in rows]
            axes.plot(range(1, len(values) + 1), values, color=COLOURS[number], label=RUNS[name])
        axes.set(xlabel="epoch", title=f"training loss: {text}")
        open_frame(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=2)
    return figure


def photos(folder: Path, data: BoxFolder) -> Any:
    """Photos of both splits with boxes, and the tokens that the SMixer blocks drop."""
    net = from_pretrained(folder / "model")
    figure = new_figure(9, 5.6)
    chosen = [(split, data.pictures(split)[i]) for split, numbers in PHOTOS.items() for i in numbers]
    for place, (split, file) in enumerate(chosen):
        found = net.predict([file], score=0.25)[0]
        for row, dropped in enumerate((None, dropped_tokens(net, file))):
            axes = figure.add_subplot(2, len(chosen), row * len(chosen) + place + 1)
            nothing = {key: value[:0] for key, value in found.items()}
            axes.imshow(np.asarray(draw_boxes(file, nothing if row else found, names=data.names, dropped=dropped)))
            axes.axis("off")
            axes.set_title("dropped tokens dimmed" if row else f"a {split} picture", fontsize=9)
    return figure


def table(runs: dict[str, Path], data: BoxFolder) -> str:
    lines = ["| run | mAP50, train | mAP50-95, train | mAP50, val | mAP50-95, val |", "|---|---|---|---|---|"]
    for name, folder in runs.items():
        net = from_pretrained(folder / "model")
        size = max(net.config.img_size)
        found = [evaluate(net, BoxData(data, split, size=size), batch_size=8) for split in ("train", "val")]
        cells = [f"{value:.3f}" for one in found for value in (one.map50, one.map50_95)]
        lines.append(f"| {RUNS[name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=Path, required=True)
    parser.add_argument("--dstsp", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/images/detection"))
    args = parser.parse_args()
    runs, data = {"dense": args.dense, "dstsp": args.dstsp}, BoxFolder.read(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    figure = curves(runs)
    figure.savefig(args.out / "losses.png", dpi=110)
    figure.savefig(args.out / "losses.svg", metadata={"Date": None})
    photos(args.dstsp, data).savefig(args.out / "photos.jpg", dpi=130)
    print(table(runs, data))


if __name__ == "__main__":
    main()
