"""What cannot be wrapped is refused in words that help, before anything was changed."""

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.errors import FamilyError, LayoutError, SettingError
from tests.fakes.neurons import reset
from tests.fakes.wrapped import EVERY, FAKES, MODELS, Calls, each, logits, sight, wrapped
from tests.fakes.zoo import Fake

SETTINGS = [
    ({"ps": 1.0}, r"^DSSP: ps=1\.0 is outside \[0, 1\)\. Pass the share of tokens to drop"),
    ({"ps": -0.1}, r"^DSSP: ps=-0\.1 is outside \[0, 1\)\. Pass "),
    ({"ps": (0.1, 0.2, 0.3, 0.4)}, r"^DSSP: got 4 rates, expected \d, one per block\. Pass a number"),
    ({"ps": [0.1, 2.0]}, r"^DSSP: ps=2\.0 is outside"),
    ({"t": 0}, r"^DSTSP: t=0 must be a whole number of at least 1, or None"),
    ({"t": 1.0}, r"^DSTSP: t=1\.0 must be a whole number"),
    ({"t": 5}, r"^wrap: t=5 is outside 1\.\.4, the (steps|spike levels) of this \w+\. Keep fewer\."),
    ({"swap": "linear"}, r"^wrap: swap='linear' is unknown\. Expected one of True, False, 'all'\. Pass one of these\."),
    ({"swap": None}, r"^wrap: swap=None is unknown\."),
]


class Plain(nn.Module):
    """Convolutions and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x).mean((2, 3)))


class Touchy(nn.Module):
    """Attends, but counts its tokens, so that none may be missing."""

    def __init__(self) -> None:
        super().__init__()
        self.block = FAKES["one_big_block"].build().deck[0]
        self.mix = nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.block(x).reshape(4, -1, 16, 24)).mean((0, 2))


def check_refused(model: nn.Module, error: type[Exception], text: str, **settings: object) -> None:
    """Neither `plan` nor `wrap` takes the model, and both leave it as it is."""
    seen, parts = sight(model), {name: id(module) for name, module in model.named_modules()}
    for call in (dstsp.plan, dstsp.wrap):
        with pytest.raises(error, match=text):
            call(model, **settings)
        assert sight(model) == seen
        assert {name: id(module) for name, module in model.named_modules()} == parts


@each(["stmixer"])
@pytest.mark.parametrize(("settings", "text"), SETTINGS, ids=[str(settings) for settings, _ in SETTINGS])
def test_settings(fake: Fake, settings: dict[str, object], text: str):
    check_refused(fake.build(), SettingError, text, example_input=fake.example(), **settings)


@each(["sdt_v3_large"])
def test_more_levels_than_there_are(fake: Fake):
    check_refused(
        fake.build(), SettingError, r"t=5 is outside 1\.\.4, the spike levels of", t=5, example_input=fake.example()
    )


@each(name for name, fake in MODELS.items() if fake.family == "probe")
def test_no_family_needs_an_example(fake: Fake):
    text = r"^wrap: no family matches \w+\. Pass example_input=\.\.\., .* dstsp\.register"
    check_refused(fake.build(), FamilyError, text)


@each(["spikformer_cifar", "sdt_v2", "einsum"])
def test_an_example_that_does_not_fit(fake: Fake):
    for example in (torch.randn(2, 7, 16, 16), torch.randn(3), "a picture", (torch.randn(2, 3, 16, 16), 1, 2, 3)):
        text = r"^wrap: \w+ fails on the example input of shape \[.*\]: .*\. Pass one that the unwrapped model takes"
        check_refused(fake.build(), FamilyError, f"(?s){text}", example_input=example)


def test_models_without_attention():
    x = torch.randn(2, 3, 16, 16)
    text = r"^wrap: no family matches Plain\. {}; or register a family of your own"
    check_refused(Plain(), FamilyError, text.format("Pass example_input=.*"))
    check_refused(Plain(), FamilyError, text.format("Its forward multiplies no activations .*"), example_input=x)
    check_refused(nn.Sequential(Plain()), FamilyError, "no family matches Sequential", example_input=x)


def test_a_model_of_no_family_that_needs_all_its_tokens():
    model, x = Touchy(), torch.rand(4, 2, 16, 24)
    seen = sight(model)
    with pytest.raises(FamilyError, match=r"^wrap: Touchy does not run with its tokens pruned: \w+: .*\. Pass ps=0"):
        dstsp.wrap(model, example_input=x)
    assert {**sight(model), "rng": seen["rng"]} == seen
    assert dstsp.wrap(model, ps=0, t=None, example_input=x)(x).shape == (2, 16)


@each(["spikformer_cifar", "einsum"])
def test_models_inside_others(fake: Fake):
    model, x = fake.build(), fake.example()
    advice = r"\. Wrap the plain model first, then compile or distribute it\.$"
    check_refused(
        nn.DataParallel(model), FamilyError, rf"^wrap: this \w+ is inside DataParallel{advice}", example_input=x
    )
    compiled = torch.compile(model, backend="eager")
    for call in (dstsp.plan, dstsp.wrap):
        with pytest.raises(FamilyError, match=rf"^wrap: this \w+ is compiled{advice}"):
            call(compiled, example_input=x)
    model.compile(backend="eager")
    with pytest.raises(FamilyError, match=rf"^wrap: this \w+ is compiled{advice}"):
        dstsp.wrap(model, example_input=x)
    assert not hasattr(model, "dstsp")


def test_what_is_no_model():
    for thing in (FAKES["einsum"].example(), {}, None, FAKES["einsum"].make):
        for call in (dstsp.plan, dstsp.wrap):
            with pytest.raises(FamilyError, match=r"^wrap: got \w+, expected a torch\.nn\.Module\.$"):
                call(thing)


def test_what_cannot_be_copied():
    fake = FAKES["spikformer_cifar"]
    model, x = fake.build(), fake.example()
    model.block[0].lock = threading.Lock()
    with pytest.raises(FamilyError, match=r"(?s)^wrap: .* cannot be copied to be looked at: .*deepcopy takes"):
        dstsp.wrap(model, example_input=x)
    assert not hasattr(model, "dstsp")
    del model.block[0].lock
    dstsp.wrap(model, example_input=x)


@each(
    ["spikformer_cifar", "spikformer_imagenet", "qkformer", "sdt_v3_large", "einsum", "root_attention", "one_big_block"]
)
@pytest.mark.parametrize("ps", [0.0, 0.3, 0.75])
def test_another_resolution_is_refused_at_the_forward(fake: Fake, ps: float):
    model, x = wrapped(fake).model, fake.example(batch=3)
    model.dstsp.ps = ps  # 0.75: as many tokens are left of the larger image as W_M has
    out = logits(fake, model, x)
    big = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert logits(fake, fake.build(), big).isfinite().all()
    text = (
        r"^wrapped attention: W_M was built for 16 tokens, got \d+ of shape \(.*\)\. Feed the resolution that the model"
    )
    with pytest.raises(LayoutError, match=text):
        model(big)
    reset(model)
    assert torch.equal(logits(fake, copy.deepcopy(model), x), out)
    assert torch.equal(logits(fake, model, x), out)


@EVERY
def test_inputs_that_upstream_refuses_are_refused_and_leave_no_trace(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    out = logits(fake, model, x)
    with pytest.raises((RuntimeError, ValueError, TypeError, LayoutError)):
        model(x[..., :1, :1, :1])
    reset(model)
    with Calls(model.dstsp) as calls:
        assert torch.equal(logits(fake, model, x), out)
    assert calls.outs
