"""What is swapped and what is not, and that a plan says so beforehand without touching anything."""

import copy
import dataclasses

import torch
from torch import nn

from snntorch_smixer import dstsp
from snntorch_smixer.patching.standins import SwappedAttention
from tests.fakes.neurons import reset
from tests.fakes.wrapped import EVERY, MODELS, W_M, Calls, check_equal, differ, each, logits, our_hooks, sight, wrapped
from tests.fakes.zoo import Fake

LINEAR = each(name for name, fake in MODELS.items() if fake.family == "sdt_v1")
SITES = each(name for name, fake in MODELS.items() if fake.sites)


def swapped_paths(model: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, module in model.named_modules() if isinstance(module, SwappedAttention))


@EVERY
def test_every_quadratic_attention_is_swapped_and_nothing_else(fake: Fake):
    made = wrapped(fake)
    assert swapped_paths(made.model) == (*fake.attention_paths, *fake.mixer_paths)
    now = dict(made.model.named_modules())
    inside = tuple(f"{path}." for path in swapped_paths(made.model))
    outside = {n for n in made.before if n and n not in swapped_paths(made.model) and not n.startswith(inside)}
    assert {name for name in outside if now[name] is not made.before[name]} == set()
    assert {*now} - {*made.before} <= {n for n in now if n.startswith(inside)} | {"dstsp"}
    sizes = [module.w_m.weight.numel() for name, module in now.items() if name.endswith(".mixer")]
    quadratic = [n for n, path in zip(fake.tokens, fake.sites, strict=True) if path in swapped_paths(made.model)]
    expected = [n * n // 4 if fake.name == "strided_keys" else n * n for n in quadratic]
    assert [size % n for size, n in zip(sizes, expected, strict=True)] == [0] * len(sizes)


@each(["spikformer_cifar", "qkformer", "sdt_v1", "sdt_v2", "stmixer", "spikeyolo", "braincog", "root_attention"])
def test_without_swapping_it_only_prunes(fake: Fake):
    made, x = wrapped(fake, swap=False), fake.example(batch=4)
    model = made.model
    kinds = {"mixer"} if fake.mixer_paths else set()  # a mixer of its own needs W_M' to be pruned
    if not kinds:
        assert [*model.state_dict()] == [*made.state]
        assert all(torch.equal(made.state[name], tensor) for name, tensor in model.state_dict().items())
        assert not any(name.endswith(W_M) for name, _ in model.named_parameters())
    assert differ(fake, model, fake.build(), x)
    model.dstsp.ps, model.dstsp.t = 0.0, None
    assert torch.allclose(logits(fake, model, x), logits(fake, fake.build(), x), atol=1e-4)
    dstsp.unwrap(model)
    assert our_hooks(model) == []
    assert dict(model.named_modules()) == made.before
    check_equal(fake, model, fake.build(), x)


@LINEAR
def test_linear_attention_is_swapped_on_request(fake: Fake):
    made, x = wrapped(fake, swap="all"), fake.example(batch=4)
    assert swapped_paths(made.model) == fake.linear_paths
    w_m = {name: p for name, p in made.model.named_parameters() if name.endswith(W_M)}
    assert [*w_m] == [f"{path}.mixer.{W_M}" for path in fake.linear_paths]
    assert all(p.shape[1:] == (16, 1) for p in w_m.values())
    assert differ(fake, made.model, wrapped(fake).model, x)
    logits(fake, made.model, x, grad=True).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in w_m.values())
    reset(made.model)
    check_equal(fake, dstsp.unwrap(made.model), fake.build(), x)


@each(["spikformer_dvs", "qkformer_dvs", "sdt_v1_dvs", "sdt_v3", "stmixer", "spikeyolo", "braincog", "one_big_block"])
def test_a_plan_says_what_wrap_does_and_touches_nothing(fake: Fake):
    model, made = fake.build().train(), wrapped(fake)
    torch.manual_seed(5)
    seen, parts = sight(model), dict(model.named_modules())
    found = dstsp.plan(model, ps=0.3, t=1, example_input=fake.example())
    assert sight(model) == seen
    assert dict(model.named_modules()) == parts
    told = dstsp.summary(made.model)
    assert found == made.model.dstsp.plan == dataclasses.replace(told, memory=())
    assert len(told.memory) == 1
    assert (found.model, found.family) == (type(model).__name__, fake.family)
    assert found.tokens[0] == (fake.tokens[-1] if fake.tokens else 64)
    assert found.tokens[1] == round(found.tokens[0] * 0.7)
    assert found.steps == (fake.steps, 1)
    numbers = [sum(p.numel() for p in one.parameters()) for one in (model, made.model)]
    assert [*found.parameters] == numbers
    text = str(found)
    assert found.model in text
    assert f"{numbers[0]:,} -> {numbers[1]:,}" in text or numbers[0] == numbers[1]
    assert len(text.splitlines()) <= 40
    text = "\n".join(f"  {edit}" for edit in found.edits)
    for path in swapped_paths(made.model):
        assert f"  {path}: " in text
    hooked = {place.rpartition(".")[0] for place in our_hooks(made.model)} - {""}
    assert {path for path in hooked if f"{path}: " not in text} == set()


@EVERY
def test_a_summary_follows_the_settings(fake: Fake):
    model = wrapped(fake).model
    model.dstsp.ps, model.dstsp.t = 0.5, 2
    found = dstsp.summary(model)
    assert found.steps[1] == 2
    assert found.tokens[1] * 2 == found.tokens[0]
    assert found.settings.ps == 0.5
    assert model.dstsp.plan.settings.ps == 0.3


@each(["spikformer_imagenet", "qkformer", "sdt_v2", "sdt_v3_large", "stmixer", "spikeyolo"])
def test_without_an_example_w_m_comes_with_the_first_forward(fake: Fake):
    model, x = dstsp.wrap(fake.build(), ps=0.3, t=1), fake.example(batch=4)
    known, loaded = wrapped(fake).model, copy.deepcopy(model)
    told = dstsp.summary(model)
    lazy = any(isinstance(p, nn.UninitializedParameter) for p in model.parameters())
    assert lazy == (told.parameters[1] is None)
    if lazy:
        assert told.tokens == (None, None)
        assert "fixed at the first forward" in str(told)
        assert "known after the first forward" in str(told)
    loaded.load_state_dict(known.state_dict(), strict=True)
    check_equal(fake, loaded, known, x)
    logits(fake, model, x)
    assert not any(isinstance(p, nn.UninitializedParameter) for p in model.parameters())
    assert dstsp.summary(model).parameters[1] == dstsp.summary(known).parameters[1]
    model.load_state_dict(known.state_dict(), strict=True)
    check_equal(fake, model, known, x)


@each(["stmixer", "spikformer_cifar"])
def test_families_that_know_their_tokens_need_no_example(fake: Fake):
    model = fake.build()
    if fake.name == "spikformer_cifar":
        model.patch_embed.num_patches = 16  # upstream has it
    told = dstsp.plan(model)
    assert told.tokens == (16, 11)
    assert told.parameters == wrapped(fake).model.dstsp.plan.parameters


def shapes(out: object) -> list[object]:
    return [getattr(one, "shape", one) for one in (out if isinstance(out, tuple) else (out,))]


@SITES
def test_blocks_are_called_as_before(fake: Fake):
    """Extra arguments and results of an attention pass: (x, v), (x, v, hook), or x alone."""
    plain, model, x = fake.build(), wrapped(fake).model, fake.example()
    model.dstsp.active = "never"
    for path in fake.sites:
        with Calls(plain.get_submodule(path)) as before, Calls(model.get_submodule(path)) as after:
            logits(fake, plain, x)
            logits(fake, model, x)
        (was,), (now,) = before.outs, after.outs
        assert type(was) is type(now)
        assert len(before.args[0]) == len(after.args[0])
        shapes = [
            [getattr(one, "shape", one) for one in (out if isinstance(out, tuple) else (out,))] for out in (was, now)
        ]
        assert shapes[0] == shapes[1] or "qkformer" in fake.name
