"""Every family keeps the same promises: unwrapping restores, copies are whole, checkpoints fit, T = 1 is T = 1."""

import copy
import pickle

import pytest
import torch
from torch import nn

from snntorch_smixer import dstsp
from snntorch_smixer.errors import FamilyError
from tests.fakes.neurons import reset
from tests.fakes.wrapped import EVERY, W_M, check_equal, each, logits, our_hooks, sight, wrapped
from tests.fakes.zoo import Fake


@EVERY
def test_it_is_of_its_family_and_changes_what_comes_out(fake: Fake):
    made, x = wrapped(fake), fake.example(batch=4)
    assert made.model.dstsp.plan.family == fake.family
    pruned = logits(fake, made.model, x)
    assert pruned.isfinite().all()
    assert (pruned[0] != pruned[1]).any(), "outputs do not depend on the input"
    assert not torch.equal(pruned, logits(fake, fake.build(), x))


@EVERY
def test_unwrap_restores_everything(fake: Fake):
    made, x = wrapped(fake), fake.example(batch=4)
    logits(fake, made.model, x)
    assert dstsp.unwrap(made.model) is made.model
    assert not hasattr(made.model, "dstsp")
    assert our_hooks(made.model) == []
    after = dict(made.model.named_modules())
    assert [*after] == [*made.before]
    assert [name for name in after if after[name] is not made.before[name]] == []
    assert {**sight(made.model), "rng": made.seen["rng"]} == made.seen
    assert [*made.model.state_dict()] == [*made.state]
    check_equal(fake, made.model, fake.build(), x)


@EVERY
def test_unwrap_keeps_what_was_learnt_by_the_parts_that_stay(fake: Fake):
    model = wrapped(fake).model
    stays = {name: p for name, p in model.named_parameters() if not name.endswith(W_M)}
    with torch.no_grad():
        for number, parameter in enumerate(stays.values()):
            parameter.fill_(number)
    learnt = {name: p.clone() for name, p in stays.items()}
    state = dstsp.unwrap(model).state_dict()
    assert {n for n in learnt if n in state and not torch.equal(state[n], learnt[n])} == set()


@EVERY
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copies_are_whole_and_independent(fake: Fake, clone):
    model, x = wrapped(fake).model, fake.example(batch=4)
    pruned = logits(fake, model, x)
    twin = clone(model)
    assert torch.equal(logits(fake, twin, x), pruned)
    twin.dstsp.ps, twin.dstsp.t = 0.6, 3
    assert (model.dstsp.ps, model.dstsp.t) == (0.3, 1)
    assert torch.equal(logits(fake, model, x), pruned)
    assert not torch.equal(logits(fake, twin, x), pruned)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.neg_()
    assert torch.equal(logits(fake, model, x), pruned)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.neg_()
    check_equal(fake, dstsp.unwrap(twin), fake.build(), x)
    assert torch.equal(logits(fake, model, x), pruned)


@EVERY
def test_a_copy_made_between_two_training_steps_is_whole(fake: Fake):
    model, x = wrapped(fake, mode=True).model, fake.example(batch=4)
    logits(fake, model, x, grad=True).square().sum().backward()
    reset(model)
    twin = copy.deepcopy(model).eval()
    check_equal(fake, twin, model.eval(), x)


@EVERY
def test_no_steps_and_no_tokens_dropped_is_the_unpruned_swap(fake: Fake):
    x = fake.example(batch=4)
    nothing, off = wrapped(fake).model, wrapped(fake).model
    nothing.dstsp.ps, nothing.dstsp.t = 0.0, None
    off.dstsp.active = "never"
    expected = logits(fake, off, x)
    assert torch.equal(logits(fake, nothing, x), expected)
    assert not torch.equal(logits(fake, wrapped(fake).model, x), expected)
    nothing.dstsp.t = fake.steps
    assert torch.equal(logits(fake, nothing, x), expected)
    for hooked in off.modules():  # nothing of the pruning runs at all
        hooked._forward_hooks.clear()
        hooked._forward_pre_hooks.clear()
    assert torch.equal(logits(fake, off, x), expected)


@each(["spikformer_imagenet", "qkformer", "sdt_v3", "stmixer", "braincog"])
def test_wrapped_without_pruning_is_the_same_as_wrapped_and_switched_off(fake: Fake):
    x, pruning = fake.example(batch=4), wrapped(fake).model
    plain = wrapped(fake, ps=0.0, t=None).model
    plain.load_state_dict(pruning.state_dict(), strict=True)
    expected = logits(fake, plain, x)
    pruning.dstsp.ps, pruning.dstsp.t = 0.0, None
    assert torch.equal(logits(fake, pruning, x), expected)
    plain.dstsp.ps, plain.dstsp.t = 0.3, 1
    check_equal(fake, plain, wrapped(fake).model, x)


@EVERY
def test_a_second_wrap_is_refused(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=4)
    pruned, seen = logits(fake, model, x), sight(model)
    for call in (dstsp.wrap, dstsp.plan):
        with pytest.raises(FamilyError, match=r"^wrap: this \w+ prunes already .* unwrap it first\.$"):
            call(model, ps=0.5, example_input=fake.example())
    assert sight(model) == seen
    assert torch.equal(logits(fake, model, x), pruned)


@each(["spikformer_cifar", "sdt_v1_dvs", "stmixer", "one_big_block"])
def test_it_can_be_wrapped_again_after_unwrapping(fake: Fake):
    made, x = wrapped(fake), fake.example(batch=4)
    pruned, w_m = logits(fake, made.model, x), made.model.state_dict()
    dstsp.wrap(dstsp.unwrap(made.model), ps=0.3, t=1, example_input=fake.example())
    made.model.load_state_dict(w_m, strict=True)
    assert torch.equal(logits(fake, made.model, x), pruned)


def test_what_was_not_wrapped_is_not_unwrapped():
    model = nn.Linear(2, 2)
    for call in (dstsp.unwrap, dstsp.summary):
        with pytest.raises(FamilyError, match=r"this Linear was not wrapped"):
            call(model)
