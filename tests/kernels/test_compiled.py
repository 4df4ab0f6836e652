"""The choice of tier, what happens where nothing compiles, and, slowly, that compiled functions agree."""

import pytest
import torch

from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels import compiled
from snntorch_smixer.kernels.compiled import Tiered, active, set_impl, use
from snntorch_smixer.kernels.fire import Firing, fire
from snntorch_smixer.kernels.lif import RESETS, lif
from snntorch_smixer.kernels.norm_fire import norm_fire
from snntorch_smixer.surrogates import Dspike


@pytest.fixture(autouse=True)
def fresh_setting(monkeypatch):
    monkeypatch.setattr(compiled, "_setting", compiled._Setting())


class FakeCompiler:
    """Stands in for ``torch.compile``: counts what it compiles, and can fail when the result runs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.compiled, self.calls = error, 0, 0

    def __call__(self, function, *, dynamic: bool):
        self.compiled += 1

        def run(*args):
            self.calls += 1
            if self.error is not None:
                raise self.error
            return function(*args)

        return run


def twice(x: torch.Tensor) -> torch.Tensor:
    """Two of them."""
    return x + x


def test_auto_is_eager_on_the_cpu(monkeypatch):
    compiler = FakeCompiler()
    monkeypatch.setattr(torch, "compile", compiler)
    assert active() == {
        "impl": "auto",
        "active": "eager",
        "why": "compiling takes seconds, so it runs only where it is asked for",
    }
    assert Tiered(twice)(torch.ones(2)).tolist() == [2, 2]
    assert compiler.compiled == 0


def test_the_choice_can_be_forced_and_seen(monkeypatch):
    compiler = FakeCompiler()
    monkeypatch.setattr(torch, "compile", compiler)
    function = Tiered(twice)
    with use("compile"):
        assert active() == {"impl": "compile", "active": "compile", "why": "asked for"}
        assert function(torch.ones(2)).tolist() == [2, 2]
        assert function(torch.ones(3)).tolist() == [2, 2, 2]
        with use("eager"):
            assert active() == {"impl": "eager", "active": "eager", "why": "asked for"}
            function(torch.ones(2))
    assert (compiler.compiled, compiler.calls) == (1, 2)
    assert active()["impl"] == "auto"
    set_impl("eager")
    assert active()["impl"] == "eager"


def test_the_choice_comes_back_after_an_error():
    with pytest.raises(KeyError), use("compile"):
        raise KeyError
    assert active()["impl"] == "auto"


def test_an_unknown_tier_is_refused():
    with pytest.raises(SettingError) as caught, use("fast"):
        pass
    assert str(caught.value) == (
        "compiled.set_impl: impl='fast' is unknown. Expected one of auto, eager, compile. Pass one of these."
    )


@pytest.mark.parametrize("error", [RuntimeError("no working C++ compiler\nfound"), PermissionError("read-only")])
def test_where_nothing_compiles_plain_torch_runs_with_one_warning(monkeypatch, error: Exception):
    compiler = FakeCompiler(error)
    monkeypatch.setattr(torch, "compile", compiler)
    function, other = Tiered(twice), Tiered(twice)
    reason = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    with use("compile"):
        with pytest.warns(RuntimeWarning, match="plain torch runs instead") as caught:
            result = function(torch.ones(2))
        assert result.tolist() == [2, 2]
        assert reason in str(caught[0].message)
        # A second warning would be an error here.
        assert function(torch.ones(2)).tolist() == [2, 2]
        assert other(torch.ones(2)).tolist() == [2, 2]
        assert active() == {"impl": "compile", "active": "eager", "why": f"torch.compile failed: {reason}"}
    assert compiler.calls == 1


def test_a_wrong_input_is_not_taken_for_a_broken_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", FakeCompiler(RuntimeError("shapes")))

    def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b

    with use("compile"), pytest.raises(RuntimeError, match="mat1 and mat2"):
        Tiered(product)(torch.ones(2, 3), torch.ones(2, 3))
    assert compiled._setting.failure is None


def test_a_tiered_function_keeps_its_name():
    assert Tiered(twice).__doc__ == "Two of them."
    assert Tiered(twice).__name__ == "twice"


def test_fire_goes_through_the_tier(monkeypatch):
    compiler = FakeCompiler()
    monkeypatch.setattr(torch, "compile", compiler)
    from snntorch_smixer.kernels import fire as module

    for name in ("_spikes", "_gradients"):
        monkeypatch.setattr(module, name, Tiered(getattr(module, name).function))
    x = torch.randn(3, 4, 5, requires_grad=True)
    with use("compile"):
        fire(x, torch.tensor(0.5), torch.tensor(1.0), Dspike()).values.sum().backward()
    assert (compiler.compiled, compiler.calls) == (2, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize("reset", RESETS)
def test_compiled_and_plain_agree(reset: str):
    torch.manual_seed(1)
    beta, threshold = (torch.rand(13).requires_grad_() for _ in range(2))
    for shape in ((4, 2, 5, 13), (4, 3, 7, 13), (2, 2, 5, 13)):
        x, weights = torch.randn(shape, requires_grad=True), torch.randn(shape)
        with use("compile"):
            spikes = fire(x, beta, threshold, Dspike(), reset=reset).values
            got = torch.autograd.grad((spikes * weights).sum(), (x, beta, threshold))
            assert active()["active"] == "compile"
        plain = lif(x, beta, threshold, Dspike(), reset=reset)
        assert torch.equal(spikes, plain)
        for a, b in zip(got, torch.autograd.grad((plain * weights).sum(), (x, beta, threshold)), strict=True):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_norm_and_neuron_agree(dtype: torch.dtype):
    z, weights = torch.randn(4, 2, 5, 13).to(dtype).requires_grad_(), torch.randn(4, 2, 5, 13)
    neuron = Firing(torch.tensor(0.5), torch.tensor(0.6), Dspike())
    results = []
    for impl in ("compile", "eager"):
        norm = torch.nn.BatchNorm1d(13)
        with use(impl):
            spikes = norm_fire(z, norm, neuron).values
            results.append((spikes, *torch.autograd.grad((spikes * weights).sum(), (z, *norm.parameters()))))
    assert torch.equal(results[0][0], results[1][0])
    for a, b in zip(*(r[1:] for r in results), strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max() or dtype == torch.bfloat16


@pytest.mark.slow
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_without_a_compiler_one_warning_and_the_same_spikes(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (str(tmp_path / "none"),))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    from snntorch_smixer.kernels import fire as module

    torch._dynamo.reset()
    monkeypatch.setattr(module, "_spikes", Tiered(module._spikes.function))
    x = torch.randn(3, 4, 6)
    with use("compile"), pytest.warns(RuntimeWarning, match="plain torch runs instead"):
        spikes = fire(x, torch.tensor(0.5), torch.tensor(1.0), Dspike()).values
    assert torch.equal(spikes, lif(x, torch.tensor(0.5), torch.tensor(1.0), Dspike()))
