"""The picture of pruning shows what pruning did."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from torch import Tensor

from snntorch_smixer import SMixerConfig, SMixerNet, dstsp
from snntorch_smixer.errors import SettingError
from snntorch_smixer.viz.tokens import PruningTrace, draw_pruning, trace_pruning

CONFIG = SMixerConfig((16, 16), 1, 10, 3, dim=16, depth=1, heads=2, strides=(1, 2, 1, 2, 1))
GREY = (0.82, 0.82, 0.84)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (4, 1, 16, 16))


@pytest.fixture
def trace(images: Tensor) -> PruningTrace:
    net = dstsp.wrap(SMixerNet(CONFIG), ps=0.25, t=1)
    for _ in range(10):
        net(images / 64 - 2)
    return trace_pruning(net.eval(), images / 64 - 2)


def test_trace_holds_the_decision(trace: PruningTrace):
    assert trace.step_siv.shape == (3, 4)
    assert trace.token_siv.shape == (4, 16)
    assert trace.token_siv.sum() > 0
    assert trace.token_siv.sum(1).tolist() == trace.step_siv.max(0).values.tolist()
    assert trace.steps.shape == (4, 1)
    assert trace.kept.sum(1).tolist() == [12] * 4
    assert trace.grid == (4, 4)
    busiest = trace.step_siv.argmax(0)
    assert trace.steps[:, 0].tolist() == busiest.tolist()
    for b in range(4):
        spikes = trace.token_siv[b]
        assert spikes[trace.kept[b]].min() >= spikes[~trace.kept[b]].max()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_dropped_tokens_are_greyed_out(trace: PruningTrace, channels: int):
    figure = draw_pruning(torch.randint(256, (4, channels, 16, 16)), trace, list("abcd"))
    assert len(figure.axes) == 16 + 1  # and the scale of the heat map
    assert [axis.get_title() for axis in figure.axes[:4]] == list("abcd")
    for b in range(4):
        shown = np.asarray(figure.axes[8 + b].images[0].get_array())
        cell = shown.shape[0] // 4
        centres = shown[cell // 2 :: cell, cell // 2 :: cell]
        grey = np.isclose(centres, GREY).all(2)
        assert (~grey == trace.kept[b].view(4, 4).numpy()).all()


def test_steps_and_heat_map_show_spike_counts(images: Tensor, trace: PruningTrace):
    figure = draw_pruning(images, trace, list("abcd"))
    heights = [bar.get_height() for bar in figure.axes[12].patches]
    assert heights == trace.step_siv[:, 0].tolist()
    heat = np.asarray(figure.axes[4].images[0].get_array())
    assert (heat.ravel() == trace.token_siv[0].numpy()).all()
    colours = {bar.get_facecolor() for bar in figure.axes[12].patches}
    assert len(colours) == 2


def test_figure_is_drawn_without_a_display(images: Tensor, trace: PruningTrace):
    file = io.BytesIO()
    draw_pruning(images, trace, list("abcd")).savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


def test_errors(images: Tensor, trace: PruningTrace):
    with pytest.raises(SettingError, match=r"draw_pruning: got 4 images, 2 titles and a trace of 4\. Pass as many"):
        draw_pruning(images, trace, ["a", "b"])
    net = SMixerNet(CONFIG)
    with pytest.raises(SettingError, match=r"trace_pruning: this network prunes nothing here\. Wrap it"):
        trace_pruning(net, images / 255)
    idle = SMixerNet(dataclasses.replace(CONFIG, prune=dstsp.DSTSPConfig(active="never")))
    with pytest.raises(SettingError, match="prunes nothing"):
        trace_pruning(idle, images / 255)
