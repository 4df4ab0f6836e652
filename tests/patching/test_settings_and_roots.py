"""What is put in the place of a part, containers as roots, other grids, and settings that cannot work."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from snntorch_smixer import LIF, SMixerConfig, SMixerNet, dstsp
from snntorch_smixer.errors import FamilyError, LayoutError, SettingError
from snntorch_smixer.memory import memory_of, set_memory
from snntorch_smixer.patching.modules import TokenMixing
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from tests.fakes.zoo import FAKES


class Adapter(nn.Module):
    """A low-rank library's layer: the base, and something that is learnt beside it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer, self.shift = base, nn.Parameter(torch.randn_like(base.weight) * 0.3)

    def forward(self, x):
        return nn.functional.conv1d(x, self.base_layer.weight + self.shift, groups=self.base_layer.groups)


class Halved(nn.Module):
    def forward(self, weight):
        return weight * 0.5


def adapted(mixer):
    mixer.w_m = Adapter(mixer.w_m)
    return (mixer.w_m.base_layer.weight + mixer.w_m.shift).detach()


def parametrized(mixer):
    parametrize.register_parametrization(mixer.w_m, "weight", Halved())
    return mixer.w_m.weight.detach()


def pruned_weight(mixer):
    prune.l1_unstructured(mixer.w_m, "weight", 0.5)
    return mixer.w_m.weight.detach()


def small(**settings):
    torch.manual_seed(0)
    pruning = DSTSPConfig(**{"ps": 0.4, "t": 1, **settings})
    return SMixerNet(SMixerConfig((16, 16), 3, 4, 2, dim=16, depth=1, heads=2, threshold=0.3, prune=pruning))


@pytest.mark.parametrize("change", [adapted, parametrized, pruned_weight])
@pytest.mark.parametrize("w_prime", ["gather", "crop", "shared"])
@pytest.mark.parametrize("memory", ["reference", "recompute"])
@pytest.mark.parametrize("merge", ["softmatch", "fuse"])
def test_what_takes_the_place_of_w_m_is_used(change, w_prime, memory, merge):
    net = small(w_prime=w_prime, merge=merge)
    net.memory = memory
    expected, x = copy.deepcopy(net), torch.rand(2, 3, 16, 16) * 3
    weight = change(net.blocks[0].mixer)
    expected.blocks[0].mixer.w_m.weight.data.copy_(weight)
    torch.manual_seed(1)
    got = net(x)
    torch.manual_seed(1)
    assert torch.allclose(got, expected(x), atol=1e-4)
    assert torch.allclose(net.blocks[0].mixer.matrix, weight.view(2, 16, 16), atol=1e-5)


@pytest.mark.parametrize("name", ["spikformer_cifar", "strided_keys"])
def test_an_adapter_in_a_wrapped_model_is_used(name):
    torch.manual_seed(0)
    net, x = FAKES[name].make().eval(), FAKES[name].example(batch=2)
    dstsp.wrap(net, ps=0.4, t=1, example_input=x)
    expected = copy.deepcopy(net)
    pairs = zip(net.modules(), expected.modules(), strict=True)
    for mine, theirs in [pair for pair in pairs if isinstance(pair[0], TokenMixing)]:
        theirs.w_m.weight.data.copy_(adapted(mine))
    assert torch.allclose(net(x), expected(x), atol=1e-4)
    with pytest.raises(FamilyError, match=r"^fit: w_m of a \w+ is a Adapter"):
        dstsp.fit(net, [x])
    with pytest.raises(FamilyError, match=r"w_m of .* is not there as"):
        dstsp.to_unwrapped(net.state_dict(), net)


def test_unwrap_does_not_lose_an_adapter_around_v():
    net = dstsp.wrap(FAKES["spikformer_cifar"].make().eval(), ps=0, t=None)
    attention = net.block[0].attn
    name, child = next((n, m) for n, m in attention.named_children() if isinstance(m, (nn.Linear, nn.Conv1d)))
    setattr(attention, name, nn.Sequential(child))
    with pytest.raises(FamilyError, match=rf"in the place of block\.0\.attn\.{name} since wrap"):
        dstsp.unwrap(net)
    setattr(attention, name, child)
    dstsp.unwrap(net)


class Attention(nn.Module):
    def __init__(self, c=16):
        super().__init__()
        self.qkv, self.lif, self.out = nn.Linear(c, 3 * c), LIF(0.5), LIF(0.5)

    def forward(self, x):
        q, k, v = self.lif(self.qkv(x)).unflatten(-1, (3, 2, -1)).permute(3, 0, 1, 4, 2, 5)
        return x + self.out((q @ k.transpose(-1, -2) @ v).transpose(2, 3).flatten(3))


class Stem(nn.Conv2d):
    def forward(self, x):
        x = super().forward(x).flatten(2).transpose(1, 2)
        return (x.expand(4, *x.shape) > 0).float()


class Mean(nn.Module):
    def forward(self, x):
        self.seen = tuple(x.shape)
        return x.mean((0, 2))


class Through(nn.Module):
    """Runs whatever children it has."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.head = Stem(3, 16, 4, 4), Attention(), Mean()

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x


def sequential():
    return nn.Sequential(Stem(3, 16, 4, 4), Attention(), Mean())


def stream(net, x):
    assert net(x).shape == (len(x), 16)
    return list(net.children())[-1].seen


@pytest.mark.parametrize("make", [Through, sequential])
def test_a_root_that_runs_its_children_gets_no_further_one(make):
    torch.manual_seed(0)
    net, x = make(), torch.rand(2, 3, 16, 16)
    children, before = list(net.children()), net.eval()(x)
    dstsp.wrap(net, ps=0.5, t=1, example_input=x)
    assert len(list(net.children())) == 3
    assert stream(net, x) == (1, 2, 8, 16)
    net.dstsp.active = "train"
    assert stream(net, x) == (4, 2, 16, 16)
    assert stream(net.train(), x) == (1, 2, 8, 16)
    set_memory(net, "fused")
    assert net.dstsp.memory == memory_of(net) == "fused"
    dstsp.unwrap(net.eval())
    assert list(net.children()) == children
    assert torch.equal(net(x), before)
    assert not hasattr(net, "dstsp")


def test_a_picture_of_another_shape_is_refused_with_as_many_tokens():
    net = sequential()
    dstsp.wrap(net, ps=0.5, t=1, example_input=torch.rand(1, 3, 16, 24))
    assert stream(net, torch.rand(5, 3, 16, 24)) == (1, 5, 12, 16)
    with pytest.raises(LayoutError, match=r"inputs of 16 x 24, got one of 24 x 16, whose tokens lie elsewhere"):
        net(torch.rand(1, 3, 24, 16))
    with pytest.raises(LayoutError, match=r"W_M was built for 24 tokens, got 54 of .* \(counted before pruning\)"):
        net(torch.rand(1, 3, 24, 36))
    nothing_swapped = dstsp.wrap(sequential(), swap=False, example_input=torch.rand(1, 3, 16, 24))
    assert stream(nothing_swapped, torch.rand(1, 3, 24, 16))[2] == 17


@pytest.mark.parametrize("w_prime", ["gather", "crop"])
def test_matrices_of_its_own_stay_without_swap(w_prime):
    net, x = FAKES["stmixer"].make().eval(), FAKES["stmixer"].example(batch=2)
    swapped, keys = copy.deepcopy(net), list(net.state_dict())
    dstsp.wrap(net, ps=0.4, t=1, swap=False, example_input=x)
    dstsp.wrap(swapped, ps=0.4, t=1, example_input=x)
    net.dstsp.w_prime = swapped.dstsp.w_prime = w_prime
    assert list(net.state_dict()) == keys
    assert torch.allclose(net(x), swapped(x), atol=1e-4)
    with pytest.raises(FamilyError, match="holds the model's own matrices already"):
        dstsp.fit(swapped, [x])


def test_an_unknown_setting_is_refused_with_a_close_match():
    net = small()
    with pytest.raises(SettingError, match=r"unknown setting 'merg'\. Did you mean 'merge'\?"):
        net.dstsp.merg = "drop"
    wrapped = dstsp.wrap(FAKES["spikformer_cifar"].make())
    with pytest.raises(SettingError, match=r"Did you mean 'memory'\?"):
        wrapped.dstsp.memori = "fused"


@pytest.mark.parametrize(
    ("name", "value"),
    [("t", 3), ("t", True), ("t", 1.0), ("ps", float("nan")), ("ps", True), ("ps", (0.1, 0.2)), ("ps", "0.3")]
    + [(name, wrong) for name in ("merge", "ranking", "w_prime", "place", "active") for wrong in ("x", np.ones(2))],
)
def test_a_value_that_cannot_work_is_refused_when_it_is_set(name, value):
    net = small()
    before = net.dstsp.settings
    with pytest.raises(SettingError):
        setattr(net.dstsp, name, value)
    assert net.dstsp.settings == before
    with pytest.raises(SettingError):
        small(**{name: value})
    fresh = SMixerNet(SMixerConfig((16, 16), 3, 4, 2, dim=16, depth=1, heads=2))
    with pytest.raises(SettingError):
        fresh.dstsp = DSTSP(DSTSPConfig(**{name: value}))
    assert fresh.dstsp is None


def test_scalars_of_numpy_are_settings():
    settings = DSTSPConfig(ps=np.float32(0.5), t=np.int64(2))
    assert (type(settings.ps), type(settings.t)) == (float, int)


def generators():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


def test_a_plan_and_a_refused_wrap_leave_the_generators():
    net, x = FAKES["spikformer_cifar"].make().eval(), FAKES["spikformer_cifar"].example()

    def draw(*_):
        random.random()
        np.random.rand()  # noqa: NPY002

    net.block[0].attn.register_forward_hook(draw)
    before = generators()
    dstsp.plan(net, example_input=x)
    assert generators() == before
    with pytest.raises(SettingError, match="no batch"):
        dstsp.wrap(net, example_input=x, calibrate=[])
    assert generators() == before


@pytest.mark.parametrize("rates", [(0.3,), (0.1, 0.2, 0.3)])
def test_rates_of_the_wrong_number_are_counted(rates):
    with pytest.raises(SettingError, match=rf"got {len(rates)} rates, expected 2, one per block"):
        dstsp.plan(FAKES["spikformer_cifar"].make(), ps=rates)


def test_models_that_cannot_be_looked_at_are_refused_in_words():
    fake = FAKES["spikformer_cifar"]
    with pytest.raises(FamilyError, match="on the meta device"):
        dstsp.plan(fake.make().to("meta"))
    with pytest.raises(SettingError, match="example_input is empty"):
        dstsp.plan(fake.make(), example_input=fake.example()[:0])
    net = fake.make()
    nn.utils.spectral_norm(net.head)
    with pytest.raises(FamilyError, match="weight of head of this Spikformer is recomputed by SpectralNorm"):
        dstsp.plan(net)


def test_the_summary_says_what_is_true_now():
    net = dstsp.wrap(FAKES["spikformer_cifar"].make().eval(), ps=0.5, t=1)
    net.dstsp.active = "train"
    summary = dstsp.summary(net)
    assert "off now: active='train', and the model is in evaluation mode" in str(summary)
    assert summary.steps[0] == summary.steps[1]
    assert summary.tokens[0] == summary.tokens[1]
    own = dstsp.wrap(SMixerNet(SMixerConfig((16, 16), 3, 4, 2, dim=16, depth=1, heads=2)), ps=0.5, t=1)
    own.dstsp.ps, own.memory = 0.25, "recompute"
    assert "tokens 16 -> 12" in dstsp.summary(own).edits[-1]
    assert dstsp.summary(own).memory == ("memory recompute",)


def test_a_long_plan_is_printed_short():
    plan = dstsp.plan(FAKES["spikformer_cifar"].make())
    many = replace(plan, edits=tuple(f"block.{i}.attn: swapped, by spikes of block.{i}.lif" for i in range(60)))
    assert "block.*.attn: swapped, by spikes of block.*.lif (60 times)" in str(many)
    other = replace(plan, edits=tuple(f"part{chr(65 + i)}: done" for i in range(60)))
    assert len(str(other).splitlines()) == 40
    assert "plan.edits and plan.left have all 60" in str(other)


def test_nearest_is_said_only_where_something_is_near():
    with pytest.raises(FamilyError) as far:
        dstsp.plan(nn.Linear(3, 3))
    assert "Nearest" not in str(far.value)
    net = FAKES["spikformer_cifar"].make()
    net.output, net.head = net.head, None
    with pytest.raises(FamilyError, match=r"Nearest is \w+, which needs head\."):
        dstsp.plan(net)
