"""Spikformer: the published names and sizes, equality with SpikingJelly's, wrap, configuration."""

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
from snntorch_smixer.models.spikformer import CONFIGS, Spikformer, SpikformerConfig
from snntorch_smixer.neurons import LIF
from tests.fakes.calibrate import HIGH, LOW, calibrate, images

TINY = SpikformerConfig((16, 16), num_classes=5, dim=32, depth=2, heads=4)
TINY_IMAGENET = dataclasses.replace(TINY, img_size=(64, 64), variant="imagenet")
FORMS = pytest.mark.parametrize("config", [TINY, TINY_IMAGENET], ids=lambda config: config.variant)


class Rate:
    """Forward hook: share of the outputs that are not 0."""

    def __init__(self) -> None:
        self.value = -1.0

    def __call__(self, module: nn.Module, args: object, spikes: Tensor) -> None:
        self.value = spikes.count_nonzero().item() / spikes.numel()


def firing(config: SpikformerConfig, *, seed: int = 0) -> Spikformer:
    """A net in evaluation mode whose every neuron fires."""
    torch.manual_seed(seed)

    def example(batch: int, seed: int) -> Tensor:
        return images(batch, seed, size=config.img_size[0], channels=config.in_channels)

    net = calibrate(Spikformer(config), example)
    seen = {name: Rate() for name, module in net.named_modules() if isinstance(module, LIF)}
    hooks = [net.get_submodule(name).register_forward_hook(rate) for name, rate in seen.items()]
    with torch.no_grad():
        net(example(8, 0))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 5 + 7 * config.depth
    assert {name: rate.value for name, rate in seen.items() if not LOW < rate.value < HIGH} == {}
    return net


def run(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)


# Published, measured; the LayerNorms that nothing calls are 2 per block with 2 dim parameters each.
@pytest.mark.parametrize(
    ("name", "classes", "published"), [("spikformer-4-384", 100, 9_365_524), ("spikformer-8-512", 1000, 29_705_768)]
)
def test_parameters(name: str, classes: int, published: int):
    config = dataclasses.replace(CONFIGS[name], num_classes=classes)
    unused = config.depth * 2 * 2 * config.dim
    assert sum(p.numel() for p in Spikformer(config).parameters()) == published - unused


def test_published_names():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

    def block(maps: dict[str, tuple[str, ...]]) -> set[str]:
        bns = [f"attn.{n}_bn" for n in ("q", "k", "v", "proj")] + ["mlp.fc1_bn", "mlp.fc2_bn"]
        return {f"{n}.{p}" for n in bns for p in norm} | {f"{n}.{p}" for n, ps in maps.items() for p in ps}

    both = ("weight", "bias")
    linear = {f"attn.{n}_linear": both for n in ("q", "k", "v", "proj")} | {f"mlp.fc{i}_linear": both for i in (1, 2)}
    conv = {f"attn.{n}_conv": ("weight",) for n in ("q", "k", "v")}
    conv |= {"attn.proj_conv": both, "mlp.fc1_conv": both, "mlp.fc2_conv": both}
    stem = {f"proj_conv{n}.weight" for n in ("", 1, 2, 3)} | {"rpe_conv.weight"}
    stem |= {f"{n}.{p}" for n in ("proj_bn", "proj_bn1", "proj_bn2", "proj_bn3", "rpe_bn") for p in norm}
    for config, maps in ((TINY, linear), (TINY_IMAGENET, conv)):
        wanted = {f"patch_embed.{key}" for key in stem} | {"head.weight", "head.bias"}
        wanted |= {f"block.{i}.{key}" for i in range(2) for key in block(maps)}
        assert set(Spikformer(config).state_dict()) == wanted
    shapes = {k: tuple(v.shape) for k, v in Spikformer(TINY_IMAGENET).state_dict().items()}
    assert shapes["block.0.attn.q_conv.weight"] == (32, 32, 1)
    assert shapes["block.0.mlp.fc1_conv.weight"] == (128, 32, 1, 1)
    assert shapes["patch_embed.proj_conv.weight"] == (4, 3, 3, 3)


def test_named_configurations():
    found = {n: (c.variant, c.depth, c.dim, c.heads, c.img_size, c.num_tokens, c.T) for n, c in CONFIGS.items()}
    assert found == {
        "spikformer-4-384": ("cifar", 4, 384, 12, (32, 32), 64, 4),
        "spikformer-8-384": ("imagenet", 8, 384, 6, (224, 224), 196, 4),
        "spikformer-8-512": ("imagenet", 8, 512, 8, (224, 224), 196, 4),
        "spikformer-8-768": ("imagenet", 8, 768, 12, (224, 224), 196, 4),
    }


def split(key: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of SpikingJelly's Spikformer by our names; its q, k and v are one convolution."""
    names = {"patch_embed.stages.": "patch_embed.", "blocks.": "block.", "positional_encoding.conv_bn.block.": "rpe_"}
    for old, new in names.items():
        key = key.replace(old, new)
    for index, number in enumerate(("", "1", "2", "3")):
        key = key.replace(f"patch_embed.{index}.conv_bn.block.0", f"patch_embed.proj_conv{number}")
        key = key.replace(f"patch_embed.{index}.conv_bn.block.1", f"patch_embed.proj_bn{number}")
    key = key.replace("rpe_0", "rpe_conv").replace("rpe_1", "rpe_bn")
    for old in ("proj_conv_bn", "fc1", "fc2"):
        stem = old.removesuffix("_conv_bn")
        key = key.replace(f".{old}.0.", f".{stem}_conv.").replace(f".{old}.1.", f".{stem}_bn.")
    if ".mlp." in key and key.endswith("conv.weight"):
        return {key: tensor[..., None]}
    if "qkv_conv_bn" not in key:
        return {key: tensor}
    parts = tensor.chunk(3) if tensor.dim() else (tensor,) * 3
    kind = {"0": "conv", "1": "bn"}[key.split("qkv_conv_bn.")[1][0]]
    return {
        key.replace(f"qkv_conv_bn.{key.split('qkv_conv_bn.')[1][0]}", f"{n}_{kind}"): part
        for n, part in zip("qkv", parts, strict=True)
    }


def spikingjellys(patch: int, size: int, steps: int) -> tuple[nn.Module, Spikformer]:
    """SpikingJelly's Spikformer, calibrated, and ours with its weights; the biases that it lacks are 0."""
    pytest.importorskip("spikingjelly")
    module = importlib.import_module("spikingjelly.activation_based.model.spikformer")
    torch.manual_seed(0)
    theirs = module.Spikformer(
        steps, 3, size, size, patch_size=patch, num_classes=5, embed_dims=32, num_heads=4, depths=2
    )
    calibrate(theirs, lambda batch, seed: images(batch, seed, size=size))
    config = SpikformerConfig((size, size), num_classes=5, T=steps, variant="imagenet", dim=32, depth=2, heads=4)
    net = Spikformer(config).eval()
    state = {k: v for key, tensor in theirs.state_dict().items() for k, v in split(key, tensor).items()}
    lacking = net.state_dict().keys() - state.keys()
    assert all(key.endswith(("proj_conv.bias", "fc1_conv.bias", "fc2_conv.bias")) for key in lacking)
    net.load_state_dict({**state, **{key: torch.zeros_like(net.state_dict()[key]) for key in lacking}})
    return theirs, net


def test_equals_spikingjelly_in_one_step():
    # It pools in front of the neurons of the stem and not behind them: the same in one step only.
    theirs, net = spikingjellys(16, 64, 1)
    x = images(6, 3, size=64)
    wanted = run(theirs, x).mean(0)
    assert wanted.std(0).min() > 1e-3
    assert torch.allclose(run(net, x), wanted, atol=1e-6)


def test_blocks_equal_spikingjellys_in_four_steps():
    theirs, net = spikingjellys(16, 64, 4)
    tokens = run(theirs.patch_embed, images(6, 3, size=64)[None].repeat(4, 1, 1, 1, 1))
    assert tokens.unique().tolist() == [0, 1, 2]
    out, wanted = tokens, tokens
    for ours, block in zip(net.block, theirs.blocks, strict=True):
        out, wanted = run(ours, out), run(block, wanted)
        assert torch.equal(out, wanted)
    assert not torch.equal(wanted, tokens)


@FORMS
def test_wrap_finds_swaps_prunes_and_goes_back(config: SpikformerConfig):
    net, x = firing(config), images(3, 5, size=config.img_size[0])
    assert [family.name for family in dstsp.FAMILIES if not family.missing(net)] == ["spikformer"]
    before, wanted = {k: v.clone() for k, v in net.state_dict().items()}, run(net, x)
    wrapped = dstsp.wrap(net, ps=0.3, t=2, example_input=x)
    shown = str(dstsp.summary(wrapped))
    assert "tokens      16 -> 11" in shown
    assert "steps       4 -> 2" in shown
    assert shown.count("Q K^T V -> W_M, 4 heads, 16 x 16") == 2
    assert not torch.equal(run(wrapped, x), wanted)
    assert wrapped.forward_features(x).shape == (2, 3, 11, 32)
    undone = dstsp.unwrap(wrapped)
    assert torch.equal(run(undone, x), wanted)
    assert all(torch.equal(v, before[k]) for k, v in undone.state_dict().items())
    assert undone.state_dict().keys() == before.keys()


@FORMS
def test_frames_that_stand_still_are_an_image(config: SpikformerConfig):
    net, x = firing(config), images(2, 3, size=config.img_size[0])
    frames = x.expand(4, *x.shape)
    assert torch.allclose(run(net, frames), run(net, x), atol=1e-6)
    moving = torch.stack([images(2, seed, size=config.img_size[0]) for seed in range(4)])
    assert not torch.allclose(run(net, moving), run(net, x), atol=1e-3)


@FORMS
def test_features_and_head(config: SpikformerConfig):
    net, x = firing(config), images(2, 3, size=config.img_size[0])
    with torch.no_grad():
        tokens = net.forward_features(x)
        assert tokens.shape == (4, 2, config.num_tokens, net.num_features) == (4, 2, 16, 32)
        assert set(tokens.unique().tolist()) <= set(range(2 + 2 * config.depth + 1))
        pooled = net.forward_head(tokens, pre_logits=True)
        assert torch.allclose(pooled, tokens.mean((0, 2)), atol=1e-6)
        assert torch.equal(net.head(pooled), net(x))
    assert torch.allclose(run(net, x)[1:], run(net, x[1:]), atol=1e-6)  # a sample alone is as in a batch


@FORMS
def test_tokens_are_row_major(config: SpikformerConfig):
    wide = dataclasses.replace(config, img_size=(config.img_size[0], 2 * config.img_size[1]))
    net = Spikformer(wide).eval()
    net.load_state_dict(firing(config).state_dict())
    x = torch.cat([images(2, s, size=config.img_size[0]) for s in (1, 2)], 3)
    assert wide.grid == (4, 8)
    with torch.no_grad():
        net.block = nn.ModuleList()
        stem = net.patch_embed(x[None], steps=4)
        assert torch.equal(net.forward_features(x).unflatten(2, (4, 8)).movedim(4, 2), stem)


def test_one_step():
    net, x = firing(dataclasses.replace(TINY, T=1)), images(3, 3)
    assert net.forward_features(x).shape == (1, 3, 16, 32)
    assert run(net, x).std(0).min() > 1e-3


def test_copies_are_equal():
    net, x = firing(TINY), images(2, 3)
    net(x).sum().backward()
    for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(run(copied, x), run(net, x))
        assert copied.config == net.config


@FORMS
def test_gradients_reach_every_parameter(config: SpikformerConfig):
    net = firing(config).train()
    nn.functional.cross_entropy(net(images(4, 3, size=config.img_size[0])), torch.tensor([0, 1, 2, 3])).backward()
    # BatchNorm takes away what a bias in front of it adds: there the gradient is 0 up to rounding.
    silent = [k for k, p in net.named_parameters() if p.grad is None or (p.dim() > 1 and p.grad.abs().max() < 1e-6)]
    assert silent == []


def test_other_classes():
    net, x = firing(TINY), images(2, 3)
    pooled = net.forward_head(net.forward_features(x), pre_logits=True)
    net.reset_classifier(7)
    assert net.config.num_classes == 7
    assert run(net, x).shape == (2, 7)
    net.double().reset_classifier(0)
    assert net.config.num_classes == 0
    assert torch.allclose(run(net, x.double()).float(), pooled, atol=1e-6)
    net.reset_classifier(2)
    assert net.head.weight.dtype == torch.float64
    assert net.head.weight.std().item() == pytest.approx(0.02, rel=0.3)
    with pytest.raises(SettingError, match="num_classes=-1 must be a whole number of at least 0"):
        net.reset_classifier(-1)
    assert Spikformer(dataclasses.replace(TINY, num_classes=0))(x).shape == (2, 32)
    assert net.get_submodule(net.head_path) is net.head
    assert all(net.get_parameter(key).shape[1] == 3 for key in net.input_weights)


@pytest.mark.parametrize("config", [SpikformerConfig(), TINY_IMAGENET, *CONFIGS.values()])
def test_configuration_through_json(config: SpikformerConfig):
    raw = json.loads(json.dumps(config.to_dict()))
    assert SpikformerConfig.from_dict(raw) == config
    assert SpikformerConfig.architecture == "spikformer"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "cifar100"}, "SpikformerConfig: variant='cifar100' is unknown. Expected one of cifar, imagenet."),
        ({"img_size": (30, 32)}, r"img_size=\(30, 32\) must be two positive multiples of 4, .* variant='cifar'"),
        ({"img_size": (32, 40), "variant": "imagenet"}, "two positive multiples of 16"),
        ({"img_size": "32"}, "img_size='32' must be two"),
        ({"dim": 36, "heads": 4}, "dim=36 must be a multiple of 8 and of heads=4"),
        ({"heads": 5}, "dim=384 must be a multiple of 8 and of heads=5"),
        ({"depth": 0}, "depth=0 must be a whole number of at least 1"),
        ({"T": True}, "T=True must be a whole number"),
        ({"num_classes": -1}, "num_classes=-1 must be a whole number of at least 0"),
        ({"mlp_ratio": 0}, "mlp_ratio=0 must be a positive number"),
    ],
)
def test_bad_configurations(changes: dict[str, object], message: str):
    with pytest.raises(SettingError, match=message):
        SpikformerConfig(**changes)


def test_unknown_key_of_a_configuration():
    with pytest.raises(SettingError, match=r"unknown key 'head'. Did you mean 'heads'"):
        SpikformerConfig.from_dict({"head": 3})


def test_bad_input():
    net = Spikformer(TINY)
    for x in (
        torch.zeros(3, 16, 16),
        torch.zeros(1, 3, 16, 24),
        torch.zeros(1, 2, 16, 16),
        torch.zeros(3, 1, 3, 16, 16),
    ):
        with pytest.raises(LayoutError, match="encode: expected"):
            net(x)
