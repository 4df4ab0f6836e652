"""Published Spikformer state dicts load, compute the same, and anything else is refused in words."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import CardError
from snntorch_smixer.layers.spikformer import InputDecayLIF, SigmoidAtThreshold
from snntorch_smixer.models.spikformer import Spikformer, SpikformerConfig
from snntorch_smixer.neurons import Dspike
from snntorch_smixer.zoo.sources.spikformer import DROPPED, convert
from tests.fakes import spikformer as fakes
from tests.fakes.calibrate import calibrate, images
from tests.fakes.neurons import MultiStepLIF, reset
from tests.fakes.parts import per_step

DIM, HEADS, DEPTH, CLASSES = 24, 3, 2, 5


class Stem(nn.Module):
    """The whole published stem, which the stand-ins shorten; pooling comes behind the neurons."""

    def __init__(self, pooled: set[str]) -> None:
        super().__init__()
        widths = (3, DIM // 8, DIM // 4, DIM // 2, DIM)
        for number, inside, outside in zip(("", "1", "2", "3"), widths[:-1], widths[1:], strict=True):
            setattr(self, f"proj_conv{number}", nn.Conv2d(inside, outside, 3, 1, 1, bias=False))
            setattr(self, f"proj_bn{number}", nn.BatchNorm2d(outside))
            setattr(self, f"proj_lif{number}", MultiStepLIF())
        self.rpe_conv, self.rpe_bn = nn.Conv2d(DIM, DIM, 3, 1, 1, bias=False), nn.BatchNorm2d(DIM)
        self.rpe_lif = MultiStepLIF()
        self.pooled, self.maxpool = pooled, nn.MaxPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for number in ("", "1", "2", "3"):
            x = per_step(x, getattr(self, f"proj_conv{number}"), getattr(self, f"proj_bn{number}"))
            x = getattr(self, f"proj_lif{number}")(x)
            x = per_step(x, self.maxpool) if number in self.pooled else x
        return x + self.rpe_lif(per_step(x, self.rpe_conv, self.rpe_bn))


class CifarStem(Stem):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(-2).transpose(-1, -2)


class ImagenetStem(Stem):
    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return super().forward(x), (0, 0)


@cache
def published(variant: str, steps: int = 4) -> nn.Module:
    """A published form, calibrated so that every neuron fires."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if variant == "cifar":
            model = fakes.Spikformer(steps, DIM, HEADS, DEPTH, CLASSES)
            model.patch_embed = CifarStem({"2", "3"})
        else:
            model = fakes.SpikformerImagenet(DIM, HEADS, DEPTH, CLASSES)
            model.patch_embed = ImagenetStem({"", "1", "2", "3"})
        return calibrate(model, EXAMPLES[variant])


EXAMPLES: dict[str, Callable[..., Tensor]] = {"cifar": partial(images, size=32), "imagenet": partial(images, size=64)}
VARIANTS = pytest.mark.parametrize("variant", EXAMPLES)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """As published: the stand-in's imagenet MLP has Conv1d in place of Conv2d."""
    state = model.state_dict()
    two_d = {k: v[..., None] for k, v in state.items() if k.endswith(("fc1_conv.weight", "fc2_conv.weight"))}
    return {**state, **two_d, "num_heads": torch.tensor(HEADS)}


def ours(variant: str, steps: int = 4) -> Spikformer:
    config, state = convert(state_of(published(variant, steps)))
    size = EXAMPLES[variant](1).shape[-2:]
    net = Spikformer(dataclasses.replace(config, T=steps, img_size=tuple(size)))
    net.load_state_dict(state)
    return net.eval()


def logits(model: nn.Module, x: Tensor) -> Tensor:
    reset(model)
    with torch.no_grad():
        out = model(x)
    reset(model)
    return out


@VARIANTS
def test_configuration_from_the_tensors_alone(variant: str):
    config, state = convert(state_of(published(variant)))
    side = 32 if variant == "cifar" else 224
    assert config == SpikformerConfig(
        (side, side), 3, CLASSES, 4, variant=variant, dim=DIM, depth=DEPTH, heads=HEADS, mlp_ratio=4.0
    )
    assert {k: v.shape for k, v in Spikformer(config).state_dict().items()} == {k: v.shape for k, v in state.items()}


@VARIANTS
def test_only_the_unused_norms_are_dropped(variant: str):
    source = state_of(published(variant))
    kept = convert(source)[1]
    gone = {f"block.{i}.norm{n}.{p}" for i in range(DEPTH) for n in (1, 2) for p in ("weight", "bias")}
    assert source.keys() - kept.keys() == gone | {"num_heads"}
    assert kept.keys() <= source.keys()
    assert DROPPED == ("block.*.norm1.*", "block.*.norm2.*")
    assert all(torch.equal(kept[k], source[k]) for k in kept)


@pytest.mark.parametrize(("variant", "steps"), [("cifar", 4), ("cifar", 1), ("imagenet", 4)])
def test_logits_are_those_of_the_published_code(variant: str, steps: int):
    x = EXAMPLES[variant](6, 3)
    wanted = logits(published(variant, steps), x)
    assert wanted.std(0).min() > 1e-3, "all samples look the same"
    assert torch.allclose(logits(ours(variant, steps), x), wanted, atol=1e-6)


@VARIANTS
def test_firing_at_the_threshold_is_needed(variant: str):
    net, x = ours(variant), EXAMPLES[variant](6, 3)
    wanted = logits(net, x)
    for name, module in net.named_modules():
        if name.endswith("attn_lif"):
            assert isinstance(module.spike_grad, SigmoidAtThreshold)
            module.spike_grad = Dspike()  # fires above the threshold only
    assert not torch.allclose(logits(net, x), wanted, atol=1e-3)


@VARIANTS
def test_gradients_are_those_of_the_published_code(variant: str):
    theirs, net, x = published(variant), ours(variant), EXAMPLES[variant](4, 3)
    reset(theirs)
    theirs.zero_grad()
    for model in (theirs, net):
        nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 3])).backward()
    reset(theirs)
    wanted = dict(theirs.named_parameters())
    for name, parameter in net.named_parameters():
        grad = wanted[name].grad.reshape(parameter.shape)
        assert grad.abs().max() > 0, name
        assert torch.allclose(parameter.grad, grad, rtol=1e-3, atol=1e-5 * grad.abs().max().item() + 1e-8), name


@pytest.mark.parametrize(("variant", "dim", "heads"), [("cifar", 384, 12), ("imagenet", 512, 8)])
def test_published_heads(variant: str, dim: int, heads: int):
    net = Spikformer(SpikformerConfig(variant=variant, img_size=(32, 32), dim=dim, depth=1, heads=1))
    assert convert(net.state_dict())[0].heads == heads


def test_heads_that_nobody_published():
    state = state_of(published("imagenet"))
    del state["num_heads"]
    with pytest.raises(CardError, match=r"none is published for imagenet dim=24 \(only .*imagenet dim=512\)") as info:
        convert(state)
    assert "state['num_heads'] = torch.tensor(h)" in str(info.value)
    with pytest.raises(CardError, match=r"of no network of this kind: .*multiple of 8 and of heads=7"):
        convert({**state, "num_heads": torch.tensor(7)})


@pytest.mark.parametrize("variant", ["cifar"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head.weight": None}, r"expected a tensor head.weight with 2 axes or more, got None"),
        ({"block.1.attn.k_bn.bias": None}, r"not those of Spikformer; 1 missing: block.1.attn.k_bn.bias"),
        ({"pos_embed": torch.zeros(1), "norm.bias": torch.zeros(1)}, r"; 2 unknown: pos_embed, norm.bias"),
        ({"block.0.attn.q_bn.bias": torch.zeros(2)}, r"q_bn.bias \(2,\), expected \(24,\)"),
    ],
)
def test_wrong_state_dicts(variant: str, change: dict[str, Tensor | None], message: str):
    state = {k: v for k, v in {**state_of(published(variant)), **change}.items() if v is not None}
    with pytest.raises(CardError, match=message):
        convert(state)


def test_another_network():
    with pytest.raises(CardError, match=r"expected a tensor head.weight .* got None. Pass the state dict"):
        convert(nn.Linear(2, 2).state_dict())


def test_neurons_are_not_in_the_state_dict():
    net = ours("cifar")
    assert sum(isinstance(m, InputDecayLIF) for m in net.modules()) == 5 + DEPTH * 7
    assert not [k for k in net.state_dict() if "_lif" in k]
