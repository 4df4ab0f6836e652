"""Where the tests of the Triton kernels run: on a CUDA device, or under Triton's interpreter in its own process."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from snntorch_smixer.kernels.triton_tools import interpreted

INTERPRETED = interpreted()
DEVICE = "cpu" if INTERPRETED else "cuda"
WHERE = [] if INTERPRETED else [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


def there(*tensors: Tensor | None) -> list[Tensor | None]:
    """Copies where the kernels run, without history."""
    return [None if t is None else t.detach().clone().to(DEVICE) for t in tensors]


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest wanted entry; a single number is a sum that may all but cancel."""
    got, wanted = got.detach().cpu().double(), wanted.detach().double()
    scale = max(wanted.abs().max().item(), float(wanted.numel() == 1))
    return (got - wanted).abs().max().item() / scale if scale else got.abs().max().item()


def rounding_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the interpreter round float32 to the nearest bfloat16, as every device does; it cuts the bits off."""
    if not INTERPRETED:
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cut: Callable[..., TensorHandle] = InterpreterBuilder.cast_impl

    def cast(self: InterpreterBuilder, source: TensorHandle, dtype: tl.dtype) -> TensorHandle:
        if (source.dtype.scalar, dtype.scalar) != (tl.float32, tl.bfloat16):
            return cut(self, source, dtype)
        near = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.uint16)
        return TensorHandle(near.numpy(), tl.bfloat16)

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", cast)
