"""Search under a budget: what is chosen, what is refused, and that the model is left as it should be."""

import pytest
import torch

from snntorch_smixer import dstsp
from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.recovery.search import Budget, Candidate, best_half, pareto

pytestmark = pytest.mark.filterwarnings("ignore:recover. the unpruned net does not look trained")


def made(cost: float, quality: float) -> Candidate:
    return Candidate(dstsp.DSTSPConfig(ps=cost / 100), cost, quality)


@pytest.fixture
def net(firing_net):
    return dstsp.wrap(firing_net(), ps=0, t=None)


@pytest.fixture
def batches():
    return list(torch.randn(16, 2, 16, 16).split(4))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("energy<=50%", ("energy", 0.5, True)),
        (" energy <= 0.02 mJ", ("energy", 0.02, False)),
        ("energy<=20uJ", ("energy", 0.02, False)),
        ("macs<=20M", ("macs", 2e7, False)),
        ("macs<=70%", ("macs", 0.7, True)),
    ],
)
def test_budgets_are_read(text, wanted):
    budget = Budget.parse(text)
    assert (budget.kind, pytest.approx(budget.limit), budget.relative) == wanted


@pytest.mark.parametrize(
    "text", ["", "energy", "energy<50%", "energy<=", "energy<=5M", "energy<=0%", "fun<=1%", None, 3]
)
def test_what_is_no_budget_is_refused(net, batches, text):
    before = net.dstsp.settings
    with pytest.raises(SettingError, match="budget="):
        dstsp.search(net, batches, budget=text)
    assert net.dstsp.settings == before


def test_the_front_holds_what_nothing_beats():
    found = [made(1, 0.5), made(2, 0.4), made(3, 0.7), made(4, 0.7), made(5, 0.9)]
    assert [c.cost for c in pareto(found)] == [1, 3, 5]
    assert len(best_half(found)) >= 3
    assert {c.cost for c in pareto(found)} <= {c.cost for c in best_half(found)}


def test_the_chosen_setting_meets_the_budget_and_is_set(net, batches):
    whole = dense_macs(dstsp.unwrap(dstsp.wrap(dstsp.unwrap(net), ps=0, t=None)), batches[0])
    dstsp.wrap(net, ps=0, t=None)
    found = dstsp.search(net, batches, budget="macs<=80%")
    assert found.unpruned_cost == whole
    assert net.dstsp.settings == found.chosen.settings
    assert dense_macs(net, batches[0]) <= 0.8 * whole
    within = [c.quality for c in found.front if c.cost <= found.limit]
    assert found.chosen.quality == max(within)
    assert {c.inputs for c in found.front} == {16}
    assert "chosen" in str(found)
    assert found.to_json()


def test_a_search_repeats(firing_net, batches):
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        net = dstsp.wrap(firing_net(), ps=0, t=None)
        results.append(dstsp.search(net, batches, budget="macs<=80%"))
    assert results[0] == results[1]


def test_energy_is_that_of_the_estimator(net, batches):
    from snntorch_smixer import cost

    found = dstsp.search(net, batches[:1], budget="energy<=99%", chip="loihi1", samples=4)
    net.dstsp.settings = found.chosen.settings
    assert found.chosen.cost == pytest.approx(cost.estimate(net, batches[0], chip="loihi1").energy_mj)


@pytest.mark.parametrize("wanted", [{"budget": "macs<=1%"}, {"budget": "macs<=80%", "min_accuracy": 1.0}])
def test_where_nothing_fits_it_says_what_comes_closest_and_changes_nothing(net, batches, wanted):
    before = net.dstsp.settings
    found = dstsp.search(net, batches, **wanted)
    if found.chosen is not None:
        pytest.skip("a pruned setting agrees with the unpruned net on all inputs")
    assert net.dstsp.settings == before
    assert found.closest is not None
    assert "No setting meets the budget" in str(found)


@pytest.mark.parametrize(("bad", "said"), [([], "no batch"), (iter([]), "runs dry")])
def test_a_loader_without_inputs_is_refused(net, bad, said):
    with pytest.raises(SettingError, match=said):
        dstsp.search(net, bad, budget="macs<=80%")


def test_a_net_that_is_not_wrapped_and_a_share_that_is_none_are_refused(firing_net, net, batches):
    with pytest.raises(FamilyError, match="no wrapped classifier"):
        dstsp.search(firing_net(), batches, budget="macs<=80%")
    with pytest.raises(SettingError, match="min_accuracy"):
        dstsp.search(net, batches, budget="macs<=80%", min_accuracy=90)
