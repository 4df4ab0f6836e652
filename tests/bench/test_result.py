"""Results of benchmarks as JSON, text and pictures."""

import json

import pytest
import torch

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
