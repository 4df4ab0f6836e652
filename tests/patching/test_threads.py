"""Calls of one wrapped model that overlap, in threads and inside one another: each has its own selection."""

import copy
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import LIF, dstsp, memory_mode, set_memory
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.patching.modules import Call, Current
from tests.fakes.stateless import Stateless, pictures
from tests.fakes.wrapped import wrapped
from tests.fakes.zoo import FAKES


def overlapping(net: nn.Module, where: nn.Module, outer: Tensor, inner: Callable[[], Any]) -> list[Any]:
    """What a call in another thread gives that waits behind ``where`` until ``inner`` is done, and what that gives."""
    inside, go_on, results = threading.Event(), threading.Event(), []

    def wait(*_: object) -> None:
        if threading.current_thread() is thread:
            inside.set()
            go_on.wait(30)

    def call(action: Callable[[], Any]) -> None:
        try:
            results.append(action())
        except SettingError as error:
            results.append(error)

    thread = threading.Thread(target=call, args=(lambda: net(outer),))
    handle = where.register_forward_hook(wait)
    thread.start()
    inside.wait(30)
    call(inner)
    go_on.set()
    thread.join(30)
    handle.remove()
    return results[::-1]


def made(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return dstsp.wrap(Stateless(), **{"ps": 0.5, "t": 2, "example_input": pictures(1), **settings})


def test_each_thread_has_its_own_selection():
    net, one, two = made(), pictures(), pictures(3)
    alone = [net(one), net(two)]
    assert len(torch.cat(alone).unique(dim=0)) == 5, "else any selection would do"
    got = overlapping(net, net.blocks[0], one, lambda: net(two))
    assert [torch.equal(a, b) for a, b in zip(got, alone, strict=True)] == [True, True]


def test_a_call_inside_a_call_has_its_own_selection():
    net, one, two = made(), pictures(), pictures(3)
    alone, inner = net(one), []
    handle = net.blocks[0].register_forward_hook(
        lambda *_: None if inner else inner.append(None) or inner.append(net(two))
    )
    assert torch.equal(net(one), alone)
    handle.remove()
    assert torch.equal(inner[1], net(two))


def test_a_part_alone_in_a_thread_of_its_own_is_refused_while_the_model_runs():
    net, x = made(), pictures()
    stream = torch.ones(4, 2, 6, 8)
    outer, error = overlapping(net, net.blocks[0], x, lambda: net.blocks[1](stream))
    assert isinstance(error, SettingError)
    assert "in a thread of its own" in str(error)
    assert torch.equal(outer, net(x))


def test_a_stored_step_count_is_not_shared_by_threads():
    fake = FAKES["stmixer"]
    net, x = wrapped(fake).model, fake.example()
    block = next(m for name, m in net.named_modules() if name.endswith("block.0") or name.endswith("blocks.0"))
    before = [getattr(m, name) for m, name in net.dstsp.stored.places]
    outer, error = overlapping(net, block, x, lambda: net(x))
    assert isinstance(error, SettingError)
    assert "several threads" in str(error)
    assert torch.equal(fake.logits(outer), fake.logits(net(x)))
    assert [getattr(m, name) for m, name in net.dstsp.stored.places] == before


def test_a_stored_step_count_is_whole_for_a_call_inside_a_call():
    fake = FAKES["stmixer"]
    net, x = wrapped(fake).model, fake.example()
    alone, inner = fake.logits(net(x)), []
    block = next(m for name, m in net.named_modules() if name.endswith("block.0") or name.endswith("blocks.0"))
    handle = block.register_forward_hook(lambda *_: None if inner else inner.append(None) or inner.append(net(x)))
    assert torch.equal(fake.logits(net(x)), alone)
    handle.remove()
    assert torch.equal(fake.logits(inner[1]), alone)


def test_saving_less_works_in_one_thread_at_a_time():
    net, x = made(), pictures()
    set_memory(net, "recompute")
    forwards = {name: "forward" in vars(m) for name, m in net.named_modules()}
    outer, error = overlapping(net, net.blocks[0], x, lambda: net(x))
    assert isinstance(error, SettingError)
    assert "another thread" in str(error)
    assert torch.equal(outer, net(x))
    assert {name: "forward" in vars(m) for name, m in net.named_modules()} == forwards


def test_a_memory_mode_for_a_while_is_entered_by_one_thread():
    net, errors = nn.Sequential(LIF()), []

    def enter() -> None:
        with suppress(SettingError), memory_mode(net, "reference"):
            errors.append("entered")

    with memory_mode(net, "recompute"):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join(30)
        with memory_mode(net, "fused"):
            assert net[0].memory == "fused"
        assert net[0].memory == "recompute"
    assert errors == []
    enter()
    assert (errors, net[0].memory) == (["entered"], "fused")


def test_blocks_that_run_again_in_the_backward_pass_prune_as_the_first_time():
    net, x = made(), pictures()
    twin = copy.deepcopy(net)
    twin.again = True
    for one in (net, twin):
        one(x).square().sum().backward()
    grads = dict(twin.named_parameters())
    assert all(p.grad is None or torch.equal(p.grad, grads[name].grad) for name, p in net.named_parameters())
    assert any(p.grad is not None and p.grad.any() for p in net.blocks.parameters())


def test_which_call_runs_again_is_not_guessed():
    current, seen = Current(), []
    calls = [Call(), Call()]
    for call in calls:
        thread = threading.Thread(target=lambda call=call: (current.begin(call), current.end(call, keep=True)))
        thread.start()
        thread.join()

    class Ask(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            seen.append(current.call())
            return grad

    Ask.apply(torch.ones(1, requires_grad=True)).backward()
    assert seen == calls[1:], "the first thread is gone, and its call with it"
    current._last[-1] = calls[0]
    with pytest.raises(SettingError, match="with activation checkpointing, in one only"):
        Ask.apply(torch.ones(1, requires_grad=True)).backward()


def test_an_interrupted_call_is_forgotten():
    net, x = made(), pictures()
    alone = net(x)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    handle = net.blocks[0].register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        net(x)
    handle.remove()
    assert net.dstsp.current.threads == 0
    assert torch.equal(net(x), alone)


def test_an_interrupted_call_leaves_the_stored_step_count_as_it_was():
    fake = FAKES["stmixer"]
    net, x = wrapped(fake).model, fake.example()
    before = [getattr(m, name) for m, name in net.dstsp.stored.places]

    def stop(*_: object) -> None:
        if net.dstsp.stored.before is not None:
            raise KeyboardInterrupt

    for module in net.modules():
        module.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        net(x)
    assert [getattr(m, name) for m, name in net.dstsp.stored.places] == before


def test_copies_pickles_and_replicas_are_called_alike_and_keep_their_class():
    net, x = made(), pictures()
    out, kind = net(x), Stateless
    for twin in (copy.deepcopy(net), copy.copy(net), pickle.loads(pickle.dumps(net))):
        assert isinstance(twin, kind)
        assert type(twin) is type(net)
        assert torch.equal(twin(x), out)
    assert (type(net).__name__, type(net).__module__) == (kind.__name__, kind.__module__)
    assert torch.equal(torch.func.functional_call(net, dict(net.named_parameters()), (x,)), out)
    assert type(dstsp.unwrap(net)) is kind


def test_a_replica_does_not_change_the_steps_of_the_model():
    fake = FAKES["stmixer"]
    net = wrapped(fake).model
    with pytest.raises(SettingError, match="several threads"):
        net._replicate_for_data_parallel()(fake.example())


def test_two_threads_may_make_the_matrix():
    fake = FAKES["spikformer_cifar"]
    model = dstsp.wrap(fake.build(), ps=0.3, t=1)
    mixer = next(m for m in model.modules() if hasattr(m, "materialize"))
    threads = [threading.Thread(target=mixer.materialize, args=(16, torch.device("cpu"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert type(mixer.w_m) is nn.Conv1d
    with pytest.raises(LayoutError):
        mixer(torch.ones(1))


def test_where_saved_tensors_cannot_be_hooked_everything_is_kept():
    net, x = made(), pictures()
    alone = net(x)
    set_memory(net, "recompute")
    with torch.autograd.graph.disable_saved_tensors_hooks("switched off"):
        assert torch.equal(net(x), alone)
    assert "switched off, as inside torch.func.grad" in str(dstsp.summary(net))
