"""Estimates: what is listed beside the total, splits by step and sample, the papers' convention, published totals."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import Assumptions, CostReport, Record, Records, estimate, load_profile, measure
from snntorch_smixer.cost.published import PublishedLog, published_log
from snntorch_smixer.cost.records import Geometry
from snntorch_smixer.errors import MeasureError, ProfileError, SettingError

CONNECTED = Geometry(fan_in=4, outputs=3, blocks=1)


def records(*layers: Record, samples: int = 1, steps: int = 1) -> Records:
    return Records("Net", samples, steps, layers, {}, (), 10)


def fc(events: object = None, layer: str = "fc", **counts: int) -> Record:
    return Record(layer, "linear", "spikes", counts=counts, events=events, geometry=CONNECTED)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def test_of_a_model_is_of_its_records():
    net, x = small(), torch.rand(3, 6)
    both = estimate(net, x, chip="papers45"), estimate(measure(net, x), "papers45")
    assert both[0] == both[1]
    assert both[0].energy_mj > 0
    assert estimate(net, [x], chip=load_profile("papers45")) == both[0]
    assert estimate(net, x).profile.name == estimate(measure(net, x)).profile.name == "horowitz45-fp32"


def test_assumptions_reach_the_estimate_of_a_model():
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.expand(5, *x.shape))

    assumed = [
        estimate(Repeats(), torch.rand(3, 6), assume=Assumptions(static_input=how)) for how in ("as_run", "once")
    ]
    assert [report.energy_mj * 1e9 for report in assumed] == [pytest.approx(5 * 24 * 4.6), pytest.approx(24 * 4.6)]
    assert assumed[0].static_saving_pj == pytest.approx(4 * 24 * 4.6)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (lambda r, m: (m,), "got a model and None, expected its input. Call estimate(records, chip) or "),
        (lambda r, m: (m, "loihi1"), "got a model and 'loihi1', expected its input"),
        (lambda r, m: (m, r), "got a model and Records("),
        (lambda r, m: (r, torch.ones(1, 6)), "got Records and Tensor, expected records and a chip, or a model"),
        (lambda r, m: (r, 45), "got Records and int, expected records and a chip"),
        (lambda r, m: ("loihi1", r), "got str and Records, expected records and a chip, or a model and a batch"),
        (lambda r, m: (torch.ones(1, 6), m), "Call estimate(records, chip) or estimate(model, batch, chip=...)."),
    ],
)  # fmt: skip
def test_wrong_combinations(arguments: Callable, text: str):
    with pytest.raises(SettingError) as caught:
        estimate(*arguments(records(), small()))
    assert str(caught.value).startswith("estimate: got ")
    assert text in str(caught.value)


def test_records_with_chip_by_keyword():
    run, chip = records(fc(ac=10)), load_profile("loihi1")
    by_place = estimate(run, "loihi1")
    assert by_place.profile == chip
    assert estimate(run, chip="loihi1") == estimate(run, chip=chip) == estimate(run, None, chip=chip) == by_place
    assert estimate(run) == estimate(run, None) == estimate(run, "horowitz45-fp32")


@pytest.mark.parametrize("second", ["papers45", "loihi1", load_profile("loihi1")])
def test_two_chips(second: object):
    with pytest.raises(
        SettingError, match=r"estimate: got two chips, 'loihi1' and .*Call estimate\(records, chip\) or"
    ):
        estimate(records(fc(ac=10)), "loihi1", chip=second)


def test_unknown_chip():
    for call in (lambda: estimate(records(), "lohi1"), lambda: estimate(small(), torch.rand(2, 6), chip="lohi1")):
        with pytest.raises(ProfileError, match=r"load_profile: no chip 'lohi1'\. Did you mean loihi1") as caught:
            call()
        assert "or the path of your own .toml file" in str(caught.value)
    with pytest.raises(MeasureError, match="the batch is empty"):
        estimate(small(), torch.rand(0, 6))


def test_unpriced_work_is_listed_and_no_part_of_the_total():
    layers = (fc(ac=10, special=7), fc(layer="fc2", mac=100, adds=4))
    report = estimate(records(*layers, samples=2), "loihi1")
    assert report.energy_mj * 1e9 == pytest.approx(10 * 23.6 / 2)
    assert {(entry.term, entry.price, entry.amount) for entry in report.unpriced} == {
        ("multiply-accumulates", "mac_pj", 50),
        ("additions", "add_pj", 2),
        ("special functions", "special_pj", 3.5),
        ("static power", "static_mw", 104.0),
    }
    reasons = {entry.term: entry.reason for entry in report.unpriced}
    assert reasons["multiply-accumulates"] == "the chip has no operation for real-valued inputs"
    assert reasons["static power"] == "the time of one inference is not assumed"
    assert [dict(row.energy_pj) for row in report.rows] == [{"spike events": pytest.approx(118.0)}, {}]


def test_included_terms_are_listed_with_their_reason():
    chip = load_profile("loihi1")
    report = estimate(records(fc(ac=10, inputs=20)), chip)
    keys = {"weight reads": "weight_read_pj_per_bit", "state accesses": "state_pj_per_bit"}
    keys |= {"activation reads": "activation_pj_per_bit"}
    assert report.included == {term: chip.includes[key] for term, key in keys.items()}
    assert not set(report.included) & {entry.term for entry in report.unpriced}
    assert estimate(records(fc(adds=10)), chip).included == {}


def test_split_by_step_and_by_sample():
    layers = (
        fc(((1, 2), (3, 4), (0, 0)), ac=10),
        fc(((6, 0),), "once", ac=6),  # ran at the first step only
        Record("lif", "neuron", "spikes", counts={"updates": 60, "triggered": 60}, events=((9, 9), (9, 9), (9, 9))),
        Record("qk", "act_act", "spikes+spikes", counts={"act_act": 8}, events=((0, 2), (0, 2), (0, 4))),
    )
    report = estimate(records(*layers, samples=2, steps=3))
    by_step, by_sample = report.by_step_mj, report.by_sample_mj
    assert by_step == tuple(pytest.approx(n * 0.9e-9 / 2) for n in (3 + 6 + 2, 7 + 2, 4))
    assert by_sample == tuple(pytest.approx(n * 0.9e-9) for n in (4 + 6, 6 + 8))
    assert sum(by_step) == pytest.approx(24 * 0.9e-9 / 2)
    assert sum(by_sample) / 2 == pytest.approx(sum(by_step))


def test_no_split_where_a_layer_does_not_tell():
    report = estimate(records(fc(((1, 2),), ac=3), fc(None, "blind", ac=5), samples=2))
    assert report.by_step_mj is report.by_sample_mj is None
    assert report.energy_mj > 0


@pytest.mark.parametrize("chip", ["horowitz45-fp32", "horowitz45-fp32-sram", "papers45"])
def test_splits_sum_to_the_linear_maps(firing_net: Callable[..., nn.Module], chip: str):
    report = estimate(firing_net(T=3, depth=1), torch.randn(2, 2, 16, 16), chip=chip)
    linear = sum(row.total_pj for row in report.rows if row.record.geometry is not None) / 1e9
    assert (len(report.by_step_mj), len(report.by_sample_mj)) == (3, 2)
    assert sum(report.by_step_mj) == pytest.approx(linear)
    assert sum(report.by_sample_mj) / 2 == pytest.approx(linear)
    assert linear > 0


def test_split_of_a_silent_layer_that_still_reads_its_input():
    report = estimate(nn.Sequential(nn.Linear(4, 3)), torch.zeros(2, 4), chip="horowitz45-fp32-sram")
    assert report.energy_mj * 1e9 == pytest.approx(1.25)  # 4 bits
    assert sum(report.by_step_mj) == pytest.approx(report.energy_mj)


def test_energy_of_a_silent_layer_is_spread_evenly():
    silent, mixed = ((0, 0), (0, 0), (0, 0)), ((0, 5), (1, 0), (0, 0))
    layers = (fc(silent, inputs=96), fc(mixed, "fc2", ac=6))
    report = estimate(records(*layers, samples=2, steps=3), "horowitz45-fp32-sram")
    quiet, loud = (row.total_pj / 1e9 for row in report.rows)
    assert quiet == pytest.approx(96 / 2 * 0.3125e-9)
    assert report.by_step_mj == tuple(pytest.approx(quiet / 3 + loud * n / 6) for n in (5, 1, 0))
    assert report.by_sample_mj == tuple(pytest.approx(quiet + 2 * loud * n / 6) for n in (1, 5))
    alone = estimate(records(layers[0], samples=2, steps=3), "horowitz45-fp32-sram")
    assert alone.by_step_mj == (pytest.approx(quiet / 3),) * 3
    assert alone.by_sample_mj == (pytest.approx(quiet),) * 2


class Watched:
    """Inputs of linear maps and outputs of neurons, by module."""

    def __init__(self, net: nn.Module, x: Tensor) -> None:
        self.seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        hooks = [module.register_forward_hook(self) for module in net.modules()]
        with torch.no_grad():
            net(x)
        for hook in hooks:
            hook.remove()

    def __call__(self, module: nn.Module, args: tuple, out: object) -> None:
        self.seen[module] = (args[0], out)


def rate(x: Tensor) -> float:
    return x.count_nonzero().item() / x.numel()


def by_the_papers(net: nn.Module, x: Tensor) -> dict[str, float]:
    """Energy in pJ per sample: 4.6 x FLOPs of real inputs, 0.9 x rate x FLOPs of spikes, attention by rates."""
    seen, total = Watched(net, x).seen, {"ac": 0.0, "mac": 0.0, "attention": 0.0}
    for module, (entered, left) in seen.items():
        if isinstance(module, nn.Conv2d | nn.Linear):
            flops = left.numel() * module.weight[0].numel()
            spikes = bool(((entered == 0) | (entered == 1)).all())
            total["ac" if spikes else "mac"] += flops * (0.9 * rate(entered) if spikes else 4.6)
    for block in net.blocks:
        neurons = (block.mixer.query_neuron, block.mixer.key_neuron, block.mixer.value_neuron)
        q, k, v = (seen[neuron][1] for neuron in neurons)
        flops = q.numel() * q.shape[2]  # T B N C, times N partners
        total["attention"] += 0.9 * (round(flops * min(rate(q), rate(k))) + round(flops * rate(v)))
    return {name: pj / len(x) for name, pj in total.items()}


def test_papers_convention_on_a_spikformer(firing_net: Callable[..., nn.Module]):
    net, x = firing_net(mixer="ssa", T=2), torch.randn(3, 2, 16, 16)
    expected, report = by_the_papers(net, x), estimate(net, x, chip="papers45")
    assert all(pj > 100 for pj in expected.values())
    assert report.terms_pj["spike events"] == pytest.approx(expected["ac"], rel=1e-9)
    assert report.terms_pj["multiply-accumulates"] == pytest.approx(expected["mac"], rel=1e-9)
    assert report.terms_pj["activation x activation"] == pytest.approx(expected["attention"], rel=1e-9)
    assert set(report.terms_pj) == {"spike events", "multiply-accumulates", "activation x activation"}


def of_log(log: PublishedLog, *, once: bool = False) -> Records:
    """A log as records; ``once``: of a model that computes the first convolution once for all steps."""
    layers, width = [], log.channels // log.heads
    for row in log.rows:
        dense, ac, mac = round(row.dense), round(row.ac), round(row.mac)
        counts = {"dense": dense, "synapses": dense, "ac": ac, "mac": mac, "units": ac, "inputs": dense, "rate_sop": ac}
        layers.append(Record(row.layer, row.kind, "analog" if mac else "spikes", counts=counts, steps=log.steps))
    first = layers[0]
    one = first["mac"] // log.steps
    change = (
        {"mac": one, "synapses": one, "dense": one, "static_once": one} if once else {"static_mac": first["mac"] - one}
    )
    layers[0] = dataclasses.replace(first, counts={**first.counts, **change})
    flops = log.steps * log.heads * log.tokens * width**2
    for block in log.blocks:
        for rate_ in (min(block.k, block.v), block.q):
            counts = {"dense": flops, "units": round(rate_ * flops), "inputs": flops, "rate_sop": round(rate_ * flops)}
            layers.append(Record("attn", "act_act", "spikes+spikes", counts=counts))
    return records(*layers, steps=log.steps)


@pytest.mark.parametrize(
    ("name", "energy", "saved"),
    [("spikingformer_8_768", 13.658864951845398, 1.795), ("spikingformer_8_512", 7.463502601886196, 1.197)],
)
def test_published_totals(name: str, energy: float, saved: float):
    run, frugal = of_log(published_log(name)), of_log(published_log(name), once=True)
    report = estimate(run, "papers45")
    assert report.energy_mj == pytest.approx(energy, rel=1e-6)
    assert report.unpriced == ()
    assert report.static_saving_pj / 1e9 == pytest.approx(saved, abs=5e-4)
    totals = {how: estimate(run, "papers45", assume=Assumptions(static_input=how)) for how in ("once", "every_step")}
    assert report.energy_mj - totals["once"].energy_mj == pytest.approx(saved, abs=5e-4)
    assert totals["every_step"].energy_mj == report.energy_mj
    assert_frugal(frugal, energy, saved)


def assert_frugal(run: Records, energy: float, saved: float) -> None:
    reports: list[CostReport] = [
        estimate(run, "papers45", assume=Assumptions(static_input=how)) for how in ("as_run", "once", "every_step")
    ]
    expected = (energy - saved, energy - saved, energy)
    assert [report.energy_mj for report in reports] == [pytest.approx(mj, abs=5e-4) for mj in expected]
    assert [report.static_saving_pj / 1e9 for report in reports] == [pytest.approx(saved, abs=5e-4)] * 3
