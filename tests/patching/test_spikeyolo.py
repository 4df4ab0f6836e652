"""`wrap` on a detector as SpikeYOLO writes it, repeated blocks included: what is pruned, what stays, what it saves."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import cost, dstsp
from tests.fakes.neurons import MemUpdate
from tests.fakes.spikeyolo import DetectionModel, MS_ConvBlock

BLOCKS = ("model.2", "model.4.0", "model.4.1", "model.10")


def repeated() -> tuple[DetectionModel, Tensor]:
    """The detector with two blocks in a Sequential, as upstream builds repeats; its neurons fire."""
    net = DetectionModel()
    twice = nn.Sequential(MS_ConvBlock(16), MS_ConvBlock(16))
    twice.f, twice.i = net.model[4].f, net.model[4].i
    net.model[4] = twice
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        nn.init.constant_(norm.weight, 2.0)
    with torch.no_grad():
        net.train()(torch.rand(8, 3, 32, 32))
    return net.eval(), torch.rand(2, 3, 32, 32)


class Seen:
    """Inputs and outputs of blocks, and the spikes of their neurons, in one run."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.blocks: dict[str, tuple[Tensor, Tensor]] = {}
        self.spikes: dict[str, Tensor] = {}
        hooks = [net.get_submodule(path).register_forward_hook(self._block(path)) for path in BLOCKS]
        hooks += [m.register_forward_hook(self._neuron(n)) for n, m in net.named_modules() if isinstance(m, MemUpdate)]
        with torch.no_grad():
            self.out = net(x)
        for hook in hooks:
            hook.remove()

    def _block(self, path: str):
        return lambda _, args, out: self.blocks.update({path: (args[0], out)})

    def _neuron(self, path: str):
        return lambda _, __, out: self.spikes.update({path: out})


@pytest.mark.parametrize("t", [1, None])
def test_every_block_drops_its_share_of_steps_and_tokens(t: int | None):
    net, x = repeated()
    dstsp.wrap(net, ps=0.25, t=t, example_input=x)
    seen = Seen(net, x)
    for path, (before, after) in seen.blocks.items():
        assert after.shape[0] == (t or 4)
        tokens = after[0, 0, 0].numel()
        moved = (after != before[-after.shape[0] :]).any(2).any(0) if before.shape == after.shape else None
        for name, spikes in seen.spikes.items():
            if not name.startswith(f"{path}."):
                continue
            busy = spikes.sum((0, 2)).flatten(1) > 0
            assert (busy.sum(1) <= dstsp.tokens_kept(tokens, 0.25)).all(), name
            assert busy.any(), name
            if moved is not None:
                assert not (busy & ~moved.flatten(1)).any(), name
        if moved is not None:
            assert (moved.flatten(1).sum(1) == dstsp.tokens_kept(tokens, 0.25)).all(), path


def test_the_grid_is_exact():
    net, x = repeated()
    shapes = [one.shape for one in net(x)]
    dense = Seen(net, x).blocks
    dstsp.wrap(net, ps=0.25, t=2, example_input=x)
    pruned = Seen(net, x)
    assert [one.shape for one in pruned.out] == shapes
    assert all(pruned.blocks[path][1].shape[1:] == dense[path][1].shape[1:] for path in BLOCKS)


def test_the_plan_says_that_no_dense_arithmetic_is_saved():
    net, x = repeated()
    text = "\n".join(dstsp.plan(net, ps=0.25, t=1, example_input=x).edits)
    for path in BLOCKS:
        assert f"{path}: looks at neighbours, runs on all tokens; dropped tokens keep their value, which saves" in text
    assert "no dense arithmetic" in text


def totals(net: nn.Module, x: Tensor) -> tuple[cost.CostReport, dict[str, float]]:
    report = cost.estimate(net, x)
    return report, {name: report.records.per_sample(name) for name in ("dense", "graded", "graded_ac", "spikes")}


def test_dropping_tokens_saves_events_and_energy_and_no_dense_arithmetic():
    net, x = repeated()
    dense, before = totals(net, x)
    dstsp.wrap(net, ps=0.3, t=None, example_input=x)
    pruned, after = totals(net, x)
    assert (dense.records.coverage, pruned.records.coverage) == (1.0, 1.0)
    assert after["dense"] == before["dense"]
    assert all(after[name] < before[name] for name in ("graded", "graded_ac", "spikes"))
    assert cost.compare(dense, pruned).saving_mj > 0
    net.dstsp.t = 1
    _, fewer = totals(net, x)
    assert fewer["dense"] < after["dense"]  # steps leave
    assert fewer["graded_ac"] < after["graded_ac"]


def test_unwrap_brings_it_back_bit_for_bit():
    net, x = repeated()
    before = net(x)
    dstsp.unwrap(dstsp.wrap(net, ps=0.3, t=1, example_input=x))
    assert all(map(torch.equal, net(x), before))
