"""What ``smixer train`` does, for scripts too: train a named model, and write a model folder that describes itself."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import snntorch
import torch

from snntorch_smixer.cards.card import WEIGHTS, Card, Measured
from snntorch_smixer.cards.upload import RECIPE
from snntorch_smixer.cli.dataset import open_data
from snntorch_smixer.cli.evaluate import SPLIT
from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.compiled import use
from snntorch_smixer.memory import set_memory
from snntorch_smixer.models.evaluate import Accuracy, evaluate
from snntorch_smixer.train.data import Data
from snntorch_smixer.train.datasets import DATASETS
from snntorch_smixer.train.loop import fit
from snntorch_smixer.train.recipe import Recipe
from snntorch_smixer.train.state import has_checkpoint
from snntorch_smixer.zoo import registry
from snntorch_smixer.zoo.hub import create_model, load_pretrained
from snntorch_smixer.zoo.registry import configured, model_blueprint

OWN_CLASSES = "image-folder"
"""The data set whose folders say which classes there are, so that the net gets a head for them."""


@dataclass(frozen=True)
class Training:
    """One training run.

    Attributes:
        model: a name that `create_model` knows.
        data: folder with the files of the data set.
        out: folder of the run, and of the model in the end.
        dataset: id of the data set; None for that of the model's card.
        recipe: file; None for that of the model.
        epochs: instead of the recipe's.
        seed: instead of the recipe's.
        device: of torch.
        compile_net: train through ``torch.compile``, which leaves nothing to ``memory`` and ``impl``.
        memory: what is kept for the backward pass, one of `snntorch_smixer.memory.MODES`; None for that of the model.
        impl: tier of the kernels, one of `snntorch_smixer.kernels.compiled.IMPLS`. Like ``memory`` no part of the
            recipe: results do not depend on it.
        workers: reading processes for folders; None for one per core.
        progress: draw bars on the error stream, or write lines where it is no terminal.

    Raises:
        SettingError: ``compile_net`` with a ``memory`` or an ``impl`` of its own.
    """

    model: str
    data: Path
    out: Path
    dataset: str | None = None
    recipe: Path | None = None
    epochs: int | None = None
    seed: int | None = None
    device: str = "cpu"
    compile_net: bool = False
    memory: str | None = None
    impl: str = "auto"
    workers: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        own = [f"--memory {self.memory}"] if self.memory is not None else []
        own += [f"--impl {self.impl}"] if self.impl != "auto" else []
        if self.compile_net and own:
            raise SettingError(
                f"train: --compile with {' and '.join(own)}: under torch.compile of the whole net --memory and --impl "
                "have no effect. Leave them out, or leave out --compile."
            )

    def read_recipe(self) -> Recipe:
        """The recipe, with `epochs` and `seed` in it.

        Raises:
            SettingError: the model has none.
            CardError: unknown model, or no such file.
        """
        path = self.recipe or registry.zoo_folder() / self.model / RECIPE
        model_blueprint(self.model)
        if self.recipe is None and not path.is_file():
            raise SettingError(f"train: {self.model} has no recipe of its own. Pass --recipe FILE.")
        recipe = Recipe.load(path)
        epochs = recipe.epochs if self.epochs is None else self.epochs
        return dataclasses.replace(recipe, epochs=epochs, seed=recipe.seed if self.seed is None else self.seed)


def train(training: Training) -> Card:
    """Train, evaluate once, and write a model folder with recipe and log; a run that was stopped is continued.

    Returns:
        The card that was written; its first measured result is the new one.

    Raises:
        SettingError: no recipe, a tier that cannot run here, a data set that does not fit, or a folder that holds
            something else.
        CardError: unknown model, or missing data.
        MissingExtra: accelerate is not installed.
    """
    with use(training.impl):
        return _train(training)


def _train(training: Training) -> Card:
    recipe, out = training.read_recipe(), training.out
    if (out / WEIGHTS).exists() and not has_checkpoint(out):
        raise SettingError(f"train: {out} holds a model and no run to continue. Pass another --out.")
    torch.manual_seed(recipe.seed)
    net = create_model(training.model)
    name, data = open_data("train", net, root=training.data, dataset=training.dataset, workers=training.workers)
    if name == OWN_CLASSES and len(data.classes) != net.config.num_classes:
        net.reset_classifier(len(data.classes))
    if training.memory is not None:
        set_memory(net, training.memory)
    if recipe.init_from:
        load_pretrained(net, recipe.init_from)
        net.card = create_model(training.model).card
    base = net.card
    with _on_device(training.device):
        fit(net, recipe, data=data, out=out, compile_net=training.compile_net, progress=training.progress)
    bar = data.test_count if training.progress and sys.stderr.isatty() else None
    found = evaluate(net, data.test_batches(), device=training.device, progress=bar)
    net.cpu()
    # The first save tells which bytes the results belong to; a card of other bytes loses its results.
    written = net.save_pretrained(out)
    recipe.save(out / RECIPE)
    return net.save_pretrained(out, card=_with_results(written, base, training, (name, data, found, recipe)))


Results = tuple[str, Data, Accuracy, Recipe]


def _with_results(card: Card, base: Card | None, training: Training, results: Results) -> Card:
    """``card`` with what was measured; what ``base`` says about the same data set stays."""
    name, data, found, recipe = results
    same = base is not None and base.dataset == name and base.classes in ((), data.classes)
    told = base if same else None
    if told is not None:
        words = {key: getattr(told, key) for key in ("name", "summary", "license", "paper")}
        card = dataclasses.replace(card, **words)
    changed = (training.recipe, training.epochs, training.seed) != (None, None, None)
    as_named = card.name in configured() and not changed
    measured = Measured(
        metric="top-1 accuracy",
        value=found.top1,
        dataset=name,
        split=SPLIT,
        samples=found.count,
        command=f"smixer eval {card.name if as_named else training.out.as_posix()} --data DATA",
        seed=recipe.seed,
        versions=f"torch {torch.__version__}, snntorch {snntorch.__version__}",
    )
    return dataclasses.replace(
        card,
        dataset=name,
        dataset_text=told.dataset_text if told else DATASETS[name].text,
        # As the data were read, which is what the weights have seen.
        mean=data.mean,
        std=data.std,
        classes=data.classes,
        trains=_command(training, name if told is None else ""),
        measured=(measured,),
        reported=told.reported if told else (),
    )


def _command(training: Training, dataset: str) -> str:
    words = ["smixer train", training.model, "--data DATA", f"--out {training.out.as_posix()}"]
    words += [f"--dataset {dataset}"] if dataset else []
    words += [f"--recipe {RECIPE}"] if training.recipe is not None else []
    words += [f"--{key} {value}" for key in ("epochs", "seed") if (value := getattr(training, key)) is not None]
    return " ".join(words)


@contextmanager
def _on_device(device: str) -> Iterator[None]:
    """Tell accelerate the device, for which it has an environment variable and no argument."""
    before = os.environ.get("ACCELERATE_TORCH_DEVICE")
    os.environ["ACCELERATE_TORCH_DEVICE"] = device
    try:
        yield
    finally:
        os.environ.pop("ACCELERATE_TORCH_DEVICE")
        if before is not None:
            os.environ["ACCELERATE_TORCH_DEVICE"] = before
