"""The stand-ins after `wrap`, and what can be seen of a model, for the contracts of `dstsp.wrap`."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.patching.hooks import Hook
from tests.fakes.calibrate import LOW, rates
from tests.fakes.neurons import reset
from tests.fakes.spikingjelly_models import INSTALLED, SPIKINGJELLY
from tests.fakes.zoo import FAKES, Fake

MODELS = {**FAKES, **SPIKINGJELLY}
W_M = "w_m.weight"
# Upstream, the last neuron of QKFormer's attention runs over the samples of the batch.
BATCH_DEPENDENT = ("qkformer", "qkformer_dvs")


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """Run a test for each of these models; those of SpikingJelly are skipped where it is not installed."""
    absent = pytest.mark.skipif(not INSTALLED, reason="needs spikingjelly")
    found = [pytest.param(MODELS[n], id=n, marks=[absent] if n in SPIKINGJELLY else []) for n in names]
    assert found, "no model"
    return pytest.mark.parametrize("fake", found)


EVERY = each(MODELS)
SWAPPED = each(name for name, fake in MODELS.items() if fake.attention_paths or fake.mixer_paths)
WITH_TOKENS = each(name for name, fake in MODELS.items() if fake.tokens)
# One of each family, and of each way in which the library treats one.
FEW = (
    "spikformer_imagenet",
    "qkformer",
    "sdt_v1_dvs",
    "sdt_v2",
    "sdt_v3",
    "stmixer",
    "spikeyolo",
    "braincog",
    "einsum",
)
REPRESENTATIVES = each(FEW)


@dataclass
class Wrapped:
    """A wrapped model and what it was before.

    Attributes:
        model: the wrapped model.
        before: its modules by name before it was wrapped.
        seen: `sight` of it then.
        state: its state dict then.
    """

    model: nn.Module
    before: dict[str, nn.Module]
    seen: dict[str, Any]
    state: dict[str, Tensor]


def wrapped(fake: Fake, *, mode: bool = False, **settings: Any) -> Wrapped:
    """A copy of a model that was wrapped with ``settings`` once, ps=0.3 and t=1 unless told."""
    made = _wrapped(fake.name, tuple(sorted(settings.items())))
    model, before = copy.deepcopy((made.model, made.before))  # together, so that modules stay the same ones
    return replace(made, model=model.train(mode), before=before)


@cache
def _wrapped(name: str, settings: tuple[tuple[str, Any], ...]) -> Wrapped:
    fake = MODELS[name]
    model = fake.build()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    made = Wrapped(model, dict(model.named_modules()), sight(model), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        dstsp.wrap(model, **{"ps": 0.3, "t": 1, "example_input": fake.example(), **dict(settings)})
    if any(name.endswith(W_M) for name in model.state_dict()):
        enliven(model, fake.example(8))
    return made


def enliven(model: nn.Module, x: Tensor) -> None:
    """Make every fresh ``W_M`` drive the neuron behind it: one that is silent would let any test of equality pass."""
    drawn = [p for name, p in model.named_parameters() if name.endswith(W_M)]
    silent = ["not measured"]
    for _ in range(8):
        silent = [name for name, rate in rates(model, x).items() if rate < LOW]
        if not silent:
            break
        for weight in drawn:
            weight.data.mul_(2)
    assert not silent, f"{type(model).__name__}: these neurons are silent behind W_M: {silent}"


def logits(fake: Fake, model: nn.Module, x: Tensor, *, grad: bool = False) -> Tensor:
    """The model's output for ``x``, from rest and back to rest."""
    reset(model)
    with torch.set_grad_enabled(grad):
        out = fake.logits(model(x))
    if not grad:
        reset(model)
    return out


def check_equal(fake: Fake, a: nn.Module, b: nn.Module, x: Tensor) -> None:
    """Both models give the same output, bit for bit."""
    one, other = logits(fake, a, x), logits(fake, b, x)
    assert torch.equal(one, other)


def differ(fake: Fake, a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    """True where the two models give other outputs."""
    return not torch.equal(logits(fake, a, x), logits(fake, b, x))


def sight(model: nn.Module) -> dict[str, Any]:
    """Everything that can be seen of a model, in a form that can be compared: names, modes, hooks, values, memories."""
    found: dict[str, Any] = {"rng": torch.get_rng_state().tolist()}
    for name, module in model.named_modules():
        found[f"{name}: kind"] = (type(module), module.training)
        for key, value in vars(module).items():
            found[f"{name}.{key}"] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, Tensor):
        return (tuple(value.shape), str(value.dtype), value.requires_grad, value.detach().numpy().tobytes())
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, (bool, int, float, str, set, type(None))) else type(value).__name__


def our_hooks(model: nn.Module) -> list[str]:
    """Where hooks of the package are, in any of the tables of any module."""
    return [
        f"{name}.{table}"
        for name, module in model.named_modules()
        for table, hooks in vars(module).items()
        if "hooks" in table
        for hook in hooks.values()
        if isinstance(hook, Hook) or type(hook).__module__.startswith("snntorch_smixer")
    ]


class Calls:
    """Forward hook: arguments and result of each call. Used as ``with Calls(module) as calls``."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.args, self.outs = module, [], []

    def __enter__(self) -> "Calls":
        self.handle = self.module.register_forward_hook(self, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict, out: Any) -> None:
        self.args.append((*args, *kwargs.values()))
        self.outs.append(out)
