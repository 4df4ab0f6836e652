"""The paper's table beside ours."""

from dataclasses import replace

import pytest

from snntorch_smixer.bench import suite_paper
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.bench.suite_paper import PUBLISHED, paper
from snntorch_smixer.bench.variants import noise, variant
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet

TINY = SMixerConfig((16, 16), 3, 5, 4, dim=16, depth=1, heads=2)


def test_a_row_for_each_published_line(monkeypatch):
    lines = PUBLISHED[3:5]
    monkeypatch.setattr(suite_paper, "PUBLISHED", lines)
    monkeypatch.setattr(suite_paper, "CONFIGS", {"smixer-4-384": TINY, "smixer-8-768": replace(TINY, T=1)})
    rows = paper().rows
    assert [(row["net"], row["pruning"], row["paper_mb"]) for row in rows] == [
        ("smixer-4-384", "ps=0.3 t=1", 2346),
        ("smixer-8-768", "none", 17008),
    ]
    for row in rows:
        assert row["gmacs"] == row["counted_gmacs"] > 0
        assert row["naive_mib"] > row["fused_mib"] >= row["recompute_mib"] > 0
    net = SMixerNet(replace(TINY, prune=lines[0].prune))
    peak = peak_bytes(variant(net, "fused"), noise(TINY, 16)[0], fake=True)
    held = 16 * sum(p.numel() for p in net.parameters())
    assert rows[0]["fused_mib"] == pytest.approx((64 * peak + held) / 2**20)


@pytest.mark.slow
def test_operations_and_memory_are_those_that_the_paper_prints():
    """Operations within 3 %; the plain loop's memory within 10 % where nothing, or steps, are pruned."""
    for row in paper().rows[:4]:
        assert row["gmacs"] == pytest.approx(row["paper_gmacs"], rel=0.03)
        assert row["gmacs"] == pytest.approx(row["counted_gmacs"], rel=1e-3)
        if row["pruning"] in ("none", "t=2", "ps=0.3 t=1"):
            assert row["naive_mib"] == pytest.approx(row["paper_mb"], rel=0.1)
    assert CONFIGS["smixer-4-384"].T == 4
