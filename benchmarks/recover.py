"""What `dstsp.recover` gives back, without labels, on the shipped net that never saw pruning.

    python benchmarks/recover.py --data DATA [--rows tokens both ...] [--out recover.json]

Accuracies are of all 10,000 test images of Fashion-MNIST, whose labels nothing but the figures uses. Prints a Markdown
table and writes every stage, with wall-clock seconds and the load of the machine, to the JSON file.
"""

import argparse
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from snntorch_smixer import dstsp, from_pretrained
from snntorch_smixer.train.data import fashion_mnist

MODEL = "smixer-2-64-fmnist"
FREE, LAYERS = ["statistics", "head"], ["layers", "statistics", "head"]
GRADIENT = [*FREE, "distillation"]
ROWS = {
    "tokens": (0.3, None, GRADIENT, 10_000, 1e-3),
    "many-tokens": (0.5, None, FREE, 2_000, 1e-3),
    "steps": (0.0, 1, FREE, 2_000, 1e-3),
    "both-closed-form": (0.3, 1, FREE, 2_000, 1e-3),
    "both-layers": (0.3, 1, LAYERS, 2_000, 1e-3),
    "both-10000": (0.3, 1, GRADIENT, 10_000, 2e-3),
    "both": (0.3, 1, GRADIENT, 60_000, 2e-3),
}
"""By name: ps, t, stages, unlabelled training images, learning rate of distillation."""


def row(data: str, name: str, *, seed: int, threads: int) -> dict[str, object]:
    ps, t, stages, count, lr = ROWS[name]
    found = fashion_mnist(data)
    net = dstsp.wrap(from_pretrained(MODEL), ps=ps, t=t)
    images = TensorDataset(net.card.preprocess(found.train[0][:count]))
    loader = DataLoader(images, batch_size=128, shuffle=True, drop_last=True)
    x, y = net.card.preprocess(found.test[0]), found.test[1]
    settings = dstsp.RecoverySettings(lr=lr, precision="bf16", seed=seed)
    check = list(zip(x.split(500), y.split(500), strict=True))
    start, cpu = time.perf_counter(), time.process_time()
    report = dstsp.recover(net, loader, stages=stages, settings=settings, check=check, progress=False)
    return {
        "row": name,
        "ps": ps,
        "t": t,
        "images": count,
        "settings": asdict(settings),
        "threads": threads,
        "load": os.getloadavg()[0],
        "seconds_in_all": time.perf_counter() - start,
        "cpu_seconds_in_all": time.process_time() - cpu,
        **asdict(report),
    }


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| row | ps | t | images | pruned | by stage | s, stages alone | load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        stages = ", ".join(f"{s['stage']} {s['after']:.1%}" for s in one["stages"])
        seconds = sum(s["seconds"] for s in one["stages"])
        kept = "all" if one["t"] is None else one["t"]
        lines.append(
            f"| {one['row']} | {one['ps']} | {kept} | {one['images']:,} | {one['pruned']:.1%} | {stages} | "
            f"{seconds:.0f} | {one['load']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder that holds FashionMNIST/raw")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("recover.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for chosen in args.rows:
        results.append(row(args.data, chosen, seed=args.seed, threads=args.threads))
        args.out.write_text(json.dumps(results, indent=2))
        print(table(results[-1:]), flush=True)
    print(f"\n{MODEL}, 10,000 test images\n\n{table(results)}")
