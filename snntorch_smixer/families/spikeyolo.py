"""SpikeYOLO: a detector of convolutions, without attention, wired by layer numbers."""

from __future__ import annotations

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
        blocks = tuple(f"model.{i}" for i, layer in enumerate(layers) if hasattr(layer, "Conv"))
        steps = whole_number(layers[0], "T") or 1
        return Sites(blocks, keeps_grid=True, steps=steps, virtual_steps=steps == 1)

    def stored_steps(self, model: nn.Module) -> list[str]:  # noqa: ARG002
        """None: T is read off the tensors."""
        return []
