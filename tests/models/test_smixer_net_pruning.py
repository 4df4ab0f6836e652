"""SMixerNet with DSTSP, against a dense computation that silences what was dropped, and against itself."""

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from snntorch_smixer.pruning.siv import RANKINGS
from snntorch_smixer.pruning.softmatch import MERGES
from snntorch_smixer.selection import W_PRIMES, Selection


def images(batch: int = 6) -> Tensor:
    return torch.randn(batch, 2, 16, 16)


def with_pruning(net: SMixerNet, **settings: object) -> SMixerNet:
    """A copy of the network with the same weights, and DSTSP."""
    twin = copy.deepcopy(net)
    twin.dstsp = DSTSP(DSTSPConfig(**settings)).train(net.training)
    return twin


def busiest(counts: Tensor, keep: int) -> list[int]:
    return sorted(sorted(range(len(counts)), key=lambda i: (-counts[i].item(), i))[:keep])


def masked_dense_logits(net: SMixerNet, x: Tensor, keep_steps: int, keep_tokens: int) -> Tensor:
    """All N tokens through every block; those that were not kept are silenced before W_M and left out of the mean."""
    tokens = net.tokens(x)
    spikes = net.blocks[0].mixer.value.neuron(tokens)
    rows, mask = [], torch.zeros(len(x), tokens.shape[2], dtype=x.dtype)
    for b in range(len(x)):
        steps = busiest(spikes[:, b].sum((1, 2)), keep_steps)
        mask[b, busiest(spikes[steps, b].sum((0, 2)), keep_tokens)] = 1
        rows.append(tokens[steps, b])
    y = torch.stack(rows, 1)
    for block in net.blocks:
        mixer = block.mixer
        heard = mixer.neuron(mixer.value(y)) * mask[:, :, None]
        w_m = mixer.w_m.weight.reshape(mixer.heads, mixer.num_tokens, mixer.num_tokens)
        groups = heard.chunk(mixer.heads, 3)
        mixed = torch.cat([torch.einsum("nm,tbmc->tbnc", w, g) for w, g in zip(w_m, groups, strict=True)], 3)
        y = y + mixer.proj(mixed)
        y = y + block.mlp(y)
    return net.head.linear((y * mask[:, :, None]).sum(2) / keep_tokens).mean(0)


@pytest.mark.parametrize(
    ("ps", "t", "kept"), [(0.3, 1, 11), (0.3, 2, 11), (0.7, 1, 5), (0.7, 4, 5), (0, 2, 16), (0.3, 4, 11)]
)
def test_gathering_without_merging_is_silencing(firing_net, ps, t, kept):
    net, x = firing_net().double(), images().double()
    pruned = with_pruning(net, ps=ps, t=t, merge="drop")
    assert pruned.features_and_kept(x)[1].num_tokens == kept
    expected = masked_dense_logits(net, x, t, kept)
    assert len(expected.unique(dim=0)) == 6
    assert not torch.allclose(expected, net(x), atol=1e-3), "pruning changes nothing here"
    torch.testing.assert_close(pruned(x), expected)


def test_the_pruned_network_without_pruning_is_the_dense_computation(firing_net):
    net, x = firing_net().double(), images().double()
    torch.testing.assert_close(net(x), masked_dense_logits(net, x, 4, 16))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("w_prime", W_PRIMES)
@pytest.mark.parametrize("spike_cap", [None, 4])
def test_keeping_all_is_the_unpruned_net_bit_for_bit(firing_net, training, w_prime, spike_cap):
    net, x = firing_net().train(training), images()
    pruned = with_pruning(net, ps=0, t=4, w_prime=w_prime, spike_cap=spike_cap)
    expected = net(x)
    assert len(expected.unique(dim=0)) == 6
    assert torch.equal(pruned(x), expected)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in pruned.state_dict().items())
    pruned.dstsp.ps, pruned.dstsp.t = 0.3, 1
    assert not torch.equal(pruned(x), expected)


@pytest.mark.parametrize(("merge", "w_prime", "ranking"), [*product(MERGES, W_PRIMES, RANKINGS)])
def test_a_sample_alone_is_the_sample_in_a_batch(firing_net, merge, w_prime, ranking):
    net = with_pruning(firing_net().double(), ps=0.3, t=2, merge=merge, w_prime=w_prime, ranking=ranking)
    x = images(4).double()
    torch.manual_seed(1)
    together = net(x)
    assert len(together.unique(dim=0)) == 4
    for b in range(4):
        torch.manual_seed(1)
        torch.testing.assert_close(net(x[[b]]), together[[b]])


def test_every_choice_matters(firing_net):
    """Otherwise the test above compares one network with itself."""
    net, x = firing_net(), images()
    torch.manual_seed(1)
    outputs = [
        with_pruning(net, ps=0.3, t=2, merge=m, w_prime=w, ranking=r)(x)
        for m, w, r in product(MERGES, ("gather", "crop"), RANKINGS)
    ]
    assert len(torch.stack(outputs).unique(dim=0)) == len(outputs)


def test_shared_rows_are_the_gathered_ones_in_evaluation_only(firing_net):
    net, x = firing_net(), images()
    gather, shared = (with_pruning(net, ps=0.5, t=2, w_prime=w) for w in ("gather", "shared"))
    assert torch.equal(gather(x), shared(x))
    assert not torch.equal(gather.train()(x), shared.train()(x))


@pytest.mark.parametrize(
    ("active", "in_training", "in_evaluation"),
    [("both", True, True), ("train", True, False), ("eval", False, True), ("never", False, False)],
)
def test_active(firing_net, active, in_training, in_evaluation):
    net, x = firing_net(prune=DSTSPConfig(t=2, active=active)), images()
    for mode, prunes in ((True, in_training), (False, in_evaluation)):
        features, kept = net.train(mode).features_and_kept(x)
        assert (kept is not None) == prunes
        assert features.shape[:3] == ((2, 6, 11) if prunes else (4, 6, 16))


def test_settings_are_live(firing_net):
    net, x = firing_net(prune=DSTSPConfig()), images()
    assert net.features_and_kept(x)[0].shape == (1, 6, 11, 16)
    net.dstsp.ps = 0.2
    net.dstsp.t = 3
    assert net.features_and_kept(x)[0].shape == (3, 6, 13, 16)
    fresh = SMixerNet(net.config)
    fresh.load_state_dict(net.state_dict())
    fresh.dstsp = DSTSP(DSTSPConfig(ps=0.2, t=3))
    assert torch.equal(net(x), fresh.eval()(x))
    with pytest.raises(SettingError, match=r"ps=1.0 is outside \[0, 1\)"):
        net.dstsp.ps = 1.0
    with pytest.raises(SettingError, match=r"t=5 is outside 1..4, the steps that arrive"):
        net.dstsp.t = 5
    assert net.dstsp.t == 3
    assert torch.equal(net(x), fresh(x))


def test_pruning_adds_no_keys(firing_net):
    net = firing_net()
    pruned = with_pruning(net)
    assert [*pruned.state_dict()] == [*net.state_dict()]
    assert [name for name, _ in pruned.named_parameters()] == [name for name, _ in net.named_parameters()]
    pruned.load_state_dict(net.state_dict(), strict=True)


class _Recorder:
    """Forward pre-hook of a linear map: the most spikes that one neuron sent into it over the steps."""

    most: float = 0

    def __call__(self, module: nn.Module, args: tuple[Tensor]) -> None:
        assert set(args[0].unique().tolist()) <= {0.0, 1.0}
        self.most = args[0].sum(0).max().item()


class _Spy:
    """``SpikingTokenMixer.mix``, with its input recorded."""

    def __init__(self, mix: Callable[..., Tensor], record: _Recorder) -> None:
        self.mix, self.record = mix, record

    def __call__(self, spikes: Tensor, *kept: Selection) -> Tensor:
        self.record(None, (spikes,))
        return self.mix(spikes, *kept)


@pytest.mark.parametrize("mixer", ["smixer", "ssa"])
@pytest.mark.parametrize(("cap", "ps", "t"), [(1, 0.3, 4), (2, 0.3, 3), (2, 0, 4)])
def test_the_spike_cap_holds_in_every_block(firing_net, monkeypatch, mixer, cap, ps, t):
    net, x = firing_net(mixer=mixer, prune=DSTSPConfig(ps=ps, t=t)), images()
    records: dict[str, _Recorder] = {}
    for name, module in net.blocks.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(records.setdefault(name, _Recorder()))
    for number, block in enumerate(net.blocks):
        if mixer == "ssa":
            block.mixer.scale = 1.0  # otherwise the neuron behind the product fires too seldom
        else:
            # W_M also runs as a plain product, without its module; and it calls itself on a filled grid.
            spy = _Spy(block.mixer.mix, records.setdefault(f"{number}.mix", _Recorder()))
            monkeypatch.setattr(block.mixer, "mix", spy)
    free = net(x)
    assert len(records) == (10 if mixer == "smixer" else 12)
    assert not [name for name, record in records.items() if record.most <= cap], "the cap would not bind"
    net.dstsp.spike_cap = cap
    capped = net(x)
    assert {name: record.most for name, record in records.items()} == dict.fromkeys(records, cap)
    assert not torch.equal(capped, free)


def test_the_spike_cap_leaves_the_ranking_alone(firing_net):
    net, x = firing_net(prune=DSTSPConfig(t=2)), images()
    _, free = net.features_and_kept(x)
    net.dstsp.spike_cap = 1
    _, capped = net.features_and_kept(x)
    assert torch.equal(free.tokens, capped.tokens)
    assert torch.equal(free.steps, capped.steps)


@pytest.mark.parametrize("settings", [DSTSPConfig(active="never"), DSTSPConfig(ps=0.0, t=None)])
def test_nothing_is_counted_where_nothing_is_pruned(firing_net, monkeypatch, settings):
    net = firing_net(prune=settings)
    monkeypatch.setattr(net, "first_spikes", lambda tokens: pytest.fail("spikes were counted"))
    assert net.features_and_kept(torch.randn(2, 2, 16, 16))[1] is None
