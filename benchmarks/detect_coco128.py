"""Train a spiking detector on a small COCO subset, dense or with DSTSP, and write losses and mAP.

    python benchmarks/detect_coco128.py --data FOLDER --out runs/detect/dense
    python benchmarks/detect_coco128.py --data FOLDER --out runs/detect/dstsp --ps 0.2 --t 1

FOLDER has images/ and labels/ in the YOLO layout and a data.yaml. A run that was stopped goes on where it was when the
same command is given again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
import yaml

from snntorch_smixer.detect.yolo import SpikeYOLO, detector_of


def data_file(folder: Path, out: Path, classes: list[int] | None) -> Path:
    """data.yaml with an absolute path; with ``classes`` that of a copy with the boxes of these classes alone."""
    table = yaml.safe_load((folder / "data.yaml").read_text())
    out.mkdir(parents=True, exist_ok=True)
    path = out / "data.yaml"
    root = folder.resolve()
    if classes:
        root = subset(root, out.resolve() / "subset", classes)
        table["names"] = {new: table["names"][old] for new, old in enumerate(classes)}
    path.write_text(yaml.safe_dump({**table, "path": str(root)}))
    return path


def subset(folder: Path, out: Path, classes: list[int]) -> Path:
    """The same pictures, copied, with the boxes of some classes, which are counted from 0."""
    for file in sorted(folder.glob("labels/*/*.txt")):
        new = out / file.relative_to(folder)
        new.parent.mkdir(parents=True, exist_ok=True)
        rows = [line.split() for line in file.read_text().splitlines() if line]
        kept = [" ".join([str(classes.index(int(c))), *box]) for c, *box in rows if int(c) in classes]
        new.write_text("".join(f"{row}\n" for row in kept))
    for file in folder.glob("images/*/*"):
        new = out / file.relative_to(folder)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, new)  # ultralytics follows links and would find the labels beside the pictures
    return out


def measured(model: SpikeYOLO, data: Path, split: str, args: argparse.Namespace) -> dict[str, float]:
    result = model.val(
        data=str(data), split=split, imgsz=args.imgsz, batch=4, workers=0, plots=False, verbose=False,
        device="cpu", project=str(args.out), name="val", exist_ok=True,
    )  # fmt: skip
    return {"mAP50": round(float(result.box.map50), 4), "mAP50-95": round(float(result.box.map), 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="spike-yolo-n-smixer.yaml")
    parser.add_argument("--ps", type=float)
    parser.add_argument("--t", type=int)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--classes", type=int, nargs="*", help="numbers of the classes to learn; default: all")
    parser.add_argument("--augment", action="store_true", help="mosaics, flips, colours, scale, shift; default: none")
    args = parser.parse_args()
    data = data_file(args.data, args.out, args.classes)
    last = args.out / "train" / "weights" / "last.pt"
    left = (
        {}
        if args.augment
        else dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "mosaic"), 0.0)
    )
    if last.exists():
        model = SpikeYOLO(last)
        if torch.load(last, map_location="cpu", weights_only=False)["epoch"] >= 0:
            model.train(resume=True)
    else:
        model = SpikeYOLO(args.model)
        model.train(
            ps=args.ps, t=args.t, data=str(data), epochs=args.epochs, imgsz=args.imgsz, batch=args.batch,
            nbs=args.batch, optimizer="AdamW", lr0=0.002, lrf=0.02, cos_lr=True, warmup_epochs=1.0,
            seed=0, workers=0, device="cpu", val=False, plots=False, patience=0,
            project=str(args.out.resolve()), name="train", exist_ok=True, **left,
        )  # fmt: skip
    model = SpikeYOLO(last)
    found = {split: measured(model, data, split, args) for split in ("train", "val")}
    (args.out / "result.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found))
    size = (args.imgsz, args.imgsz)
    print(detector_of(model, img_size=size).save_pretrained(args.out / "model").files)


if __name__ == "__main__":
    main()
