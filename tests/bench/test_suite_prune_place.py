"""What each place of the temporal pruning costs: the benchmark, tiny, and the bytes of the real network."""

from dataclasses import replace

import pytest

from snntorch_smixer.bench import suite_prune_place
from snntorch_smixer.bench.closed_form import closed_form_macs
from snntorch_smixer.bench.goals import judged
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.suite_memory import PRUNED
from snntorch_smixer.bench.suite_prune_place import GOALS, prune_place
from snntorch_smixer.bench.variants import noise, variant
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.place import PLACES

TINY = SMixerConfig((16, 16), 3, 5, 4, dim=16, depth=1, heads=2)


@pytest.fixture(scope="module")
def rows():
    return prune_place({"tiny": TINY}, batch=2, rounds=2, compiled=False).rows


def test_a_row_for_each_place(rows):
    assert [row["place"] for row in rows] == ["none", *PLACES]
    assert rows[0]["macs_share"] == 1
    for row in rows:
        config = TINY if row["place"] == "none" else replace(TINY, prune=replace(PRUNED, place=row["place"]))
        assert row["gmacs"] == closed_form_macs(config).total / 1e9
        assert row["train_ratio"] > 0
        assert row["infer_ratio"] > 0


@pytest.mark.parametrize("key", ["gmacs", "saved_mib", "recompute_mib"])
def test_an_earlier_place_costs_less(rows, key):
    values = [row[key] for row in rows]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)


def test_event_frames_are_measured_too(monkeypatch):
    monkeypatch.setattr(suite_prune_place, "PLACES", ("lif2",))
    frames = replace(TINY, in_channels=2)
    rows = prune_place({"tiny": frames}, batch=2, rounds=2, compiled=False).rows
    assert [row["place"] for row in rows] == ["none", "lif2"]
    assert rows[0]["gmacs"] == closed_form_macs(frames, frames=True).total / 1e9


def test_the_goal_is_about_the_second_neuron():
    seen = judged([{"net": "smixer-4-384", "place": "lif2", "train_ratio": 0.25, "infer_ratio": 0.4}], GOALS)
    assert seen[0]["goals"] == "R9 train_ratio 0.25 <= 0.26 met; R9 infer_ratio 0.4 <= 0.3 MISSED"
    assert judged([{"net": "smixer-4-384", "place": "lif1", "train_ratio": 0.2}], GOALS)[0]["goals"] == ""


@pytest.mark.parametrize(
    ("place", "fused", "recompute"), [("stem", 9.6, 1.33), ("lif4", 9.4, 1.3), ("lif2", 5.9, 1.19)]
)
def test_kept_bytes_of_the_real_network(place, fused, recompute):
    """No more than the prototypes of the design kept, in MiB per image."""
    net = SMixerNet(replace(CONFIGS["smixer-4-384"], prune=replace(PRUNED, place=place)))
    for how, most in (("fused", fused), ("recompute", recompute)):
        got = saved_bytes(variant(net, how), noise(net.config, 16)[0], fake=True) / 2**20
        assert most / 3 < got <= most
