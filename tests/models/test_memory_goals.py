"""Bytes and kernels of a training step of the paper's nets, against the goals; bytes at batch 16, without memory."""

import copy

import pytest
import torch

from snntorch_smixer import SMixerNet, create_model, dstsp, set_memory
from snntorch_smixer.bench.kernels import kernel_launches
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.naive import naive_twin
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.kernels import compiled

MIB = 2**20


@pytest.fixture(scope="module")
def net() -> SMixerNet:
    return create_model("smixer-4-384")


def images() -> torch.Tensor:
    return torch.randn(16, 3, 32, 32)


def kept(net: SMixerNet, mode: str, *, prune: bool = False) -> float:
    mine = copy.deepcopy(net)
    mine = dstsp.wrap(mine, ps=0.3, t=1) if prune else mine
    set_memory(mine, mode)
    return saved_bytes(mine, images(), fake=True) / MIB


@pytest.mark.parametrize(
    ("mode", "prune", "goal", "readme"),
    [
        ("reference", False, 60.0, 58.1),
        ("fused", False, 24.0, 22.1),
        ("recompute", False, 4.5, 3.6),
        ("reference", True, 28.0, 27.5),
        ("fused", True, 10.5, 9.5),
        ("recompute", True, 1.8, 0.8),
    ],
)
def test_saved_bytes(net: SMixerNet, mode: str, prune: bool, goal: float, readme: float):
    found = kept(net, mode, prune=prune)
    assert found <= goal
    assert found == pytest.approx(readme, abs=0.06)


def test_shares_of_the_naive_loop(net: SMixerNet):
    naive = saved_bytes(naive_twin(net), images(), fake=True) / MIB
    assert naive == pytest.approx(83.3, abs=0.1)
    assert kept(net, "fused") <= 0.29 * naive
    assert kept(net, "recompute") <= 0.055 * naive


@pytest.mark.parametrize(
    ("mode", "chunks", "goal"), [("fused", 1, 29.0), ("recompute", 1, 17.0), ("recompute", 8, 10.0)]
)
def test_peaks(net: SMixerNet, mode: str, chunks: int, goal: float):
    mine = copy.deepcopy(net)
    set_memory(mine, mode, chunks=chunks)
    assert peak_bytes(mine, images(), fake=True) / MIB <= goal


@pytest.mark.slow  # it compiles
@pytest.mark.filterwarnings("default::DeprecationWarning", "ignore:The .grad attribute:UserWarning")  # torch's own
@pytest.mark.parametrize("mode", ["fused", "recompute"])
def test_kernels_of_a_training_step(net: SMixerNet, mode: str):
    torch.compiler.reset()
    naive = kernel_launches(naive_twin(net), images()[:2], fake=True).total()
    mine = copy.deepcopy(net)
    set_memory(mine, mode)
    with compiled.use("compile"):
        found = kernel_launches(mine, images()[:2]).total()
    assert found <= 400 < naive / 8


def test_events_keep_less_too():
    events = torch.randn(16, 2, 2, 128, 128)
    naive, found = {}, create_model("smixer-2-256")
    naive = saved_bytes(naive_twin(found), events, batch_axis=1, fake=True)
    for mode, share in (("fused", 0.25), ("recompute", 0.03)):
        set_memory(found, mode)
        assert saved_bytes(found, events, batch_axis=1, fake=True) <= share * naive


def test_one_step_keeps_less_too():
    net, photographs = create_model("smixer-8-768"), torch.randn(16, 3, 224, 224)
    naive = saved_bytes(naive_twin(net), photographs, fake=True)
    for mode, share in (("fused", 0.42), ("recompute", 0.06)):
        set_memory(net, mode)
        assert saved_bytes(net, photographs, fake=True) <= share * naive
