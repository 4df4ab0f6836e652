"""State dicts of wrapped models: stable keys, whole round trips, and the way to and from the model before `wrap`."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.errors import FamilyError
from tests.fakes.wrapped import EVERY, MODELS, SWAPPED, W_M, check_equal, differ, each, logits, wrapped
from tests.fakes.zoo import Fake

FUSED = each(["one_big_block", "root_attention", "sj_spikformer", "sj_qkformer", "sj_maxformer"])


def shaken(model: nn.Module) -> nn.Module:
    """The model with other numbers in everything that can be learnt."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
    return model


def renamed(state: dict[str, Tensor], original: dict[str, Tensor]) -> set[str]:
    """Keys of ``state``, other than ``W_M``, that the unwrapped model does not have, or has in another shape."""
    return {
        name
        for name, tensor in state.items()
        if not name.endswith(W_M) and (name not in original or original[name].shape != tensor.shape)
    }


@EVERY
def test_keys_are_those_of_the_model_and_one_w_m_per_attention(fake: Fake):
    made = wrapped(fake)
    state = made.model.state_dict()
    w_m = [name for name in state if name.endswith(W_M)]
    assert w_m == [f"{path}.mixer.{W_M}" for path in (*fake.attention_paths, *fake.mixer_paths)]
    new = renamed(state, made.state)
    assert all(any(name.startswith(f"{path}.") for path in fake.attention_paths) for name in new)
    assert all(".v" in name or ".value_" in name or "_value." in name for name in new)
    gone = {name for name in made.state if name not in state}
    assert all(any(name.startswith(f"{path}.") for path in fake.sites) for name in gone)
    kept = [name for name in state if name not in new and name not in w_m]
    assert all(torch.equal(state[name], made.state[name]) for name in kept)


@EVERY
def test_keys_do_not_change_afterwards(fake: Fake):
    model = wrapped(fake).model
    keys = [*model.state_dict()]
    logits(fake, model, fake.example())
    model.dstsp.ps, model.dstsp.t, model.dstsp.active = 0.6, None, "train"
    logits(fake, model.train(), fake.example())
    assert [*model.state_dict()] == keys
    assert [*copy.deepcopy(model).state_dict()] == keys


@EVERY
def test_a_saved_file_loads_into_another_wrapped_model(fake: Fake, tmp_path):
    model, other, x = shaken(wrapped(fake).model), wrapped(fake).model, fake.example(batch=4)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "weights")
    other.load_state_dict(load_file(tmp_path / "weights"), strict=True)
    check_equal(fake, model, other, x)
    assert differ(fake, model, wrapped(fake).model, x)


@SWAPPED
def test_a_checkpoint_of_the_unwrapped_model_fits(fake: Fake):
    original, model = shaken(fake.build()), wrapped(fake).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(dstsp.to_wrapped(original.state_dict(), model), strict=True)
    after, wanted = model.state_dict(), original.state_dict()
    for name, tensor in after.items():
        if name in wanted and wanted[name].shape == tensor.shape:
            assert torch.equal(tensor, wanted[name]), name
        elif not name.endswith(W_M):
            assert not torch.equal(tensor, before[name]) or "num_batches" in name or "running" in name, name
        elif not fake.mixer_paths:
            assert torch.equal(tensor, before[name]), name


@each(["spikformer_cifar", "one_big_block", "stmixer"])
def test_wrapping_and_then_loading_is_loading_and_then_wrapping(fake: Fake):
    x, original, late = fake.example(batch=4), shaken(fake.build()), wrapped(fake).model
    late.load_state_dict(dstsp.to_wrapped(original.state_dict(), late), strict=True)
    early = dstsp.wrap(original, ps=0.3, t=1, example_input=fake.example())
    if not fake.mixer_paths:  # otherwise W_M is the model's own matrix
        w_m = {name: tensor for name, tensor in late.state_dict().items() if name.endswith(W_M)}
        assert early.load_state_dict(w_m, strict=False).unexpected_keys == []
    check_equal(fake, early, late, x)


@SWAPPED
def test_a_checkpoint_of_the_wrapped_model_fits_the_unwrapped_one(fake: Fake):
    made, plain, x = wrapped(fake), fake.build(), fake.example(batch=4)
    state = dstsp.to_unwrapped(made.model.state_dict(), made.model)
    shaken(plain).load_state_dict(state, strict=True)
    check_equal(fake, plain, fake.build(), x)
    assert {name for name in state if not torch.equal(state[name], made.state[name])} == set()


@SWAPPED
def test_to_unwrapped_agrees_with_unwrap_after_training(fake: Fake):
    model, plain, x = shaken(wrapped(fake).model), fake.build(), fake.example(batch=4)
    plain.load_state_dict(dstsp.to_unwrapped(model.state_dict(), model), strict=True)
    assert differ(fake, plain, fake.build(), x)
    check_equal(fake, plain, dstsp.unwrap(model), x)


@FUSED
def test_v_of_a_fused_projection_goes_there_and_back(fake: Fake):
    original, model = shaken(fake.build()), wrapped(fake).model
    whole = original.state_dict()
    model.load_state_dict(dstsp.to_wrapped(whole, model), strict=True)
    state = model.state_dict()
    gone = [tensor for name, tensor in whole.items() if name not in state]
    new = [state[name] for name in renamed(state, whole)]
    assert len(new) == len(gone) >= 2 * len(fake.attention_paths)
    thirds = [tensor.chunk(3)[2] if tensor.dim() else tensor for tensor in gone]  # Q, K, V in this order
    assert all(any(torch.equal(part, third) for third in thirds) for part in new)
    with torch.no_grad():
        for part in new:
            part.zero_()
    back = dstsp.to_unwrapped(state, model)
    for name, tensor in back.items():
        if name in state:
            assert torch.equal(tensor, whole[name]), name
        elif tensor.dim():
            assert not tensor.chunk(3)[2].any(), name
            assert tensor.chunk(3)[0].any(), name


@each(name for name, fake in MODELS.items() if not fake.attention_paths and not fake.mixer_paths)
def test_where_nothing_was_swapped_checkpoints_are_the_same(fake: Fake):
    made = wrapped(fake)
    assert dstsp.to_wrapped(made.state, made.model).keys() == made.state.keys()
    assert dstsp.to_unwrapped(made.model.state_dict(), made.model).keys() == made.state.keys()


@each(["spikformer_cifar", "one_big_block"])
def test_a_foreign_checkpoint_is_refused(fake: Fake):
    made = wrapped(fake)
    seen = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    lost = {name: tensor for name, tensor in made.state.items() if name in seen}
    lost.pop([name for name in lost if name.endswith("weight")][-1])
    text = r"^to_wrapped: \d+ entries of this \w+ are not in the checkpoint, \['.*\]\. Pass the state dict"
    with pytest.raises(FamilyError, match=text):
        dstsp.to_wrapped(lost, made.model)
    assert all(torch.equal(seen[name], tensor) for name, tensor in made.model.state_dict().items())
