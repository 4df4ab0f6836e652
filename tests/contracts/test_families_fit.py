"""Calibration: every ``W_M`` becomes the ridge regression of its attention's product on V, and nothing else changes."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from snntorch_smixer import dstsp
from snntorch_smixer.errors import FamilyError, SettingError
from tests.fakes.neurons import reset
from tests.fakes.wrapped import MODELS, W_M, Calls, check_equal, each, logits, our_hooks, sight, wrapped
from tests.fakes.zoo import Fake

QUADRATIC = each(name for name, fake in MODELS.items() if fake.attention_paths)
ONE_HEAD_AFTER_THE_OTHER = {
    # Neurons behind V and behind the product, heads, and whether tokens come before channels.
    "spikformer_cifar": ("v_lif", "attn_lif", 3, True),
    "qkformer": ("v_lif", "attn_lif", 5, False),
    "sdt_v3_large": ("v_lif", "attn_lif", 3, False),
}


def w_m_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if name.endswith(W_M)}


def heads_of(x: Tensor, heads: int, tokens_first: bool) -> Tensor:
    """(T, B, ...) to (h, N, T * B * d)."""
    x = x if tokens_first else x.flatten(3).mT  # (T, B, N, C)
    return x.unflatten(3, (heads, -1)).permute(3, 2, 0, 1, 4).flatten(2).double()


@each(ONE_HEAD_AFTER_THE_OTHER)
def test_the_fit_is_that_of_least_squares(fake: Fake):
    v_name, y_name, heads, tokens_first = ONE_HEAD_AFTER_THE_OTHER[fake.name]
    plain, model = fake.build(), wrapped(fake).model
    batches = [fake.example(batch=4, seed=seed) for seed in (1, 2)]
    attention = plain.get_submodule(fake.attention_paths[0])
    with Calls(getattr(attention, v_name)) as values, Calls(getattr(attention, y_name)) as products:
        for batch in batches:
            logits(fake, plain, batch)
    v = torch.cat([heads_of(out, heads, tokens_first) for out in values.outs], 2)
    y = torch.cat([heads_of(x, heads, tokens_first) for (x,) in products.args], 2)
    dstsp.fit(model, batches)
    fitted = w_m_of(model)[f"{fake.attention_paths[0]}.mixer.{W_M}"].view(heads, 16, 16)
    for head in range(heads):
        ridge = 1e-3 * (v[head] ** 2).sum(1).mean() * torch.eye(16, dtype=torch.float64)
        left = torch.cat([v[head].T, ridge.sqrt()])
        right = torch.cat([y[head].T, torch.zeros(16, 16, dtype=torch.float64)])
        expected = torch.linalg.lstsq(left, right).solution.T
        assert expected.abs().max() > 0.1
        assert torch.allclose(fitted[head].double(), expected, atol=1e-4, rtol=1e-4)


@QUADRATIC
def test_a_fitted_attention_is_nearer_to_the_original(fake: Fake):
    model, x, path = wrapped(fake).model, fake.example(batch=8, seed=3), fake.attention_paths[0]
    model.dstsp.active = "never"
    outs = []
    for one in (fake.build(), model, dstsp.fit(copy.deepcopy(model), [x])):
        with Calls(one.get_submodule(path)) as calls:
            logits(fake, one, x)
        outs.append(calls.outs[0][0] if isinstance(calls.outs[0], tuple) else calls.outs[0])
    target, drawn, fitted = outs
    assert (fitted - target).square().mean() < 0.9 * (drawn - target).square().mean()


@QUADRATIC
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_nothing_but_w_m_changes(fake: Fake, mode: bool):
    model = wrapped(fake, mode=mode).model
    keys, seen, w_m = [*model.state_dict()], sight(model), w_m_of(model)
    dstsp.fit(model, [fake.example(batch=4), fake.example(batch=3, seed=1)])
    assert [*model.state_dict()] == keys
    now = sight(model)
    changed = {name for name in seen if now.get(name) != seen[name]}
    assert now.keys() == seen.keys()
    assert {name.rpartition(".mixer.")[0] for name in changed} == {name.rpartition(".mixer.")[0] for name in w_m}
    fitted = w_m_of(model)
    assert all(tensor.isfinite().all() and not torch.equal(tensor, w_m[name]) for name, tensor in fitted.items())
    dstsp.unwrap(model.eval())
    check_equal(fake, model, fake.build(), fake.example())


@each(["spikformer_cifar", "stmixer", "sdt_v3", "einsum"])
def test_batches_may_come_in_many_forms(fake: Fake):
    x, labels = fake.example(batch=4), torch.arange(4)
    if fake.mixer_paths:
        with pytest.raises(FamilyError, match=r"^fit: every W_M holds the model's own matrices already"):
            dstsp.fit(wrapped(fake).model, [x])
        return
    forms = [
        [x[:2], x[2:]],
        [(x[:2], labels[:2]), (x[2:], labels[2:])],
        [{"image": x[:2], "label": labels[:2]}, {"image": x[2:], "label": labels[2:]}],
        DataLoader(TensorDataset(x, labels), batch_size=2),
        (part for part in x.split(2)),
    ]
    fitted = []
    for form in forms:
        model = wrapped(fake).model
        assert dstsp.fit(model, form) is model
        fitted.append(w_m_of(model))
    for name, tensor in fitted[0].items():
        assert all(torch.equal(other[name], tensor) for other in fitted)


@each(["spikformer_cifar", "sj_spikformer"])
def test_calibrating_while_wrapping_is_fitting_afterwards(fake: Fake):
    batches = [fake.example(batch=4, seed=seed) for seed in (1, 2)]
    early = dstsp.wrap(fake.build(), example_input=fake.example(), calibrate=batches)
    late = dstsp.fit(dstsp.wrap(fake.build(), example_input=fake.example()), batches)
    unknown = dstsp.wrap(fake.build(), calibrate=batches)
    check_equal(fake, early, late, fake.example(batch=4))
    check_equal(fake, early, unknown, fake.example(batch=4))


@each(["sdt_v1", "spikeyolo", "spikformer_cifar"])
def test_where_nothing_was_swapped_calibration_fails_and_unwraps(fake: Fake):
    model = fake.build()
    seen, settings = sight(model), {"swap": False} if fake.attention_paths else {}
    with pytest.raises(
        FamilyError, match=r"^fit: no attention was swapped, so there is no W_M to fit\. Wrap with swap="
    ):
        dstsp.wrap(model, example_input=fake.example(), calibrate=[fake.example()], **settings)
    assert our_hooks(model) == []
    assert {**sight(model), "rng": seen["rng"]} == seen


def broken(batch: Tensor):
    yield batch
    raise OSError("the disk is gone")


@each(["spikformer_cifar", "one_big_block"])
def test_bad_batches_leave_the_model_as_it_was(fake: Fake):
    x, plain = fake.example(batch=3), fake.build()
    for batches, error, text in (
        ([], SettingError, r"^fit: got no batch to calibrate on\. Pass a loader with at least one\.$"),
        (["a", "b"], SettingError, r"^fit: found no tensor in a batch of type str\. Pass inputs or tuples\.$"),
        ([x, x[:, :1]], RuntimeError, "expected input"),
        (broken(x), OSError, "the disk is gone"),
        (3, TypeError, "not iterable"),
    ):
        model = wrapped(fake, mode=True).model
        seen = sight(model)
        with pytest.raises(error, match=text):
            dstsp.fit(model, batches)
        reset(model)
        assert sight(model) == seen
    for batches, error in (([], SettingError), (broken(x), OSError)):
        seen = sight(plain)
        with pytest.raises(error):
            dstsp.wrap(plain, example_input=x, calibrate=batches)
        assert {**sight(plain), "rng": seen["rng"]} == seen
    with pytest.raises(FamilyError, match=r"^fit: this \w+ is not wrapped\. Call dstsp\.wrap\(model\) first\.$"):
        dstsp.fit(plain, [x])


@each(name for name, fake in MODELS.items() if fake.family == "sdt_v1")
def test_a_linear_attention_can_be_fitted_too(fake: Fake):
    model, x = wrapped(fake, swap="all").model, fake.example(batch=8)
    w_m = w_m_of(model)
    dstsp.fit(model, [x])
    assert all(t.isfinite().all() and t.any() and not torch.equal(t, w_m[name]) for name, t in w_m_of(model).items())
