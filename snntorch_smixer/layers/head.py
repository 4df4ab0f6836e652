"""Classification head."""

from __future__ import annotations

from torch import Tensor, nn


class ClassifierHead(nn.Module):
    """Mean over tokens, then one linear map per step. The mean over steps is the caller's, so losses may use each step.

    Args:
        dim: C, channels of a token.
        num_classes: K; 0 for pooled features in place of logits.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(T', B, N', C)`` to logits ``(T', B, K)``, or to ``(T', B, C)`` where K is 0."""
        return self.linear(x.mean(2))
