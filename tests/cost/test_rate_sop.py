"""The papers' number of operations: dense count times firing rate, by its definition, and what becomes of it."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import estimate, measure
from tests.cost.replay import AV, LAYERS, QK, B, C, N, Spelled, T, kind, replay, values

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch, on even kernels


def fired(x: Tensor) -> int:
    """Nonzero entries of spikes; whole numbers, here of unit one, as so many spikes each."""
    return int(x.count_nonzero() if kind(x) == "spikes" else x.abs().sum())


@pytest.mark.parametrize("what", ["spikes", "half", "graded", "signed", "analog"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_rate_times_dense(name: str, what: str):
    layer, shape = LAYERS[name]
    x = values(what, 2, *shape, rate=0.4)
    net, dense = nn.Sequential(layer), replay(layer, x).dense * len(x)
    expected = 0 if what == "analog" else round(dense * fired(x) / x.numel())
    records = measure(net, x, axes="b")
    assert records.layer("0")["rate_sop"] == expected
    terms = estimate(records, "papers45").terms_pj
    if what == "analog":
        assert terms == {"multiply-accumulates": pytest.approx(4.6 * dense / len(x))}
    else:
        assert terms == {"spike events": pytest.approx(0.9 * expected / len(x))}


def test_padding_counts_as_papers_count():
    conv, x = nn.Conv2d(1, 1, 3, padding=1), torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = x[0, 0, 1, 1] = 1
    record = measure(nn.Sequential(conv), x).layer("0")
    assert record["ac"] == 4 + 9  # a corner reaches 4 outputs
    assert record["rate_sop"] == 2 * 9  # 2 of 16 inputs, 16 * 9 operations


@pytest.mark.parametrize("spelling", ["at", "linear", "conv1d"])
def test_token_mixer(spelling: str):
    x = values("spikes", T, B, N, C)
    (record,) = measure(Spelled(spelling), x, axes="t b").layers
    assert record["rate_sop"] == record["ac"] == N * x.count_nonzero()


class Calls(nn.Module):
    """One layer that several inputs enter."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [self.layer(x) for x in inputs]


def test_rounded_at_each_call():
    """3 operations, one of 5 inputs: 0.6 is 1 at each call, and not 1.8 of all three."""
    x = torch.zeros(1, 1, 5)
    x[0, 0, 1] = 1
    record = measure(Calls(nn.Conv1d(1, 1, 1, stride=2)), (x, x.clone(), x.clone())).layer("layer")
    assert (record["dense"], record["ac"], record["rate_sop"]) == (9, 0, 3)


def test_only_calls_that_spikes_enter():
    spikes, graded, real = (values(what, 2, 6, rate=0.5) for what in ("spikes", "graded", "analog"))
    net, inputs = Calls(nn.Linear(6, 5)), (spikes, graded, real)
    record = measure(net, inputs).layer("layer")
    assert set(record.operand.split("+")) == {"spikes", "graded", "analog"}
    assert record["rate_sop"] == 5 * (spikes.count_nonzero() + graded.sum())
    assert estimate(net, inputs, chip="papers45").terms_pj == {
        "spike events": pytest.approx(0.9 * record["rate_sop"] / 2),
        "multiply-accumulates": pytest.approx(4.6 * 2 * 6 * 5 / 2),
    }


@pytest.mark.parametrize("product", [QK, AV])
@pytest.mark.parametrize(
    ("left", "right"),
    [("spikes", "spikes"), ("spikes", "graded"), ("graded", "spikes"), ("graded", "graded"), ("analog", "spikes")],
)
def test_products_take_the_lower_rate(product: type[nn.Module], left: str, right: str):
    """Of two rates of binary spikes, else that of the only one; of whole numbers alone the lower rate of units."""
    partners = (2, N, C) if product is QK else (2, C, N)
    a, b = values(left, 2, N, C, rate=0.6, seed=1), values(right, *partners, rate=0.3, seed=2)
    rates = {x: fired(x) / x.numel() for x in (a, b) if kind(x) != "analog"}
    binary = [rate for x, rate in rates.items() if kind(x) == "spikes"]
    expected = round(a.numel() * N * min(binary or rates.values()))
    (record,) = measure(product(), (a, b)).layers
    assert (record.op, record["rate_sop"]) == ("act_act", expected)
    priced = {"activation x activation": pytest.approx(0.9 * expected / 2)}
    assert estimate(product(), (a, b), chip="papers45").terms_pj == priced


def test_real_values_and_gates_have_none():
    a, b = values("analog", 2, N, C, seed=1), values("analog", 2, N, C, seed=2)
    assert measure(QK(), (a, b)).total("rate_sop") == 0

    class Gate(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * y

    spikes = values("spikes", 2, N, C, seed=1), values("spikes", 2, N, C, seed=2)
    records = measure(Gate(), spikes)
    assert records.total("gates") > 0
    assert records.total("rate_sop") == 0
    assert estimate(records, "papers45").terms_pj == {}
