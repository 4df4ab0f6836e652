"""STMixer: token mixing by one matrix per head already, with the steps folded into the batch."""

from __future__ import annotations

from torch import nn

from snntorch_smixer.families.base import Sites, children_of, lacks, whole_number


class STMixerFamily:
    """``patch_embd`` and ``block`` whose items have ``token_mix.attn.linear_mix``, one ``nn.Linear(N, N)`` per head.

    Tensors are (T*B, C, N) with T stored in every neuron and in the root. Covers brain-intelligence-lab/STMixer_demo.
    """

    name = "stmixer"

    def missing(self, model: nn.Module) -> list[str]:
        """What ``model`` lacks."""
        gone = lacks(model, "patch_embd", "block", "head")
        blocks = children_of(model, "block")
        if gone or not blocks:
            return gone or ["a list of blocks"]
        return lacks(model.get_submodule(blocks[0]), "token_mix", "channel_mix")

    def sites(self, model: nn.Module) -> Sites:
        """In front of the first block; N is the width of its matrices."""
        blocks = children_of(model, "block")
        mixers = [m for m in model.get_submodule(blocks[0]).modules() if hasattr(m, "linear_mix")]
        tokens = mixers[0].linear_mix[0].in_features if mixers else None  # type: ignore[index,union-attr]
        return Sites(blocks, tokens=tokens, steps=whole_number(model, "T"))

    def stored_steps(self, model: nn.Module) -> list[str]:
        """T of the root, and of whatever reads the stream behind the stem: blocks, heads, surrogate modules."""
        steps = whole_number(model, "T")
        return [
            f"{path}.{name}" if path else name
            for path, module in model.named_modules()
            if path.partition(".")[0] not in ("expand", "patch_embd")
            for name, value in vars(module).items()
            if type(value) is int and value == steps and (name == "T" or name.endswith("_T"))
        ]
