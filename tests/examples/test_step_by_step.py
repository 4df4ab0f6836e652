"""The example in the style of the snnTorch tutorials: what it prints is what the mixer and the pruning promise."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "05_snntorch_step_by_step.py"


@pytest.mark.slow
def test_it_trains_wraps_fits_and_fine_tunes(capsys: pytest.CaptureFixture[str]):
    spec = importlib.util.spec_from_file_location("step_by_step", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(None, 1)
    lines = capsys.readouterr().out.splitlines()
    numbers = [line[34:].split() for line in lines[1:6]]
    assert [len(row) for row in numbers] == [8] * 5
    macs, products = ([float(row[i]) for row in numbers] for i in (1, 5))
    assert macs[3] < 0.7 * macs[2] < macs[0], "ps=0.3, t=2 runs less than half of the blocks"
    assert products[0] > 0.1
    assert products[2] == 0
    assert any("W_M, 4 heads, 49 x 49" in line for line in lines)
