"""What decides on the host, without Triton: whether it can run, what it serves, how a step is laid out."""

import pytest
import torch
from snntorch import surrogate
from torch import nn

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels import triton_tools
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.triton_tools import (
    Blocks,
    Layout,
    Slope,
    channel_axis,
    chunks,
    launch,
    served,
    slope_of,
    tile,
    why_not,
)
from snntorch_smixer.surrogates import Dspike, picklable


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine on which Triton runs, to be spoiled."""
    triton_tools._package_problem.cache_clear()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(triton_tools, "find_spec", lambda name: object())
    monkeypatch.setattr(triton_tools.importlib, "import_module", lambda name: Version("3.4.0+git1"))
    yield monkeypatch
    triton_tools._package_problem.cache_clear()


class Version:
    def __init__(self, version: str) -> None:
        self.__version__ = version


def broken(name: str) -> None:
    raise ImportError("libcuda is missing")


def test_nothing_against_it(machine: pytest.MonkeyPatch):
    assert why_not() is None
    assert why_not(torch.device("cuda")) is None


@pytest.mark.parametrize(
    ("owner", "name", "value", "words"),
    [
        (triton_tools, "find_spec", lambda name: None, "Triton is not installed"),
        (triton_tools.importlib, "import_module", lambda name: Version("3.2.0"), "Triton 3.2.0 is older than 3.3"),
        (triton_tools.importlib, "import_module", broken, "Triton does not import: libcuda is missing"),
        (torch.cuda, "is_available", lambda: False, "there is no CUDA device"),
        (torch.version, "hip", "6.1", "the Triton kernels were written for CUDA, not for ROCm"),
        (
            torch.cuda,
            "get_device_capability",
            lambda device=None: (7, 5),
            "the device has compute capability 7.5, and the Triton kernels need 8.0",
        ),
    ],
)
def test_reasons(machine: pytest.MonkeyPatch, owner: object, name: str, value: object, words: str):
    machine.setattr(owner, name, value)
    assert why_not() == words


def test_the_cpu_only_under_the_interpreter(machine: pytest.MonkeyPatch):
    assert why_not(torch.device("cpu")) == "Triton runs on CUDA devices, not on cpu"
    machine.setenv("TRITON_INTERPRET", "1")
    assert why_not(torch.device("cpu")) is None
    machine.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not() is None
    triton_tools._package_problem.cache_clear()
    machine.setattr(triton_tools, "find_spec", lambda name: None)
    assert why_not() == "Triton is not installed"


class Steeper(Dspike):
    """Inherits gamma, and computes something else."""

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().derivative(x)


def test_slopes_are_known_by_class():
    assert slope_of(picklable(surrogate.atan(3))) == Slope("atan", 3.0)
    assert slope_of(picklable(surrogate.spike_rate_escape(beta=2, slope=5))) == Slope("spike_rate_escape", 2.0, 5.0)
    assert slope_of(picklable(surrogate.straight_through_estimator())) == Slope("straight_through_estimator")
    assert slope_of(Dspike(2.0)).first == 4.0
    unknown = (Steeper(), surrogate.atan(), picklable(surrogate.SSO()), picklable(surrogate.LSO()), torch.sigmoid)
    assert [slope_of(grad) for grad in unknown] == [None] * 5


def firing(beta: object = 0.5, threshold: object = 1.0) -> Firing:
    return Firing(torch.as_tensor(beta), torch.as_tensor(threshold), Dspike())


def test_what_is_served():
    x = torch.zeros(4, 2, 3, 5)
    assert served(x, firing(), 4)
    assert served(x.bfloat16(), firing(torch.full((3, 1), 0.5), torch.ones(3, 1)), 4)
    assert served(x, firing(nn.Parameter(torch.full((5,), 0.5))), 4, axis=-1)
    assert served(x, firing(torch.full((1, 1), 0.5)), 4, axis=-1)
    assert served(x, firing(), 32)


@pytest.mark.parametrize(
    ("x", "neuron", "steps"),
    [
        (torch.zeros(4, 2, 5).double(), firing(), 4),
        (torch.zeros(4, 2, 5), firing(torch.tensor(0.5, dtype=torch.float64)), 4),
        (torch.zeros(4, 2, 5).int(), firing(), 4),
        (torch.zeros(4, 2, 5), firing(torch.full((5,), 0.5), torch.ones(2, 1)), 4),
        (torch.zeros(4, 2, 5), firing(torch.full((2, 5), 0.5)), 4),
        (torch.zeros(4, 2, 5), firing(threshold=torch.ones(2, 1)), 4),
        (torch.zeros(4, 0, 5), firing(), 4),
        (torch.zeros(33, 2, 5), firing(), 33),
        (torch.zeros(4, 2, 5), Firing(torch.tensor(0.5), torch.tensor(1.0), torch.sigmoid), 4),
        (torch.zeros(4, 2, 5, device="meta"), firing(), 4),
    ],
    ids=[
        "double",
        "double beta",
        "integer",
        "two axes",
        "per neuron",
        "other axis",
        "empty",
        "long",
        "slope",
        "device",
    ],
)
def test_what_is_not_served(x: torch.Tensor, neuron: Firing, steps: int):
    assert not served(x, neuron, steps, axis=-1)


def test_fake_tensors_are_not_served():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not served(torch.zeros(4, 2, 5), firing(), 4)


def test_the_axis_of_parameters():
    assert channel_axis(torch.tensor(1.0), torch.ones(1, 1)) is None
    assert channel_axis(torch.ones(7, 1, 1), torch.tensor(1.0)) == -3
    with pytest.raises(LayoutError, match=r"vary along one axis, got shapes \(7,\) and \(7, 1\)"):
        channel_axis(torch.ones(7), torch.ones(7, 1))


def test_layouts():
    maps, tokens = torch.zeros(4, 2, 3, 5, 7), torch.zeros(4, 2, 6, 9)
    assert Layout.of(maps, -3, 4) == Layout(channels=3, inner=35, per_channel=70, last=7, is_wide=False)
    assert Layout.of(tokens, -1, 4) == Layout(channels=9, inner=1, per_channel=12, last=9, is_wide=False)
    assert Layout.of(tokens, None, 4) == Layout(channels=1, inner=108, per_channel=108, last=9, is_wide=False)
    assert Layout.of(maps, -3, 4).size == 210
    assert Layout.of(torch.zeros(3), None, 3) == Layout(channels=1, inner=1, per_channel=1, last=1, is_wide=False)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("shape", [(3, 5, 7), (64, 32, 32), (1, 1, 1), (384, 1, 1)])
def test_pieces_cover_every_value_once(shape: tuple[int, ...], steps: int):
    layout = Layout.of(torch.zeros(1, 1).expand(1, 1).new_zeros(steps, 70, *shape), -3, steps)
    block = tile(layout, steps)
    pieces, tiles = chunks(layout, block)
    assert (pieces - 1) * tiles * block[0] < layout.per_channel <= pieces * tiles * block[0]
    assert pieces <= 128
    assert all(n & (n - 1) == 0 for n in block)


def test_other_blocks_and_who_watches():
    layout, seen = Layout.of(torch.zeros(4, 2, 6, 64), -1, 4), []
    assert tile(layout, 4) == (32, 32)
    with triton_tools.using(Blocks(held=1024)):
        assert tile(layout, 4) == (8, 32)
    assert tile(layout, 4) == (32, 32)
    with triton_tools.watched(lambda name, nbytes: seen.append((name, nbytes))):
        launch(Kernel(), 3, (torch.zeros(5), None, torch.zeros(2), 7), {"STEPS": 4})
    launch(Kernel(), 3, (torch.zeros(5),), {})
    assert seen == [("a_kernel", 28)]


class Kernel:
    __name__ = "a_kernel"

    def __getitem__(self, grid: tuple[int, ...]):
        assert grid == (3,)
        return self.launched

    def launched(self, *args: object, num_warps: int, enable_fp_fusion: bool, **fixed: object) -> None:
        assert (num_warps, enable_fp_fusion) == (4, False)
