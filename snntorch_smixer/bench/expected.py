"""What a training step of a network will keep in each memory mode, from its configuration alone."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.memory import MODES, KeepsLess, set_memory
from snntorch_smixer.models.architectures import outline
from snntorch_smixer.models.network import NetworkConfig

MOST_STEPS = 64
"""More steps than this are not traced: the time it takes grows with them."""

_BATCH = 16


def expected_bytes(config: NetworkConfig) -> dict[str, float]:
    """Bytes per sample kept for the backward pass by memory mode, in float32; takes seconds, and no memory.

    What is kept once for a batch is shared by 16 samples, as `snntorch_smixer.bench.suite_memory` has it.

    Args:
        config: of the network; its pruning counts.

    Returns:
        By mode of `MODES`; empty where the network has no layer with a mode, or more than `MOST_STEPS` steps.
    """
    net = outline(config)
    if config.T > MOST_STEPS or not any(isinstance(module, KeepsLess) for module in net.modules()):
        return {}
    found = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        net.to_empty(device="cpu")
        x = torch.empty(config.input_shape(_BATCH))
        for mode in MODES:
            set_memory(net, mode)
            found[mode] = saved_bytes(net, x, batch_axis=int(config.takes_frames))
    return found
