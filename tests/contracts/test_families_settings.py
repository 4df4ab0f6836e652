"""Steps, rates and modes of a wrapped model can be changed at any time, and T is what it was after every forward."""

import copy
from contextlib import ExitStack
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.errors import SettingError
from tests.fakes.neurons import MultiSpike, Multispike, reset
from tests.fakes.wrapped import EVERY, WITH_TOKENS, Calls, each, logits, wrapped
from tests.fakes.zoo import Fake

GRID = each(["sdt_v1_dvs", "sdt_v2", "sdt_v3", "spikeyolo", "strided_keys"])
# Two blocks whose dropped tokens leave, and where they are.
TWO_BLOCKS = {
    **dict.fromkeys(["spikformer_cifar", "spikformer_imagenet", "spikformer_dvs", "spikformer_v2"], "block.{}"),
    **dict.fromkeys(["sdt_v1", "stmixer", "braincog"], "block.{}"),
    **{"qkformer": "stage3.{}", "qkformer_dvs": "stage2.{}", "sdt_v3_large": "block3.{}", "one_big_block": "deck.{}"},
    **{"sj_spikformer": "blocks.{}", "sj_sdt": "blocks.{}", "sj_qkformer": "stage3.{}"},
}
STORED = each(["stmixer", "braincog"])


class Stop(Exception):
    """Raised inside a block by `stop`."""


def stop(module: nn.Module, args: object) -> None:
    raise Stop


def counts(fake: Fake, model: nn.Module, x: Tensor) -> list[tuple[int, int]]:
    """(steps, tokens) behind each pruning of one forward; empty where nothing is pruned."""
    with Calls(model.dstsp) as calls:
        logits(fake, model, x)
    return [(kept.num_steps, kept.tokens.shape[1]) for _, kept in calls.outs]


def stored_steps(model: nn.Module) -> dict[str, int]:
    return {
        f"{name}.{attribute}": value
        for name, module in model.named_modules()
        for attribute, value in vars(module).items()
        if attribute in ("T", "step")
    }


@WITH_TOKENS
def test_rate_and_steps_count_from_the_next_forward_on(fake: Fake):
    model, x = wrapped(fake).model, fake.example()
    whole, steps = fake.tokens[-1], 1 if fake.family == "sdt_v3" else fake.steps
    outs = []
    for ps, t in ((0.3, 1), (0.5, 1), (0.5, 2), (0.9, None), (0.3, 1)):
        model.dstsp.ps, model.dstsp.t = ps, t
        assert counts(fake, model, x)[-1] == (min(t or steps, steps), round(whole * (1 - ps)))
        outs.append(logits(fake, model, x))
    assert torch.equal(outs[0], outs[-1])
    assert all(not torch.equal(a, b) for a, b in pairwise(outs))


@each(TWO_BLOCKS)
@pytest.mark.parametrize("ps", [(0.25, 0.5), [0.25, 0.5], dstsp.Schedule(0.25, 0.5)], ids=["tuple", "list", "schedule"])
def test_tokens_leave_block_by_block(fake: Fake, ps: object):
    model, x = wrapped(fake).model, fake.example()
    model.dstsp.ps, model.dstsp.t = ps, 2
    blocks = [model.get_submodule(TWO_BLOCKS[fake.name].format(i)) for i in (0, 1)]
    with Calls(blocks[0]) as first, Calls(blocks[1]) as second:
        out = logits(fake, model, x)
    sizes = [calls.args[0][0].numel() for calls in (first, second)]
    assert sizes[1] * 12 == sizes[0] * 8
    assert out.isfinite().all()
    assert dstsp.summary(model).tokens == (16, 8)


@each(["root_attention", "einsum"])
def test_rates_per_block_are_kept_or_refused(fake: Fake):
    model, x = wrapped(fake).model, fake.example()
    try:
        model.dstsp.ps = (0.25, 0.5)
    except SettingError:
        return
    found = counts(fake, model, x)
    assert found[-1][1] == dstsp.summary(model).tokens[1] == 8


@GRID
def test_rates_may_fall_where_tokens_keep_their_place(fake: Fake):
    model, x = wrapped(fake).model, fake.example()
    depth = model.dstsp.plan.depth
    outs = []
    for rates in ((0.6, 0.2, 0.2), (0.2, 0.6, 0.6), (0.2, 0.2, 0.2)):
        model.dstsp.ps = rates[:depth]
        outs.append(logits(fake, model, x))
        found = counts(fake, model, x)
        whole = fake.tokens[-1] if fake.tokens else 64
        assert found[-1][1] == round(whole * (1 - rates[1]))
    assert not torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@each(TWO_BLOCKS)
def test_rates_may_not_fall_where_tokens_are_gone(fake: Fake):
    model = wrapped(fake).model
    for rates in ((0.5, 0.25), dstsp.Schedule(0.5, 0.25)):
        with pytest.raises(
            SettingError, match=r"^DSSP: ps=.* falls .* a dropped token is gone\. Pass rates that do not"
        ):
            model.dstsp.ps = rates
    assert model.dstsp.ps == 0.3


@EVERY
def test_settings_that_do_not_fit_are_refused_and_change_nothing(fake: Fake):
    model, x = wrapped(fake).model, fake.example()
    before, depth = logits(fake, model, x), model.dstsp.plan.depth
    for name, value in (
        *(("ps", 1.0), ("ps", -0.1), ("ps", True), ("ps", (0.1,) * (depth + 1)), ("ps", ()), ("ps", "0.3")),
        *(
            ("t", 0),
            ("t", 5),
            ("t", 1.5),
            ("active", "always"),
            ("merge", "add"),
            ("ranking", "mid"),
            ("w_prime", "cut"),
        ),
        *(("spike_cap", 2),),
    ):
        with pytest.raises(SettingError):
            setattr(model.dstsp, name, value)
    assert (model.dstsp.ps, model.dstsp.t, model.dstsp.active) == (0.3, 1, "both")
    assert torch.equal(logits(fake, model, x), before)


@EVERY
def test_active_says_in_which_mode_it_prunes(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    for active, pruning_modes in (("both", (True, False)), ("train", (True,)), ("eval", (False,)), ("never", ())):
        model.dstsp.active = active
        for mode in (True, False):
            found = counts(fake, model.train(mode), x)
            assert bool(found) == (mode in pruning_modes)


@EVERY
@pytest.mark.parametrize(
    ("merge", "w_prime"), [("drop", "gather"), ("softmatch", "crop"), ("fuse", "gather"), ("sum", "shared")]
)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_merging_and_w_prime_run_everywhere_or_are_refused(fake: Fake, merge: str, w_prime: str, mode: bool):
    model, x = wrapped(fake, mode=mode).model, fake.example(batch=3)
    model.dstsp.w_prime = w_prime
    if model.dstsp.plan.keeps_grid and merge in ("fuse", "sum"):
        with pytest.raises(
            SettingError, match=r"^wrap: merge='\w+' needs tokens that leave, but .* Pass 'softmatch' or"
        ):
            model.dstsp.merge = merge
    else:
        model.dstsp.merge = merge
    assert logits(fake, model, x).isfinite().all()


@STORED
@pytest.mark.parametrize("t", [1, 2, None])
def test_stored_steps_are_back_after_the_forward(fake: Fake, t: int | None):
    model, x = wrapped(fake).model, fake.example(batch=4)
    before = stored_steps(model)
    assert len(before) > 15
    assert set(before.values()) == {4}
    model.dstsp.t = t
    with Calls(model.block[1]) as calls:
        logits(fake, model, x)
    assert stored_steps(model) == before
    shape = calls.args[0][0].shape
    assert (shape[0] if fake.name == "braincog" else shape[0] // 4) == (t or 4)


@STORED
def test_stored_steps_are_back_after_an_exception(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=4)
    before, out = stored_steps(model), logits(fake, model, x)
    handle = model.block[1].register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        model(x)
    handle.remove()
    assert stored_steps(model) == before
    reset(model)
    assert torch.equal(logits(fake, model, x), out)


@EVERY
def test_an_exception_inside_a_block_leaves_no_trace(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    out = logits(fake, model, x)
    path = TWO_BLOCKS.get(fake.name, "").format(1) or (fake.sites[-1] if fake.sites else "model.10")
    handle = model.get_submodule(path).register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        model(x)
    handle.remove()
    reset(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits(fake, model, x), out)
    assert torch.equal(logits(fake, model, fake.example(batch=1)), logits(fake, twin, fake.example(batch=1)))


@each(["sdt_v3", "sdt_v3_large"])
def test_t_caps_integer_neurons_behind_the_pruning_and_none_in_front(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=4)
    levels = {name: module for name, module in model.named_modules() if isinstance(module, (MultiSpike, Multispike))}
    behind = {name for name in levels if name.startswith(("block3", "block4", "downsample4")) or "." not in name}
    assert {*levels} - behind
    for t in (1, 2, None):
        model.dstsp.t, top = t, {}
        with ExitStack() as stack:
            calls = {name: stack.enter_context(Calls(module)) for name, module in levels.items()}
            logits(fake, model, x)
        for name, module in levels.items():
            unit = 1.0 if getattr(module, "Norm", 4) == 1 else 0.25
            top[name] = max((out.max().item() for out in calls[name].outs), default=0) / unit
        assert {top[name] for name in behind if top[name]} <= {*range(1, (t or 4) + 1)}
        assert max(top[name] for name in behind) == (t or 4)
        assert {top[name] for name in levels if name not in behind} == {4}
