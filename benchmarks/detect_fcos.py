"""Train FCOS on a spiking backbone, dense or with DSTSP, without ultralytics, and write losses and mAP.

    python benchmarks/detect_fcos.py --data FOLDER --out runs/fcos/dense
    python benchmarks/detect_fcos.py --data FOLDER --out runs/fcos/dstsp --ps 0.2 --t 1

FOLDER has images/ and labels/ in the YOLO layout and a data.yaml. A run that was stopped goes on where it was when the
same command is given again. OUT gets log.jsonl (a line of losses per epoch), state.pt and result.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from snntorch_smixer.detect import (
    BoxData,
    BoxFolder,
    DetectorRecipe,
    SpikingPyramid,
    evaluate,
    fit_detector,
    spiking_fcos,
)
from snntorch_smixer.train.lock import only_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="spike-yolo-n-smixer.yaml")
    parser.add_argument("--ps", type=float, default=0.0)
    parser.add_argument("--t", type=int)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--flip", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = BoxFolder.read(args.data)
    folder.check()
    torch.manual_seed(args.seed)
    backbone = SpikingPyramid(args.model)
    backbone.dstsp.ps, backbone.dstsp.t = args.ps, args.t
    model = spiking_fcos(backbone, len(folder.names))
    recipe = DetectorRecipe(epochs=args.epochs, batch_size=args.batch, lr=args.lr, seed=args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    with only_run(args.out):
        train = BoxData(folder, "train", size=args.size, flip=args.flip)
        log = fit_detector(model, train, recipe, out=args.out)
        model.score_thresh = 0.01  # COCO's measure asks for the whole curve
        scores = {}
        for split in (split for split in ("train", "val") if split in folder.splits):
            got = evaluate(model, BoxData(folder, split, size=args.size), batch_size=args.batch)
            scores[split] = {"mAP50": round(got.map50, 4), "mAP50-95": round(got.map50_95, 4)}
        table = {"ps": args.ps, "t": args.t, "loss": [log[0]["loss"], log[-1]["loss"]], **scores}
        (args.out / "result.json").write_text(json.dumps(table, indent=2) + "\n")
        print(json.dumps(table))


if __name__ == "__main__":
    main()
