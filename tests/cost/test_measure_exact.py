"""Counts of `measure` equal a brute-force replay, to the unit, whatever the layer, the spelling, the axes, the mode."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import measure
from snntorch_smixer.cost.records import Geometry, Record
from tests.cost.replay import (
    LAYERS,
    SPELLINGS,
    SSA,
    B,
    C,
    Heads,
    N,
    Spelled,
    T,
    dense,
    kind,
    mixing_events,
    product_events,
    replay,
    values,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch, on even kernels


class Nest(nn.Module):
    """A layer two modules deep, so that its dotted path is "body.fc"."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential()
        self.body.add_module("fc", layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def check_layer(record: Record, layer: nn.Module, x: Tensor, what: str) -> None:
    truth, got = replay(layer, x), {name: record[name] for name in ("ac", "graded", "graded_ac", "mac")}
    events, units, edges = sum(truth.events), sum(truth.units), truth.synapses * len(x)
    expected = {
        "spikes": {"ac": events, "graded": 0, "graded_ac": 0, "mac": 0},
        "graded": {"ac": 0, "graded": events, "graded_ac": units, "mac": 0},
        "analog": {"ac": 0, "graded": 0, "graded_ac": 0, "mac": edges},
    }[what]
    assert got == expected
    assert record["effective_mac"] == (events if what == "analog" else 0)
    assert (record["dense"], record["synapses"]) == (truth.dense * len(x), edges)
    assert (record.operand, record.calls) == (what, 1)
    assert record["packets"] == x.count_nonzero()
    assert (record["inputs"], record["outputs"]) == (x.numel(), truth.outputs * len(x))
    each = [truth.synapses] * len(x) if what == "analog" else truth.events
    assert record.events == (tuple(each),)
    assert record.weight_bytes == 4 * sum(p.numel() for p in layer.parameters())


@pytest.mark.parametrize("what", ["spikes", "half", "graded", "signed", "analog"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_replay(name: str, what: str):
    layer, shape = LAYERS[name]
    x = values(what, 2, *shape, rate=0.4)
    check_layer(measure(Nest(layer), x, axes="b").layer("body.fc"), layer, x, kind(x))


def test_the_replay_itself_by_hand():
    conv, x = nn.Conv2d(8, 16, 3, stride=2, padding=1), torch.zeros(3, 8, 8, 8)
    x[0, :, 3, 3], x[1, :, 2, 2], x[2, :, 0] = 1, 1, 1
    truth = replay(conv, x)
    # A pixel at an odd place is read by 2x2 outputs, at an even one by one; the first row by 4 * 1 + 3 * 2 + 1.
    assert truth.events == [8 * 16 * 4, 8 * 16 * 1, 8 * 16 * 11]
    assert (truth.units, truth.reached) == (truth.events, [64, 16, 64])
    assert truth.synapses == 8 * 16 * (4 + 7) ** 2 == 8 * 16 * 121
    assert (truth.dense, truth.outputs) == (8 * 16 * 16 * 9, 256)
    assert dense(nn.Linear(7, 3), torch.zeros(1, 4, 7), torch.zeros(1, 4, 3)) == 84
    assert measure(nn.Sequential(conv), x).layer("0").events == (tuple(truth.events),)


def test_two_level_and_pooled_spikes_are_whole_numbers_over_a_constant():
    x = values("spikes", 2, 3, 4, 4, rate=0.4)
    net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5))
    pooled = nn.functional.avg_pool2d(x, 2) * 4
    assert pooled.unique().tolist()[:3] == [0, 1, 2]
    record = measure(net, x).layer("2")
    assert (record.operand, record["ac"], record["mac"]) == ("graded", 0, 0)
    assert (record["graded"], record["graded_ac"]) == (5 * pooled.count_nonzero(), 5 * pooled.sum())
    assert (record["packets"], record["units"]) == (pooled.count_nonzero(), pooled.sum())


def test_mean_over_steps_is_graded():
    x = values("spikes", 5, B, C, rate=0.3)
    counts = x.sum(0)
    assert set(counts.unique().tolist()) >= {1, 2}

    class Head(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mean(0))

    record = measure(nn.Sequential(Head(C, 7)), x, axes="t b").layer("0")
    assert (record["graded"], record["graded_ac"], record["mac"]) == (7 * counts.count_nonzero(), 7 * counts.sum(), 0)


AXES = {
    "t b": lambda x: x,
    "b t": lambda x: x.transpose(0, 1).contiguous(),
    "(t b)": lambda x: x.flatten(0, 1),
    "(b t)": lambda x: x.transpose(0, 1).flatten(0, 1),
}


def check_mixing(record: Record, x: Tensor, heads: int = 1) -> None:
    """``x`` is (T, B, N, C)."""
    split = tuple(tuple(mixing_events(sample) for sample in step) for step in x)
    assert record.events == split
    assert record["ac"] == mixing_events(x) == sum(map(sum, split))
    assert record["dense"] == record["synapses"] == T * B * N * N * C
    assert (record["mac"], record["graded"], record["act_act"], record.operand) == (0, 0, 0, "spikes")
    g = record.geometry
    assert Geometry(g.fan_in, g.outputs, g.blocks, g.weight_sets) == Geometry(N, N, C, heads)
    assert record.weight_bytes == 4 * heads * N * N


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_the_mixer_agree(spelling: str, axes: str):
    x = values("spikes", T, B, N, C)
    records = measure(Spelled(spelling), AXES[axes](x), axes=axes, steps=T if "(" in axes else None)
    assert (records.samples, records.steps, records.coverage) == (B, T, 1.0)
    check_mixing(records.layer("W"), x)
    assert records.total("ac") == mixing_events(x)
    assert records.per_sample("ac") == mixing_events(x) / B


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("spelling", ["at", "einsum", "conv"])
def test_spellings_of_heads_agree(spelling: str, axes: str):
    x = values("spikes", T, B, N, C)
    records = measure(Heads(spelling), AXES[axes](x), axes=axes, steps=T if "(" in axes else None)
    check_mixing(records.layer("conv" if spelling == "conv" else "W"), x, heads=2)
    assert records.total("ac") == mixing_events(x)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_loop_over_steps_agrees(spelling: str):
    x, model = values("spikes", T, B, N, C), Spelled(spelling)
    records = measure(model, x, run=lambda batch: [model(step) for step in batch], axes="t b")
    check_mixing(records.layer("W"), x)
    assert (records.layer("W").calls, records.steps) == (T, T)


@contextlib.contextmanager
def warm_autocast(model: nn.Module, x: Tensor):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.enable_grad():
            model(x)  # leaves the weights, cast, in autocast's cache
        yield


MODES: dict[str, Callable] = {
    "no_grad": lambda *_: torch.no_grad(),
    "inference_mode": lambda *_: torch.inference_mode(),
    "grad": lambda *_: torch.enable_grad(),
    "autocast": lambda *_: torch.autocast("cpu", dtype=torch.bfloat16),
    "warm_autocast": warm_autocast,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_modes_of_torch_change_nothing(spelling: str, mode: str):
    x, model = values("spikes", T, B, N, C), Spelled(spelling)
    with MODES[mode](model, x):
        check_mixing(measure(model, x, axes="t b").layer("W"), x)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["linear_tokens", "odd_border", "circular", "transposed_2d"])
def test_modes_of_torch_change_no_layer(name: str, mode: str):
    layer, shape = LAYERS[name]
    x, model = values("spikes", 2, *shape), Nest(layer)
    with MODES[mode](model, x):
        check_layer(measure(model, x).layer("body.fc"), layer, x, "spikes")


@pytest.mark.parametrize("what", ["spikes", "graded", "analog"])
def test_split_equals_lone_samples_and_steps(what: str):
    x = values(what, T, B, 2, 6, 6)
    conv = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    model = nn.Sequential(nn.Flatten(0, 1), conv)
    record = measure(model, x, axes="t b").layer("1")
    lone = [[measure(model, x[t : t + 1, b : b + 1], axes="t b").layer("1") for b in range(B)] for t in range(T)]
    assert record.events == tuple(tuple(one.events[0][0] for one in row) for row in lone)
    assert sum(map(sum, record.events)) == record["ac"] + record["graded"] + record["mac"] > 0
    for name in ("dense", "synapses", "packets", "mac", "effective_mac", "inputs", "outputs"):
        assert record[name] == sum(one[name] for row in lone for one in row), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_attention_is_activation_by_activation(scale: float, mode: str):
    h, d = 2, 3
    q, k, v = (values("spikes", T, B, h, N, d, seed=seed) for seed in range(3))
    attention = q @ k.transpose(-1, -2)
    assert set(attention.unique().tolist()) >= {0, 1, 2}
    model = SSA(scale)
    with MODES[mode](lambda x: model(*x), (q, k, v)):
        records = measure(model, (q, k, v), axes="t b")
    tokens, hits = int(q.sum() + k.sum()) * N, int(attention.sum())
    assert product_events(q, k.transpose(-1, -2)) == (tokens, tokens, hits)
    one, other = records.layer("qk"), records.layer("av")
    assert (one["act_act"], one["act_act_units"], one["coincidences"]) == (tokens, tokens, hits)
    assert (one["dense"], other["dense"]) == (T * B * h * N * N * d,) * 2
    assert (other["act_act"], other["act_act_units"], other["coincidences"]) == product_events(attention, v)
    by_width = int(attention.count_nonzero()) * d + int(v.sum()) * N
    assert (other["act_act"], records.total("act_act")) == (by_width, tokens + by_width)
    assert all(record[name] == 0 for record in (one, other) for name in ("ac", "graded", "mac"))
    assert (one.op, one.weight_bytes, one.geometry) == ("act_act", 0, None)
    split = [[product_events(q[t, b], k[t, b].transpose(-1, -2))[0] for b in range(B)] for t in range(T)]
    assert one.events == tuple(map(tuple, split))
    assert records.coverage == 1.0


def test_gates_send_each_nonzero_to_its_partner():
    x, mask = values("spikes", T, B, N, C), values("spikes", T, B, N, 1, seed=1)

    class Gate(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * mask

    record = measure(Gate(), (x, mask), axes="t b").layer("")
    sent = sum(bool(a != 0) + bool(b != 0) for a, b in zip(x.flatten(), mask.expand(x.shape).flatten(), strict=True))
    assert (record.op, record["gates"], record["act_act"], record["muls"]) == ("elementwise", sent, 0, 0)


def test_residual_adds_and_constant_factors():
    x = values("spikes", B, N, C)

    class Residual(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    record = measure(Residual(), (x, x.flip(1))).layer("")
    assert (record.op, record["adds"], record["gates"], record["muls"]) == ("elementwise", x.numel(), 0, 0)


@pytest.mark.parametrize("outside", [True, False])
def test_static_image_is_shown_apart(outside: bool):
    image, conv = torch.randn(B, 2, 6, 6), nn.Conv2d(2, 3, 3, padding=1)

    class Expand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            x = x if outside else x.unsqueeze(0).repeat(4, 1, 1, 1, 1)
            return self.conv(x.flatten(0, 1))

    batch = image.repeat(4, 1, 1, 1, 1) if outside else image
    record = measure(Expand(), batch, axes="t b" if outside else "b", steps=4).layer("conv")
    edges = replay(conv, image).synapses * B
    assert (record["mac"], record["static_mac"]) == (4 * edges, 3 * edges)
    changing = torch.randn(4, B, 2, 6, 6)
    if outside:
        assert measure(Expand(), changing, axes="t b").layer("conv")["static_mac"] == 0


def test_convolution_geometry():
    groups = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    g = measure(nn.Sequential(groups), values("spikes", 2, 4, 8, 8)).layer("0").geometry
    assert g == Geometry(18, 3, 32, 2, (3, 3), (4, 4), (4, 6))
    assert (g.neurons, g.weights) == (6 * 16, groups.weight.numel())
    g = measure(nn.Sequential(nn.Linear(7, 3)), values("spikes", 2, 4, 7)).layer("0").geometry
    assert g == Geometry(7, 3, 4)


def test_shared_layer_adds_up_its_calls():
    fc = nn.Linear(6, 6, bias=False)
    one, other = values("spikes", B, 6, seed=1), values("graded", B, 6, rate=0.6, seed=2)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = self.same = fc

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.fc(x), self.same(y)

    record = measure(Twice(), (one, other)).layer("fc")
    assert (record.calls, set(record.operand.split("+"))) == (2, {"spikes", "graded"})
    assert (record["ac"], record["graded"]) == (6 * one.count_nonzero(), 6 * other.count_nonzero())
    assert (record["graded_ac"], record.weight_bytes) == (6 * other.sum(), 4 * 36)
