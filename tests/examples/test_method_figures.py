"""The figures of the page on the method are drawn by their script, from the shipped net and image."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]


def test_the_figures_say_what_the_net_does():
    spec = importlib.util.spec_from_file_location("method_figures", ROOT / "examples" / "method_figures.py")
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    titles = [axes.get_title() for part in drawn.draw_steps().subfigs for axes in part.axes]
    assert titles[:4] == [f"step {n + 1}\n{spikes} spikes" for n, spikes in enumerate((380, 609, 728, 866))]
    assert "34 of 49 tokens\nof step 4" in titles
    assert "49 x 49, of it\n34 x 34 used" in titles
    (axes,) = drawn.draw_blocks().axes
    words = [text.get_text() for text in axes.texts]
    assert words.count("SN") == 4
    assert "W$_M$ X" in words
    assert sum("Q K$^T$" in word for word in words) == 2
