"""Train SpikingJelly's own Spikformer on Fashion-MNIST, then fine-tune it for one epoch with its attention swapped.

    python examples/03_train_spikingjelly.py --data DATA [--stage STAGE] [--publish]

DATA is the folder that holds FashionMNIST/raw. Stages, all of them without --stage: "ssa" trains the unmodified net;
"random" and "fitted" swap its attention for W_M, as it comes or fitted to 500 training images, and fine-tune for one
epoch; "control" fine-tunes the unmodified net alike. A stage that was stopped continues where it was. --publish copies
the weights to examples/data, where 02_wrap_spikingjelly.py reads them.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from spikingjelly.activation_based import functional
from spikingjelly.activation_based.model.spikformer import Spikformer
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.train import ImageData, Recipe, fit
from snntorch_smixer.train.data import fashion_mnist

BASE = Recipe(
    epochs=4, lr=3e-3, min_lr=1e-5, weight_decay=0.02, label_smoothing=0.1, precision="bf16", warmup_epochs=1.0
)
TUNE = Recipe(
    epochs=1, lr=5e-4, min_lr=1e-6, weight_decay=0.02, label_smoothing=0.1, precision="bf16", warmup_epochs=0.1, seed=1
)
STAGES = ("ssa", "random", "fitted", "control")


class Classifier(nn.Module):
    """Images to logits: neurons at rest, then the mean over the steps."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        functional.reset_net(self.net)
        return self.net(images).mean(0)


def build() -> Spikformer:
    """49 tokens, 4 steps, 163 thousand parameters."""
    sizes = {"img_size_h": 28, "img_size_w": 28, "patch_size": 4, "in_channels": 1, "num_classes": 10}
    return Spikformer(T=4, embed_dims=64, num_heads=4, depths=2, **sizes)


def run(stage: str, data: ImageData, out: Path) -> Path:
    """One stage; returns its weights."""
    torch.manual_seed(0)
    net = build()
    if stage != "ssa":
        net.load_state_dict(load_file(out / "spikformer_ssa.safetensors"))
    if stage in ("random", "fitted"):
        calibrate = data.normalise(data.train[0][:500]).split(100) if stage == "fitted" else None
        dstsp.wrap(net, ps=0, t=None, calibrate=calibrate)
    fit(Classifier(net), BASE if stage == "ssa" else TUNE, data=data, out=out / stage)
    weights = out / f"spikformer_{stage}.safetensors"
    save_file(net.state_dict(), weights)
    return weights


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--out", type=Path, default=Path("runs/spikingjelly"))
    parser.add_argument("--publish", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for stage in (args.stage,) if args.stage else STAGES:
        weights = run(stage, fashion_mnist(args.data), args.out)
        if args.publish:
            shutil.copy(weights, Path(__file__).parent / "data")
