"""What a recipe does to images: crop and flip, RandAugment, erasing; and to batches: mixup and cutmix."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from snntorch_smixer.extras import need, torchvision_ready
from snntorch_smixer.train.recipe import Recipe


def augment(images: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Random crop after zero padding, and random horizontal flip, each drawn per image from torch's generator.

    Args:
        images: ``(B, C, H, W)``, any dtype.
        padding: pixels on each side.
        flip: mirror every second image, on average.
    """
    batch, _, height, width = images.shape
    columns = torch.arange(width).expand(batch, width)
    if flip:
        flipped = torch.rand(batch, 1) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    rows = torch.arange(height) + torch.randint(2 * padding + 1, (batch, 1))
    columns = columns + torch.randint(2 * padding + 1, (batch, 1))
    padded = F.pad(images, (padding,) * 4)
    pick = torch.arange(batch)[:, None, None]
    return padded.movedim(1, -1)[pick, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def rand_augment(images: Tensor, recipe: Recipe, *, mean: tuple[float, ...]) -> Tensor:
    """RandAugment, drawn per image; the images themselves where the recipe has none.

    Args:
        images: uint8 ``(B, C, H, W)`` with one or three channels.
        recipe: its ``randaugment_…``.
        mean: per channel, for pixels in [0, 1]: the colour of what moves in from outside.

    Raises:
        MissingExtra: torchvision is not installed.

    Source:
        Cubuk et al., RandAugment, NeurIPS 2020, as in torchvision.transforms.v2; `Recipe` lists how timm differs.
    """
    if recipe.randaugment_ops == 0:
        return images
    fill = tuple(255 * value for value in mean)
    return torch.stack([_rand_augment(recipe, fill)(image) for image in images])


def erase(images: Tensor, recipe: Recipe) -> Tensor:
    """Set a random rectangle to zero, drawn per image; the images themselves where the recipe does not erase.

    Args:
        images: normalised ``(B, C, H, W)``; zero is the mean of the data.
        recipe: its ``erasing``. The rectangle has 2 to 33 % of the area and aspect ratios from 0.3 to 3.3.

    Raises:
        MissingExtra: torchvision is not installed.

    Source:
        Zhong et al., Random Erasing, AAAI 2020, as in torchvision.transforms.v2.
    """
    if recipe.erasing == 0:
        return images
    erasing = _v2().RandomErasing(p=recipe.erasing)
    return torch.stack([erasing(image) for image in images])


def mix(images: Tensor, labels: Tensor, recipe: Recipe, *, classes: int) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix of a batch with itself, moved on by one; labels become shares.

    Args:
        images: floating-point ``(B, C, H, W)``, or frames ``(T, B, C, H, W)``, whose steps are all mixed alike.
        labels: int64 ``(B,)``.
        recipe: its ``mixup``, ``cutmix`` and ``mix_prob``. At most one of the two is applied to a batch.
        classes: K.

    Returns:
        Images like the input, and labels ``(B, K)`` whose rows sum to 1; or both unchanged, where the draw says so.

    Raises:
        MissingExtra: torchvision is not installed.

    Source:
        Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019; as in torchvision.transforms.v2.
    """
    if not recipe.mixes or (recipe.mix_prob < 1 and torch.rand(()) >= recipe.mix_prob):
        return images, labels
    kinds = [(name, alpha) for name, alpha in (("MixUp", recipe.mixup), ("CutMix", recipe.cutmix)) if alpha > 0]
    name, alpha = kinds[int(torch.randint(len(kinds), ()))]
    mixing = getattr(_v2(), name)(alpha=alpha, num_classes=classes)
    if images.dim() == 4:
        return mixing(images, labels)
    frames = need("torchvision.tv_tensors", extra="vision").Video(images.transpose(0, 1))
    mixed, shares = mixing(frames, labels)
    return mixed.as_subclass(Tensor).transpose(0, 1), shares


def check_installed(recipe: Recipe) -> None:
    """Raise `MissingExtra` now, and not after the first epoch, where the recipe needs torchvision and it is absent."""
    if recipe.randaugment_ops or recipe.erasing or recipe.mixes:
        torchvision_ready()


def _v2() -> ModuleType:
    torchvision_ready()
    return need("torchvision.transforms.v2", extra="vision")


@functools.lru_cache(maxsize=8)
def _rand_augment(recipe: Recipe, fill: tuple[float, ...]) -> Any:
    v2 = _v2()
    bilinear = v2.InterpolationMode.BILINEAR
    # One operation at a time, so that each has its own chance, as in timm.
    one = v2.RandAugment(1, recipe.randaugment_magnitude, interpolation=bilinear, fill=list(fill))
    return v2.Compose([v2.RandomApply([one], p=recipe.randaugment_prob) for _ in range(recipe.randaugment_ops)])
