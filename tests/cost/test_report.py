"""Reports: text, JSON, CSV and markdown say everything, and say the same."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import Assumptions, CostReport, Record, Records, estimate
from snntorch_smixer.cost.estimate import TERMS
from snntorch_smixer.cost.records import COUNTS, Geometry, Uncounted

STEM = Record(
    "stem",
    "conv2d",
    "analog",
    counts={"dense": 10_000, "synapses": 9000, "mac": 9000, "static_mac": 4500, "packets": 400, "inputs": 400},
    events=((9, 9), (9, 9)),
    steps=2,
    geometry=Geometry(27, 8, 10),
    weight_bytes=864,
)
LIF = Record(
    "lif", "neuron", "spikes", counts={"updates": 200, "triggered": 150, "spikes": 50, "outputs": 200}, steps=2
)
FOLDS = Record("bn", "elementwise", counts={"batch_norm": 200})
HEAD = Record(
    "head",
    "linear",
    "spikes",
    calls=2,
    counts={"dense": 2000, "synapses": 2000, "ac": 500, "packets": 50, "units": 50, "inputs": 200, "rate_sop": 500},
    events=((100, 150), (50, 200)),
    steps=2,
    geometry=Geometry(10, 10, 1),
)
LOOSE = Record("", "elementwise", counts={"adds": 40, "special": 6})
LAYERS = (STEM, LIF, FOLDS, HEAD, LOOSE)


def records(*layers: Record, samples: int = 2, steps: int = 2, uncounted: tuple = ()) -> Records:
    return Records("Net", samples, steps, layers or LAYERS, {"moves or views data": 3}, uncounted, 10)


def report(chip: str = "horowitz45-fp32", **assume: object) -> CostReport:
    return estimate(records(), chip, assume=Assumptions(**assume))


def table(text: str) -> list[str]:
    """Lines of the table in a text: header, layers, total."""
    rules = [i for i, line in enumerate(text.splitlines()) if line and set(line) == {"-"}]
    lines = text.splitlines()
    assert len(rules) == 2, text
    return [lines[rules[0] - 1], *lines[rules[0] + 1 : rules[1]], lines[rules[1] + 1]]


def test_summary_in_text():
    # 4500 MAC * 4.6 + 250 events * 0.9 + 100 updates * 5.5 + 20 additions * 0.9 = 20700 + 225 + 550 + 18 pJ
    lines = str(report()).splitlines()
    assert lines[0] == "Net on 45 nm arithmetic, fp32 (45 nm): 21.49 nJ per sample"
    assert lines[1] == "2 samples, 2 time steps; coverage 100.0% of 10 operations"
    assert lines[2] == (
        "of it multiply-accumulates 20.7 nJ (96.3%), neuron updates 412.5 pJ (1.9%), spike events 225 pJ (1.0%), "
        "idle neuron updates 137.5 pJ (0.6%), additions 18 pJ (0.1%)"
    )
    # Bits: 32 * (4500 + 250) weights, 64 * (4750 + 100) states, 200 inputs of 32 and 100 spikes
    assert lines[3] == (
        "without spikes sent (25), hops (225), weight reads (152 k), state accesses (310 k), "
        "activation reads (6.5 k), special functions (3), static power (unknown)"
    )
    # Stem and head have as many events in one step as in the other: (20700 + 225) / 2 pJ
    assert lines[4] == "linear maps and products by time step: 10.46 nJ, 10.46 nJ"
    assert lines[5] == (
        "the image's own layers: computing them once instead of 2 times is 10.35 nJ; counted here: as run"
    )


def test_a_line_per_layer_and_the_sum():
    lines = [line.split() for line in table(str(report()))]
    assert [line[0] for line in lines] == ["layer", "stem", "lif", "head", "(model)", "total"]  # bn folds away
    assert lines[0][4:] == ["events", "MAC", "updates", "other", "bytes", "uJ"]  # no column that is empty throughout
    assert lines[1][1:] == ["conv2d", "analog", "100.0%", "4.5k", "864", "0.0207", "96.3%"]
    assert lines[2][1:] == ["neuron", "spikes", "25.0%", "100", "0.00055", "2.6%"]
    assert lines[3][1:] == ["linear", "spikes", "25.0%", "250", "0.000225", "1.0%"]
    assert lines[4][1:] == ["elem.", "23", "1.8e-05", "0.1%"]
    assert lines[5][1:] == ["250", "4.5k", "100", "23", "864", "0.02149", "100%"]
    counted = [line.split()[0] for line in table(str(report(batch_norm="count")))]
    assert "bn" in counted


def test_every_unpriced_term_says_why():
    shown = report("loihi1")
    text = str(shown)
    assert len(shown.unpriced) == 5
    for entry in shown.unpriced:
        assert f"without {entry.term}: {entry.reason} ({entry.price})" in text
    assert "without packets: hops per packet are not assumed (hop_pj)" in text
    without = next(line for line in text.splitlines() if line.startswith("without multiply"))
    assert without.startswith(
        "without multiply-accumulates (4.5 k), packets (225), additions (20), special functions (3)"
    )
    assert without.endswith("static power (104 mW)")
    assert "no extra cost for weight reads: inside ac_pj: a synaptic operation reads its weight" in text


def test_power_without_a_price_in_text():
    assert "\nwithout static power: the profile has no figure (static_mw)\n" in str(report())
    odin = str(report("odin"))
    assert ", static power (0.0273 mW), clock power (1.78 uW/MHz)\n" in odin
    assert "\nwithout static power: the time of one inference is not assumed (static_mw)\n" in odin
    assert "\nwithout clock power: the clock is not assumed (clock_uw_per_mhz)\n" in odin
    timed = str(report("odin", latency_ms=2.0))
    assert ", static power 54.6 nJ (" in timed  # 27.3 uW x 2 ms
    assert "without static power" not in timed
    assert "\nwithout clock power: " in timed
    papers = report("papers45")
    assert papers.unpriced == ()
    assert "without" not in str(papers)
    assert json.loads(report().to_json())["without"][-1] == {
        **{"term": "static power", "price": "static_mw", "amount": 0, "reason": "the profile has no figure"}
    }


def test_bands_static_power_and_grades():
    text = str(report("loihi1", latency_ms=1.5, chips=2))
    total = 104 * 1.5 * 2 * 1e-3  # mJ
    assert f"Net on Intel Loihi (14 nm): {total * 1e3:.4g} uJ per sample (band " in text
    assert ", static power 312 uJ (100.0%)\n" in text
    assert "static power: the time" not in text
    assert "prices: derived, read second-hand; simulated, read second-hand. Sources: " in text
    assert text.endswith("snntorch_smixer/cost/profiles/loihi1.toml")
    # 250 events of 23.6 to 35.5, 75 updates of 81, 25 of 52, 25 spikes of 1.7 pJ
    assert "13.32 nJ per sample (band 13.32 nJ to 16.29 nJ)" in str(report("loihi1"))


@pytest.mark.parametrize(
    ("events", "text"),
    [(1, "0.9 pJ"), (2000, "1.8 nJ"), (4_000_000, "3.6 uJ"), (5 * 10**9, "4.5 mJ"), (10**13, "9000 mJ"), (0, "0 mJ")],
)
def test_units(events: int, text: str):
    run = records(Record("fc", "linear", "spikes", counts={"ac": events} if events else {}), samples=1)
    assert f": {text} per sample\n" in str(estimate(run))


def test_one_step_one_sample():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x)

    text = str(estimate(Net(), torch.tensor([[1.0, 0, 1, 0]])))
    assert "Net on 45 nm arithmetic, fp32 (45 nm): 5.4 pJ per sample" in text  # 2 * 3 events
    assert "1 samples, 1 time steps" in text
    assert "the image's own layers" not in text
    assert [line.split()[0] for line in table(text)] == ["layer", "fc", "total"]


def test_nothing_priced():
    text = str(report("akida"))
    assert (
        text.startswith("Net on BrainChip Akida AKD1000 (node not stated in our sources)") or "0 mJ per sample" in text
    )
    assert "of it" not in text
    assert "without spike events (250), multiply-accumulates (4.5 k), neuron updates (75)" in text
    assert "%" not in table(text)[-1]
    assert [line.split()[0] for line in table(text)] == ["layer", "stem", "lif", "head", "(model)", "total"]
    assert json.loads(report("akida").to_json())["energy_mj"] == 0
    assert "nan" not in text + report("akida").to_csv() + report("akida").to_markdown()


def test_nothing_at_all():
    empty = estimate(Records("Net", 1, 1, (), {}, (), 0))
    assert "coverage 100.0% of 0 operations" in str(empty)
    assert [line.split() for line in table(str(empty))] == [["layer"], ["total"]]
    assert empty.to_csv().count("\n") == 1


def test_uncounted_is_shown():
    missing = (Uncounted("body.odd", "aten.cumsum.default", 2, 5000), Uncounted("", "aten.fft.default", 1, 7))
    shown = estimate(records(uncounted=missing))
    text = str(shown)
    assert "coverage 70.0% of 10 operations" in text
    assert "NOT COUNTED: aten.cumsum.default in body.odd, 2 calls, 5 k numbers" in text
    assert "NOT COUNTED: aten.fft.default in the model, 1 calls, 7 numbers" in text
    assert "NOT COUNTED: aten.cumsum.default" in shown.to_markdown()
    assert json.loads(shown.to_json())["uncounted"][0] == {
        **{"layer": "body.odd", "op": "aten.cumsum.default", "calls": 2, "elements": 5000}
    }
    assert "NOT COUNTED" not in str(report())


def test_json_holds_everything():
    shown = report("loihi1", latency_ms=1.5)
    content = json.loads(shown.to_json())
    assert content["energy_mj"] == shown.energy_mj
    assert content["band_mj"] == [shown.low_pj / 1e9, shown.high_pj / 1e9]
    assert content["terms_pj"] == shown.terms_pj
    assert (content["static_power_pj"], content["static_image_saving_pj"]) == (156e6, 0)
    assert content["assumptions"] == {
        **{"static_input": "as_run", "batch_norm": "fold", "hops": None, "latency_ms": 1.5, "chips": 1, "fold": True}
    }
    assert (content["chip"]["name"], content["chip"]["rule"], content["chip"]["voltage_v"]) == ("loihi1", "event", 0.75)
    assert (content["model"], content["samples"], content["steps"], content["coverage"]) == ("Net", 2, 2, 1.0)
    assert [entry["price"] for entry in content["without"]] == [entry.price for entry in shown.unpriced]
    assert content["included"] == shown.included
    assert content["prices"]["ac_pj"]["band"] == [23.6, 35.5]
    assert "Davies" in content["prices"]["ac_pj"]["source"]
    assert content["free"] == {"moves or views data": 3}
    assert sum(content["by_step_mj"]) == pytest.approx(250 * 23.6e-9)


def test_json_holds_every_layer():
    shown = report()
    layers = json.loads(shown.to_json())["layers"]
    assert [layer["counts"] for layer in layers] == [dict(record.counts) for record in LAYERS]
    assert layers[3]["events"] == [[100, 150], [50, 200]]
    assert layers[0]["geometry"]["fan_in"] == 27
    assert layers[2]["geometry"] is None
    assert sum(layer["total_pj"] for layer in layers) == pytest.approx(shown.energy_mj * 1e9)
    assert layers[1]["energy_pj"] == {"neuron updates": 412.5, "idle neuron updates": 137.5}


@pytest.mark.parametrize("chip", ["horowitz45-fp32", "horowitz45-fp32-sram", "loihi1", "papers45", "akida"])
def test_csv_adds_up(chip: str):
    shown = report(chip)
    lines = list(csv.DictReader(io.StringIO(shown.to_csv())))
    assert [line["layer"] for line in lines] == [record.layer for record in LAYERS]
    assert sum(float(line["total pJ"]) for line in lines) == pytest.approx(shown.energy_mj * 1e9)
    terms = [name for name in lines[0] if name.endswith(" pJ") and name != "total pJ"]
    assert terms == [f"{term.name} pJ" for term in TERMS if term.name in shown.terms_pj]
    for line, row in zip(lines, shown.rows, strict=True):
        assert sum(float(line[term]) for term in terms) == pytest.approx(row.total_pj)
        assert {name: float(line[name]) * 2 for name in COUNTS} == {name: row.record[name] for name in COUNTS}
        assert line["samples"] == "2"
    assert (lines[0]["weight_bytes"], lines[3]["calls"], lines[3]["input"]) == ("864", "2", "spikes")


def test_csv_quotes_odd_names():
    odd = Record('a,"b"', "linear", "spikes", counts={"ac": 10})
    (line,) = csv.DictReader(io.StringIO(estimate(records(odd)).to_csv()))
    assert line["layer"] == 'a,"b"'


def test_markdown_is_a_table():
    text = report().to_markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {len(line) for line in cells} == {15}
    assert set(cells[1]) == {"---"}
    assert [line[0] for line in cells] == ["layer", "---", "stem", "lif", "head", "(model)", "total"]
    assert text.startswith("- Net on 45 nm arithmetic, fp32 (45 nm): 21.49 nJ per sample\n- 2 samples")
    before = text.splitlines()[text.splitlines().index(lines[0]) - 1]
    assert before == ""  # without it, the table is text
    assert text.endswith("\n")


def test_markdown_with_a_bar_in_a_name():
    odd = Record("a|b", "linear", "spikes", counts={"ac": 10})
    text = estimate(records(odd)).to_markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[2].startswith("| a\\|b | linear | spikes |")
    assert [line.replace("\\|", "").count("|") for line in lines] == [16] * 4
    assert "a|b" in str(estimate(records(odd)))


@pytest.mark.parametrize("form", ["to_json", "to_csv", "to_markdown"])
def test_writing_to_a_path(form: str, tmp_path: Path):
    write = getattr(report(), form)
    for path in (tmp_path / "report", str(tmp_path / "text")):
        assert write(path) == write() == Path(path).read_text(encoding="utf-8")


def test_a_layer_and_its_neurons_are_one_row():
    lif = replace(LIF, sources=("stem",))
    shown = estimate(records(STEM, lif, HEAD))
    merged, apart = table(str(shown)), table(shown.to_text(merged=False))
    assert [line.split()[:2] for line in merged[1:-1]] == [["stem", "conv2d+n"], ["head", "linear"]]
    assert [line.split()[0] for line in apart[1:-1]] == ["stem", "lif", "head"]
    assert merged[1].split()[-2:] == ["0.02125", "99.0%"]  # 20.7 and 0.55 nJ
    assert merged[-1].split() == apart[-1].split()
    assert "+n: with the neurons" in str(shown)
    assert "+n" not in shown.to_text(merged=False)


def test_parameters_and_bytes_stand_beside():
    shown = estimate(records(replace(STEM, parameters=216), LIF))
    assert table(str(shown))[0].split()[-3:] == ["params", "bytes", "uJ"]
    assert table(str(shown))[1].split()[5:7] == ["216", "864"]
    (stem, _) = csv.DictReader(io.StringIO(shown.to_csv()))
    assert (stem["parameters"], stem["weight_bytes"]) == ("216", "864")


def test_a_table_is_at_most_110_columns_wide():
    long = [replace(r, layer=f"module.backbone.stages.{i}.blocks.11.{'x' * 60}") for i, r in enumerate(LAYERS)]
    many = dict.fromkeys(COUNTS, 123_456_789_012)
    shown = estimate(records(*(replace(r, counts=many, parameters=10**9, operand="spikes+analog") for r in long)))
    lines = table(str(shown))
    assert max(map(len, lines)) <= 110
    assert lines[1].startswith("module.")
    assert "module.backbone.stages.0.blocks" in shown.to_markdown()


def test_rows_do_not_depend_on_how_often_a_sample_is_repeated():
    net, x = nn.Sequential(nn.Linear(10, 5)), torch.eye(10)[:1]
    one, four = (next(csv.DictReader(io.StringIO(estimate(net, x.repeat(n, 1)).to_csv()))) for n in (1, 4))
    assert (one.pop("samples"), four.pop("samples")) == ("1", "4")
    assert one == four
