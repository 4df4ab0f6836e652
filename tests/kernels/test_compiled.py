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
    monkeypatch.setattr(compiled, "_why_no_cuda", lambda: "there is no CUDA device")
    assert active() == {
        "impl": "auto",
        "active": "eager",
        "why": "compiling takes seconds, so on the CPU it runs only where it is asked for; there is no CUDA device",
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


def test_the_tier_of_an_earlier_version_is_refused_in_words():
    with pytest.raises(SettingError) as caught:
        set_impl("triton")
    assert str(caught.value) == (
        'compiled.set_impl: got impl="triton", a tier of an earlier version; torch.compile writes the Triton kernels '
        'itself now. Pass "auto", which compiles on CUDA, or "compile".'
    )
    assert active()["impl"] == "auto"


CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_auto_compiles_on_cuda_and_not_on_the_cpu(monkeypatch):
    monkeypatch.setattr(compiled, "_why_no_cuda", lambda: None)
    assert (tier(CPU), tier(CUDA), tier(torch.device("meta"))) == ("eager", "compile", "eager")
    assert active() == {"impl": "auto", "active": "compile", "why": "on the CUDA device; eager on the CPU"}
    for impl in ("eager", "compile"):
        with use(impl):
            assert tier(CPU) == tier(CUDA) == active()["active"] == impl
    compiled._setting.failure = "no compiler"
    assert (tier(CUDA), active()["active"]) == ("eager", "eager")


def test_auto_is_eager_on_cuda_without_what_compiling_needs(monkeypatch):
    monkeypatch.setattr(compiled, "_why_no_cuda", compiled._why_no_cuda.__wrapped__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for package, capability, why in (
        (None, (9, 0), "is not installed"),
        ("triton", (6, 1), "has compute capability 6.1"),
    ):
        monkeypatch.setattr(compiled, "find_spec", lambda name, found=package: found)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=capability: found)
        assert tier(CUDA) == active()["active"] == "eager"
        assert why in active()["why"]


def test_on_cuda_the_compiler_rounds_as_plain_torch():
    assert compiled._numerics(CUDA) == {"options": {"emulate_precision_casts": True}}
    assert compiled._numerics(CPU) == {}


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
