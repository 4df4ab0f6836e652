"""Training in each memory mode: the mode is kept, results are the same, and the log names it."""

import dataclasses

import pytest
import torch

from snntorch_smixer.memory import MODES, memory_of, set_memory
from snntorch_smixer.train.loop import fit
from snntorch_smixer.train.recipe import Recipe
from tests.train.test_loop import Stop, StopAfter, classifier, data, needs_accelerate, network

__all__ = ["data"]  # a fixture


@needs_accelerate
@pytest.mark.parametrize("mode", MODES)
def test_the_memory_mode_is_kept_and_changes_nothing(data, tmp_path, mode):
    nets = network(), network()
    set_memory(nets[1], mode, chunks=2)
    seen, expected = [], []
    nets[1].blocks[0].register_forward_pre_hook(lambda block, _: seen.append((block.mlp.memory, block.mlp.chunks)))
    for net, records in zip(nets, (expected, log := []), strict=True):
        records += fit(net, Recipe(epochs=1, batch_size=16), data=data, out=tmp_path / str(len(expected)))
    assert set(seen) == {(mode, 2)}
    assert memory_of(nets[1]) == log[0]["memory"] == mode
    assert log[0]["loss"] == pytest.approx(expected[0]["loss"], abs=1e-3)
    for name, value in nets[0].state_dict().items():
        torch.testing.assert_close(nets[1].state_dict()[name], value, rtol=1e-3, atol=1e-4)


@needs_accelerate
def test_the_log_says_what_ran(data, tmp_path):
    recipe, mixed = Recipe(epochs=1, batch_size=16), network()
    set_memory(mixed.stem, "recompute")
    (record,) = fit(mixed, recipe, data=data, out=tmp_path / "mixed")
    assert (record["memory"], record["tier"]) == ("mixed", "eager")
    (record,) = fit(classifier(), recipe, data=data, out=tmp_path / "plain")
    assert (record["memory"], record["tier"]) == ("reference", "eager")
    # A run may go on in another mode.
    longer = dataclasses.replace(recipe, epochs=2)
    net = network()
    net.register_forward_pre_hook(StopAfter(5))
    with pytest.raises(Stop):
        fit(net, longer, data=data, out=tmp_path / "goes on")
    again = network()
    set_memory(again, "recompute")
    log = fit(again, longer, data=data, out=tmp_path / "goes on")
    assert [record["memory"] for record in log] == ["fused", "recompute"]
