"""Calls that wait to be counted together count as if each had been counted at once."""

from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import Records, measure
from snntorch_smixer.cost.count import books as queue
from snntorch_smixer.errors import MeasureError


def spikes(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), leaky(), nn.Linear(8, 7, bias=False), leaky(), nn.Linear(7, 3), leaky())


def leaky() -> nn.Module:
    return snn.Leaky(0.8, threshold=0.2, init_hidden=True)


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        leaky(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.BatchNorm2d(4),
        leaky(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def audio() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 3, 3, dilation=2), leaky(), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 4), leaky()
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif, self.back = nn.Linear(6, 5), snn.Leaky(0.8, threshold=0.2), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        mem, spk = self.lif.init_leaky(), torch.zeros(x.shape[1], 5)
        for step in x:
            spk, mem = self.lif(self.fc(step) + self.back(spk), mem)
        return spk


class Sums(nn.Module):
    """Adds up spikes that wait: whole multiples of their height."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.low = nn.Linear(6, 6), nn.Linear(6, 3), leaky()
        self.low.graded_spikes_factor = torch.tensor(0.3)

    def forward(self, x: Tensor) -> Tensor:
        spk = self.low(self.a(x))
        return self.b(spk + spk.roll(1, -1))


class Writes(nn.Module):
    """Changes spikes in place after one layer has read them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif, self.a, self.b = nn.Linear(6, 5), leaky(), nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        spk = self.lif(self.fc(x))
        first = self.a(spk)
        spk[:, 0] = 1.0
        return first + self.b(spk)


def looped(net: nn.Module) -> Callable[[Tensor], object]:
    return lambda x: [net(step) for step in x]


RUNS = {
    "linear": (linear, spikes(5, 4, 6), True),
    "one sample": (linear, spikes(5, 1, 6), True),
    "graded": (linear, spikes(5, 4, 6) * torch.arange(5).view(5, 1, 1), True),
    "few graded": (linear, spikes(5, 4, 6) * torch.tensor([1, 2, 1, 3, 1, 1]), True),
    "analog from a zero state on": (linear, torch.rand(5, 4, 6) * torch.tensor([0, 0, 1, 0, 1]).view(5, 1, 1), True),
    "silent steps": (linear, spikes(5, 4, 6) * torch.tensor([1, 0, 0, 1, 0]).view(5, 1, 1), True),
    "sums": (Sums, spikes(5, 4, 6), True),
    "analog": (linear, torch.rand(5, 4, 6), True),
    "same image": (linear, torch.rand(1, 4, 6).expand(5, 4, 6), True),
    "silent": (linear, torch.zeros(5, 4, 6), True),
    "conv": (conv, spikes(5, 3, 2, 11, 11), True),
    "audio": (audio, spikes(5, 3, 2, 8), True),
    "recurrent": (Recurrent, spikes(5, 4, 6), False),
    "in place": (Writes, spikes(5, 4, 6), True),
}


def both(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Records]) -> tuple[Records, Records]:
    ours = run()
    monkeypatch.setattr(queue, "may_wait", lambda x, note: False)
    return ours, run()


def test_the_state_of_an_lstm_cell_is_analog_late_too(monkeypatch: pytest.MonkeyPatch):
    cell = nn.LSTMCell(3, 4)

    def run(x: Tensor) -> None:
        state = (torch.zeros(2, 4), torch.zeros(2, 4))
        for step in x:
            state = cell(step, (state[0] * (len(step) - 2), state[1]))

    ours, right = both(monkeypatch, lambda: measure(cell, spikes(5, 2, 3), run=run, axes="t b"))
    assert ours == right


def test_graded_events_of_a_loop_are_those_of_the_batch():
    net, x = nn.Linear(6, 8).eval(), spikes(5, 4, 6) * torch.arange(5).view(5, 1, 1)  # one value at each step
    loop, whole = measure(net, x, run=looped(net), axes="t b").layers[0], measure(net, x, axes="t b").layers[0]
    events = {k: int((x == k).sum()) * 8 for k in range(1, 5)}
    assert {**loop.levels, 1: loop.levels.get(1, 0) + loop["ac"]} == whole.levels == events
    assert loop.events == whole.events


@pytest.mark.parametrize("name", RUNS)
def test_waiting_changes_no_count(name: str, monkeypatch: pytest.MonkeyPatch):
    build, x, loop = RUNS[name]
    torch.manual_seed(0)
    net = build().eval()
    ours, right = both(monkeypatch, lambda: measure(net, x, run=looped(net) if loop else None, axes="t b"))
    assert ours == right
    assert ours.total("spikes") > 0 or name == "silent"


def test_one_image_of_all_steps(monkeypatch: pytest.MonkeyPatch):
    net, x = linear().eval(), torch.rand(4, 6)
    ours, right = both(monkeypatch, lambda: measure(net, x, run=lambda x: [net(x) for _ in range(5)]))
    assert ours == right
    assert ours.total("static_mac") > 0


def test_little_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("snntorch_smixer.cost.count.books._MOST_BYTES", 200)
    net, x = linear().eval(), spikes(9, 4, 6)
    ours, right = both(monkeypatch, lambda: measure(net, x, run=looped(net), axes="t b"))
    assert ours == right


def test_what_is_not_finite_is_named_late_too():
    net, x = linear().eval(), spikes(5, 4, 6)

    def run(x: Tensor) -> None:
        for i, step in enumerate(x):
            net[2](step.new_full((4, 8), float("nan")) * step[:, :1] if i == 3 else net[1](net[0](step)))

    with pytest.raises(MeasureError, match="the input of 2 holds values that are not finite"):
        measure(net, x, run=run, axes="t b")


def test_calls_do_wait(monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    count = queue.Queue._count_products
    monkeypatch.setattr(queue.Queue, "_count_products", lambda *args: seen.append(len(args[-1].kept)) or count(*args))
    net = linear().eval()
    measure(net, spikes(5, 4, 6), run=looped(net), axes="t b")
    assert seen == [4, 4, 4]  # the first call of each is counted at once
