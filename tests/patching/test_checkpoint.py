"""Checkpoints of this package's networks, before and after their attention was swapped."""

import copy

import torch

from snntorch_smixer import dstsp


def test_there_and_back(firing_net):
    net, x = firing_net(mixer="ssa"), torch.randn(3, 2, 16, 16)
    swapped = dstsp.wrap(copy.deepcopy(net))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.1)
    state = dstsp.to_wrapped(net.state_dict(), swapped)
    swapped.load_state_dict(state, strict=True)
    gone = {name for name in net.state_dict() if name not in state}
    parts = {name.split(".")[3] for name in gone}
    assert {"query", "key"} <= parts <= {"query", "key", "query_neuron", "key_neuron", "value_neuron"}
    back = dstsp.to_unwrapped(swapped.state_dict(), swapped)
    assert back.keys() == net.state_dict().keys()
    assert {name for name in back if not torch.equal(back[name], net.state_dict()[name])} <= gone
    plain = firing_net(mixer="ssa")
    plain.load_state_dict(back, strict=True)
    assert torch.equal(plain(x), dstsp.unwrap(swapped)(x))


def test_a_mixer_of_its_own_keeps_its_matrices(firing_net):
    net = dstsp.wrap(firing_net())
    state = net.state_dict()
    assert any(name.endswith("w_m.weight") for name in state)
    for convert in (dstsp.to_wrapped, dstsp.to_unwrapped):
        converted = convert(state, net)
        assert converted.keys() == state.keys()
        assert all(torch.equal(converted[name], state[name]) for name in state)
