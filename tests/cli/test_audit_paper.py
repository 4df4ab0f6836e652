"""``smixer cost audit-paper`` rebuilds the paper's figures from counts of our own nets."""

import json
import re

import pytest

from snntorch_smixer.cli import audit_paper
from snntorch_smixer.cli.main import main
from snntorch_smixer.cost.audit import audit_to_text


@pytest.fixture(scope="module")
def audited() -> audit_paper.Audit:
    return audit_paper.audit()


@pytest.fixture(scope="module")
def output(audited: audit_paper.Audit) -> str:
    return audit_to_text(*audited)


def test_the_command_prints_it(capsys, monkeypatch):
    monkeypatch.setattr(audit_paper, "text", lambda: "the audit")
    assert main(["cost", "audit-paper"]) == 0
    assert capsys.readouterr().out == "the audit\n"


def test_energy_without_pruning(output: str):
    assert "4.45 mJ is a mean rate of 25.3%" in output
    assert "layer by layer (mean 15.6%): 3.01 mJ" in output
    curve = re.search(r"mJ by mean firing rate(.*)", output)
    assert curve is not None
    points = [(float(a) / 100, float(b)) for a, b in re.findall(r"(\d+)%: (\d+\.\d+)", curve.group(1))]
    for rate, mj in points:
        assert mj == pytest.approx(0.1453 * 4.6 + 0.9 * rate * 16.638, abs=0.01)


def test_what_pruning_explains(output: str):
    assert re.search(r"counting all layers, +rate 25.3%: 3.79 mJ", output)
    assert "shrank with the tokens: 3.31 mJ" in output
    assert "dropped tokens explain 32% of the saving, at most 54%" in output


def test_flops_within_three_percent(output: str):
    rows = re.findall(r"^ +(0\.\d+) +(0\.\d+) +(\d\.\d\d) +(\d\.\d{3}) +([+-]\d\.\d)%", output, re.MULTILINE)
    assert [row[2] for row in rows] == ["3.45", "2.72", "2.54", "2.04"]
    for _, _, paper, ours, shown in rows:
        assert abs(float(ours) / float(paper) - 1) < 0.03
        assert float(shown) == pytest.approx((float(ours) / float(paper) - 1) * 100, abs=0.06)


def test_counts_of_the_large_net_by_hand():
    macs = audit_paper.part_macs(audit_paper.count("smixer-8-768"))
    tokens, dim, blocks = 196, 768, 8
    assert macs.projections == blocks * 2 * tokens * dim**2
    assert macs.mixing == blocks * tokens**2 * dim
    assert macs.ffn == blocks * 2 * 4 * tokens * dim**2
    assert macs.analog == 9 * 3 * 96 * 224**2 + 16**2 * 3 * 96 * tokens + 768 * 1000
    assert macs.blocks == blocks


def test_it_is_the_same_in_json(monkeypatch, capsys, audited: audit_paper.Audit):
    monkeypatch.setattr(audit_paper, "audit", lambda: audited)
    assert main(["cost", "audit-paper", "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert set(found) == {"macs", "energy", "pruning", "flops"}
    assert found["energy"]["rate_needed"] == pytest.approx(0.253, abs=5e-4)
    assert audit_paper.text() == audit_to_text(*audited)
