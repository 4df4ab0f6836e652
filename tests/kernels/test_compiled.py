"""The choice of tier, and what happens where nothing compiles."""

import pytest
import torch

from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels import compiled
from snntorch_smixer.kernels.compiled import Tiered, active, set_impl, tier, use
from snntorch_smixer.kernels.fire import fire
from snntorch_smixer.surrogates import Dspike


@pytest.fixture(autouse=True)
def fresh_setting(monkeypatch):
    monkeypatch.setattr(compiled, "_setting", compiled._Setting())


class FakeCompiler:
    """Stands in for ``torch.compile``: counts what it compiles, and can fail when the result runs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.compiled, self.calls = error, 0, 0

    def __call__(self, function, *, dynamic: bool, fullgraph: bool):
        assert dynamic
        assert fullgraph  # or torch would run what it gives up on uncompiled, without a word
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
    monkeypatch.setattr(compiled, "_why_no_triton", lambda _: "there is no CUDA device")
    assert active() == {
        "impl": "auto",
        "active": "eager",
        "why": "compiling takes seconds, so it runs only where it is asked for; no Triton: there is no CUDA device",
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
        "compiled.set_impl: impl='fast' is unknown. Expected one of auto, eager, compile, triton. Pass one of these."
    )


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr(compiled, "_why_no_triton", lambda _: "there is no CUDA device")
    with pytest.raises(SettingError) as caught:
        set_impl("triton")
    assert str(caught.value) == (
        'compiled.set_impl: impl="triton" cannot run here: there is no CUDA device. Use "auto", which takes Triton '
        "where it runs."
    )
    assert active()["impl"] == "auto"


CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_the_tier_depends_on_the_device(monkeypatch):
    monkeypatch.setattr(compiled, "_why_no_triton", lambda device: None if device != CPU else "a CPU")
    assert (tier(CPU), tier(CUDA)) == ("eager", "triton")
    assert active() == {
        "impl": "auto",
        "active": "triton",
        "why": "Triton runs on the CUDA device; on the CPU it is eager",
    }
    for impl, wanted in (("eager", ("eager", "eager")), ("compile", ("compile",) * 2), ("triton", ("eager", "triton"))):
        with use(impl):
            assert (tier(CPU), tier(CUDA)) == wanted
            assert active()["active"] == impl
    monkeypatch.setattr(compiled, "_why_no_triton", lambda _: "Triton is not installed")
    assert (tier(CPU), tier(CUDA)) == ("eager", "eager")


def test_auto_on_the_cpu_never_asks_for_triton(monkeypatch):
    monkeypatch.setattr(compiled, "_why_no_triton", lambda _: None)  # as under Triton's interpreter
    assert tier(CPU) == "eager"
    with use("triton"):
        assert tier(CPU) == "triton"


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


def test_every_kind_of_call_has_its_own_code(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: made.append(function.__code__) or function)

    def scaled(x: torch.Tensor, by: tuple[float, torch.Tensor | None]) -> torch.Tensor:
        return x * by[0] if by[1] is None else x * by[0] + by[1]

    function = Tiered(scaled)
    calls = [
        (torch.ones(4), (2.0, None)),
        (torch.ones(4), (3.0, None)),
        (torch.ones(4).double(), (2.0, None)),
        (torch.ones(4, 4), (2.0, None)),
        (torch.ones(1), (2.0, None)),
        (torch.ones(4), (2.0, torch.ones(4))),
    ]
    with use("compile"):
        for _ in range(2):
            for x, by in calls:
                assert torch.equal(function(x, by), scaled(x, by))
        function(torch.ones(7), (2.0, None))  # another size is no other kind
        with torch.inference_mode():
            function(torch.ones(4), (2.0, None))
    assert len(made) == len({id(code) for code in made}) == len(calls) + 1


def test_one_call_that_does_not_compile_leaves_the_others_compiled(monkeypatch):
    def compile_(function, **_):
        def run(x: torch.Tensor) -> torch.Tensor:
            if x.dim() == 2:
                raise torch._dynamo.exc.FailOnRecompileLimitHit("Hard failure due to fullgraph=True")
            return function(x) + 100  # to be seen

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    function = Tiered(twice)
    with use("compile"):
        assert function(torch.ones(1)).tolist() == [102]
        with pytest.warns(RuntimeWarning, match="does not take this call of twice"):
            assert function(torch.ones(2, 2)).tolist() == [[2, 2], [2, 2]]
        assert function(torch.ones(2, 2)).tolist() == [[2, 2], [2, 2]]  # a second warning would be an error
        assert function(torch.ones(1)).tolist() == [102]
        assert active() == {
            "impl": "compile",
            "active": "compile",
            "why": "asked for; twice runs in plain torch: FailOnRecompileLimitHit: Hard failure due to fullgraph=True",
        }


def test_a_tiered_function_keeps_its_name():
    assert Tiered(twice).__doc__ == "Two of them."
    assert Tiered(twice).__name__ == "twice"


def test_fire_goes_through_the_tier(monkeypatch):
    compiler = FakeCompiler()
    monkeypatch.setattr(torch, "compile", compiler)
    from snntorch_smixer.kernels import fire as module

    for name in ("_spikes", "_gradients"):
        old = getattr(module, name)
        monkeypatch.setattr(module, name, Tiered(old.function, old.traced))
    x = torch.randn(3, 4, 5, requires_grad=True)
    with use("compile"):
        fire(x, torch.tensor(0.5), torch.tensor(1.0), Dspike()).values.sum().backward()
    assert (compiler.compiled, compiler.calls) == (2, 2)
