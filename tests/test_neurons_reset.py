"""``reset`` at any depth and of one model only, ours and ``snntorch.utils.reset``."""

import copy
import json
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import snntorch as snn
import torch
from snntorch import functional, utils
from torch import Tensor, nn

from snntorch_smixer.neurons import LIF, reset

ROOT = Path(__file__).parent.parent
RESETS = [reset, utils.reset]
PLAIN = {
    "Leaky": lambda: snn.Leaky(0.9, init_hidden=True),
    "Synaptic": lambda: snn.Synaptic(0.9, 0.8, init_hidden=True),
    "Alpha": lambda: snn.Alpha(0.9, 0.8, init_hidden=True),
    "Lapicque": lambda: snn.Lapicque(beta=0.9, init_hidden=True),
    "RLeaky": lambda: snn.RLeaky(0.9, linear_features=4, init_hidden=True),
    "RSynaptic": lambda: snn.RSynaptic(0.9, 0.8, linear_features=4, init_hidden=True),
    "SLSTM": lambda: snn.SLSTM(4, 4, init_hidden=True),
    "SConv2dLSTM": lambda: snn.SConv2dLSTM(4, 4, 3, init_hidden=True),
}


def deep(neuron: nn.Module) -> nn.Module:
    """A net whose neuron is a child of a child of a child."""
    return nn.Sequential(nn.Sequential(nn.Identity(), nn.Sequential(neuron)))


def state(net: nn.Module) -> list[Tensor]:
    """Membranes, currents and spikes that the neurons of a net hold."""
    return [value for name, value in net.named_buffers() if name.split(".")[-1] in ("mem", "syn", "syn_exc", "spk")]


def is_at_rest(net: nn.Module) -> bool:
    held = state(net)
    assert held
    return not any(value.any() for value in held)


def run(net: nn.Module, x: Tensor) -> Tensor:
    """Put a net in use: two steps, after which it is not at rest."""
    for _ in range(2):
        out = net(x)
    assert not is_at_rest(net)
    return out


@pytest.mark.parametrize("put_at_rest", RESETS)
def test_nested_step_mode_neurons_are_reset(put_at_rest: Callable):
    net = deep(nn.Sequential(LIF(0.9, step_mode="s"), nn.Linear(4, 4), LIF(0.9, step_mode="s")))
    x = torch.rand(3, 4, requires_grad=True) * 3
    first = torch.stack([net(x) for _ in range(5)])
    put_at_rest(net)
    assert is_at_rest(net)
    again = torch.stack([net(x) for _ in range(5)])
    carried_on = torch.stack([net(x) for _ in range(5)])
    assert 0.05 < first.mean() < 0.6
    assert torch.equal(first, again)
    assert not torch.equal(first, carried_on)


@pytest.mark.parametrize("put_at_rest", RESETS)
def test_only_the_given_net_is_reset(put_at_rest: Callable):
    net, other = (deep(LIF(0.9, step_mode="s")) for _ in range(2))
    beside = nn.Sequential(snn.Leaky(0.9, init_hidden=True))
    x = torch.full((2, 4), 0.4)
    for each in (net, other, beside):
        run(each, x)
    put_at_rest(net)
    assert is_at_rest(net)
    for each in (other, beside):
        torch.testing.assert_close(state(each)[0], torch.full((2, 4), 0.76))


@pytest.mark.parametrize("put_at_rest", RESETS)
def test_a_plain_neuron_of_the_net_does_not_widen_the_reset(put_at_rest: Callable):
    LIF(step_mode="s")  # from here on snnTorch's reset stays within the net
    net, other = (nn.Sequential(snn.Leaky(0.9, init_hidden=True), snn.Leaky(0.9, init_hidden=True)) for _ in range(2))
    x = torch.full((2, 4), 0.4)
    run(net, x)
    run(other, x)
    put_at_rest(net)
    assert is_at_rest(net)
    assert not is_at_rest(other)


@pytest.mark.parametrize("put_at_rest", RESETS)
@pytest.mark.parametrize("make", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_are_reset(make: Callable, put_at_rest: Callable):
    net = deep(LIF(0.9, step_mode="s"))
    run(net, torch.full((2, 4), 0.4))
    twin = make(net)
    assert not is_at_rest(twin)
    put_at_rest(twin)
    assert is_at_rest(twin)
    assert not is_at_rest(net)


@pytest.mark.parametrize("put_at_rest", RESETS)
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_snntorch_neurons_are_reset_at_depth(kind: str, put_at_rest: Callable):
    LIF(step_mode="s")  # from here on snnTorch's reset looks deeper
    net, other = deep(PLAIN[kind]()), deep(PLAIN[kind]())
    x = torch.rand(2, 4, 6, 6) if kind == "SConv2dLSTM" else torch.rand(2, 4)
    run(net, x)
    run(other, x)
    put_at_rest(net)
    assert is_at_rest(net)
    assert not is_at_rest(other)


def test_reset_cuts_the_graph():
    net = deep(LIF(0.9, step_mode="s"))
    x = torch.full((2, 4), 0.4, requires_grad=True)
    for _ in range(2):
        run(net, x).sum().backward()
        reset(net)
    assert x.grad.abs().max() > 0


@pytest.mark.parametrize("put_at_rest", RESETS)
def test_reset_of_neurons_without_one_and_of_multi_step_neurons(put_at_rest: Callable):
    net = nn.Sequential(LIF(), LIF(step_mode="s"), snn.LeakyParallel(4, 4), nn.Linear(4, 4))
    assert not hasattr(net[2], "reset_mem")
    before = [value.clone() for value in net.state_dict().values()]
    put_at_rest(net)
    assert net[0].mem.numel() == 0
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_a_release_that_walks_the_model_is_left_alone(monkeypatch):
    monkeypatch.delattr(utils, "_layer_check", raising=False)
    monkeypatch.delattr(utils, "_layer_reset", raising=False)
    names = set(vars(utils))
    LIF(step_mode="s")
    assert set(vars(utils)) == names


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the module snntorch.backprop
@pytest.mark.parametrize("how", ["zero", "subtract", "none"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_mode_neuron_works_in_truncated_backpropagation(steps: int, how: str):
    from snntorch import backprop

    net = nn.Sequential(nn.Linear(4, 3), LIF(0.9, step_mode="s", reset_mechanism=how))
    net[1].output = True
    batches = [(torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1]))]
    optimizer, loss = torch.optim.SGD(net.parameters(), 0.1), functional.ce_rate_loss()
    assert backprop.TBPTT(net, batches, optimizer, loss, num_steps=4, time_var=False, K=steps).item() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_truncated_backpropagation_of_snntorch_still_works():
    # It reads the kinds of neurons that utils.reset noted, to know which membranes to cut from the graph.
    from snntorch import backprop

    LIF(step_mode="s")
    net = nn.Sequential(nn.Linear(4, 3), snn.Leaky(0.9, init_hidden=True, output=True))
    batches = [(torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1]))]
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    loss = backprop.RTRL(net, batches, optimizer, functional.ce_rate_loss(), num_steps=3, time_var=False)
    assert loss.item() > 0


FRESH = """
    import json, pickle, sys
    from pathlib import Path
    import torch
    from snntorch import utils
    from snntorch.utils import reset
    from torch import nn

    before = dict(vars(utils))
    import snntorch_smixer
    from snntorch_smixer import LIF

    LIF()(torch.rand(3, 2))
    facts = {"import changes utils": any(vars(utils).get(k) is not v for k, v in before.items())}

    def make():
        if len(sys.argv) > 1:
            return pickle.loads(Path(sys.argv[1]).read_bytes())
        net = nn.Sequential(nn.Sequential(nn.Identity(), nn.Sequential(LIF(0.9, step_mode="s"))))
        net(torch.full((2, 4), 0.4))
        return net

    net, other = make(), make()
    facts["in use"] = net[0][1][0].mem.any().item()
    reset(net)
    facts["at rest"] = not net[0][1][0].mem.any().item()
    facts["other in use"] = other[0][1][0].mem.any().item()
    facts["same function"] = utils.reset is reset is before["reset"]
    print(json.dumps(facts))
"""


@pytest.mark.parametrize("pickled", [False, True])
def test_a_new_process_where_reset_was_imported_first(pickled: bool, tmp_path):
    net = deep(LIF(0.9, step_mode="s"))
    run(net, torch.full((2, 4), 0.4))
    (tmp_path / "net.pkl").write_bytes(pickle.dumps(net))
    command = [sys.executable, "-c", textwrap.dedent(FRESH)] + [str(tmp_path / "net.pkl")] * pickled
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "import changes utils": False,
        "in use": True,
        "at rest": True,
        "other in use": True,
        "same function": True,
    }
