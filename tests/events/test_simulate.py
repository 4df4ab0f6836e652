"""`events.simulate`: the net without a clock."""

import pytest
import torch

from snntorch_smixer import LIF, SMixerConfig, SMixerNet, cost, events, from_pretrained
from snntorch_smixer.errors import SettingError
from snntorch_smixer.events import Timing


@pytest.fixture(scope="module")
def net():
    return from_pretrained("smixer-2-64-fmnist").eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def _clocked(net, x):
    """Spikes of every LIF, seen where it is called."""
    seen = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name, module in net.named_modules()
        if isinstance(module, LIF)
    ]
    with torch.no_grad():
        logits = net(x)
    for handle in handles:
        handle.remove()
    return seen, logits


@pytest.mark.parametrize("bins", [1, 3, 16])
def test_without_jitter_every_spike_is_that_of_the_clocked_net(net, pictures, bins):
    seen, logits = _clocked(net, pictures)
    run = events.simulate(net, pictures, Timing(bins=bins))
    assert set(run.trains) == set(seen)
    assert len(seen) == 14
    for name, train in run.trains.items():
        assert torch.equal(train[::bins], seen[name]), name
        assert train.sum() == seen[name].sum() > 0
    torch.testing.assert_close(run.logits, logits, atol=1e-4, rtol=1e-4)
    assert (run.late, run.lost, run.silent) == (0, 0, ())


def test_events_are_those_that_measure_counts(net, pictures):
    run, records = events.simulate(net, pictures), cost.measure(net, pictures)
    assert run.events == {r.layer: r["ac"] for r in records.layers if r["ac"]}
    assert run.energy_pj(2.0) == 2.0 * records.total("ac")


def test_jitter_moves_spikes_and_repeats_with_its_seed(net, pictures):
    calm, one, again, other = (
        events.simulate(net, pictures, timing)
        for timing in (Timing(8), Timing(8, jitter=0.5), Timing(8, jitter=0.5), Timing(8, jitter=0.5, seed=1))
    )
    assert torch.equal(one.logits, again.logits)
    assert not torch.equal(one.logits, other.logits)
    assert not torch.equal(one.logits, calm.logits)
    assert one.late > 0


def test_all_spikes_lost_are_said(net, pictures):
    run = events.simulate(net, pictures, Timing(loss=1.0))
    assert sum(run.events.values()) == 0
    assert run.lost == sum(int(train.sum()) for train in run.trains.values())


def test_a_net_that_fires_nothing_is_said(pictures):
    net = SMixerNet(SMixerConfig((28, 28), 1, 10, 2, dim=16, depth=1, heads=2, threshold=1e6)).eval()
    run = events.simulate(net, pictures)
    assert set(run.silent) == set(run.trains)


def test_mismatch_changes_spikes(net, pictures):
    assert not torch.equal(
        events.simulate(net, pictures, Timing(mismatch=0.3)).logits, events.simulate(net, pictures).logits
    )


@pytest.mark.parametrize(
    "settings", [{"delay": float("nan")}, {"jitter": -1.0}, {"loss": 1.5}, {"bins": 0}, {"bins": 2.5}], ids=str
)
def test_wrong_timing_is_refused(settings):
    with pytest.raises(SettingError, match=f"Timing: got {next(iter(settings))}="):
        Timing(**settings)


def test_what_is_not_simulated_is_refused(net, pictures):
    small = SMixerConfig((28, 28), 1, 10, 2, dim=16, depth=1, heads=2)
    with pytest.raises(SettingError, match=r"training mode.*net\.eval"):
        events.simulate(SMixerNet(small), pictures)
    with pytest.raises(SettingError, match="dstsp ranks"):
        events.simulate(from_pretrained("smixer-2-64-fmnist-dstsp").eval(), pictures)
    with pytest.raises(SettingError, match=r"blocks\.0\.mixer is a SpikingSelfAttention"):
        events.simulate(
            SMixerNet(SMixerConfig((28, 28), 1, 10, 2, dim=16, depth=1, heads=2, mixer="ssa")).eval(), pictures
        )
    with pytest.raises(SettingError, match="got a Linear"):
        events.simulate(torch.nn.Linear(2, 2), pictures)
