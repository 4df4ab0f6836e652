"""What `measure` cannot see it refuses, or lists as not counted: it neither crashes nor returns a number of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import measure
from snntorch_smixer.errors import MeasureError
from tests.cost.replay import values
from tests.fakes.wrapped import our_hooks


class Running(nn.Module):
    """Two layers and a weight, and a function that uses them."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function, self.one, self.two = function, nn.Linear(6, 4), nn.Linear(6, 4)
        self.complex = nn.Parameter(torch.randn(6, 4, dtype=torch.cfloat))
        self.weight = nn.Parameter(torch.rand(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def refused(model: nn.Module, x: Tensor) -> str:
    with pytest.raises(MeasureError) as caught:
        measure(model, x)
    assert our_hooks(model) == []
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.rand(2, 6))])
def test_scripted_models_are_refused(make: Callable, inside: bool):
    part = make(nn.Sequential(nn.Linear(6, 4), nn.ReLU()))
    text = refused(nn.Sequential(nn.Identity(), part) if inside else part, torch.rand(2, 6))
    assert text.startswith(f"measure: {'1' if inside else 'the model'} is a ")
    assert "scripted or traced code, expected a Python module" in text
    assert text.endswith("Pass the module that it was made from.")


def test_lazy_layers_are_refused_until_they_have_run():
    model, x = nn.Sequential(nn.Linear(6, 4), nn.LazyLinear(3)), values("spikes", 2, 6)
    assert refused(model, x) == (
        "measure: 1 is a LazyLinear whose parameters are uninitialised, expected weights of a known shape. Run the "
        "model once on a batch first."
    )
    model(x)
    assert measure(model, x).layer("0")["ac"] == 4 * x.count_nonzero()


@pytest.mark.parametrize(
    ("x", "found", "remedy"),
    [
        (torch.eye(3, 6).to_sparse(), "sparse_coo", ".to_dense()"),
        (torch.eye(3, 6, device="meta"), "without data", "real samples"),
    ],
)
def test_inputs_that_are_not_dense_are_refused(x: Tensor, found: str, remedy: str):
    text = refused(nn.Linear(6, 2), x)
    assert f"a tensor that is {found}" in text
    assert remedy in text


def test_sparse_tensors_inside_a_model_are_listed():
    records = measure(Running(lambda m, x: torch.sparse.mm(x.to_sparse(), m.weight)), values("spikes", 3, 6))
    assert {entry.op for entry in records.uncounted} >= {"aten._to_sparse.default"}
    assert len(records.uncounted) == 2
    assert records.total("ac") == records.total("mac") == 0


@pytest.mark.parametrize(
    ("run", "op"),
    [
        (lambda m, x: (x.to(torch.cfloat) @ m.complex).real, "aten.mm.default"),
        (lambda m, x: torch.fft.fft(x) * m.complex[:, 0], "aten.mul.Tensor"),
        (lambda m, x: torch.view_as_complex(torch.stack([x, x], -1)).abs(), "aten.abs.default"),
        (lambda m, x: x.to(torch.cfloat) * torch.tensor(2j), "aten.mul.Tensor"),
    ],
)
def test_complex_numbers_are_listed(run: Callable, op: str):
    records = measure(Running(run), values("analog", 3, 6))
    assert op in [entry.op for entry in records.uncounted]
    assert {record.op for record in records.layers} == set()


def test_a_complex_batch_is_listed_and_must_be_finite():
    model, x = nn.Linear(6, 4, dtype=torch.cfloat), torch.randn(3, 6, dtype=torch.cfloat)
    (entry,) = measure(model, x).uncounted
    assert (entry.op, entry.elements) == ("aten.addmm.default", 12)
    x[0, 0] = complex(0, float("inf"))
    assert "not finite" in refused(model, x)


def in_a_pool(m: Running, x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(m.one, x).result() + m.two(x)


def in_a_thread(m: Running, x: Tensor) -> Tensor:
    found: list[Tensor] = []

    def work() -> None:
        with torch.inference_mode():
            found.append(m.one(x))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0] + m.two(x)


@pytest.mark.parametrize("function", [in_a_pool, in_a_thread])
def test_layers_in_other_threads_are_refused(function: Callable):
    text = refused(Running(function), values("spikes", 3, 6))
    assert text.startswith("measure: one ran in a thread of its own, expected all layers in the thread")


def test_data_parallel_is_refused_over_several_devices():
    model, x = nn.DataParallel(nn.Linear(6, 4)), values("spikes", 3, 6)
    model.device_ids = []
    assert measure(model, x).total("ac") == 4 * x.count_nonzero()
    model.device_ids = [0, 1]
    assert "DataParallel over 2 devices" in refused(model, x)
