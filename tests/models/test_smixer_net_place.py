"""Steps dropped at a neuron inside the stem, against a stem written out in the test, and against itself."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from snntorch_smixer import dstsp, memory_mode
from snntorch_smixer.bench.naive import naive_twin, snntorch_layers
from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.layers.memory import MODES
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.place import PLACES, unit_of
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from snntorch_smixer.pruning.temporal import dstp
from snntorch_smixer.viz.tokens import trace_pruning
from tests.models.test_smixer_net_pruning import busiest, images, with_pruning

IN_STEM = PLACES[1:]


def frames(batch: int = 6) -> Tensor:
    """Noise whose strength differs from step to step and from sample to sample, so that the busiest steps do too."""
    return torch.randn(4, batch, 2, 16, 16) * 4 * torch.rand(4, batch, 1, 1, 1)


def pruned_at(firing_net, place: str, **settings: object) -> SMixerNet:
    return with_pruning(firing_net(), **{"ps": 0, "t": 2, "place": place, **settings})


def tokens_by_hand(net: SMixerNet, x: Tensor, unit: int, t: int) -> tuple[Tensor, list[list[int]]]:
    """The stem one sample at a time: all steps up to the neuron of ``unit``, then the ``t`` busiest from rest."""
    x = x if x.dim() == 5 else x.expand(4, *x.shape)
    out, kept = [], []
    for b in range(x.shape[1]):
        spikes = x[:, b]
        for index, part in enumerate(net.stem.units):
            if index:
                spikes = part.neuron(spikes.unsqueeze(1)).squeeze(1)
            if index == unit:
                kept.append(busiest(spikes.sum((1, 2, 3)), t))
                spikes = spikes[kept[-1]]
            spikes = part.norm(part.linear(spikes))
        short = net.stem.short.norm(net.stem.short.linear(x[kept[-1], b]))
        out.append(torch.cat([spikes, short], 1).flatten(2).transpose(1, 2))
    return torch.stack(out, 1), kept


@pytest.mark.parametrize("place", IN_STEM)
@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.parametrize("data", [images, frames])
def test_tokens_are_those_of_the_busiest_steps(firing_net, place, t, data):
    net, x = pruned_at(firing_net, place, t=t).double(), data(16).double()
    wanted, kept = tokens_by_hand(net, x, unit_of(place), t)
    choice = net.step_choice()
    torch.testing.assert_close(net.tokens(x, choice=choice), wanted)
    assert choice.kept.steps.tolist() == kept
    assert choice.kept.full_steps == 4
    assert not choice.kept.drops_tokens
    if data is frames:
        assert len({tuple(row) for row in kept}) > 1  # samples choose for themselves, or this shows little


@pytest.mark.parametrize("place", IN_STEM)
def test_blocks_see_the_kept_steps_and_drop_tokens(firing_net, place):
    net, x = pruned_at(firing_net, place, ps=0.5, t=1), frames()
    tokens, kept = net.features_and_kept(x)
    assert tokens.shape == (1, 6, 8, 16)
    assert kept.num_steps == 1
    assert kept.tokens.shape == (6, 8)
    choice = net.step_choice()
    spikes = net.first_spikes(net.tokens(x, choice=choice))
    counts = spikes.sum((0, 3))
    assert kept.tokens.tolist() == [busiest(row, 8) for row in counts]


@pytest.mark.parametrize("place", IN_STEM)
@pytest.mark.parametrize("settings", [{"t": None}, {"t": 4}, {"active": "never"}, {"active": "train"}])
def test_nothing_to_drop_changes_nothing(firing_net, place, settings):
    net, x = firing_net(), frames()
    pruned = with_pruning(net, **{"ps": 0, "t": 1, "place": place, **settings})
    assert pruned.step_choice() is None
    assert torch.equal(pruned(x), net(x))


@pytest.mark.parametrize("data", [images, frames])
@pytest.mark.parametrize("place", IN_STEM)
def test_every_memory_mode_gives_the_same(firing_net, place, data):
    net, x = pruned_at(firing_net, place, ps=0.3).train(), data()
    weights = torch.randn(6, 5)
    seen = {}
    for mode in MODES:
        twin = copy.deepcopy(net)
        with memory_mode(twin, mode):
            logits = twin(x)
            (logits * weights).sum().backward()
        seen[mode] = logits.detach(), torch.cat([p.grad.flatten() for p in twin.parameters()])
        running = torch.cat([b.double().flatten() for b in twin.buffers()])
        seen[mode] += (running,)
    logits, grads, running = seen["reference"]
    assert grads.norm() > 0.1
    for mode in MODES[1:]:
        assert torch.equal(seen[mode][0], logits)
        assert (seen[mode][1] - grads).norm() <= 1e-5 * grads.norm()
        torch.testing.assert_close(seen[mode][2], running)


@pytest.mark.parametrize("twin", [naive_twin, snntorch_layers])
@pytest.mark.parametrize("settings", [{"t": 1}, {"ps": 0.5}, {"t": 3, "spike_cap": 1}])
@pytest.mark.parametrize("place", IN_STEM)
def test_the_naive_twin_drops_the_same_steps(firing_net, place, settings, twin):
    net = pruned_at(firing_net, place, **settings)
    for x in (images(), frames()):
        torch.testing.assert_close(twin(net)(x), net(x), rtol=1e-5, atol=1e-5)
    net.train()
    x = frames()
    torch.testing.assert_close(twin(net)(x), net(x), rtol=1e-4, atol=1e-4)


def test_dropped_steps_get_no_gradient(firing_net):
    net, x = pruned_at(firing_net, "lif2", t=2).train(), frames().requires_grad_()
    choice = net.step_choice()
    taps: list[Tensor] = []
    with memory_mode(net, "reference"):
        net.stem.units[2].neuron.register_forward_hook(lambda m, args, out: out.register_hook(taps.append) and None)
        (net.tokens(x, choice=choice) * torch.randn(16)).sum().backward()
    (grad,) = taps
    for b, kept in enumerate(choice.kept.steps.tolist()):
        lost = [step for step in range(4) if step not in kept]
        assert (grad[lost, b] == 0).all()
        assert grad[kept, b].abs().sum() > 0


def test_the_cap_holds_from_the_choosing_neuron_on(firing_net):
    net, x = pruned_at(firing_net, "lif2", t=3, spike_cap=1), frames()
    spikes: dict[int, Tensor] = {}
    for index, unit in enumerate(net.stem.units):
        unit.linear.register_forward_pre_hook(lambda m, args, i=index: spikes.__setitem__(i, args[0]))
    net(x)
    assert spikes[1].unflatten(0, (4, 6)).sum(0).max() > 1
    for index in (2, 3, 4):
        assert spikes[index].unflatten(0, (3, 6)).sum(0).max() == 1


def test_a_sample_alone_equals_the_sample_in_a_batch(firing_net):
    net, x = pruned_at(firing_net, "lif3", ps=0.3, t=1).double(), frames().double()
    alone = torch.cat([net(x[:, b : b + 1]) for b in range(6)])
    torch.testing.assert_close(alone, net(x))


def test_place_is_live_saved_and_shown(firing_net):
    net = pruned_at(firing_net, "stem", t=1)
    before, state = net(x := frames()), list(net.state_dict())
    net.dstsp.place = "lif1"
    assert not torch.equal(net(x), before)
    assert "place=lif1" in repr(net.dstsp)
    assert net.live_config().prune.place == "lif1"
    assert list(net.state_dict()) == state
    settings = DSTSPConfig.from_dict(dataclasses.asdict(DSTSPConfig(place="lif3")))
    assert settings.place == "lif3"
    net.dstsp.place = "stem"
    assert torch.equal(net(x), before)


def test_bits_and_numbers_choose_the_same_steps():
    maps = (torch.rand(4, 3, 5, 7, 9) < torch.rand(4, 3, 1, 1, 1)).float()
    for ranking in ("low", "high"):
        assert torch.equal(dstp(Spikes.of(maps), 2, ranking), dstp(maps, 2, ranking))


def test_the_trace_shows_the_choice_inside_the_stem(firing_net):
    net, x = pruned_at(firing_net, "lif2", ps=0.25, t=1), frames()
    trace = trace_pruning(net, x)
    assert trace.step_siv.shape == (4, 6)
    assert trace.steps[:, 0].tolist() == trace.step_siv.argmax(0).tolist()
    for b in range(6):
        assert trace.token_siv[b][trace.kept[b]].min() >= trace.token_siv[b][~trace.kept[b]].max()


@pytest.mark.parametrize("place", ["lif5", "head", "", None, 2])
def test_an_unknown_place_is_refused(place):
    with pytest.raises(SettingError, match=r"DSTSP: place=.* is unknown|DSTSP.*place"):
        DSTSPConfig(place=place)


def test_a_foreign_model_has_its_own_stem(firing_net):
    from tests.fakes.zoo import FAKES

    model = dstsp.wrap(next(iter(FAKES.values())).make(), ps=0.3, t=1)
    with pytest.raises(SettingError, match=r"wrap: place='lif2' is inside the stem of a network of this package"):
        model.dstsp.place = "lif2"
    assert model.dstsp.place == "stem"


def test_too_many_steps_are_refused_in_the_stem(firing_net):
    net = firing_net()
    with pytest.raises(SettingError, match=r"DSTSP: t=5 is outside 1\.\.4"):
        net.dstsp = DSTSP(DSTSPConfig(ps=0, t=5, place="lif2"))
    assert net.dstsp is None


@pytest.mark.parametrize("place", PLACES)
def test_spikes_are_counted_on_their_bits(firing_net, place, monkeypatch):
    net, x = pruned_at(firing_net, place, ps=0.5), frames()
    expected = net(x)
    seen = []
    count = Spikes.count
    monkeypatch.setattr(Spikes, "count", lambda self, axes: seen.append(axes) or count(self, axes))
    assert torch.equal(net(x), expected)
    # Behind the stem over channels, which steps and tokens are sums of; inside it over a whole map.
    assert seen == ([(3,)] if place == "stem" else [(2, 3, 4), (3,)])
    seen.clear()
    with memory_mode(net, "reference"):
        assert torch.equal(net(x), expected)
    assert seen == []
