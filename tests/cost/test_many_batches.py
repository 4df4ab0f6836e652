"""Runs added up, loaders, the energy of each sample and what is between them."""

import json
from statistics import fmean, stdev

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from snntorch_smixer.cost import Assumptions, estimate, measure
from snntorch_smixer.cost.estimate import interval
from snntorch_smixer.errors import MeasureError

CLASSES = torch.tensor([0, 1, 0, 1, 2, 0, 1])


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), snn.Leaky(0.9, init_hidden=True), nn.Linear(8, 3))


def spikes() -> Tensor:
    return (torch.rand(7, 6, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def loader(*, size: int = 3) -> DataLoader:
    return DataLoader(TensorDataset(spikes(), CLASSES), batch_size=size)


@pytest.mark.parametrize("first", [0, 1])
def test_a_batch_of_zeros_is_multiplied_where_other_runs_give_real_values(first: int):
    layer, runs = nn.Linear(6, 3), [torch.zeros(2, 6), torch.randn(2, 6)]
    added = measure(layer, runs[first]) + measure(layer, runs[1 - first])
    right, (record,) = measure(layer, torch.randn(4, 6)).layers[0], added.layers
    assert (record.operand, record["mac"], record.events) == ("analog", right["mac"], right.events)
    assert record["ac"] == 0


def test_a_batch_of_zeros_stays_silent_where_other_runs_give_spikes():
    layer = nn.Linear(6, 3)
    added = measure(layer, torch.zeros(2, 6)) + measure(layer, spikes())
    assert (added.layers[0].operand, added.layers[0]["mac"]) == ("spikes", 0)


def test_runs_added_up_are_the_run_of_all():
    model, x = net(), spikes()
    both, whole = measure(model, x[:3]) + measure(model, x[3:]), measure(model, x)
    assert (both.samples, both.steps, both.model) == (7, 1, "Sequential")
    for ours, right in zip(both.layers, whole.layers, strict=True):
        assert (ours.counts, ours.events, ours.geometry) == (right.counts, right.events, right.geometry)
        assert (ours.layer, ours.op, ours.operand, ours.steps) == (right.layer, right.op, right.operand, right.steps)
        assert (ours.weight_bytes, ours.parameters, ours.state_bytes) == (
            *(right.weight_bytes, right.parameters, right.state_bytes),
        )
        assert ours.activation_bytes == right.activation_bytes
    assert both.calls == 2 * whole.calls
    assert estimate(both).energy_mj == pytest.approx(estimate(whole).energy_mj)


def test_graded_events_add_up_by_their_values():
    model, x = nn.Linear(6, 8), spikes() * torch.arange(7).view(7, 1)
    both, whole = measure(model, x[:3]) + measure(model, x[3:]), measure(model, x)
    assert both.layers[0].levels == whole.layers[0].levels
    assert len(whole.layers[0].levels) > 4
    assert estimate(both).energy_mj == pytest.approx(estimate(whole).energy_mj)


def test_a_loader_is_the_run_of_all_with_its_classes(capsys: pytest.CaptureFixture[str]):
    ours, right = measure(net(), loader()), measure(net(), spikes())
    assert [record.counts for record in ours.layers] == [record.counts for record in right.layers]
    assert ours.classes == tuple(CLASSES.tolist())
    assert capsys.readouterr().err == ""  # no progress without a terminal
    assert estimate(net(), loader()).energy_mj == pytest.approx(estimate(right).energy_mj)


def test_batches_of_any_iterable():
    x = spikes()
    ours = [
        measure(net(), (x[i : i + 2] for i in range(0, 7, 2))),
        measure(net(), [(x[:4], CLASSES[:4]), (x[4:], CLASSES[4:])]),
        measure(net(), [[x[:4]], [x[4:]]]),
        measure(net(), ((x[i : i + 1], torch.rand(1, 3)) for i in range(7))),  # soft targets are no input, and no class
    ]
    assert {records.total("ac") for records in ours} == {measure(net(), x).total("ac")}
    assert [records.classes is None for records in ours] == [True, False, True, True]


def test_what_is_no_batch_is_refused():
    with pytest.raises(MeasureError, match="got no batch"):
        measure(net(), iter(()))
    with pytest.raises(MeasureError, match="a batch is a dict"):
        measure(net(), iter([{"x": spikes()}]))
    other = nn.Linear(6, 2)
    with pytest.raises(MeasureError, match="runs of Sequential and Linear"):
        measure(net(), spikes()) + measure(other, spikes())
    with pytest.raises(MeasureError, match="connections of 2 shapes"):
        measure(nn.Linear(6, 2), spikes()) + measure(nn.Linear(6, 3), spikes())


def test_a_layer_that_some_batches_do_not_run():
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if x[0, 0] else self.b(x)

    on, off = torch.ones(2, 6), torch.tensor([[0.0, 1, 1, 0, 0, 0]])
    both = measure(Picky(), on) + measure(Picky(), off)
    assert [(record.layer, record.events) for record in both.layers] == [("a", ((12, 12, 0),)), ("b", ((0, 0, 4),))]


@pytest.mark.parametrize("chip", ["horowitz45-fp32-sram", "loihi1"])
def test_energies_of_samples_add_up_to_the_total(chip: str):
    report = estimate(measure(net(), loader()), chip, assume=Assumptions(hops=1.0, latency_ms=0.1))
    energies = report.sample_mj
    assert len(energies) == 7
    assert fmean(energies) == pytest.approx(report.energy_mj)
    assert max(energies) > min(energies)
    low, high = report.interval_mj
    assert (low + high) / 2 == pytest.approx(report.energy_mj)
    assert (high - low) / 2 == pytest.approx(2.4469 * stdev(energies) / 7**0.5, rel=1e-3)  # t of 6 degrees of freedom
    assert sum(mj for group in report.by_class_mj.values() for mj in group) == pytest.approx(sum(energies))
    assert [len(group) for group in report.by_class_mj.values()] == [3, 3, 1]


def test_a_sample_costs_what_its_own_events_cost():
    report = estimate(nn.Sequential(nn.Linear(6, 2)), torch.tensor([[1.0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]]))
    assert report.sample_mj == (pytest.approx(2 * 0.9e-9), pytest.approx(10 * 0.9e-9))


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.706), (4, 2.776), (5, 2.571), (10, 2.228), (30, 2.042), (999, 1.962)]
)
def test_interval_of_a_mean(freedom: int, t: float):
    values = [0.0, 2.0] * ((freedom + 1) // 2) + [1.0] * ((freedom + 1) % 2)
    low, high = interval(values)
    assert (high - low) / 2 == pytest.approx(t * stdev(values) / len(values) ** 0.5, rel=2e-3)
    assert interval([1.0]) is interval(None) is None


def test_report_shows_the_classes():
    report = estimate(measure(net(), loader()))
    assert "95 % interval of the mean over 7 samples: " in str(report)
    assert str(report).count("\nclass ") == 3
    assert "class 2: " in str(report)
    assert "(1 samples)" in str(report)
    content = json.loads(report.to_json())
    assert content["sample_mj"] == list(report.sample_mj)
    assert content["classes"] == CLASSES.tolist()
    assert "interval" not in str(estimate(measure(net(), spikes()[:1])))
