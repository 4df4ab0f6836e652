"""What is data, what is a neuron, a product, an event of several units; and guessed axes that do not fit."""

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snntorch_smixer.cost import estimate, measure
from snntorch_smixer.cost.records import Records
from snntorch_smixer.errors import MeasureError
from tests.cost.replay import LAYERS, replay, values


class Between(nn.Module):
    """A function between two layers."""

    def __init__(self, function) -> None:
        super().__init__()
        self.one, self.two, self.function = nn.Linear(6, 5), nn.Linear(5, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.function(self.one(x)))


class Apply(nn.Module):
    """A function of a parameter (5, 6) and the input."""

    def __init__(self, function) -> None:
        super().__init__()
        self.w, self.function = nn.Parameter(torch.randn(5, 6)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.w, x)


def totals(records: Records, *names: str) -> dict[str, int]:
    return {name: records.total(name) for name in names}


@pytest.mark.parametrize("name", ["linear", "odd_border", "circular", "transposed_2d"])
def test_levels_are_the_events_of_each_value(name: str):
    layer, shape = LAYERS[name]
    x = values("signed", 2, *shape, rate=0.4)
    record = measure(nn.Sequential(layer), x).layer("0")
    alone = {k: sum(replay(layer, (x.abs() == k).float()).events) for k in (1, 2, 3)}
    assert record.levels == {k: n for k, n in alone.items() if n}
    assert sum(record.levels.values()) == record["graded"]


def test_an_event_costs_at_most_as_many_additions_as_it_has_units():
    x = torch.tensor([[1.0, -1, 2, 9, 0, 0]])
    report = estimate(nn.Sequential(nn.Linear(6, 10)), x, chip="horowitz45-fp32")
    assert sum(report.terms_pj.values()) == pytest.approx(10 * (0.9 + 0.9 + 1.8 + 4.6))


PICKS = {
    "index": lambda w, i: w[i],
    "index_select": lambda w, i: w.index_select(0, i.flatten()).view(*i.shape, 6),
    "gather": lambda w, i: w.gather(0, i.reshape(-1, 1).expand(-1, 6)).view(*i.shape, 6),
    "take": lambda w, i: w.take(i[..., None] * 6 + torch.arange(6)),
    "embedding": lambda w, i: F.embedding(i, w),
}


@pytest.mark.parametrize("name", PICKS)
def test_what_data_picks_from_a_parameter_is_data(name: str):
    model = nn.Sequential(Apply(PICKS[name]), nn.Linear(6, 3))
    record = measure(model, torch.randint(0, 5, (2, 4))).layer("1")
    assert (record["mac"], record.events) == (2 * 4 * 18, ((4 * 18, 4 * 18),))


def test_a_mask_picks_data_and_sums_of_rows_are_additions():
    x = values("spikes", 1, 5)
    records = measure(Apply(lambda w, x: w[x[0] > 0].sum(0)), x)
    assert records.total("adds") == 6 * x.count_nonzero()


NEURONS = {
    "where": lambda x: torch.where(x > 0, 1.0, 0.0),
    "reversed": lambda x: torch.lt(torch.zeros(()), x).float(),
    "round": lambda x: x.clamp(0, 4).round(),
    "floor": lambda x: x.relu().floor(),
    "ceil": lambda x: x.relu().ceil(),
    "sign": torch.sign,
    "heaviside": lambda x: torch.heaviside(x, torch.zeros(())),
}
MASKS = {
    "relu": lambda x: x * (x > 0),
    "relu by a number": lambda x: x * (x > 0).float(),
    "number first": lambda x: (x > 0).to(x.dtype) * x,
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "top-k": lambda x: x * (x >= x.topk(2, -1)[0][..., -1:]),
    "soft threshold": lambda x: x.sign() * F.relu(x.abs() - 0.1),
}


@pytest.mark.parametrize("name", [*NEURONS, *(f"mask {name}" for name in MASKS)])
def test_functions_that_give_spikes_are_neurons_and_masks_are_none(name: str):
    mask = name.removeprefix("mask ") if name.startswith("mask ") else ""
    records = measure(Between(MASKS[mask] if mask else NEURONS[name]), torch.randn(3, 6))
    assert records.total("updates") == (0 if mask else 15)
    assert records.coverage == 1.0


def test_a_mask_that_is_also_sent_is_a_neuron():
    def gated(x: torch.Tensor) -> torch.Tensor:
        sent = (x > 0).float()
        return x * sent + sent

    assert measure(Between(gated), torch.randn(3, 6)).total("updates") == 15


QUANTISERS = {
    "spikes": (lambda x: (x > -3).float(), "spikes"),
    "spikes of 0.3": (lambda x: (x > 0.1).float() * 0.3, "spikes"),
    "levels": (lambda x: (x * 4).clamp(0, 4).round(), "graded"),
}


@pytest.mark.parametrize("name", QUANTISERS)
@pytest.mark.parametrize("first", [True, False])
def test_a_straight_through_quantiser_sends_what_it_rounds_to(name: str, first: bool):
    torch.manual_seed(0)
    quantise, kind = QUANTISERS[name]

    def through(x: torch.Tensor) -> torch.Tensor:
        rest = (quantise(x) - x).detach()
        return x + rest if first else rest + x

    assert measure(Between(through), torch.randn(300, 6)).layer("two").operand == kind


def test_a_real_sum_is_no_straight_through_quantiser():
    records = measure(Between(lambda x: x + ((x > 0).float() - 2 * x)), torch.randn(30, 6))
    assert records.layer("two").operand == "analog"


PRODUCTS = {
    "multiply and sum": lambda w, x: (w * x[:, None]).sum(2),
    "vecdot": lambda w, x: torch.linalg.vecdot(w, x[:, None]),
    "addbmm": lambda w, x: torch.addbmm(torch.zeros(5, 1), w[None].expand(len(x), 5, 6), x[..., None]),
}


@pytest.mark.filterwarnings("ignore:measure.*has weights between samples")
@pytest.mark.parametrize("what", ["spikes", "graded", "analog"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_spellings_of_a_product_agree(name: str, what: str):
    x, counted = values(what, 2, 6, rate=0.5), ("ac", "graded", "graded_ac", "mac", "muls", "adds", "dense")
    right = totals(measure(Apply(lambda w, x: x @ w.T), x), *counted)
    assert totals(measure(Apply(PRODUCTS[name]), x), *counted) == right


def test_bilinear_is_a_product_of_its_weights_and_then_of_activations():
    class Both(nn.Bilinear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, x)

    x = values("spikes", 2, 6)
    records = measure(Both(6, 6, 4), x)
    assert (records.total("ac"), records.coverage) == (4 * 6 * x.count_nonzero(), 1.0)
    assert records.total("act_act") > 0


SUMS = {
    "sum": lambda x: x * 0.3 + F.avg_pool2d(x, 3, 1, 1),
    "maximum": lambda x: torch.maximum(x * 0.3, x.flip(1) * 0.2),
    "cat": lambda x: torch.cat([x * 0.3, x * 0.25], 2)[:, :, :6],
    "max pool": lambda x: F.max_pool2d(F.avg_pool2d(x, 2, 1), 2, 1, 1)[..., :6, :6],
    "border": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (4, 6)),
}


@pytest.mark.parametrize("name", SUMS)
def test_units_survive_sums_maxima_and_pooling(name: str):
    record = measure(Between(lambda x: x), values("analog", 2, 6))  # what is real-valued stays so
    assert record.layer("one")["mac"] > 0
    layer = nn.Sequential(Apply(lambda _, x: SUMS[name](x)), nn.LazyConv2d(3, 2))
    x = values("spikes", 2, 2, 6, 6)
    layer(x)
    found = measure(layer, x).layer("1")
    assert (found["mac"], found.operand) == (0, "graded")


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_zero_state_of_an_analog_layer_is_analog(make: type[nn.RNNBase]):
    records = measure(make(6, 5), torch.randn(3, 2, 6), axes="t b")
    assert records.total("mac") == records.total("dense") > 0


def test_silent_spikes_of_a_first_step_stay_spikes():
    neuron = snn.RLeaky(0.8, init_hidden=True, linear_features=5)
    x = values("spikes", 3, 2, 6)
    model = nn.Sequential(nn.Linear(6, 5), neuron)
    records = measure(model, x, run=lambda batch: [model(step) for step in batch], axes="t b")
    assert records.total("mac") == 0


@pytest.mark.parametrize("make", [snn.RLeaky, snn.RSynaptic])
def test_a_recurrence_one_to_one_has_events(make: type[nn.Module]):
    rates = {"alpha": 0.7, "beta": 0.8} if make is snn.RSynaptic else {"beta": 0.8}
    neuron = make(**rates, init_hidden=True, all_to_all=False, V=0.3, threshold=0.2)
    model, x = nn.Sequential(nn.Linear(6, 5), neuron), values("spikes", 3, 2, 6)
    nn.init.constant_(model[0].weight, 0.4)
    sent = [int(model(step).sum()) for step in x]
    neuron.reset_mem()
    records = measure(model, x, run=lambda batch: [model(step) for step in batch], axes="t b")
    assert records.total("ac") == 5 * x.sum() + sum(sent[:-1])
    assert sum(sent[:-1]) > 0


def test_a_loop_over_the_first_axis_of_a_guess_is_warned_of():
    fc, x = nn.Linear(6, 5), values("spikes", 3, 2, 6)
    with pytest.warns(UserWarning, match="axes='t b'"):
        measure(fc, x, run=lambda batch: [fc(step) for step in batch])
    with pytest.warns(UserWarning, match="axes="):
        measure(fc, x, run=lambda batch: [fc(batch[t]) for t in range(3)])
    measure(fc, x, run=lambda batch: [fc(step) for step in batch], axes="b")


def test_volumes_are_not_taken_for_steps():
    conv = nn.Conv3d(2, 3, 2)
    with pytest.raises(MeasureError, match="axes='b'"):
        measure(conv, values("spikes", 2, 2, 3, 3, 3))
    assert measure(conv, values("spikes", 2, 2, 3, 3, 3), axes="b").samples == 2


def test_spikes_of_a_comparison_stay_spikes_where_all_of_them_fire():
    """Without any zero only where they come from shows that they are no constant image."""
    x = torch.full((2, 6), 5.0)
    fired = nn.Sequential(Apply(lambda _, x: torch.where(x > 9, 0.0, 0.0) + (x > 1).float() * 0.3), nn.Linear(6, 4))
    scaled = nn.Sequential(Apply(lambda _, x: (x > 1).float() * 0.3), nn.Linear(6, 4))
    assert measure(scaled, x).layer("1").operand == "spikes"
    assert measure(scaled, x).layer("1")["ac"] == 2 * 6 * 4
    assert measure(fired, x).coverage == 1.0


@pytest.mark.parametrize("behind", [lambda x: x * 0.5, lambda x: x.repeat(1, 2)])
def test_spikes_of_an_unknown_height_stay_spikes_where_all_of_them_fire(behind):
    neuron = snn.Leaky(0.9, init_hidden=True, graded_spikes_factor=0.3)
    layer = nn.LazyLinear(4)
    model, x = nn.Sequential(neuron, Apply(lambda _, x: behind(x)), layer), torch.full((2, 6), 5.0)
    layer(behind(x))
    assert measure(model, x).layer("2").operand == "spikes"
