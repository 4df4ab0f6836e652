"""Savings by cause add up to the difference, and each cause gets what it caused."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from snntorch_smixer import dstsp, from_pretrained
from snntorch_smixer.cost import Assumptions, Comparison, CostReport, Record, Records, compare, estimate
from snntorch_smixer.cost.estimate import CAUSES
from snntorch_smixer.errors import SettingError


def fc(name: str, synapses: int, ac: int, steps: int = 4) -> Record:
    counts = {"synapses": synapses, "ac": ac} if ac else {"synapses": synapses}
    return Record(name, "linear", "spikes", counts=counts, steps=steps)


def cost(*layers: Record, samples: int = 1, chip: str = "horowitz45-fp32", **assume: object) -> CostReport:
    return estimate(Records("Net", samples, 4, layers, {}, (), 10), chip, assume=Assumptions(**assume))


def saving(before: tuple[Record, ...], after: tuple[Record, ...]) -> dict[str, object]:
    """By cause in events, of 0.9 pJ each."""
    result = compare(cost(*before), cost(*after))
    assert_adds_up(result)
    return {cause: pytest.approx(pj / 0.9) for cause, pj in result.saving_pj.items()}


def assert_adds_up(result: Comparison) -> None:
    difference = result.before.energy_mj - result.after.energy_mj
    assert sum(result.saving_pj.values()) == pytest.approx(difference * 1e9, rel=1e-9, abs=1e-9)
    assert result.saving_mj == pytest.approx(difference, rel=1e-9, abs=1e-18)
    assert set(result.saving_pj) <= set(CAUSES)
    assert 0.0 not in result.saving_pj.values()


def test_only_steps():
    assert saving((fc("a", 400, 40),), (fc("a", 100, 10, 1),)) == {"steps": 30}


def test_only_tokens():
    assert saving((fc("a", 400, 40),), (fc("a", 300, 30),)) == {"tokens": 10}


def test_only_firing():
    """Behind a layer that changed its size and costs nothing."""
    gate, cut = fc("gate", 400, 0), fc("gate", 300, 0)
    assert saving((gate, fc("a", 400, 40)), (cut, fc("a", 400, 25))) == {"firing": 15}
    assert saving((gate, fc("a", 400, 25)), (cut, fc("a", 400, 40))) == {"firing": -15}


def test_no_layer_changed_its_size():
    """There is no layer before the first one that did: all is firing, or layers of one of them."""
    before = fc("a", 400, 40), fc("b", 300, 20), fc("c", 200, 0)
    after = fc("a", 400, 25), fc("b", 300, 26), fc("c", 200, 3)
    assert saving(before, after) == {"firing": 15 - 6 - 3}
    assert saving((fc("a", 400, 40), fc("old", 400, 9)), (fc("a", 400, 25),)) == {"firing": 15, "removed": 9}
    assert saving((fc("old", 400, 9),), (fc("new", 400, 4),)) == {"removed": 9, "added": -4}


def test_two_causes_share_by_their_logarithms():
    # Energies 40 to 5 fall by 8: by 4 from the steps, by 2 from the firing, so two thirds and one third of 35.
    shares = saving((fc("a", 400, 40),), (fc("a", 100, 5, 1),))
    assert shares == {"steps": 35 * 2 / 3, "firing": 35 / 3}
    # Fewer steps and tokens, more firing: 40 to 20 by 4 and 2 down and 4 up.
    shares = saving((fc("a", 400, 40),), (fc("a", 50, 20, 1),))
    assert shares == {"steps": 40, "tokens": 20, "firing": -40}
    # Two factors that cancel: the logarithmic mean of 40 and 40 is 40.
    shares = saving((fc("a", 400, 40),), (fc("a", 200, 40),))
    assert shares == {"tokens": 40 * math.log(2), "firing": -40 * math.log(2)}


def test_swapping_both_turns_the_sign():
    there, back = ((fc("a", 400, 40),), (fc("a", 150, 3, 2),)), ((fc("a", 150, 3, 2),), (fc("a", 400, 40),))
    forth, home = (compare(cost(*a), cost(*b)).saving_pj for a, b in (there, back))
    assert {cause: -pj for cause, pj in home.items()} == {cause: pytest.approx(pj) for cause, pj in forth.items()}
    assert len(forth) == 3


def test_layers_in_front_of_the_change_are_the_stem():
    before = fc("stem", 400, 40), fc("stem2", 400, 30), fc("cut", 400, 20), fc("same", 400, 9)
    after = fc("stem", 400, 35), fc("stem2", 400, 31), fc("cut", 200, 10), fc("same", 400, 7)
    assert saving(before, after) == {"stem": 4, "tokens": 10, "firing": 2}


def test_removed_and_added_layers():
    before = fc("query", 400, 40), fc("key", 400, 30), fc("proj", 400, 20)
    after = fc("w_m", 400, 15), fc("proj", 400, 20)
    assert saving(before, after) == {"removed": 70, "added": -15}
    other = dataclasses.replace(fc("proj", 400, 12), op="matmul")
    assert saving((fc("proj", 400, 20),), (other,)) == {"removed": 20, "added": -12}


def test_two_products_of_one_module_are_told_apart():
    first, second = fc("attn", 400, 40), fc("attn", 100, 10)
    result = compare(cost(first, second), cost(first, second))
    assert result.saving_pj == {}
    assert [layer[1:] for layer in result.layers] == [(36.0, 36.0), (9.0, 9.0)]
    assert saving((first, second), (first,)) == {"removed": 10}


@pytest.mark.parametrize(("before", "after", "pj"), [(40, 0, 40), (0, 40, -40)])
def test_a_layer_that_falls_silent_is_firing(before: int, after: int, pj: int):
    assert saving((fc("a", 400, before),), (fc("a", 100, after, 1),)) == {"firing": pj}


def test_batches_of_different_size():
    one, two = cost(fc("a", 400, 40)), cost(fc("a", 800, 80), samples=2)
    assert compare(one, two).saving_pj == compare(two, one).saving_pj == {}
    # Per sample 40 to 10 events: half the size, and half the firing of what is left.
    halved = compare(one, cost(fc("a", 400, 20), samples=2))
    assert halved.saving_pj == {"tokens": pytest.approx(0.9 * 15), "firing": pytest.approx(0.9 * 15)}
    assert_adds_up(halved)


def test_no_other_cause_by_rounding():
    """480/9 by 360/9 is not 4/3 in floating point."""
    before, after = cost(fc("a", 480, 40), samples=9), cost(fc("a", 360, 30, 3), samples=9)
    assert compare(before, after).saving_pj == {"steps": pytest.approx(1.0)}


RESIDUE = pytest.mark.xfail(reason="what is left of equal sums in floating point is taken as a saving", strict=True)


def test_no_stem_by_rounding():
    """0.9 and 9 * 0.9 / 9 differ in the last bit."""
    one = cost(fc("stem", 400, 1), fc("cut", 400, 20))
    nine = cost(fc("stem", 3600, 9), fc("cut", 1800, 90), samples=9)
    assert compare(one, nine).saving_pj == {"tokens": pytest.approx(9.0)}


def test_no_firing_by_rounding():
    """Two layers that swap their rates."""
    assert saving((fc("a", 400, 2), fc("b", 400, 3)), (fc("a", 400, 3), fc("b", 400, 2))) == {}


def test_static_power_is_its_own_cause():
    layer = fc("a", 400, 40)
    before = cost(layer, chip="loihi1", latency_ms=2.0, chips=3)
    assert compare(before, before).saving_pj == {}
    fewer = dataclasses.replace(before, static_power_pj=before.static_power_pj / 4)
    result = compare(before, fewer)
    assert result.saving_pj == {"static power": pytest.approx(104.0 * 6e6 * 3 / 4)}
    assert_adds_up(result)


def test_chips_and_assumptions_have_to_be_the_same():
    layer = fc("a", 400, 40)
    with pytest.raises(SettingError) as caught:
        compare(cost(layer), cost(layer, chip="loihi1"))
    assert str(caught.value).startswith("compare: got horowitz45-fp32 with Assumptions(static_input='as_run'")
    assert "and loihi1 with" in str(caught.value)
    assert str(caught.value).endswith("expected the same chip and assumptions. Estimate both alike.")
    with pytest.raises(SettingError, match=r"compare: got loihi1 with .* and loihi1 with .*hops=2"):
        compare(cost(layer, chip="loihi1"), cost(layer, chip="loihi1", hops=2.0))


def test_text():
    before = fc("a", 400, 40), fc("gone", 400, 4)
    result = compare(cost(*before), cost(fc("a", 100, 10, 1), Record("s", "elementwise", counts={"special": 3})))
    lines = str(result).splitlines()
    assert lines[0] == "Net to Net on 45 nm arithmetic, fp32: 39.6 pJ to 9 pJ per sample, saving 30.6 pJ (77.3%)"
    assert lines[1].split()[:4] == ["steps", "27", "pJ", "88.2%"]
    assert lines[1].endswith(CAUSES["steps"])
    assert lines[2].split()[:4] == ["removed", "3.6", "pJ", "11.8%"]
    assert lines[3] == "without special functions, state accesses, static power, weight reads"
    assert lines[4] == ""
    assert lines[-3].split() == ["a", "linear", "3.6e-05", "9e-06"]
    assert lines[-1].split() == ["total", "3.96e-05", "9e-06"]


def test_text_without_any_energy():
    silent = cost(fc("a", 400, 0))
    assert str(compare(silent, silent)).startswith("Net to Net on 45 nm arithmetic, fp32: 0 mJ to 0 mJ per sample")


def test_text_where_the_parts_cancel():
    """As after renaming a layer."""
    result = compare(cost(fc("old", 400, 40)), cost(fc("new", 400, 40)))
    assert result.saving_pj == {"removed": 36, "added": -36}
    lines = str(result).splitlines()
    assert lines[0] == "Net to Net on 45 nm arithmetic, fp32: 36 pJ to 36 pJ per sample, saving 0 mJ (0.0%)"
    assert lines[1].split() == ["removed", "36", "pJ", *CAUSES["removed"].split()]
    assert lines[2].split() == ["added", "-36", "pJ", *CAUSES["added"].split()]
    assert lines[3] == "without state accesses, static power, weight reads"


def test_text_where_the_parts_cancel_but_for_rounding():
    """As after splitting a layer in two: 7 * 0.9 is not 0.9 + 6 * 0.9 in floating point."""
    result = compare(cost(fc("old", 400, 7)), cost(fc("one", 400, 1), fc("other", 400, 6)))
    assert not any("%" in line for line in str(result).splitlines()[1:])


def test_text_where_nothing_is_left_out():
    layer = Record("fc", "linear", "spikes", counts={"rate_sop": 40}, steps=4)
    text = str(compare(cost(layer, chip="papers45"), cost(layer, chip="papers45")))
    assert "without" not in text


def test_wrapping_saves_by_steps_and_tokens():
    x = torch.rand(2, 1, 28, 28)
    net = from_pretrained("smixer-2-64-fmnist")
    before = estimate(net, x)
    result = compare(before, estimate(dstsp.wrap(net, ps=0.3, t=1), x))
    assert_adds_up(result)
    shares = {cause: pj / before.energy_mj / 1e9 for cause, pj in result.saving_pj.items()}
    assert shares["steps"] > 0.2
    assert shares["tokens"] > 0.02
    assert "removed" not in shares
    assert -0.1 < shares["added"] < 0  # ranking and merging
    assert shares.get("stem", 0) == 0  # the same images at the same steps
    assert 0 < sum(shares.values()) < 1


def test_wrapping_without_pruning_saves_nothing(firing_net: Callable[..., nn.Module]):
    net, x = firing_net(T=2, depth=1), torch.randn(2, 2, 16, 16)
    before = estimate(net, x)
    assert compare(before, estimate(dstsp.wrap(net, ps=0, t=None), x)).saving_pj == {}


def test_attention_against_the_mixer(firing_net: Callable[..., nn.Module]):
    x = torch.randn(2, 2, 16, 16)
    ssa, mixer = (estimate(firing_net(mixer=kind, T=2, depth=1), x) for kind in ("ssa", "smixer"))
    result = compare(ssa, mixer)
    assert_adds_up(result)
    gone = [row for row in ssa.rows if ".query" in row.record.layer or ".key" in row.record.layer]
    gone += [row for row in ssa.rows if row.record.op == "act_act"]
    products = sum(row.total_pj for row in gone)
    assert {row.record.op for row in gone} >= {"linear", "neuron", "act_act"}
    assert result.saving_pj["removed"] >= products > 0
    added = sum(row.total_pj for row in mixer.rows if ".w_m" in row.record.layer)
    assert result.saving_pj["added"] <= -added < 0
    assert not any(".key" in layer for layer, _, _ in result.layers)
