"""Train a shipped SMixer net on all of Fashion-MNIST, and evaluate it on the 10,000 test images.

    python examples/01_train_fashion_mnist.py --data DATA --model smixer-2-64-fmnist --compile

DATA is the folder that holds FashionMNIST/raw (torchvision's layout). A run that was stopped continues where it was.
"""

import argparse
import tomllib
from pathlib import Path

import torch
from safetensors.torch import save_file

from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.train.data import fashion_mnist
from snntorch_smixer.train.loop import accuracy, fit
from snntorch_smixer.train.recipe import Recipe

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", required=True)
parser.add_argument("--model", default="smixer-2-64-fmnist")
parser.add_argument("--out", default=None)
parser.add_argument("--compile", action="store_true")
parser.add_argument("--threads", type=int, default=None)
args = parser.parse_args()
if args.threads:
    torch.set_num_threads(args.threads)
folder = Path("zoo") / args.model
recipe = Recipe.load(folder / "recipe.toml")
torch.manual_seed(recipe.seed)
net = SMixerNet(SMixerConfig.from_dict(tomllib.loads((folder / "config.toml").read_text())))
data = fashion_mnist(args.data)
out = Path(args.out or f"runs/{args.model}")
fit(net, recipe, data=data, out=out, compile_step=args.compile)
save_file(net.state_dict(), out / "weights.safetensors")
print(f"test accuracy {accuracy(net, data.normalise(data.test[0]), data.test[1]):.4f}")
