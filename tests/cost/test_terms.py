"""Every term of an estimate against energies computed by hand, on chips that differ in what they can do."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import Assumptions, CostReport, Record, Records, estimate, load_profile
from snntorch_smixer.cost.estimate import BY_PRICE, TERMS, Setting
from snntorch_smixer.cost.profile import PRICES, Profile
from snntorch_smixer.errors import SettingError

FP32, LOIHI, PAPERS = load_profile("horowitz45-fp32"), load_profile("loihi1"), load_profile("papers45")
TRIGGERED = dataclasses.replace(LOIHI, updates="triggered")
FREE = dataclasses.replace(LOIHI, updates="free")
COUNTS = {
    **{"dense": 1000, "synapses": 800, "ac": 30, "graded": 7, "graded_ac": 19, "mac": 200, "effective_mac": 90},
    **{"act_act": 11, "act_act_units": 23, "rate_sop": 13, "gates": 5, "updates": 40, "triggered": 25, "spikes": 9},
    **{"packets": 17, "units": 28, "inputs": 50, "outputs": 60, "batch_norm": 6, "adds": 3, "muls": 2},
    **{"compares": 4, "special": 1},
}
EVENT = {
    **{"spike events": 30, "graded events": 7, "multiply-accumulates": 200, "activation x activation": 16},
    **{"neuron updates": 25, "idle neuron updates": 15, "spikes sent": 9, "hops": 17},
    "weight reads": 7584,  # (30 + 7 + 200) events of 32 bits
    "state accesses": 17728,  # (237 events + 40 updates), read and written, of 32 bits
    "activation reads": 1600,  # 50 inputs of 32 bits
    **{"additions": 3, "multiplications": 2, "comparisons": 4, "special functions": 1, "batch norm": 0},
}
BINARY = EVENT | {
    "spike events": 49,  # 30 + 19: a spike of value 3 is sent as three
    "graded events": 0,
    "activation x activation": 28,  # 5 + 23
    "weight reads": 1992,  # (49 + 200) events of 8 bits
    "state accesses": 13872,  # (249 + 40) * 2 * 24 bits
    "activation reads": 50,
}
CONVENTION = EVENT | {
    "spike events": 13,  # the papers' number of operations
    "graded events": 0,  # among them
    "multiply-accumulates": 250,  # 200 of 800 synapses, padding included again: x 1000
    "activation x activation": 0,  # not even gates
    "idle neuron updates": 0,
    "weight reads": 0,
    "state accesses": 1600,  # 25 updates, read and written, of 32 bits
}
MIXED = "spikes+graded+analog"


def record(operand: str = MIXED, **counts: int) -> Record:
    return Record("fc", "linear", operand, counts=counts or COUNTS)


def amounts(what: Record, chip: Profile, steps: int = 1, **assume: object) -> dict[str, float]:
    setting = Setting(chip, Assumptions(**assume), steps)
    return {term.name: term.amount(what, setting) for term in TERMS}


def cost(chip: Profile | str, *layers: Record, samples: int = 1, steps: int = 1, **assume: object) -> CostReport:
    records = Records("Net", samples, steps, layers, {}, (), 10)
    return estimate(records, chip, assume=Assumptions(**assume))


@pytest.mark.parametrize(
    ("chip", "expected"),
    [
        (FP32, EVENT),
        (LOIHI, BINARY),
        (TRIGGERED, BINARY | {"idle neuron updates": 0, "state accesses": 13152}),  # (249 + 25) * 2 * 24
        (FREE, BINARY | {"idle neuron updates": 0, "state accesses": 13152}),  # the same, and no price for 25 updates
        (PAPERS, CONVENTION),
    ],
)
def test_amounts_of_every_term(chip: Profile, expected: dict[str, float]):
    assert amounts(record(), chip) == expected


def test_every_price_has_one_term():
    assert set(BY_PRICE) == set(PRICES)
    assert len({term.name for term in TERMS}) == len(TERMS) == len(PRICES)


@pytest.mark.parametrize(
    ("chip", "total", "low", "high"),
    [
        # 30*0.9 + 7*4.6 + 200*4.6 + 16*0.9 + (25 + 15)*5.5 + 3*0.9 + 2*3.7 + 4*0.9
        ("horowitz45-fp32", 1227.3, 1227.3, 1227.3),
        # + (7584 + 17728 + 1600) bits * 0.3125; up to 0.625
        ("horowitz45-fp32-sram", 9637.3, 9637.3, 18047.3),
        # 49*23.6 + 25*81 + 15*52 + 9*1.7 + 34*3.5; the event up to 35.5, the hop 3 to 4
        ("loihi1", 4095.7, 4078.7, 4695.8),
        # 13*0.9 + 250*4.6
        ("papers45", 1161.7, 1161.7, 1161.7),
    ],
)
def test_energies_by_hand(chip: str, total: float, low: float, high: float):
    report = cost(chip, record(), hops=2.0)
    assert report.energy_mj * 1e9 == pytest.approx(total, rel=1e-12)
    assert report.rows[0].total_pj == pytest.approx(total, rel=1e-12)
    assert (report.low_pj, report.high_pj) == (pytest.approx(low, rel=1e-12), pytest.approx(high, rel=1e-12))
    halved = cost(chip, record(), samples=2, hops=2.0)
    assert halved.energy_mj * 1e9 == pytest.approx(total / 2, rel=1e-12)
    assert halved.rows[0].energy_pj == {n: pytest.approx(pj / 2) for n, pj in report.rows[0].energy_pj.items()}


def test_terms_are_priced_one_by_one():
    assert cost(FP32, record()).terms_pj == {
        **{"spike events": pytest.approx(27.0), "graded events": pytest.approx(32.2)},
        **{"multiply-accumulates": pytest.approx(920.0), "activation x activation": pytest.approx(14.4)},
        **{"neuron updates": 137.5, "idle neuron updates": 82.5, "additions": pytest.approx(2.7)},
        **{"multiplications": pytest.approx(7.4), "comparisons": pytest.approx(3.6)},
    }


def test_free_updates_have_no_price():
    clocked, free = cost(LOIHI, record()), cost(FREE, record())
    saved = 25 * 81 + 15 * 52
    assert free.energy_mj * 1e9 == pytest.approx(clocked.energy_mj * 1e9 - saved)
    assert (free.low_pj, free.high_pj) == (
        pytest.approx(clocked.low_pj - saved),
        pytest.approx(clocked.high_pj - saved),
    )
    gone = {"neuron updates", "idle neuron updates"}
    assert set(clocked.terms_pj) - set(free.terms_pj) == gone
    assert not gone & {entry.term for entry in free.unpriced}


def test_free_updates_say_why():
    report = cost(PAPERS, record("", updates=40, triggered=25))
    why = PAPERS.includes
    assert report.included == {"neuron updates": why["update_pj"], "state accesses": why["state_pj_per_bit"]}
    assert (report.terms_pj, report.unpriced, report.energy_mj) == ({}, (), 0)
    assert cost(PAPERS, record("", updates=40)).included == {}  # nothing reached them


def test_free_updates_of_unknown_price_are_not_missing():
    chip = dataclasses.replace(load_profile("loihi2"), updates="free")
    assert "update_pj" not in [entry.price for entry in cost(chip, record("", updates=40, triggered=25)).unpriced]


def test_papers_spikes_are_rate_times_dense():
    """28 of 50 inputs fire: 560 of 1000 operations, not the 500 that arrive."""
    both = {"dense": 1000, "synapses": 800, "units": 28, "inputs": 50, "rate_sop": 560}
    spikes, graded = record("spikes", ac=500, **both), record("graded", graded=300, graded_ac=500, **both)
    for entering in (spikes, graded):
        assert cost(PAPERS, entering).terms_pj == {"spike events": pytest.approx(504.0)}
    real = record("analog", dense=1000, synapses=800, mac=800, units=49, inputs=50)
    assert cost(PAPERS, real).terms_pj == {"multiply-accumulates": pytest.approx(4600.0)}


def test_papers_layer_that_two_kinds_enter():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(10, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + self.fc(torch.linspace(0.1, 0.9, 10) * x.sum())

    x = torch.zeros(1, 10)
    x[0, :3] = 1
    report = estimate(Shared(), x, chip="papers45")
    # 0.3 x 200 events, and 200 multiply-accumulates of the second call
    assert sum(report.terms_pj.values()) == pytest.approx(60 * 0.9 + 200 * 4.6)


def test_papers_products_of_spikes_are_counted_once():
    """Neither as spike events nor as graded ones besides."""
    for operand in ("spikes+spikes", "graded+spikes", "spikes+graded", "spikes+analog"):
        product = Record("qk", "act_act", operand, counts={"dense": 1000, "units": 28, "inputs": 50, "rate_sop": 13})
        assert cost(PAPERS, product).terms_pj == {"activation x activation": pytest.approx(11.7)}


def test_papers_do_not_count_gates():
    gate = Record("gate", "elementwise", counts={"gates": 24})
    assert cost(PAPERS, gate).terms_pj == {}
    assert cost(FP32, gate).terms_pj == {"activation x activation": pytest.approx(24 * 0.9)}
    product = Record("qk", "act_act", "spikes+spikes", counts=COUNTS)
    assert amounts(product, PAPERS) == CONVENTION | {"spike events": 0, "activation x activation": 13}


@pytest.mark.parametrize(
    ("counts", "how", "expected"),
    [
        # A loop computes 4 x 100, of which 300 repeat the first step.
        ({"mac": 400, "static_mac": 300}, "as_run", 400),
        ({"mac": 400, "static_mac": 300}, "once", 100),
        ({"mac": 400, "static_mac": 300}, "every_step", 400),
        # A model that computes once and repeats the result.
        ({"mac": 100, "static_once": 100}, "as_run", 100),
        ({"mac": 100, "static_once": 100}, "once", 100),
        ({"mac": 100, "static_once": 100}, "every_step", 400),
        # Real-valued inputs that are no static image.
        ({"mac": 400}, "once", 400),
        ({"mac": 400}, "every_step", 400),
    ],
)
def test_static_input(counts: dict[str, int], how: str, expected: int):
    real = record("analog", dense=1000, synapses=500, **counts)
    assert amounts(real, FP32, 4, static_input=how)["multiply-accumulates"] == expected
    assert amounts(real, PAPERS, 4, static_input=how)["multiply-accumulates"] == 2 * expected
    report = cost(FP32, real, samples=2, steps=4, static_input=how)
    assert report.energy_mj * 1e9 == pytest.approx(expected * 4.6 / 2)
    assert report.static_saving_pj == pytest.approx(0 if "static" not in "".join(counts) else 300 * 4.6 / 2)


def test_no_saving_where_real_values_have_no_price():
    assert cost(LOIHI, record("analog", mac=400, static_mac=300), steps=4).static_saving_pj == 0


def test_hops_are_priced_only_when_assumed():
    without = cost(LOIHI, record())
    assert "hops" not in without.terms_pj
    assert cost(LOIHI, record(), hops=3.0).terms_pj["hops"] == pytest.approx(17 * 3 * 3.5)
    assert cost(LOIHI, record(), hops=0.0).energy_mj == without.energy_mj
    (entry,) = [entry for entry in without.unpriced if entry.price == "hop_pj"]
    assert (entry.amount, entry.reason) == (17, "hops per packet are not assumed")
    for hops in (0.0, 3.0):
        assert "hop_pj" not in [entry.price for entry in cost(LOIHI, record(), hops=hops).unpriced]


def test_batch_norm_folds_or_counts():
    norm = Record("bn", "elementwise", counts={"batch_norm": 6})
    assert cost(FP32, norm).terms_pj == {}
    assert cost(FP32, norm, batch_norm="count").terms_pj == {"batch norm": pytest.approx(27.6)}
    assert next(entry.term for entry in cost(LOIHI, norm, batch_norm="count").unpriced) == "batch norm"
    assert "batch norm" not in [entry.term for entry in cost(LOIHI, norm).unpriced]


def test_a_spike_is_read_as_one_bit_everything_else_in_full():
    for operand, bits in (("spikes", 50), ("graded", 1600), ("analog", 1600), ("spikes+graded", 1600)):
        assert amounts(record(operand, inputs=50), FP32)["activation reads"] == bits


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"static_input": "twice"},
            "static_input='twice' is unknown. Expected one of as_run, once, every_step. Pass one",
        ),
        ({"batch_norm": True}, "batch_norm=True is unknown. Expected one of fold, count. Pass one of these."),
        *(
            ({name: value}, f"{name}={value!r} must be a finite number of at least 0, or None.")
            for name in ("hops", "latency_ms")
            for value in (-1, -1e-9, math.nan, math.inf, -math.inf, True, False, "3", "", [3], (), {}, 1j)
        ),
        *(
            ({"chips": value}, f"chips={value!r} must be a whole number of at least 1.")
            for value in (-2, 0, 1.0, 1.5, math.nan, True, "2", None, [1])
        ),
        *(
            ({name: value}, f"{name}={value!r} is unknown. Expected one of ")
            for name in ("static_input", "batch_norm")
            for value in (None, 1, ["fold"], {"once"})
        ),
        ({"static_input": torch.ones(2)}, "static_input='tensor([1., 1.])' is unknown. Expected one of "),
        ({"hops": torch.ones(2)}, "hops=tensor([1., 1.]) must be a finite number of at least 0, or None."),
    ],
)
def test_assumptions_are_checked(settings: dict, text: str):
    with pytest.raises(SettingError) as caught:
        Assumptions(**settings)
    assert str(caught.value).startswith("Assumptions: ")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{}, {"hops": None, "latency_ms": None}, {"hops": 0, "latency_ms": 0.0}, {"hops": 1.5, "chips": 7}]
)
def test_assumptions_in_range(settings: dict):
    assert dataclasses.asdict(Assumptions(**settings)).items() >= settings.items()
