"""Memory modes of a wrapped model: gradients are upstream's, and the summary says what is found and left."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp, set_memory
from tests.fakes.lean import FAKE, LEAN, X, check_same_as_reference, loss_of, made, one_step, trained
from tests.fakes.neurons import MultiStepLIF
from tests.patching.test_rerun import Counts


def two_backward_passes(model: nn.Module) -> None:
    loss = loss_of(model)
    loss.backward(retain_graph=True)
    loss.backward()


def accumulation(model: nn.Module) -> None:
    for seed in range(3):
        loss_of(model, FAKE.example(4, seed)).backward()


def two_graphs_at_a_time(model: nn.Module) -> None:
    first, second = loss_of(model), loss_of(model, FAKE.example(4, 1))
    second.backward()
    first.backward()


def second_derivatives(model: nn.Module) -> None:
    weights = [*model.parameters()]
    grads = torch.autograd.grad(loss_of(model), weights, create_graph=True, allow_unused=True)
    sum(grad.square().sum() for grad in grads if grad is not None).backward()


def without_reset(model: nn.Module) -> None:
    loss_of(model).backward(retain_graph=True)
    model(X).sum().backward()


def autocast(model: nn.Module) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model)
    loss.backward()


def frozen_statistics(model: nn.Module) -> None:
    loss_of(model.eval()).backward()


def saliency(model: nn.Module) -> None:
    loss_of(model, X.clone().requires_grad_()).backward()


STEPS = (one_step, two_backward_passes, accumulation, two_graphs_at_a_time, second_derivatives, without_reset)


@LEAN
@pytest.mark.parametrize("step", [*STEPS, autocast, frozen_statistics, saliency], ids=lambda step: step.__name__)
def test_gradients_are_those_of_upstream(step, mode: str):
    check_same_as_reference(step, mode)


@LEAN
@pytest.mark.parametrize("w_prime", ["gather", "shared", "crop"])
def test_gradients_with_pruning(w_prime: str, mode: str):
    def step(model: nn.Module) -> None:
        model.dstsp.w_prime = w_prime
        accumulation(model)

    check_same_as_reference(step, mode, ps=0.3, t=2)


@LEAN
def test_a_module_that_is_used_twice(mode: str):
    def step(model: nn.Module) -> None:
        model.block[1] = model.block[0]
        accumulation(model)

    check_same_as_reference(step, mode)


class WritesIntoNorm(nn.BatchNorm2d):
    """As ``x += residual`` behind a BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).add_(0.25)


@LEAN
def test_a_norm_whose_output_is_written_into_is_no_pair(mode: str):
    def step(model: nn.Module) -> None:
        stem = model.patch_embed
        norm = WritesIntoNorm(stem.proj_bn.num_features)
        norm.load_state_dict(stem.proj_bn.state_dict())
        stem.proj_bn = norm
        accumulation(model)

    found = check_same_as_reference(step, mode).dstsp.found
    assert found.pairs["patch_embed.proj_lif"] == ""
    assert found.pairs["patch_embed.proj_lif1"] == "patch_embed.proj_bn1"


def test_the_summary_says_what_was_found_and_what_was_left():
    def step(model: nn.Module) -> None:
        model.patch_embed.proj_lif = Counts()
        assert str(dstsp.summary(model)).endswith("are looked for in the first training forward")
        accumulation(model)

    model = trained("recompute", step)
    assert dstsp.summary(model).memory[-1] == (
        "memory recompute: left as they are, 1: patch_embed.proj_lif (it writes into its state in place)"
    )
    pairs, alone, maps, _ = dstsp.summary(model).memory
    assert pairs.startswith("memory recompute: BatchNorm -> neuron, both computed again, 14: patch_embed.proj_bn1 -> ")
    assert alone == (
        "memory recompute: neurons computed again, what they read is kept, 2: block.0.attn.attn_lif, "
        "block.1.attn.attn_lif"
    )
    assert maps.startswith("memory recompute: maps computed again, 14: block.0.attn.k_linear, ")
    model.patch_embed.proj_lif.fired.zero_()
    accumulation(model)
    fired = model.patch_embed.proj_lif.fired.clone()
    model.patch_embed.proj_lif.fired.zero_()
    set_memory(model, "reference")
    accumulation(model)
    assert model.patch_embed.proj_lif.fired == fired > 0


def test_a_net_without_neuron_modules_is_told():
    def step(model: nn.Module) -> None:
        for module in [*model.modules()]:
            for name, child in [*module.named_children()]:
                if isinstance(child, MultiStepLIF):
                    setattr(module, name, Counts())
        one_step(model)

    memory = dstsp.summary(trained("fused", step)).memory
    assert memory[0] == (
        "memory fused: no neuron can be computed again, so its membranes are kept; spikes are kept as bits"
    )
    assert memory[1].startswith("memory fused: left as they are, 17: patch_embed.proj_lif (it writes into its state")


def test_parameters_that_thaw_are_looked_at():
    model = made("fused")
    for parameter in model.patch_embed.parameters():
        parameter.requires_grad_(False)
    one_step(model)
    assert "patch_embed.proj_lif" not in model.dstsp.found.neurons
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    one_step(model)
    assert model.dstsp.found.pairs["patch_embed.proj_lif"] == "patch_embed.proj_bn"
