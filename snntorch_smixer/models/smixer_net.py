"""SMixerNet: stem, pruning, encoding blocks, head."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import check_choice
from snntorch_smixer.kernels.token_mix import expand_to_grid
from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.layers.block import EncodingBlock
from snntorch_smixer.layers.encode import encode
from snntorch_smixer.layers.head import ClassifierHead
from snntorch_smixer.layers.memory import memory_of, set_memory
from snntorch_smixer.layers.mixer import SMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.stem import SpikingPatchSplitting
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.network import Network, block_indices
from snntorch_smixer.models.spec import architecture
from snntorch_smixer.neurons import LIF, Dspike
from snntorch_smixer.pruning.place import StepChoice
from snntorch_smixer.pruning.pruner import DSTSP
from snntorch_smixer.selection import Selection


@architecture(SMixerConfig)
class SMixerNet(Network):
    """The paper's network on images or event frames.

    Images ``(B, C, H, W)`` are shown for T steps (direct coding); event frames are ``(T, B, C, H, W)``. Neurons are
    multi-step: nothing has to be reset between calls.

    Attributes:
        config: the `SMixerConfig` it was built from.
        dstsp: the pruning, whose settings can be changed at any time, ``net.dstsp.ps = 0.2``; None where the net does
            not prune (``print(net)`` says so), and then there are no settings: `snntorch_smixer.dstsp.wrap` adds them.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import SMixerConfig, SMixerNet
        >>> net = SMixerNet(SMixerConfig((28, 28), 1, 10, 4, dim=64, depth=2, heads=8))
        >>> net(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    config: SMixerConfig
    head: ClassifierHead
    input_weights = ("stem.units.0.linear.weight", "stem.short.linear.weight")
    head_path = "head.linear"

    def __init__(self, config: SMixerConfig | None = None) -> None:
        super().__init__()
        config = SMixerConfig() if config is None else config
        self.config = config
        neuron = partial(LIF, config.beta, threshold=config.threshold, spike_grad=Dspike(config.gamma))
        self.stem = SpikingPatchSplitting(config.in_channels, config.dim, strides=config.strides, neuron=neuron)
        self.dstsp: DSTSP | None
        self.register_module("dstsp", None)
        if config.prune is not None:
            self.dstsp = DSTSP(config.prune, depth=config.depth, steps=config.T)
        blocks = []
        for _ in range(config.depth):
            if config.mixer == "ssa":
                mixer: SpikingSelfAttention | SMixer = SpikingSelfAttention(
                    config.dim, heads=config.heads, neuron=neuron
                )
            else:
                mixer = SMixer(config.dim, num_tokens=config.num_tokens, heads=config.heads, neuron=neuron)
            mlp = SpikingMLP(config.dim, hidden=round(config.dim * config.mlp_ratio), neuron=neuron)
            blocks.append(EncodingBlock(mixer, mlp))
        self.blocks = nn.ModuleList(blocks)
        self.head = self.fresh_head()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "dstsp" and isinstance(value, DSTSP):
            value.bind(depth=self.config.depth, steps=self.config.T)
        super().__setattr__(name, value)

    @property
    def num_features(self) -> int:
        """C, channels of a token."""
        return self.config.dim

    @property
    def memory(self) -> str:
        """What is kept for the backward pass, one of `snntorch_smixer.memory.MODES`; may be set at any time.

        "mixed" where the layers differ.
        """
        return memory_of(self)

    @memory.setter
    def memory(self, mode: str) -> None:
        set_memory(self, mode, chunks=self.stem.chunks)

    def live_config(self) -> SMixerConfig:
        """The configuration with the pruning settings of now."""
        return dataclasses.replace(self.config, prune=None if self.dstsp is None else self.dstsp.settings)

    def step_logits(self, x: Tensor) -> Tensor:
        """Logits of each kept step, ``(T', B, K)``, for losses over steps such as those of ``snntorch.functional``."""
        return self.head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``(T', B, N', C)`` behind the last block.

        Raises:
            LayoutError: wrong rank, number of steps, channels or size.
        """
        return self.features_and_kept(x)[0]

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Tokens ``(T', B, N', C)`` to logits ``(B, K)``; with ``pre_logits`` to pooled features ``(B, C)``."""
        return x.mean((0, 2)) if pre_logits else self.head(x).mean(0)

    def fresh_head(self) -> ClassifierHead:
        """A randomly initialised head for the classes of ``config``."""
        return ClassifierHead(self.config.dim, self.config.num_classes)

    def features_and_kept(self, x: Tensor) -> tuple[Tensor, Selection | None]:
        """Tokens ``(T', B, N', C)`` behind the last block, and what pruning kept (None: everything)."""
        for state in self._states(x):  # noqa: B007
            pass
        return state

    def forward_intermediates(
        self, x: Tensor, *, indices: Sequence[int] | None = None, layout: str = "grid"
    ) -> tuple[Tensor, list[Tensor]]:
        """Features behind several blocks, for detection and analysis, in one pass.

        Args:
            x: input of the network.
            indices: blocks, in this order; negative ones count from the last. None: all.
            layout: "grid" for maps ``(T', B, C, H', W')`` where dropped tokens are zero, "tokens" for
                ``(T', B, N', C)``.

        Returns:
            What `forward_features` gives, and one tensor per index.

        Raises:
            SettingError: an index of no block, or an unknown layout.
        """
        check_choice("forward_intermediates", "layout", layout, ("grid", "tokens"))
        chosen = block_indices("forward_intermediates", indices, len(self.blocks))
        states = list(self._states(x))[1:]
        out = [self._on_grid(*states[i]) if layout == "grid" else states[i][0] for i in chosen]
        return states[-1][0], out

    def _states(self, x: Tensor) -> Iterator[tuple[Tensor, Selection | None]]:
        """The stream in front of the blocks, then behind each block."""
        choice = self.step_choice()
        x = self.tokens(x, choice=choice)
        kept = None if choice is None else choice.kept
        yield x, kept
        for index, block in enumerate(self.blocks):
            x, kept = self.prune(x, kept, index)
            x = block(x, kept)
            yield x, kept

    def _on_grid(self, tokens: Tensor, kept: Selection | None) -> Tensor:
        if kept is not None and kept.drops_tokens:
            tokens = expand_to_grid(tokens, kept)
        return shapes.tokens_to_grid(tokens, *self.config.grid)

    def tokens(self, x: Tensor, *, choice: StepChoice | None = None) -> Tensor:
        """Stem output, real-valued tokens ``(T, B, N, C)``, of the steps that ``choice`` keeps in the stem."""
        c = self.config
        frames = encode(x, steps=c.T, channels=c.in_channels, size=c.img_size)
        return self.stem(frames, steps=c.T, choice=choice)

    def step_choice(self) -> StepChoice | None:
        """A new choice of steps inside the stem for `tokens`, as ``dstsp.place`` says; None where none are dropped."""
        return None if self.dstsp is None else self.dstsp.choice_in_stem(self.config.T, self.config.num_tokens)

    def first_spikes(self, tokens: Tensor, block: int = 0) -> Tensor:
        """Spikes ``(T, B, N, C)`` of the first neuron of a block on the stream in front of it: where SIV is taken."""
        with torch.no_grad():
            return cast(EncodingBlock, self.blocks[block]).first_spikes(tokens)

    def prune(self, tokens: Tensor, kept: Selection | None = None, block: int = 0) -> tuple[Tensor, Selection | None]:
        """DSTSP in front of a block; ``(tokens, kept)`` where there is nothing to prune."""
        if self.dstsp is None or not self.dstsp.prunes(tokens, kept, block):
            return tokens, kept
        with torch.no_grad():
            spikes = cast(EncodingBlock, self.blocks[block]).counted_spikes(tokens)
        return self.dstsp(tokens, spikes, kept, block)
