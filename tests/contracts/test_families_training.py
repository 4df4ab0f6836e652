"""Wrapped models train: gradients reach everything that is left, in any batch, precision and wrapper."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from snntorch_smixer import dstsp
from tests.fakes.neurons import reset
from tests.fakes.wrapped import EVERY, REPRESENTATIVES, SWAPPED, W_M, check_equal, each, logits, wrapped
from tests.fakes.zoo import Fake


def train_step(fake: Fake, model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Gradients by name, of one forward and backward from rest."""
    torch.manual_seed(2)  # DropPath
    model.zero_grad(set_to_none=True)
    logits(fake, model, x, grad=True).square().sum().backward()
    reset(model)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def unused_before(fake: Fake) -> set[str]:
    """Parameters that get no gradient in the unwrapped model either."""
    model = fake.build().train()
    return {name for name, _ in model.named_parameters()} - {*train_step(fake, model, fake.example(batch=3))}


@EVERY
@pytest.mark.parametrize(("ps", "t"), [(0.3, 1), (0.5, 3)])
def test_gradients_reach_everything(fake: Fake, ps: float, t: int):
    model, x = wrapped(fake, mode=True).model, fake.example(batch=3)
    model.dstsp.ps, model.dstsp.t = ps, t
    grads = train_step(fake, model, x)
    assert {name for name, _ in model.named_parameters()} - {*grads} <= unused_before(fake)
    assert all(grad.isfinite().all() for grad in grads.values())
    reached = {name for name, grad in grads.items() if grad.any()}
    assert {name for name in model.state_dict() if name.endswith(W_M)} <= reached
    inside = [n for n in grads if any(n.startswith(f"{p}.") for p in fake.sites) and n.endswith("weight")]
    assert {*inside} - reached == set()


@SWAPPED
def test_gradients_of_w_m_are_those_of_the_kept_rows_and_columns(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=1)  # in evaluation: BatchNorm lets tokens see each other
    model.dstsp.ps, model.dstsp.t = 0.5, None
    kept = []
    model.dstsp.register_forward_hook(lambda module, args, out: kept.append(out[1]))
    grads = [grad for name, grad in train_step(fake, model, x).items() if name.endswith(W_M)]
    (tokens,) = kept[-1].tokens
    for grad in grads:
        whole = grad.unflatten(0, (-1, kept[-1].full_tokens))[..., 0]
        gone = torch.ones(kept[-1].full_tokens, dtype=torch.bool).scatter(0, tokens, False)
        assert whole.any()
        assert not whole[:, gone].any()
        if whole.shape[1] == whole.shape[2]:
            assert not whole[:, :, gone].any()


@EVERY
def test_it_trains_again_after_a_reset(fake: Fake):
    model, x = wrapped(fake, mode=True).model, fake.example(batch=3)
    twin = copy.deepcopy(model)
    train_step(fake, model, x)
    twin.load_state_dict(model.state_dict())  # running statistics move
    again, other = train_step(fake, model, x), train_step(fake, twin, x)
    assert again.keys() == other.keys()
    assert all(torch.equal(again[name], other[name]) for name in again)


@EVERY
def test_batches_of_any_size_follow_each_other(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=5)
    model.dstsp.t = 2
    shapes = [tuple(logits(fake, model, x[:size]).shape) for size in (1, 4, 5, 1)]
    assert [shape[0] for shape in shapes] == [1, 4, 5, 1]
    train_step(fake, model.train(), x)
    train_step(fake, model, x[:2])


@EVERY
def test_autocast(fake: Fake):
    model, x = wrapped(fake, mode=True).model, fake.example(batch=3)
    with torch.autocast("cpu", torch.bfloat16):
        grads = train_step(fake, model, x)
    assert grads
    assert all(grad.isfinite().all() for grad in grads.values())
    with torch.autocast("cpu", torch.bfloat16):
        assert logits(fake, model.eval(), x).isfinite().all()


@EVERY
def test_precision_follows_and_comes_back(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    before = logits(fake, model, x)
    double = logits(fake, model.double(), x.double())
    assert double.dtype == torch.float64
    assert double.isfinite().all()
    dstsp.unwrap(model)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert logits(fake, model, x.double()).isfinite().all()
    check_equal(fake, model.float(), fake.build(), x)
    assert before.dtype == torch.float32


@each(["spikformer_imagenet", "sdt_v3", "stmixer", "one_big_block"])
def test_frozen_parts_and_modes_are_as_they_were(fake: Fake):
    model = fake.build().train()
    for number, module in enumerate(module for module in model.modules() if not [*module.children()]):
        module.training = number % 3 > 0
        for parameter in module.parameters():
            parameter.requires_grad_(number % 2 > 0)
    modes = {name: module.training for name, module in model.named_modules()}
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    dstsp.wrap(model, example_input=fake.example())
    now = {name: module.training for name, module in model.named_modules() if name in modes}
    assert {name for name in now if now[name] != modes[name]} == set()
    assert all(p.requires_grad == frozen.get(name, p.requires_grad) for name, p in model.named_parameters())
    assert all(p.requires_grad for name, p in model.named_parameters() if name.endswith(W_M))
    dstsp.unwrap(model)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == frozen


@REPRESENTATIVES
def test_a_moving_average_follows_the_model(fake: Fake):
    model, x = wrapped(fake, mode=True).model, fake.example(batch=3)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    average.update_parameters(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    before = {name: p.clone() for name, p in average.module.named_parameters()}
    average.update_parameters(model)
    assert all(torch.allclose(p, before[name] + 0.5, atol=1e-5) for name, p in average.module.named_parameters())
    assert average.module.dstsp is not model.dstsp
    average.eval()
    check_equal(fake, average.module, pickle.loads(pickle.dumps(average.module)), x)


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@each(["spikformer_cifar", "stmixer", "sdt_v2"])
def test_distributed_training_gives_the_same_gradients(fake: Fake, one_process):
    model, x = wrapped(fake, mode=True).model, fake.example(batch=3)
    plain, parallel = copy.deepcopy(model), DistributedDataParallel(model, find_unused_parameters=True)
    for _ in range(2):
        expected, got = train_step(fake, plain, x), train_step(fake, parallel, x)
        assert all(torch.equal(got[f"module.{name}"], grad) for name, grad in expected.items())
    model.dstsp.ps = 0.5
    assert train_step(fake, parallel, x)
