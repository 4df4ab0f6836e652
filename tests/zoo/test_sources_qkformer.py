"""Published QKFormer state dicts load, compute the same, quirk included, and anything else is refused in words."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import CardError
from snntorch_smixer.models.qkformer import QKFormer, QKFormerConfig
from snntorch_smixer.zoo.sources.qkformer import DROPPED, convert
from tests.fakes import qkformer as fakes
from tests.fakes.calibrate import calibrate, images
from tests.fakes.neurons import MultiStepLIF, reset
from tests.fakes.parts import per_step

DIM, HEADS, CLASSES = 40, 5, 5


class Embed(nn.Module):
    """Patch embedding as published, which the stand-ins shorten. Rows: name, channels in and out, pooled."""

    def __init__(self, rows: list[tuple[str, int, int, bool]], before: int, stride: int) -> None:
        super().__init__()
        for name, inside, outside, pooled in rows:
            setattr(self, f"{name}_conv", nn.Conv2d(inside, outside, 3, 1, 1, bias=False))
            setattr(self, f"{name}_bn", nn.BatchNorm2d(outside))
            setattr(self, f"{name}_lif", MultiStepLIF())
            if pooled:
                setattr(self, f"{name}_maxpool", nn.MaxPool2d(3, 2, 1))
        self.proj_res_conv = nn.Conv2d(rows[before][1], rows[-1][2], 1, stride, bias=False)
        self.proj_res_bn, self.proj_res_lif = nn.BatchNorm2d(rows[-1][2]), MultiStepLIF()
        self.rows, self.before = rows, before

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        for index, (name, _, _, pooled) in enumerate(self.rows):
            if index == self.before:
                shortcut = x
            y = per_step(x, getattr(self, f"{name}_conv"), getattr(self, f"{name}_bn"))
            y = per_step(y, getattr(self, f"{name}_maxpool")) if pooled else y
            x = getattr(self, f"{name}_lif")(y)
        return x + self.proj_res_lif(per_step(shortcut, self.proj_res_conv, self.proj_res_bn))


class Published(nn.Module):
    """A whole published form; blocks are those of the stand-ins."""

    def __init__(self, variant: str, steps: int) -> None:
        super().__init__()
        self.T = steps
        e, q, h = DIM // 8, DIM // 4, DIM // 2
        if variant == "cifar":
            prefix, second, block = "mlp", 1, fakes.SpikingTransformerSsa
            self.patch_embed1 = Embed([("proj", 3, e, False), ("proj1", e, q, False)], 1, 1)
            self.patch_embed2 = Embed([("proj3", q, h, False), ("proj4", h, h, True)], 0, 2)
            self.patch_embed3 = Embed([("proj3", h, DIM, False), ("proj4", DIM, DIM, True)], 0, 2)
        else:
            prefix, second, block = "fc", 2, fakes.SpikingTransformer
            self.patch_embed1 = Embed([("proj", 3, e, True), ("proj1", e, q, True), ("proj2", q, q, False)], 1, 2)
            self.patch_embed2 = Embed([("proj3", q, h, True), ("proj4", h, h, False)], 0, 2)
            self.patch_embed3 = Embed([("proj3", h, DIM, True), ("proj4", DIM, DIM, False)], 0, 2)
        self.stage1 = nn.ModuleList([fakes.TokenSpikingTransformer(q, HEADS, prefix)])
        self.stage2 = nn.ModuleList(fakes.TokenSpikingTransformer(h, HEADS, prefix) for _ in range(second))
        self.stage3 = nn.ModuleList(block(DIM, HEADS) for _ in range(2))
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)
        for number in (1, 2, 3):
            x = getattr(self, f"patch_embed{number}")(x)
            for block in getattr(self, f"stage{number}"):
                x = block(x)
        return self.head(x.flatten(3).mean(3).mean(0))


EXAMPLES: dict[str, Callable[..., Tensor]] = {"cifar": partial(images, size=16), "imagenet": partial(images, size=64)}
VARIANTS = pytest.mark.parametrize("variant", EXAMPLES)


@cache
def published(variant: str, steps: int = 4) -> nn.Module:
    """A published form, calibrated so that every neuron fires."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return calibrate(Published(variant, steps), EXAMPLES[variant])


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {**model.state_dict(), "num_heads": torch.tensor(HEADS)}


def ours(variant: str, steps: int = 4, *, proj_over_batch: bool = True) -> QKFormer:
    config, state = convert(state_of(published(variant, steps)))
    size = tuple(EXAMPLES[variant](1).shape[-2:])
    net = QKFormer(dataclasses.replace(config, T=steps, img_size=size, proj_over_batch=proj_over_batch))
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
    source = state_of(published(variant))
    config, state = convert(source)
    side, depth = (32, 4) if variant == "cifar" else (224, 5)
    assert config == QKFormerConfig(
        (side, side), 3, CLASSES, 4, variant=variant, dim=DIM, depth=depth, heads=HEADS, proj_over_batch=True
    )
    assert {k: v.shape for k, v in QKFormer(config).state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert DROPPED == ()
    assert source.keys() - state.keys() == {"num_heads"}
    assert all(torch.equal(state[k], source[k]) for k in state)


@pytest.mark.parametrize(("variant", "steps"), [("cifar", 4), ("cifar", 1), ("imagenet", 4), ("imagenet", 1)])
def test_logits_are_those_of_the_published_code(variant: str, steps: int):
    x = EXAMPLES[variant](6, 3)
    wanted = logits(published(variant, steps), x)
    assert wanted.std(0).min() > 1e-3, "all samples look the same"
    assert torch.allclose(logits(ours(variant, steps), x), wanted, atol=1e-6)


@VARIANTS
def test_without_the_quirk_samples_are_on_their_own(variant: str):
    x = EXAMPLES[variant](4, 3)
    theirs, right = published(variant), ours(variant, proj_over_batch=False)
    assert not torch.allclose(logits(right, x), logits(theirs, x), atol=1e-3)
    assert torch.allclose(logits(right, x[:1]), logits(theirs, x[:1]), atol=1e-6)  # T steps of one sample in both
    assert torch.allclose(logits(right, x.flip(0)).flip(0), logits(right, x), atol=1e-6)
    over = ours(variant)
    assert not torch.allclose(logits(over, x.flip(0)).flip(0), logits(over, x), atol=1e-3)


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
        grad = wanted[name].grad
        assert grad.abs().max() > 0, name
        assert torch.allclose(parameter.grad, grad, rtol=1e-3, atol=1e-5 * grad.abs().max().item() + 1e-8), name


@pytest.mark.parametrize(
    ("variant", "dim", "heads"), [("cifar", 384, 8), ("imagenet", 384, 6), ("imagenet", 512, 8), ("imagenet", 768, 12)]
)
def test_published_heads(variant: str, dim: int, heads: int):
    net = QKFormer(QKFormerConfig(variant=variant, img_size=(32, 32), dim=dim, depth=4, heads=1, mlp_ratio=0.125))
    config = convert(net.state_dict())[0]
    assert (config.heads, config.depth, config.mlp_ratio) == (heads, 4, 0.125)


def test_heads_that_nobody_published():
    state = state_of(published("cifar"))
    del state["num_heads"]
    with pytest.raises(CardError, match=r"convert qkformer: .* none is published for cifar dim=40 .*'num_heads'"):
        convert(state)
    with pytest.raises(CardError, match=r"of no network of this kind: .* dim / 4 = 10 channels"):
        convert({**state, "num_heads": torch.tensor(4)})


@VARIANTS
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_embed1.proj_conv.weight": None}, r"expected a tensor patch_embed1.proj_conv.weight with 4 axes"),
        ({"stage2.0.tssa.k_bn.bias": None}, r"not those of QKFormer; 1 missing: stage2.0.tssa.k_bn.bias"),
        ({"stage1.0.norm.bias": torch.zeros(1)}, r"; 1 unknown: stage1.0.norm.bias"),
        ({"stage1.0.tssa.q_bn.bias": torch.zeros(2)}, r"q_bn.bias \(2,\), expected \(10,\)"),
    ],
)
def test_wrong_state_dicts(variant: str, change: dict[str, Tensor | None], message: str):
    state = {k: v for k, v in {**state_of(published(variant)), **change}.items() if v is not None}
    with pytest.raises(CardError, match=message):
        convert(state)
