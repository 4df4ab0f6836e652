"""`dstsp.wrap` on detectors of this package, which have their pruning from the start."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import cost, dstsp
from snntorch_smixer.detect.head import SpikingHead
from snntorch_smixer.detect.rows import SpikingPyramid, read_config
from snntorch_smixer.errors import FamilyError, SettingError

SMALL = {"scales": {"n": [0.33, 0.0625, 512]}, "nc": 3}
MIXER = {"grid": [4, 4], "heads": 4}


def table(kind: str = "smixer") -> dict[str, object]:
    return {**read_config(f"spike-yolo-n-{kind}.yaml"), **SMALL, **(MIXER if kind == "smixer" else {})}


class Detector(nn.Module):
    """Boxes and scores of a pyramid and a head, without an attribute dstsp of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = SpikingPyramid(table())
        self.head = SpikingHead(self.pyramid.channels, 3, strides=self.pyramid.strides)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.pyramid(x))


def of_ultralytics() -> nn.Module:
    try:
        yolo = pytest.importorskip("snntorch_smixer.detect.yolo", exc_type=Exception)
    except RuntimeError as error:
        pytest.skip(f"ultralytics cannot be imported: {error}")
    return yolo.SpikeDetectionModel(table())


MAKERS = [lambda: SpikingPyramid(table()), lambda: SpikingPyramid(table("conv")), Detector, of_ultralytics]
each = pytest.mark.parametrize("make", MAKERS, ids=["smixer", "conv", "detector", "ultralytics"])


def made(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
    """A detector whose neurons fire, and pictures."""
    net, x = make(), torch.randn(2, 3, 128, 128)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d)]
    for norm in norms:
        norm.momentum = None
        nn.init.constant_(norm.weight, 1.5)
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 128, 128))
    for norm in norms:
        norm.momentum = 0.1
    return net.eval(), x


def maps(net: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        out = net(x)
    return [one for one in out if isinstance(one, Tensor)]


@each
def test_wrap_prunes_and_unwrap_undoes_it_bit_for_bit(make: Callable[[], nn.Module]):
    net, x = made(make)
    before, state = maps(net, x), list(net.state_dict())
    built = net.pyramid.dstsp if isinstance(net, Detector) else net.dstsp
    settings = built.settings
    assert dstsp.wrap(net, ps=0.2, t=1) is net
    assert net.dstsp is built
    assert (built.ps, built.t, built.merge) == (0.2, 1, "drop")
    assert list(net.state_dict()) == state
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(maps(net, x), before, strict=True))
    assert dstsp.unwrap(net) is net
    assert built.settings == settings
    assert ("dstsp" in net._modules) == isinstance(net, SpikingPyramid)
    assert all(map(torch.equal, maps(net, x), before))


def test_the_plan_says_what_happens_where():
    net, x = made(MAKERS[0])
    found = dstsp.plan(net, ps=0.25, t=1, example_input=x)
    assert (found.family, found.steps, found.tokens, found.depth) == ("native", (2, 1), (16, 12), 8)
    assert found.keeps_grid
    text = str(found)
    assert "rows.3: the busiest steps stay, T 2 -> 1" in text
    assert "rows.5: ps=0.25, tokens 256 -> 192: dropped tokens are silent, which saves events but no dense" in text
    assert "rows.9: ps=0.25, tokens 16 -> 12: run on the kept tokens only, which saves dense arithmetic too" in text
    assert net.dstsp.wrapped is None
    assert net.dstsp.ps == 0.0


def test_without_an_example_the_plan_knows_no_tokens():
    found = dstsp.plan(SpikingPyramid(table("conv")), ps=0.25, t=1)
    assert found.tokens == (None, None)
    assert "tokens      one for each place of a map" in str(found)
    assert "saves dense arithmetic too" not in str(found)


def test_the_sizes_in_the_plan_are_those_that_arrive():
    net = SpikingPyramid(table()).eval()
    arrived: dict[str, int] = {}
    for path, part in net.named_modules():
        if hasattr(part, "saves_dense") and part.dstsp is not None:
            part.register_forward_hook(lambda _, args, __, path=path: arrived.update({path: args[0][0, 0, 0].numel()}))
    net(torch.rand(1, 3, 64, 96))
    text = str(dstsp.plan(net, ps=0.5, t=1, example_input=torch.rand(1, 3, 64, 96)))
    assert len(arrived) == 8
    for path, tokens in arrived.items():
        assert f"{path}: ps=0.5, tokens {tokens} -> {dstsp.tokens_kept(tokens, 0.5)}:" in text


def test_summary_is_of_now():
    net, x = made(MAKERS[0])
    dstsp.wrap(net, ps=0.2, t=1, example_input=x)
    net.dstsp.ps = (0.5, *[0.0] * 6, 0.25)
    found = dstsp.summary(net)
    assert found.tokens == (16, 12)
    assert "rows.5: ps=0.5, tokens 256 -> 128" in str(found)
    assert "memory " in str(found)
    net.dstsp.active = "train"
    idle = dstsp.summary(net)
    assert (idle.steps, idle.tokens) == ((2, 2), (16, 16))
    assert "off now: active='train', and the model is in evaluation mode" in str(idle)
    assert dstsp.summary(net.train()).tokens == (16, 12)


def test_rates_per_block_reach_their_block():
    net, x = made(MAKERS[0])
    dstsp.wrap(net, ps=(0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0), t=None)
    seen: dict[int, int] = {}
    net.dstsp.register_forward_hook(
        lambda _, args, out: seen.update(
            {args[3]: 0 if out[1] is None else out[1].full_tokens - out[1].tokens.shape[1]}
        )
    )
    net(x)
    assert {number: lost for number, lost in seen.items() if lost} == {3: 8}


def test_copies_are_wrapped_and_unwrapped_alone():
    net, x = made(MAKERS[0])
    before = maps(net, x)
    dstsp.wrap(net, ps=0.2, t=1)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert all(map(torch.equal, maps(twin, x), maps(net, x)))
        assert all(map(torch.equal, maps(dstsp.unwrap(twin), x), before))
    assert net.dstsp.ps == 0.2


def test_a_checkpoint_goes_through_wrap_unchanged():
    net, _ = made(MAKERS[0])
    state = net.state_dict()
    dstsp.wrap(net, ps=0.2, t=1)
    for converted in (dstsp.to_wrapped(state, net), dstsp.to_unwrapped(state, net)):
        assert list(converted) == list(state)
        assert all(map(torch.equal, converted.values(), state.values()))


@pytest.mark.parametrize(
    ("settings", "error", "why"),
    [
        ({"t": 3}, SettingError, r"t=3 is outside 1\.\.2"),
        ({"ps": 1.2}, SettingError, r"ps=1\.2 is outside"),
        ({"ps": (0.1, 0.2)}, SettingError, "8"),
        ({"calibrate": [torch.rand(1, 3, 64, 64)]}, FamilyError, "no W_M to fit"),
        ({"example_input": torch.rand(1, 2, 64, 64)}, FamilyError, "example input"),
        ({"swap": "some"}, SettingError, "swap"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(settings: dict, error: type, why: str):
    net = SpikingPyramid(table())
    before, state = net.dstsp.settings, torch.get_rng_state()
    with pytest.raises(error, match=why):
        dstsp.wrap(net, **settings)
    assert net.dstsp.settings == before
    assert net.dstsp.wrapped is None
    assert torch.equal(torch.get_rng_state(), state)


def test_settings_of_a_wrapped_detector_are_checked():
    net = dstsp.wrap(SpikingPyramid(table()), ps=0.2, t=1)
    for name, value in {"spike_cap": 2, "place": "lif3", "w_prime": "crop", "t": 4, "active": "sometimes"}.items():
        with pytest.raises(SettingError, match=name):
            setattr(net.dstsp, name, value)
    assert (net.dstsp.t, net.dstsp.w_prime) == (1, "gather")


def test_twice_is_refused_and_so_is_what_was_not_wrapped():
    net = dstsp.wrap(SpikingPyramid(table()), ps=0.2, t=1)
    with pytest.raises(FamilyError, match="wrapped already"):
        dstsp.wrap(net)
    with pytest.raises(FamilyError, match="wrapped already"):
        dstsp.wrap(nn.Sequential(net))
    dstsp.unwrap(net)
    for call in (dstsp.unwrap, dstsp.summary):
        with pytest.raises(FamilyError, match="not wrapped"):
            call(net)
    with pytest.raises(FamilyError, match="no attention"):
        dstsp.fit(net, [torch.rand(1, 3, 64, 64)])


def test_two_detectors_in_one_model_are_refused():
    with pytest.raises(FamilyError, match="2 detectors"):
        dstsp.wrap(nn.ModuleList([SpikingPyramid(table()), SpikingPyramid(table())]))


def test_a_detector_without_a_layer_that_drops_steps_is_refused():
    rows = [[-1, 1, "SpikingStem", [64, 3, 2]], [-1, 1, "SpikingConvBlock", [64]]]
    net = SpikingPyramid({**table("conv"), "backbone": rows, "head": [[[0, 1], 1, "Detect", []]]})
    with pytest.raises(SettingError, match="drops steps"):
        dstsp.wrap(net, ps=0.0, t=1)
    with pytest.raises(SettingError, match="drops tokens"):
        dstsp.wrap(net, ps=0.2, t=None)


@each
def test_everything_is_counted_and_pruning_saves_energy(make: Callable[[], nn.Module]):
    net, x = made(make)
    dense = cost.estimate(net, x)
    dstsp.wrap(net, ps=0.3, t=1)
    pruned = cost.estimate(net, x)
    assert (dense.records.coverage, pruned.records.coverage) == (1.0, 1.0)
    assert not dense.records.uncounted
    assert cost.compare(dense, pruned).saving_mj > 0
