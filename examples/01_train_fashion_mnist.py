"""Train a shipped SMixer net on all of Fashion-MNIST, evaluate it on the 10,000 test images, and write its card.

    python examples/01_train_fashion_mnist.py --data DATA --model smixer-2-64-fmnist --compile

DATA is the folder that holds FashionMNIST/raw (torchvision's layout). A run that was stopped continues where it was.
OUT becomes a model folder, from_pretrained(OUT) loads it; --publish copies it to the model's folder in zoo/.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import snntorch
import torch
from safetensors.torch import save_file

from snntorch_smixer import create_model
from snntorch_smixer.models.evaluate import accuracy
from snntorch_smixer.train.data import fashion_mnist
from snntorch_smixer.train.loop import fit
from snntorch_smixer.train.recipe import Recipe
from snntorch_smixer.zoo.card import WEIGHTS, Card, Measured
from snntorch_smixer.zoo.registry import shipped_folder, zoo_folder
from snntorch_smixer.zoo.weights import load_weights

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--recipe", type=Path, help="default: recipe.toml of the model")
parser.add_argument("--out", type=Path, help="default: runs/MODEL")
parser.add_argument("--compile", action="store_true", help="train through torch.compile")
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--publish", action="store_true", help="copy weights and card to zoo/MODEL")
args = parser.parse_args()

torch.set_num_threads(args.threads)
data = fashion_mnist(args.data)
folder = zoo_folder() / args.model
recipe = Recipe.load(args.recipe or folder / "recipe.toml")
torch.manual_seed(recipe.seed)
net = create_model(args.model)
if recipe.init_from:
    load_weights(net, shipped_folder(recipe.init_from))
out = args.out or Path("runs") / args.model
fit(net, recipe, data=data, out=out, compile_net=args.compile)
net.cpu()

shutil.copy(folder / "config.toml", out)
shutil.copy(args.recipe or folder / "recipe.toml", out / "recipe.toml")
save_file(net.state_dict(), out / WEIGHTS)
weights = (out / WEIGHTS).read_bytes()
images, labels = data.normalise(data.test[0]), data.test[1]
card = Card(
    name=args.model,
    summary=f"SMixer, {net.config.depth} blocks of {net.config.dim} channels, for 28 x 28 grey images.",
    dataset="Fashion-MNIST, 60,000 training images (Zalando SE, MIT licence)",
    license="MIT",
    mean=data.mean,
    std=data.std,
    classes=data.classes,
    sha256=hashlib.sha256(weights).hexdigest(),
    size_bytes=len(weights),
    measured=Measured(
        test_accuracy=accuracy(net, images, labels),
        test_images=len(labels),
        demo_accuracy=accuracy(net, images[:1000], labels[:1000]),
        epochs=recipe.epochs,
        seed=recipe.seed,
        precision=recipe.precision,
        command=f"python examples/01_train_fashion_mnist.py --data DATA --model {args.model} --compile",
        versions=f"torch {torch.__version__}, snntorch {snntorch.__version__}",
    ),
)
card.save(out)
print(f"{args.model}: {card.measured.test_accuracy:.2%} of {len(labels)} test images; {out / WEIGHTS}")
if args.publish:
    for name in (WEIGHTS, "card.toml", "config.toml", "recipe.toml", "log.jsonl"):
        shutil.copy(out / name, folder / name)
