"""Results of benchmarks as JSON, text and pictures."""

import json

import pytest
import torch

from snntorch_smixer.bench.chart import bars
from snntorch_smixer.bench.report import result_table
from snntorch_smixer.bench.result import BenchResult, device_name, versions
from snntorch_smixer.errors import SettingError

ROWS = (
    {"mode": "naive", "saved_mb": 83.3125, "share": 1.0, "kernels": 3733, "time": None},
    {"mode": "recompute", "saved_mb": 4.0, "share": 0.048, "kernels": 12, "time": 1234.5},
)


def result(rows=ROWS) -> BenchResult:
    return BenchResult(
        "memory", rows, "smixer bench memory", device="a device", versions={"torch": "2.0"}, notes=("Per image.",)
    )


def test_json_comes_back_equal(tmp_path):
    path = result().save(tmp_path / "made" / "memory.json")
    text = path.read_text(encoding="utf-8")
    assert text == result().to_json()
    assert json.loads(text)["rows"][1] == ROWS[1]
    assert BenchResult.from_json(text).to_json() == text
    assert BenchResult.from_json(text).notes == ("Per image.",)


def test_no_number_that_json_does_not_have():
    with pytest.raises(ValueError, match="JSON compliant"):
        result([{"a": float("nan")}]).to_json()


def test_device_and_versions_are_filled_in():
    found = BenchResult("x", [], "c")
    assert found.device == device_name()
    assert "CPU" in found.device
    assert found.versions == versions()
    assert found.versions["torch"] == torch.__version__
    assert {"python", "snntorch"} <= set(found.versions)


def test_rows_have_the_same_keys():
    with pytest.raises(SettingError, match="a row has the keys a, c, the first one a, b"):
        result([{"a": 1, "b": 2}, {"a": 1, "c": 2}])


def test_a_table_by_hand():
    assert result_table(result()).splitlines() == [
        "mode       saved_mb  share  kernels  time",
        "naive         83.31      1     3733     -",
        "recompute         4  0.048       12  1234",
        "",
        "Per image.",
        "a device; torch 2.0",
        "smixer bench memory",
    ]


def test_a_table_without_rows():
    assert result_table(result([])).splitlines()[-1] == "smixer bench memory"


def test_a_chart_shows_each_row_and_the_reference(tmp_path):
    pytest.importorskip("matplotlib")
    path = bars(result(), tmp_path / "made" / "memory.svg", value="saved_mb", label="mode", reference=44)
    text = path.read_text(encoding="utf-8")
    assert "<!-- recompute -->" in text
    assert "<!-- saved mb -->" in text
    without = bars(result(), tmp_path / "b.svg", value="saved_mb", label="mode").read_text(encoding="utf-8")
    assert "#cc3311" in text
    assert "#cc3311" not in without


def test_a_row_without_the_number_has_no_bar(tmp_path):
    pytest.importorskip("matplotlib")
    text = bars(result(), tmp_path / "a.svg", value="time", label="mode").read_text(encoding="utf-8")
    assert "<!-- recompute -->" in text
    assert "<!-- naive -->" not in text


def test_a_chart_of_nothing(tmp_path):
    with pytest.raises(SettingError, match=r"no row of memory has 'speed' and 'mode'. The keys are mode, saved_mb"):
        bars(result(), tmp_path / "a.svg", value="speed", label="mode")
