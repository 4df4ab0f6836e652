"""SpikeYOLO: a detector of convolutions, without attention, wired by layer numbers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from snntorch_smixer.families.base import Sites, whole_number


class SpikeYOLOFamily:
    """``model``, a Sequential whose first layer makes T steps, with integer neurons that have a child ``qtrick``.

    There is nothing to swap. Skip connections need one T and one grid everywhere, so with several steps these are
    dropped behind the first convolution, with one step the levels are capped, and dropped tokens keep their place and
    their value in the residual stream of each convolution block. Covers BICLab/SpikeYOLO.
    """

    name = "spikeyolo"

    def missing(self, model: nn.Module) -> list[str]:
        """What ``model`` lacks."""
        layers = getattr(model, "model", None)
        if not isinstance(layers, nn.Sequential) or len(layers) < 3:
            return ["model, a Sequential of layers"]
        gone = [] if whole_number(layers[0], "T") else ["a first layer that makes T steps"]
        return gone if any(hasattr(m, "qtrick") for m in layers.modules()) else [*gone, "neurons with qtrick"]

    def sites(self, model: nn.Module) -> Sites:
        """The residual convolution blocks; layer 1 is the first that has spikes behind it."""
        layers: nn.Sequential = model.model  # type: ignore[assignment]
        parts = list(_parts("model", layers))
        blocks = tuple(path for path, part in parts if hasattr(part, "Conv"))
        why = "no residual block, so dropped tokens have no value to keep there"
        left = {
            path: why
            for path, part in parts
            if path not in blocks and any(hasattr(m, "qtrick") for m in part.modules())
        }
        steps = whole_number(layers[0], "T") or 1
        return Sites(blocks, keeps_grid=True, steps=steps, virtual_steps=steps == 1, left=left)

    def stored_steps(self, model: nn.Module) -> list[str]:  # noqa: ARG002
        """None: T is read off the tensors."""
        return []


def _parts(path: str, layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers by dotted name, those of a Sequential each: a block that is repeated is one."""
    if not isinstance(layer, nn.Sequential):
        yield path, layer
        return
    for name, inner in layer.named_children():
        yield from _parts(f"{path}.{name}", inner)
