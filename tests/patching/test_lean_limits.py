"""Memory modes of a wrapped model: what wins over them, and that nothing stays behind."""

import copy
import gc
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from snntorch_smixer import dstsp, memory_mode, set_memory
from snntorch_smixer.bench.peak import Ledger
from tests.fakes.lean import (
    FAKE,
    LEAN,
    X,
    check_alike,
    check_nothing_left,
    check_same_as_reference,
    gradients,
    loss_of,
    made,
    one_step,
    trained,
)
from tests.fakes.neurons import reset
from tests.fakes.wrapped import logits, our_hooks, sight


@LEAN
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_inside_the_model_keep_for_themselves(reentrant: bool, mode: str):
    def step(model: nn.Module) -> None:
        block = model.block[0]
        forward = type(block).forward
        block.forward = lambda x: checkpoint(lambda y: forward(block, y), x, use_reentrant=reentrant)
        loss_of(model).backward()
        del block.forward

    found = check_same_as_reference(step, mode).dstsp.found
    assert ("block.0.mlp.fc1_lif" in found.elsewhere) is not reentrant
    assert "block.1.mlp.fc1_lif" in found.neurons


@LEAN
def test_hooks_around_the_model_win(mode: str):
    def step(model: nn.Module) -> None:
        with torch.autograd.graph.save_on_cpu():
            loss = loss_of(model)
        loss.backward()

    model = check_same_as_reference(step, mode)
    assert str(dstsp.summary(model)).endswith(
        f"memory {mode}: everything is kept, because other hooks on saved tensors are active, such as save_on_cpu or a "
        "checkpoint around the model"
    )
    one_step(model)
    assert f"memory {mode}: BatchNorm -> neuron, both computed again, 15: " in str(dstsp.summary(model))


@LEAN
def test_a_checkpoint_around_the_model_wins(mode: str):
    def step(model: nn.Module) -> None:
        loss = checkpoint(lambda x: loss_of(model, x), X, use_reentrant=False)
        reset(model)
        loss.backward()

    check_same_as_reference(step, mode)


@LEAN
def test_weights_that_were_stepped_before_the_backward_pass_are_refused(mode: str):
    for weight in ("block.0.mlp.fc2_linear.weight", "patch_embed.rpe_conv.weight"):
        model = made(mode)
        one_step(model)
        loss = loss_of(model)
        with torch.no_grad():
            model.get_parameter(weight).add_(0.1)
        with pytest.raises(RuntimeError, match="changed by an inplace operation"):
            loss.backward()


class Fails(nn.Module):
    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error: type[BaseException] | None = error

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return x


@LEAN
def test_a_failing_forward_leaves_nothing_behind(mode: str):
    model = made(mode)
    model.block[0].mlp.register_module("fails", Fails(ZeroDivisionError))
    model.block[0].mlp.register_forward_hook(lambda module, args, out: module.fails(out))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            loss_of(model)
        check_nothing_left(model)
    assert "are looked for in the first training forward" in str(dstsp.summary(model))
    model.block[0].mlp.fails.error = None
    one_step(model)
    check_alike(model, trained("reference", one_step))


def test_the_forward_after_ctrl_c_puts_everything_right():
    model = made("fused")
    model.block[0].mlp.register_module("fails", Fails(KeyboardInterrupt))
    model.block[0].mlp.register_forward_hook(lambda module, args, out: module.fails(out))
    with pytest.raises(KeyboardInterrupt):
        loss_of(model)
    model.block[0].mlp.fails.error = None
    one_step(model)
    check_nothing_left(model)
    check_alike(model, trained("reference", one_step))


def test_unwrap_and_copy_after_ctrl_c_leave_nothing():
    model = made("fused")
    handle = model.block[0].mlp.register_forward_hook(lambda *_: Fails(KeyboardInterrupt)(X))
    with pytest.raises(KeyboardInterrupt):
        loss_of(model)
    handle.remove()
    dstsp.unwrap(model)
    check_nothing_left(model)
    loss_of(model).backward()


@LEAN
def test_a_forward_without_backward_holds_nothing(mode: str):
    model = made(mode)
    one_step(model)
    model.zero_grad()
    reset(model)
    with Ledger() as ledger:
        loss = loss_of(model)
        assert ledger.level() > 10_000
        del loss
        reset(model)
        gc.collect()
        assert ledger.level() < 1000  # the counts of the BatchNorms, and a constant


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_done(around):
    model, seen = made("fused"), []
    neuron = model.block[0].mlp.fc1_lif
    neuron.register_forward_hook(lambda module, args, out: seen.append("forward" in vars(module)))
    with around():
        loss_of(model)
    assert seen == [False]
    loss_of(model)
    assert seen == [False, True]


def test_upstream_is_left_as_it_is_by_default():
    model, x = FAKE.build().train(), FAKE.example()
    dstsp.wrap(model, example_input=x)
    assert model.dstsp.memory == "reference"
    assert str(dstsp.summary(model)).endswith("kept as upstream does; set_memory(model, 'fused') keeps less")
    with memory_mode(model, "recompute"):
        assert model.dstsp.memory == "recompute"
    assert model.dstsp.memory == "reference"


def test_unwrap_takes_it_out_again():
    model, x = FAKE.build(), FAKE.example()
    before, out = sight(model), logits(FAKE, model, x)
    set_memory(dstsp.wrap(model.train(), example_input=x), "fused")
    loss_of(model)
    reset(model)
    dstsp.unwrap(model.eval())
    assert our_hooks(model) == []
    after = sight(model)
    changed = {key for key in before if before[key] != after.get(key) and "running" not in key}
    assert {key.rpartition(".")[2] for key in changed} <= {"_buffers", "rng"}
    model.load_state_dict(FAKE.build().state_dict())
    assert torch.equal(logits(FAKE, model, x), out)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_keep_less_too(copied):
    model = made("fused")
    one_step(model)
    model.zero_grad()
    reset(model)
    twin = copied(model)
    one_step(twin)
    one_step(model)
    check_alike(twin, model)
    assert twin.dstsp.found is not model.dstsp.found
    assert twin.dstsp.found.pairs == model.dstsp.found.pairs


def test_compiled_parts_decide_by_themselves():
    torch.compiler.reset()
    model, plain = made("fused"), made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own, about what it cannot look into
        model.block[0].mlp.compile(backend="eager")
        one_step(model)
    one_step(plain)
    pairs = zip(gradients(model), gradients(plain), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in pairs)
    assert dstsp.summary(model).memory == (
        "memory fused: everything is kept, because a part of it is compiled, which decides by itself what it keeps",
    )
