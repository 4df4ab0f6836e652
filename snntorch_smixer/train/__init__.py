"""Training: recipe, data, loop. Needs the extra "train" for the loop."""

from snntorch_smixer.train.data import ImageData as ImageData
from snntorch_smixer.train.datasets import load_data as load_data
from snntorch_smixer.train.loop import fit as fit
from snntorch_smixer.train.recipe import Recipe as Recipe

__all__ = ["ImageData", "Recipe", "fit", "load_data"]


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
