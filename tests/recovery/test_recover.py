"""Recovery of a pruned net: what each stage does, that it can be undone, and what bad input gets."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from snntorch_smixer import dstsp
from snntorch_smixer.errors import FamilyError, MeasureError, SettingError
from snntorch_smixer.neurons import LIF
from snntorch_smixer.patching.observe import reset_copy
from snntorch_smixer.recovery.closed_form import find_head, step
from snntorch_smixer.recovery.layers import find_layers
from snntorch_smixer.recovery.neurons import target_current
from snntorch_smixer.recovery.statistics import norms_behind

pytestmark = pytest.mark.filterwarnings("ignore:recover. the unpruned net does not look trained")
ALL = ["layers", "statistics", "head", "distillation"]


@pytest.fixture
def images():
    return torch.randn(48, 2, 16, 16)


@pytest.fixture
def net(firing_net):
    return dstsp.wrap(firing_net(), ps=0.3, t=1)


def distance(net, teacher, images) -> float:
    with torch.no_grad():
        return float((net.eval()(images) - teacher.eval()(images)).pow(2).mean())


@pytest.mark.parametrize("stages", [["head"], ["distillation"], ["statistics", "head"], ["layers", "head"]])
def test_stages_bring_the_logits_nearer_to_those_of_the_unpruned_net(firing_net, images, stages):
    teacher = firing_net()
    net = dstsp.wrap(copy.deepcopy(teacher), ps=0.5, t=1)
    before = distance(net, teacher, images)
    settings = dstsp.RecoverySettings(epochs=5, lr=3e-3)
    dstsp.recover(net, list(images.split(16)), stages=stages, settings=settings)
    assert distance(net, teacher, images) < 0.9 * before


def test_unwrap_restores_the_unpruned_net_bit_for_bit(firing_net, images):
    plain = firing_net()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    out = plain(images)
    net = dstsp.wrap(plain, ps=0.3, t=1)
    dstsp.recover(net, list(images.split(16)), stages=ALL)
    assert any(not torch.equal(value, before[name]) for name, value in net.state_dict().items())
    dstsp.unwrap(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(images), out)


def test_a_second_recovery_still_follows_the_unpruned_net(firing_net, images):
    plain = firing_net()
    out = plain(images)
    net = dstsp.wrap(plain, ps=0.3, t=1)
    for _ in range(2):
        dstsp.recover(net, [images], stages=["head"])
    assert torch.equal(dstsp.unwrap(net)(images), out)


def test_the_seed_decides_and_the_generators_stay(firing_net, images):
    loader = DataLoader(TensorDataset(images), batch_size=16, shuffle=True)
    plain, found = firing_net(), []
    for seed in (1, 1, 2):
        torch.manual_seed(int(torch.randint(1000, ())))
        state = torch.get_rng_state()
        net = dstsp.wrap(copy.deepcopy(plain), ps=0.3, t=1)
        dstsp.recover(net, loader, stages=["distillation"], settings=dstsp.RecoverySettings(seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        found.append(net.head.linear.weight.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_modes_settings_and_gradients_are_as_before(net, images):
    net.train()
    net.blocks[0].eval()
    net.dstsp.active = "eval"
    modes = {name: m.training for name, m in net.named_modules()}
    dstsp.recover(net, [images], stages=ALL)
    assert {name: m.training for name, m in net.named_modules()} == modes
    assert net.dstsp.active == "eval"
    assert all(p.grad is None for p in net.parameters())


def test_the_report_says_what_was_gained(net, images):
    found = dstsp.recover(net, list(images.split(16)), stages=["statistics", "head"])
    assert found.metric == "agreement"
    assert found.samples == 9
    assert [one.stage for one in found.stages] == ["statistics", "head"]
    assert found.stages[1].before == found.stages[0].after
    assert found.recovered == found.stages[1].after
    assert "statistics" in str(found)
    assert '"pruned"' in found.to_json()


def test_labels_of_the_check_give_accuracy(net, images):
    labels = dstsp.unwrap(copy.deepcopy(net)).eval()(images).argmax(1)
    found = dstsp.recover(net, [images], stages=["head"], check=[(images, labels)])
    assert (found.metric, found.samples, found.unpruned) == ("accuracy", 48, 1.0)


def test_only_what_is_behind_the_pruning_is_estimated(net, images):
    names = norms_behind(net.eval(), dstsp.unwrap(reset_copy(net)), images[:4])
    assert names
    assert all(name.startswith("blocks.") for name in names)
    stem = {name: value.clone() for name, value in net.state_dict().items() if name.startswith("stem.")}
    dstsp.recover(net, [images], stages=["statistics"])
    assert all(torch.equal(net.state_dict()[name], value) for name, value in stem.items())


def test_estimated_statistics_are_those_of_what_arrives(net, images):
    dstsp.recover(net, [images, images[:10]], stages=["statistics"], check=[images])
    net.dstsp.training = net.training = False
    seen = []
    norm = net.blocks[0].mixer.value.norm
    norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    with torch.no_grad():
        net.eval()(images), net(images[:10])
    assert torch.allclose(norm.running_mean, (seen[0].mean(0) + seen[1].mean(0)) / 2, atol=1e-5)


def test_every_pointwise_layer_behind_the_pruning_is_found(net, images):
    found, skipped = find_layers(net.eval(), images[:4])
    paths = [layer.path for layer in found]
    assert paths[:5] == [
        "blocks.0.mixer.value.linear",
        "blocks.0.mixer",
        "blocks.0.mixer.proj.linear",
        "blocks.0.mlp.expand.linear",
        "blocks.0.mlp.contract.linear",
    ]
    assert skipped == []
    assert found[2].stream == "blocks.0.mixer.value.neuron"
    assert find_head(net, images[:4]) == "head.linear"


@pytest.mark.parametrize("reset", ["zero", "subtract", "none"])
def test_the_target_lets_a_neuron_without_history_reach_the_membrane(reset):
    neuron, current = LIF(0.7, reset_mechanism=reset), torch.rand(5, 3, 4)
    steps = torch.tensor([[2], [0], [4]])
    _, mems = neuron.spikes_and_membranes(current)
    target = target_current(neuron, current, steps)
    wanted = torch.stack([mems[2, 0], mems[0, 1], mems[4, 2]])[None]
    assert torch.allclose(neuron.spikes_and_membranes(target)[1], wanted)


@pytest.mark.parametrize("settings", [{}, {"decay_input": False}, {"v_reset": None}, {"v_reset": -0.2}])
def test_the_target_follows_a_neuron_of_spikingjelly(settings):
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import neuron as sj

    neuron = sj.LIFNode(tau=2.0, step_mode="m", store_v_seq=True, **settings)
    current = 3 * torch.rand(4, 2, 6)
    steps = torch.tensor([[3], [1]])
    target = target_current(neuron, current, steps)
    spikes = neuron(current)
    neuron.reset()
    assert torch.equal(neuron(target)[0], torch.stack([spikes[3, 0], spikes[1, 1]]))
    assert 0 < float(spikes.mean()) < 1


def test_the_ridge_keeps_what_the_data_do_not_tell():
    now, x = torch.randn(2, 4, dtype=torch.float64), torch.zeros(4, 50, dtype=torch.float64)
    x[:2] = torch.randn(2, 50, dtype=torch.float64)
    wanted = torch.randn(2, 4, dtype=torch.float64)
    new = step(x @ x.T, wanted @ x @ x.T, now, 1e-8)
    assert torch.allclose(new[:, :2], wanted[:, :2], atol=1e-4)
    assert torch.allclose(new[:, 2:], now[:, 2:])


@pytest.mark.parametrize("stages", [ALL, ["statistics", "head"]])
def test_a_spikformer_of_spikingjelly_is_recovered_and_restored(images, stages):
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based.model.spikformer import Spikformer

    sizes = {"img_size_h": 16, "img_size_w": 16, "patch_size": 4, "embed_dims": 32, "num_heads": 2, "depths": 1}
    plain = Spikformer(T=2, **sizes).eval()
    x = torch.rand(8, 3, 16, 16)
    with torch.no_grad():
        out = plain(x)
    net = dstsp.wrap(plain, ps=0.3, t=1, example_input=x, calibrate=[x])
    found = dstsp.recover(net, [x], stages=stages)
    assert len(found.stages) == len(stages)
    from snntorch_smixer.rest import reset_all

    dstsp.unwrap(net)
    reset_all(net)
    with torch.no_grad():
        assert torch.equal(net(x), out)


BAD = [
    ({"stages": ["magic"]}, "stages='magic' is unknown"),
    ({"stages": []}, "must be a list"),
    ({"stages": "head"}, "must be a list"),
    ({"loader": []}, "no batch"),
    ({"loader": iter([torch.randn(2, 2, 16, 16)])}, "runs dry"),
    ({"loader": torch.randn(2, 2, 16, 16)}, "expected batches"),
    ({"loader": [torch.full((2, 2, 16, 16), torch.nan)]}, "NaN"),
    ({"loader": [torch.zeros(0, 2, 16, 16)]}, "without samples"),
    ({"check": []}, "no batch"),
]


@pytest.mark.parametrize(("bad", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_input_says_so_and_changes_nothing(net, images, bad, said):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    given = {"loader": [images], "stages": ["head"], **bad}
    with pytest.raises(SettingError, match=said):
        dstsp.recover(net, given.pop("loader"), **given)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.dstsp.unpruned is None


@pytest.mark.parametrize("name", ["samples", "epochs", "lr", "temperature", "strength"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "many", True])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(SettingError, match=name):
        dstsp.RecoverySettings(**{name: value})


def test_a_loss_that_is_no_number_leaves_the_net_as_it_was(net, images):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(MeasureError):
        dstsp.recover(
            net,
            list(images.split(8)),
            stages=["distillation"],
            settings=dstsp.RecoverySettings(lr=1e30, epochs=4),
        )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_net_that_is_not_wrapped_is_refused(firing_net, images):
    with pytest.raises(FamilyError, match="no wrapped classifier"):
        dstsp.recover(firing_net(), [images])


def test_pruning_that_is_not_active_is_refused(net, images):
    net.dstsp.active = "never"
    with pytest.raises(SettingError, match="active"):
        dstsp.recover(net, [images])


def test_an_untrained_net_is_warned_of(firing_net, images):
    net = dstsp.wrap(firing_net(), ps=0.3, t=1)
    nn.init.zeros_(net.head.linear.weight)
    with pytest.warns(UserWarning, match="not look trained"):
        dstsp.recover(net, [images], stages=["head"])


def test_without_batch_norm_or_one_head_the_rest_is_done_and_said(firing_net, images):
    class TwoHeads(type(firing_net())):
        def forward_head(self, x, *, pre_logits=False):
            return super().forward_head(x, pre_logits=pre_logits) * 2

    plain = firing_net()
    plain.__class__ = TwoHeads
    for unit in plain.modules():
        if hasattr(unit, "norm"):
            unit.norm = nn.Identity()
    net = dstsp.wrap(plain, ps=0.3, t=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = dstsp.recover(net, [images], stages=["statistics", "head", "distillation"])
    assert "no BatchNorm" in found.stages[0].notes[0]
    assert "no one linear layer" in found.stages[1].notes[0]
    assert "inputs shown" in found.stages[2].notes[0]
