"""The patch-splitting stem."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.layers.stem import SpikingPatchSplitting

SMALL = (1, 1, 1, 2, 2)
LARGE = (1, 2, 2, 2, 2)


def trained(stem: nn.Module, x: Tensor, steps: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Tokens in training, and the gradient of a weighted sum of them for every parameter."""
    stem.zero_grad()
    tokens = stem.train()(x, steps=steps)
    (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens)).sum().backward()
    return tokens.detach(), {name: p.grad.clone() for name, p in stem.named_parameters()}


@pytest.mark.parametrize(
    ("channels", "size", "strides", "tokens"),
    [
        (1, (28, 28), SMALL, 49),
        (3, (32, 32), SMALL, 64),
        (2, (128, 128), LARGE, 64),
        (3, (224, 224), LARGE, 196),
        (3, (48, 32), LARGE, 6),
        (2, (8, 4), SMALL, 2),
    ],
)
def test_token_shape(channels: int, size: tuple[int, int], strides: tuple[int, ...], tokens: int):
    stem = SpikingPatchSplitting(channels, 8, strides=strides)
    with torch.no_grad():
        assert stem(torch.rand(2, 1, channels, *size)).shape == (2, 1, tokens, 8)


@pytest.mark.parametrize(("channels", "dim", "strides", "stride"), [(3, 16, SMALL, 4), (2, 24, LARGE, 16)])
def test_parameters(channels: int, dim: int, strides: tuple[int, ...], stride: int):
    stem = SpikingPatchSplitting(channels, dim, strides=strides)
    w = [channels, dim // 8, dim // 4, dim // 2, dim, 7 * dim // 8]
    main = 9 * sum(a * b for a, b in pairwise(w))
    short = stride**2 * channels * dim // 8
    norms = 2 * (sum(w[1:]) + dim // 8)
    assert sum(p.numel() for p in stem.parameters()) == main + short + norms


def test_parts():
    stem = SpikingPatchSplitting(3, 16)
    assert not any(isinstance(m, nn.MaxPool2d | nn.AvgPool2d) for m in stem.modules())
    assert [unit.neuron is None for unit in stem.units] == [True, False, False, False, False]
    assert stem.short.neuron is None


def test_tokens_are_row_major_and_real_valued(firing):
    stem = SpikingPatchSplitting(1, 8)
    nn.init.ones_(stem.short.linear.weight)
    x = torch.randn(2, 3, 1, 8, 12)
    with firing(stem):
        tokens = stem(x)
    assert tokens.unique().numel() > 100
    stem.eval()
    tokens = stem(x)
    patches = torch.stack([x[:, :, 0, r : r + 4, c : c + 4].sum((2, 3)) for r in (0, 4) for c in (0, 4, 8)], 2)
    norm = stem.short.norm
    wanted = (patches - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(tokens[..., -1], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_a_static_image_is_computed_once(training: bool, inputs):
    stem = SpikingPatchSplitting(3, 8).train(training)
    x = torch.rand(2, 3, 8, 8)
    with inputs(stem.units[0].linear, stem.short.linear, stem.units[1].linear) as seen:
        stem(x[None], steps=4)
    assert [len(maps) for maps in seen] == [2, 4 * 2, 2]
    with inputs(stem.units[0].linear, stem.short.linear) as seen:
        stem(x.expand(4, *x.shape))
    assert [len(maps) for maps in seen] == [4 * 2, 4 * 2]


def test_a_static_image_equals_repeated_frames_in_evaluation(settle, firing):
    x = torch.randn(1, 4, 3, 16, 16)
    stem = settle(SpikingPatchSplitting(3, 16), x.expand(4, -1, -1, -1, -1))
    with torch.no_grad(), firing(stem):
        shown, repeated = stem(x, steps=4), stem(x.expand(4, -1, -1, -1, -1))
    torch.testing.assert_close(shown, repeated, atol=1e-6, rtol=1e-6)
    assert not torch.equal(shown[0], shown[1])  # steps differ, so they were not simply copied


def test_a_static_image_equals_repeated_frames_in_training(firing):
    # Double precision: a last digit that differs in BatchNorm could flip a spike.
    stem = SpikingPatchSplitting(3, 16).double()
    x = torch.randn(1, 4, 3, 16, 16).double()
    with firing(stem):
        shown, shown_grads = trained(stem, x, steps=4)
        repeated, repeated_grads = trained(stem, x.expand(4, -1, -1, -1, -1))
    torch.testing.assert_close(shown, repeated)
    for name, grad in repeated_grads.items():
        assert grad.abs().max() > 0, name
        torch.testing.assert_close(shown_grads[name], grad, atol=1e-7, rtol=1e-7, msg=name)


def test_running_variance_of_a_static_image_differs_as_documented():
    steps, x = 4, torch.randn(1, 2, 3, 8, 8).double()
    stems = [SpikingPatchSplitting(3, 8).double() for _ in range(2)]
    stems[1].load_state_dict(stems[0].state_dict())
    stems[0](x, steps=steps), stems[1](x.expand(steps, -1, -1, -1, -1))
    for path, n in (("units.0", 2 * 8 * 8), ("short", 2 * 2 * 2)):
        shown, repeated = (stem.get_submodule(path).norm for stem in stems)
        torch.testing.assert_close(shown.running_mean, repeated.running_mean)
        ratio = (shown.running_var - 0.9) / (repeated.running_var - 0.9)
        assert not torch.allclose(ratio, torch.ones_like(ratio), rtol=1e-4, atol=0)
        torch.testing.assert_close(ratio, torch.full_like(ratio, (n - 1 / steps) / (n - 1)))
    later = [stem.units[1].norm.running_var for stem in stems]
    torch.testing.assert_close(*later)


def test_event_frames_are_not_repeated(firing):
    stem, frames = SpikingPatchSplitting(2, 16), torch.randn(4, 3, 2, 16, 16)
    with firing(stem), torch.no_grad():
        assert torch.equal(stem(frames, steps=4), stem(frames))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 8, 8), (1, 2, 1, 8, 8)])
def test_rank_and_channels_error(shape: tuple[int, ...]):
    with pytest.raises(LayoutError) as caught:
        SpikingPatchSplitting(3, 8)(torch.ones(shape))
    assert str(caught.value) == (
        f"SpikingPatchSplitting: expected (T, B, 3, H, W), got shape {shape}; did you forget the time axis?"
    )


@pytest.mark.parametrize("size", [(10, 8), (8, 10), (30, 30)])
def test_size_error(size: tuple[int, int]):
    with pytest.raises(LayoutError) as caught:
        SpikingPatchSplitting(3, 8)(torch.ones(1, 2, 3, *size))
    assert str(caught.value) == (
        f"SpikingPatchSplitting: {size[0]} x {size[1]} is no multiple of the total stride 4; "
        "pad or resize the input, or choose other strides"
    )


def test_steps_error():
    with pytest.raises(LayoutError) as caught:
        SpikingPatchSplitting(3, 8)(torch.ones(2, 1, 3, 8, 8), steps=4)
    assert str(caught.value) == (
        "SpikingPatchSplitting: expected 1 or 4 steps on the first axis, got shape (2, 1, 3, 8, 8); "
        "only a static image is repeated, so pass steps=None for frames"
    )


@pytest.mark.parametrize("dim", [0, 4, 12])
def test_dim_error(dim: int):
    with pytest.raises(SettingError) as caught:
        SpikingPatchSplitting(3, dim)
    assert str(caught.value) == (
        f"SpikingPatchSplitting: dim={dim} is no multiple of 8; the stem divides it by 8. Round it."
    )


@pytest.mark.parametrize("strides", [(1, 1, 2, 2), (1, 1, 1, 2, 0)])
def test_strides_error(strides: tuple[int, ...]):
    with pytest.raises(SettingError) as caught:
        SpikingPatchSplitting(3, 8, strides=strides)
    assert str(caught.value) == (
        f"SpikingPatchSplitting: strides={strides} must be five positive numbers. "
        "Pass one for each convolution, for example (1, 1, 1, 2, 2)."
    )
