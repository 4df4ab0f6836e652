"""QKFormer: the published names and sizes, equality with SpikingJelly's, wrap, configuration."""

import copy
import dataclasses
import importlib
import json
import pickle

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.models.qkformer import CONFIGS, QKFormer, QKFormerConfig
from snntorch_smixer.neurons import LIF
from tests.fakes.calibrate import HIGH, LOW, calibrate, images

TINY = QKFormerConfig((16, 16), num_classes=5, dim=64, depth=4, heads=4, mlp_ratio=2.0)
TINY_IMAGENET = dataclasses.replace(TINY, img_size=(64, 64), variant="imagenet", depth=5)
FORMS = pytest.mark.parametrize("config", [TINY, TINY_IMAGENET], ids=lambda config: config.variant)


class Rate:
    """Forward hook: share of the outputs that are not 0."""

    def __init__(self) -> None:
        self.value = -1.0

    def __call__(self, module: nn.Module, args: object, spikes: Tensor) -> None:
        self.value = spikes.count_nonzero().item() / spikes.numel()


def firing(config: QKFormerConfig) -> QKFormer:
    """A net in evaluation mode whose every neuron fires."""
    torch.manual_seed(0)

    def example(batch: int, seed: int) -> Tensor:
        return images(batch, seed, size=config.img_size[0], channels=config.in_channels)

    net = calibrate(QKFormer(config), example)
    seen = {name: Rate() for name, module in net.named_modules() if isinstance(module, LIF)}
    hooks = [net.get_submodule(name).register_forward_hook(rate) for name, rate in seen.items()]
    with torch.no_grad():
        net(example(8, 0))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 9 + (config.variant == "imagenet") + 6 * sum(config.depths[:2]) + 7 * config.depths[2]
    assert {name: rate.value for name, rate in seen.items() if not LOW < rate.value < HIGH} == {}
    return net


def run(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        ("qkformer-4-384", 100, 6_740_884),
        ("qkformer-10-384", 1000, 16_473_688),
        ("qkformer-10-512", 1000, 29_079_336),
        ("qkformer-10-768", 1000, 64_962_760),
    ],
)
def test_parameters(name: str, classes: int, published: int):
    net = QKFormer(dataclasses.replace(CONFIGS[name], num_classes=classes))
    assert sum(p.numel() for p in net.parameters()) == published


def test_published_names():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    convs = {
        "cifar": {
            1: ("proj", "proj1", "proj_res"),
            2: ("proj3", "proj4", "proj_res"),
            3: ("proj3", "proj4", "proj_res"),
        },
        "imagenet": {1: ("proj", "proj1", "proj2", "proj_res")},
    }
    convs["imagenet"] |= {i: convs["cifar"][i] for i in (2, 3)}
    for config, attention, mlp in ((TINY, "ssa", "mlp"), (TINY_IMAGENET, "attn", "fc")):
        wanted = {"head.weight", "head.bias"}
        for stage, names in convs[config.variant].items():
            wanted |= {f"patch_embed{stage}.{n}_conv.weight" for n in names}
            wanted |= {f"patch_embed{stage}.{n}_bn.{p}" for n in names for p in norm}
        for stage, depth in enumerate(config.depths, 1):
            who, maps = ("tssa", "qk") if stage < 3 else (attention, "qkv")
            biased = [f"{who}.proj", f"mlp.{mlp}1", f"mlp.{mlp}2"]
            each = {f"{n}_conv.{p}" for n in biased for p in ("weight", "bias")} | {
                f"{who}.{m}_conv.weight" for m in maps
            }
            each |= {f"{n}_bn.{p}" for n in [*biased, *(f"{who}.{m}" for m in maps)] for p in norm}
            wanted |= {f"stage{stage}.{i}.{key}" for i in range(depth) for key in each}
        assert set(QKFormer(config).state_dict()) == wanted
    shapes = {k: tuple(v.shape) for k, v in QKFormer(TINY_IMAGENET).state_dict().items()}
    assert shapes["stage3.0.attn.q_conv.weight"] == (64, 64, 1)
    assert shapes["stage1.0.mlp.fc1_conv.weight"] == (32, 16, 1, 1)
    assert shapes["patch_embed1.proj_res_conv.weight"] == (16, 8, 1, 1)


def test_named_configurations():
    found = {n: (c.variant, c.depths, c.dim, c.heads, c.img_size, c.num_tokens, c.T) for n, c in CONFIGS.items()}
    assert found == {
        "qkformer-4-384": ("cifar", (1, 1, 2), 384, 8, (32, 32), 64, 4),
        "qkformer-10-384": ("imagenet", (1, 2, 7), 384, 6, (224, 224), 196, 4),
        "qkformer-10-512": ("imagenet", (1, 2, 7), 512, 8, (224, 224), 196, 4),
        "qkformer-10-768": ("imagenet", (1, 2, 7), 768, 12, (224, 224), 196, 4),
    }
    assert not any(c.proj_over_batch for c in CONFIGS.values())


def renamed(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of SpikingJelly's QKFormer by our names; its q, k and v are one convolution."""
    names = {"1": ("proj", "proj1", "proj2"), "2": ("proj3", "proj4"), "3": ("proj3", "proj4")}
    where, *rest = key.split(".")
    if where.startswith("patch_embed"):
        layer, *tail = rest
        if layer == "shortcut":
            name, kind = "proj_res", {"0": "conv", "1": "bn"}[tail.pop(0)]
        else:
            name, kind = names[where[-1]][int(layer[-1]) - 1], layer[:-1]
        return {".".join([where, f"{name}_{kind}", *tail]): tensor}
    if where == "head":
        return {key: tensor}
    index, part, layer, *tail = rest
    if part == "mlp":
        name = f"fc{layer[-1]}_{'bn' if layer.startswith('bn') else 'conv'}"
        flat = tensor[..., None] if name.endswith("conv") and tail == ["weight"] else tensor
        return {".".join([where, index, "mlp", name, *tail]): flat}
    attention = "attn" if where == "stage3" else "tssa"
    joined, kind = layer.removesuffix("_conv_bn"), {"0": "conv", "1": "bn"}[tail.pop(0)]
    maps = [joined] if joined == "proj" else list(joined)
    parts = tensor.chunk(len(maps)) if tensor.dim() else [tensor] * len(maps)
    return {".".join([where, index, attention, f"{m}_{kind}", *tail]): p for m, p in zip(maps, parts, strict=True)}


@pytest.mark.parametrize("size", [(64, 64), (64, 32)])
@pytest.mark.parametrize("steps", [1, 4])
def test_equals_spikingjelly(steps: int, size: tuple[int, int]):
    pytest.importorskip("spikingjelly")
    module = importlib.import_module("spikingjelly.activation_based.model.qkformer")
    torch.manual_seed(0)
    theirs = module.QKFormer(steps, 3, 5, 64, (4, 4, 4), (1, 2, 2), 2.0)
    for name, layer in theirs.named_modules():
        if isinstance(layer, nn.Conv2d) and "patch_embed" in name:
            nn.init.zeros_(layer.bias)  # ours has none, as published
    calibrate(theirs, lambda batch, seed: images(batch, seed, size=64)[..., : size[1]])
    net = QKFormer(dataclasses.replace(TINY_IMAGENET, T=steps, img_size=size)).eval()
    state = {k: v for key, tensor in theirs.state_dict().items() for k, v in renamed(key, tensor).items()}
    unlike = state.keys() ^ net.state_dict().keys()
    assert all(k.endswith(("proj_conv.bias", *(f"{n}_conv.bias" for n in ("proj1", "proj2", "proj3", "proj4", "res"))))
               for k in unlike)  # fmt: skip
    missing = {k: torch.zeros_like(v) for k, v in net.state_dict().items() if k not in state}
    net.load_state_dict({**{k: v for k, v in state.items() if k in net.state_dict()}, **missing})
    x = images(6, 3, size=64)[..., : size[1]]
    wanted = run(theirs, x)
    assert wanted.std(0).min() > 1e-3
    assert torch.allclose(run(net, x), wanted, atol=1e-6)


@FORMS
@pytest.mark.parametrize("over", [False, True])
def test_wrap_finds_swaps_prunes_and_goes_back(config: QKFormerConfig, over: bool):
    net, x = firing(dataclasses.replace(config, proj_over_batch=over)), images(3, 5, size=config.img_size[0])
    assert [family.name for family in dstsp.FAMILIES if not family.missing(net)] == ["qkformer"]
    before, wanted = {k: v.clone() for k, v in net.state_dict().items()}, run(net, x)
    wrapped = dstsp.wrap(net, ps=0.3, t=2, example_input=x)
    shown = str(dstsp.summary(wrapped))
    assert "tokens      16 -> 11" in shown
    assert "steps       4 -> 2" in shown
    assert shown.count("Q K^T V -> W_M, 4 heads, 16 x 16") == 2
    assert not torch.equal(run(wrapped, x), wanted)
    assert wrapped.forward_features(x).shape == (2, 3, 11, 64)
    undone = dstsp.unwrap(wrapped)
    assert torch.equal(run(undone, x), wanted)
    assert undone.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in undone.state_dict().items())


@FORMS
def test_frames_that_stand_still_are_an_image(config: QKFormerConfig):
    net, x = firing(config), images(2, 3, size=config.img_size[0])
    assert torch.allclose(run(net, x.expand(4, *x.shape)), run(net, x), atol=1e-6)
    moving = torch.stack([images(2, seed, size=config.img_size[0]) for seed in range(4)])
    assert not torch.allclose(run(net, moving), run(net, x), atol=1e-3)


@FORMS
def test_features_and_head(config: QKFormerConfig):
    net, x = firing(config), images(2, 3, size=config.img_size[0])
    with torch.no_grad():
        tokens = net.forward_features(x)
        assert tokens.shape == (4, 2, config.num_tokens, net.num_features) == (4, 2, 16, 64)
        pooled = net.forward_head(tokens, pre_logits=True)
        assert torch.allclose(pooled, tokens.mean((0, 2)), atol=1e-6)
        assert torch.equal(net.head(pooled), net(x))
    assert torch.allclose(run(net, x)[1:], run(net, x[1:]), atol=1e-6)  # a sample alone is as in a batch


def test_one_step():
    net, x = firing(dataclasses.replace(TINY, T=1)), images(3, 3)
    assert net.forward_features(x).shape == (1, 3, 16, 64)
    assert run(net, x).std(0).min() > 1e-3


def test_copies_are_equal():
    net, x = firing(dataclasses.replace(TINY, proj_over_batch=True)), images(2, 3)
    net(x).sum().backward()
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(run(copied, x), run(net, x))
        assert copied.config == net.config


@FORMS
def test_gradients_reach_every_parameter(config: QKFormerConfig):
    net = firing(config).train()
    nn.functional.cross_entropy(net(images(4, 3, size=config.img_size[0])), torch.tensor([0, 1, 2, 3])).backward()
    # BatchNorm takes away what a bias in front of it adds: there the gradient is 0 up to rounding.
    silent = [k for k, p in net.named_parameters() if p.grad is None or (p.dim() > 1 and p.grad.abs().max() < 1e-6)]
    assert silent == []


def test_other_classes():
    net, x = firing(TINY), images(2, 3)
    net.reset_classifier(7)
    assert (net.config.num_classes, run(net, x).shape) == (7, (2, 7))
    net.reset_classifier(0)
    assert (net.config.num_classes, run(net, x).shape) == (0, (2, 64))
    assert torch.equal(run(net, x), net.forward_head(net.forward_features(x), pre_logits=True))
    assert net.get_submodule(net.head_path) is net.head
    assert all(net.get_parameter(key).shape[1] == 3 for key in net.input_weights)


@pytest.mark.parametrize("config", [QKFormerConfig(proj_over_batch=True), TINY_IMAGENET, *CONFIGS.values()])
def test_configuration_through_json(config: QKFormerConfig):
    assert QKFormerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert QKFormerConfig.architecture == "qkformer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "dvs"}, "QKFormerConfig: variant='dvs' is unknown. Expected one of cifar, imagenet."),
        ({"heads": 64}, "first stage has dim / 4 = 96 channels, no multiple of heads=64"),
        ({"depth": 2}, "depth=2 leaves no block for the third stage; variant='cifar' has 2 blocks before it"),
        ({"depth": 3, "variant": "imagenet", "img_size": (32, 32)}, "variant='imagenet' has 3 blocks before it"),
        ({"proj_over_batch": 1}, "proj_over_batch=1 must be True or False"),
        ({"img_size": (30, 32)}, r"img_size=\(30, 32\) must be two positive multiples of 4"),
    ],
)
def test_bad_configurations(changes: dict[str, object], message: str):
    with pytest.raises(SettingError, match=message):
        QKFormerConfig(**changes)


def test_bad_input():
    for x in (torch.zeros(3, 16, 16), torch.zeros(1, 3, 16, 24), torch.zeros(3, 1, 3, 16, 16)):
        with pytest.raises(LayoutError, match="encode: expected"):
            QKFormer(TINY)(x)
