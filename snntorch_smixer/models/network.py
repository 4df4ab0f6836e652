"""What every network of this package is: a configuration that builds it, features, a head."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.cards.card import WEIGHTS, Card
from snntorch_smixer.cards.upload import Published, check_repo_id, push_folder
from snntorch_smixer.errors import SettingError, check_choice
from snntorch_smixer.memory import set_checkpointing
from snntorch_smixer.models.saving import note_other_weights, save
from snntorch_smixer.models.spec import Configured
from snntorch_smixer.models.spec import Described as Described
from snntorch_smixer.models.spec import NetworkConfig as NetworkConfig


class Network(Configured):
    """Base of the networks: images ``(B, C, H, W)`` or frames ``(T, B, C, H, W)`` to logits ``(B, K)``.

    ``forward(x)`` is ``forward_head(forward_features(x))``. Neurons are multi-step: nothing has to be reset.

    Attributes:
        config: what it was built from; `reset_classifier` keeps it true.
        card: of the weights that were loaded, or None.
        described: see `Configured`.
    """

    head: nn.Module

    input_weights: ClassVar[tuple[str, ...]] = ()
    """State-dict keys of the convolutions that see the input, ``(out, in_channels, kh, kw)``."""

    head_path: ClassVar[str] = "head"
    """Dotted path of the linear layer that gives the logits."""

    @property
    def num_features(self) -> int:
        """C, channels of a token."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)``, the mean over the steps."""
        return self.forward_head(self.forward_features(x))

    def stream(self, x: Tensor) -> Iterator[Tensor]:
        """What enters the first block, then what each block gives: ``(T', B, N', C)`` or ``(T', B, C, H, W)``."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens ``(T', B, N', C)`` behind the last block.

        Raises:
            LayoutError: wrong rank, number of steps, channels or size.
        """
        for out in self.stream(x):  # noqa: B007
            pass
        return stream_tokens(out)

    def forward_intermediates(
        self, x: Tensor, *, indices: Sequence[int] | None = None, layout: str = "grid"
    ) -> tuple[Tensor, list[Tensor]]:
        """Features behind several blocks in one pass; for detection and analysis.

        Args:
            x: input of the network.
            indices: blocks, in this order; negative ones count from the last. None: all.
            layout: "grid" for maps ``(T', B, C, H', W')``, "tokens" for ``(T', B, N', C)``.

        Returns:
            What `forward_features` gives, and one tensor per index.

        Raises:
            SettingError: an index of no block, an unknown layout, or a grid where tokens were dropped.
        """
        where = "forward_intermediates"
        check_choice(where, "layout", layout, ("grid", "tokens"))
        if layout == "grid" and hasattr(self, "dstsp"):
            raise SettingError(f"{where}: a wrapped {type(self).__name__} has no grid of tokens. Pass layout='tokens'.")
        states = list(self.stream(x))[1:]
        chosen = [states[i] for i in block_indices(where, indices, len(states))]
        convert = stream_tokens if layout == "tokens" else self._grid
        return stream_tokens(states[-1]), [convert(state) for state in chosen]

    def _grid(self, x: Tensor) -> Tensor:
        return x if x.dim() == 5 else shapes.tokens_to_grid(x, *self.config.grid)  # type: ignore[attr-defined]

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Tokens ``(T', B, N', C)`` to logits ``(B, K)``; with ``pre_logits`` to pooled features ``(B, C)``."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """K; 0 where the network gives pooled features."""
        return self.config.num_classes

    def get_classifier(self) -> nn.Module:
        """The linear layer that gives the logits; ``nn.Identity`` where the network gives pooled features.

        Examples:
            >>> from snntorch_smixer import create_model
            >>> create_model("smixer-2-64-fmnist").get_classifier()
            Linear(in_features=64, out_features=10, bias=True)
        """
        return self.get_submodule(self.head_path)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, which is memory mode "recompute"; see `set_memory`.

        Args:
            enable: False takes layers that are in "recompute" to "fused", the default, and leaves all others.

        Raises:
            SettingError: the network holds no layer and no neuron that has a memory mode.

        Examples:
            >>> from snntorch_smixer import create_model
            >>> net = create_model("smixer-2-64-fmnist")
            >>> net.set_grad_checkpointing()
            >>> net.memory
            'recompute'
        """
        set_checkpointing(self, enable=enable)

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh, randomly initialised head for ``num_classes`` in; 0 leaves pooled features ``(B, C)``.

        Raises:
            SettingError: ``num_classes`` is negative or no whole number.
        """
        self.config = dataclasses.replace(self.config, num_classes=num_classes)
        like = next(self.parameters())
        self.head = self.fresh_head().to(like.device, like.dtype)
        note_other_weights(self)

    def fresh_head(self) -> nn.Module:
        """A randomly initialised head for the classes of ``config``."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, *, card: Card | None = None) -> Card:
        """Write ``config.json``, ``model.safetensors``, ``card.toml`` and ``README.md``; `from_pretrained` reads them.

        The settings of now are written, ``net.dstsp.ps`` included. Pickles are never written.

        Args:
            folder: made where it does not exist; files of these names in it are replaced.
            card: describes the model; default: that of the weights that were loaded, without its results where
                settings have changed since, and without data set, classes, mean and summary too where weights have.

        Returns:
            The card with size and SHA-256 of what was written; it becomes ``net.card``.

        Raises:
            CardError: the network has parts that its configuration does not build; nothing is written.
        """
        written = save(self, Path(folder), card=card)
        self.describe(written, weights=written.files[WEIGHTS].sha256)
        return written

    def push_to_hub(
        self, repo_id: str, *, card: Card | None = None, private: bool = False, message: str = "Upload model"
    ) -> Published:
        """Save, and upload to a repository of the Hub, which is made where it does not exist.

        Args:
            repo_id: ``org/name``.
            card: see `save_pretrained`.
            private: of a repository that is made now.
            message: of the commit.

        Returns:
            The commit; ``net.card`` is pinned to it.

        Raises:
            CardError: see `save_pretrained`; or the Hub refused, for want of a login for example.
        """
        check_repo_id("push_to_hub", repo_id)
        with TemporaryDirectory() as scratch:
            folder = Path(scratch) / repo_id.split("/")[1]
            written = save(self, folder, card=card, repo_id=repo_id)
            published = push_folder(folder, repo_id, private=private, message=message)
        self.describe(written.pinned(repo_id, published.revision), weights=written.files[WEIGHTS].sha256)
        return published


def stream_tokens(x: Tensor) -> Tensor:
    """Tokens ``(T, B, N, C)`` of a stream that is tokens already, or maps ``(T, B, C, H, W)``."""
    return shapes.grid_to_tokens(x) if x.dim() == 5 else x


def block_indices(where: str, indices: Sequence[int] | None, depth: int) -> list[int]:
    """Indices of blocks, counted from the first one; None stands for all.

    Raises:
        SettingError: an index of no block.
    """
    chosen = range(depth) if indices is None else indices
    wrong = [i for i in chosen if type(i) is not int or not -depth <= i < depth]
    if wrong:
        raise SettingError(f"{where}: there is no block {wrong[0]!r}. Pass indices in -{depth}..{depth - 1}.")
    return [i % depth for i in chosen]
