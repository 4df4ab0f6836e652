"""Train a SMixer net of the zoo on all of Fashion-MNIST, evaluate it on the 10,000 test images, and write its card.

    python examples/01_train_fashion_mnist.py --data DATA --model smixer-2-64-fmnist --compile

The same as `smixer train`, from Python. DATA is the folder that holds FashionMNIST/raw (torchvision's layout). A run
that was stopped continues where it was. OUT becomes a model folder, from_pretrained(OUT) loads it; --publish copies it
to the model's folder in zoo/.
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch

from snntorch_smixer import from_pretrained
from snntorch_smixer.cards.upload import UPLOADED
from snntorch_smixer.cli.training import Training, train
from snntorch_smixer.zoo.registry import zoo_folder

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--recipe", type=Path, help="default: recipe.toml of the model")
parser.add_argument("--out", type=Path, help="default: runs/MODEL")
parser.add_argument("--compile", action="store_true", help="train through torch.compile")
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--publish", action="store_true", help="copy the model folder to zoo/MODEL")
args = parser.parse_args()

torch.set_num_threads(args.threads)
training = Training(
    model=args.model,
    data=args.data,
    out=args.out or Path("runs") / args.model,
    recipe=args.recipe,
    device="cuda" if torch.cuda.is_available() else "cpu",
    compile_net=args.compile,
    progress=sys.stderr.isatty(),
)
card = train(training)
found = card.measured[0]
print(f"{card.name}: {found.value:.2%} of {found.samples} test images; {training.out}")

net = from_pretrained(training.out)  # what was written is what was trained: card, configuration and weights agree
print(f"{sum(p.numel() for p in net.parameters()):,} parameters; DSTSP: {net.dstsp}")
if args.publish:
    for path in training.out.iterdir():
        if path.name in UPLOADED:
            shutil.copy(path, zoo_folder() / args.model)
