"""SMixer as a layer: ``W_M``, its forms on kept tokens, its cost, its errors."""

from dataclasses import replace
from functools import partial

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels.token_mix import token_mix_reference
from snntorch_smixer.layers.mixer import SMixer, SpikingTokenMixer
from snntorch_smixer.neurons import LIF, IntegerLIF
from snntorch_smixer.selection import take_tokens

T, B, N, C = 3, 2, 6, 12


def tokens(steps: int = T, count: int = N) -> Tensor:
    """Real-valued tokens that make LIF fire."""
    return torch.randn(steps, B, count, C) * 1.5


def mixer_of(heads: int = 1) -> SpikingTokenMixer:
    """A mixer with a threshold at which its last neuron fires before any training."""
    return SpikingTokenMixer(C, num_tokens=N, heads=heads, neuron=partial(LIF, threshold=0.5))


def test_alias():
    assert SMixer is SpikingTokenMixer


@pytest.mark.parametrize("heads", [1, 3])
def test_parts_by_hand(heads: int, settle, firing):
    x = tokens()
    mixer = settle(mixer_of(heads), x)
    with firing(mixer) as spikes:
        out = mixer(x)
    assert torch.equal(spikes["value.neuron"][0], mixer.value.neuron(x))
    value = mixer.value.apply_linear(spikes["value.neuron"][0])
    assert torch.equal(spikes["neuron"][0], mixer.neuron(value))
    mixed = torch.zeros_like(value)
    width = C // heads
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        mixed[..., part] = mixer.matrix[h] @ spikes["neuron"][0][..., part]
    assert torch.equal(spikes["proj.neuron"][0], mixer.proj.neuron(mixed))
    torch.testing.assert_close(mixer.mix(spikes["neuron"][0]), mixed)
    torch.testing.assert_close(mixer.proj.apply_linear(spikes["proj.neuron"][0]), out)


@pytest.mark.parametrize("heads", [1, 3])
def test_w_m_is_a_linear_map_that_hooks_see(heads: int, firing):
    mixer, shapes = mixer_of(heads), []
    mixer.w_m.register_forward_hook(lambda module, args, out: shapes.append((args[0].shape, out.shape)))
    with firing(mixer):
        mixer(tokens())
    assert type(mixer.w_m) is nn.Conv1d
    assert shapes == [((T * B, heads * N, C // heads),) * 2]
    assert mixer.w_m.bias is None
    assert mixer.w_m.weight.numel() == heads * N**2
    assert mixer.matrix.shape == (heads, N, N)
    assert sum(p.numel() for p in mixer.parameters()) == heads * N**2 + 2 * (C**2 + 2 * C)


def test_w_m_starts_kaiming_normal():
    weight = SpikingTokenMixer(8, num_tokens=64, heads=8).matrix
    assert weight.numel() == 8 * 64**2
    assert weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=0.004)
    assert [w.std().item() for w in weight] == pytest.approx([(2 / 64) ** 0.5] * 8, rel=0.05)


@pytest.mark.parametrize("heads", [1, 3])
def test_multiplications(heads: int):
    mixer = mixer_of(heads)
    with FlopCounterMode(display=False) as counter:
        mixer(tokens())
    assert counter.get_total_flops() == 2 * T * B * (2 * N * C**2 + N**2 * C)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("keep", range(1, N))
def test_kept_tokens_equal_the_reference_in_either_form(keep: int, heads: int, choose):
    mixer, calls = mixer_of(heads), []
    mixer.w_m.register_forward_hook(lambda *args: calls.append(1))
    full = (torch.rand(T, B, N, C) < 0.3).float()
    for steps in (1, T):
        kept = choose(full[:steps], keep)
        x = take_tokens(full[:steps], kept.tokens).requires_grad_()
        calls.clear()
        out, wanted = mixer.mix(x, kept), token_mix_reference(x, mixer.matrix, kept)
        torch.testing.assert_close(out, wanted)
        assert wanted.abs().max() > 0.1
        on_grid = steps * N * C <= heads * keep**2 + steps * keep * C
        assert bool(calls) == on_grid
        upstream, leaves = torch.randn_like(out), (x, mixer.w_m.weight)
        grads = (torch.autograd.grad(y, leaves, upstream) for y in (out, wanted))
        for got, grad in zip(*grads, strict=True):
            torch.testing.assert_close(got, grad, atol=1e-5, rtol=1e-5)


def test_both_forms_are_taken(choose):
    mixer, calls = mixer_of(3), []
    mixer.w_m.register_forward_hook(lambda *args: calls.append(1))
    for keep in (N - 1, 1):
        x = torch.ones(1, B, N, C)
        kept = choose(x, keep)
        mixer.mix(take_tokens(x, kept.tokens), kept)
    assert calls == [1]


@pytest.mark.parametrize("w_prime", ["crop", "shared"])
def test_other_readings_of_w_prime(w_prime: str, choose):
    mixer, full = mixer_of(3), (torch.rand(T, B, N, C) < 0.3).float()
    kept = replace(choose(full, 4), w_prime=w_prime)
    x = take_tokens(full, kept.tokens)
    if w_prime == "crop":
        torch.testing.assert_close(
            mixer.mix(x, kept), torch.cat([mixer.matrix[h, :4, :4] @ x[..., 4 * h : 4 * h + 4] for h in range(3)], 3)
        )
        return
    in_training = replace(kept, rows=torch.tensor([0, 2, 3, 5]))
    torch.testing.assert_close(mixer.mix(x, in_training), token_mix_reference(x, mixer.matrix, in_training))
    torch.testing.assert_close(mixer.mix(x, kept), mixer.mix(x, replace(kept, w_prime="gather")))
    assert not torch.allclose(mixer.mix(x, kept), mixer.mix(x, in_training))


def test_a_selection_of_everything_changes_nothing(choose, settle, firing):
    x = tokens()
    mixer = settle(mixer_of(3), x)
    with firing(mixer):
        assert torch.equal(mixer(x, choose(x, N)), mixer(x))


def test_a_sample_alone_equals_the_sample_in_a_batch(choose, settle, firing):
    x = tokens()
    mixer = settle(mixer_of(3), x)
    kept = choose(x, 4)
    pruned = take_tokens(x, kept.tokens)
    with firing(mixer):
        out = mixer(pruned, kept)
    for b in range(B):
        alone = replace(kept, steps=kept.steps[b : b + 1], tokens=kept.tokens[b : b + 1])
        torch.testing.assert_close(mixer(pruned[:, b : b + 1], alone), out[:, b : b + 1])


def test_spike_cap_limits_every_linear_map(choose, settle, firing, inputs):
    x = tokens(8) + 0.5
    mixer = settle(mixer_of(), x)
    maps = (mixer.value.linear, mixer.w_m, mixer.proj.linear)
    with inputs(*maps) as seen:
        with firing(mixer):
            mixer(x, choose(x, N))
        mixer(x, choose(x, N, spike_cap=2))
    counts = [spikes.view(8, -1).sum(0).max() for spikes in seen]
    assert min(counts[:3]) > 2
    assert counts[3:] == [2, 2, 2]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while it traces
def test_compiles_into_one_graph(choose, settle, firing):
    x = tokens()
    mixer = settle(mixer_of(3), x)
    compiled = torch.compile(mixer, fullgraph=True, backend="eager")
    with firing(mixer):
        wanted = mixer(x)
    torch.testing.assert_close(compiled(x), wanted)
    for keep in (N - 1, 2):
        kept = choose(x, keep, spike_cap=2)
        pruned = take_tokens(x, kept.tokens)
        torch.testing.assert_close(compiled(pruned, kept), mixer(pruned, kept))


def make_sequential(settle) -> tuple[nn.Sequential, Tensor]:
    mixer = settle(mixer_of(3), tokens())
    mixer.step_mode = "s"
    net = nn.Sequential(nn.Linear(C, C), snn.Leaky(0.8, threshold=0.3, init_hidden=True), mixer).eval()
    return net, tokens(5)


def test_step_by_step_in_a_sequential(settle, firing):
    net, x = make_sequential(settle)
    with torch.no_grad(), firing(net[2]):
        first = torch.stack([net(step) for step in x])
    with torch.no_grad():
        carried_on = torch.stack([net(step) for step in x])
        snn.utils.reset(net)
        again = torch.stack([net(step) for step in x])
    assert torch.equal(again, first)
    assert not torch.equal(carried_on, first)


def test_step_by_step_equals_one_multi_step_call(settle, firing):
    net, x = make_sequential(settle)
    mixer = net[2]
    with torch.no_grad(), firing(mixer):
        spikes = torch.stack([net[:2](step) for step in x])
        steps = torch.stack([mixer(step) for step in spikes])
        mixer.step_mode = "m"
        torch.testing.assert_close(mixer(spikes), steps)
    assert 0.05 < spikes.mean() < 0.6


def test_step_mode_reaches_the_neurons():
    mixer = mixer_of()
    for mode in ("s", "m"):
        mixer.step_mode = mode
        assert mixer.step_mode == mode
        assert {mixer.value.neuron.step_mode, mixer.neuron.step_mode, mixer.proj.neuron.step_mode} == {mode}
    assert SMixer(C, num_tokens=N, step_mode="s").neuron.step_mode == "s"


def test_repr():
    assert "dim=12, num_tokens=6, heads=3, step_mode='m'" in repr(mixer_of(3))
    assert "step_mode='s'" in repr(SMixer(C, num_tokens=N, step_mode="s"))


SHAPE_ERRORS = {
    (3, 2, 5, 12): "expected 6 tokens, got 5 in shape (3, 2, 5, 12); feed the resolution that W_M was built for, "
    "or pass the Selection that pruned these tokens",
    (3, 2, 6, 8): "expected 12 channels on the last axis, got 8 in shape (3, 2, 6, 8); "
    "tokens are (T, B, N, C), channels last",
    (2, 6, 12): "expected tokens (T, B, N, C), got shape (2, 6, 12); did you forget the time axis?",
    (3, 2, 12, 2, 3): "expected tokens (T, B, N, C), got shape (3, 2, 12, 2, 3); convert with shapes.grid_to_tokens",
}


@pytest.mark.parametrize(("shape", "wanted"), SHAPE_ERRORS.items())
def test_shape_errors(shape: tuple[int, ...], wanted: str):
    with pytest.raises(LayoutError) as caught:
        mixer_of()(torch.ones(shape))
    assert str(caught.value) == f"SMixer: {wanted}"


def test_step_mode_errors(choose):
    mixer, x = SpikingTokenMixer(C, num_tokens=N, step_mode="s"), tokens()
    wanted = "SMixer: step_mode='s' expects one step (B, N, C) and no pruning, got {}; "
    for args, got in (((x,), "shape (3, 2, 6, 12)"), ((x[0], choose(x, N)), "a Selection")):
        with pytest.raises(LayoutError) as caught:
            mixer(*args)
        assert str(caught.value) == wanted.format(got) + "set step_mode='m' for (T, B, N, C)"
    with pytest.raises(LayoutError, match="expected 6 tokens, got 5"):
        mixer(x[0, :, :5])
    with pytest.raises(SettingError) as caught:
        mixer_of().step_mode = "x"
    assert str(caught.value) == ("SMixer: step_mode='x' is unknown. Expected one of m, s. Pass one of these.")


def test_selection_of_another_net_error(choose):
    with pytest.raises(LayoutError) as caught:
        mixer_of()(tokens(count=4), choose(tokens(count=8), 4))
    assert str(caught.value) == (
        "SMixer: the Selection was made for 8 tokens, W_M for 6; use the Selection of this network's own stem"
    )


def test_selection_that_does_not_fit_error(choose):
    with pytest.raises(LayoutError, match=r"^SMixer: expected 4 tokens, got 6 in shape"):
        mixer_of()(tokens(), choose(tokens(), 4))


@pytest.mark.parametrize("heads", [0, -1, 5])
def test_heads_error(heads: int):
    with pytest.raises(SettingError) as caught:
        mixer_of(heads)
    assert str(caught.value) == (
        f"SMixer: heads={heads} does not divide dim=12. Pass a divisor, each head takes dim / heads."
    )


def test_num_tokens_error():
    with pytest.raises(SettingError) as caught:
        SpikingTokenMixer(C, num_tokens=0)
    assert str(caught.value) == ("SMixer: num_tokens=0 must be positive. Pass H * W of the token grid.")


def test_a_refused_step_mode_changes_nothing():
    mixer = SpikingTokenMixer(8, num_tokens=4, neuron=LIF)
    mixer.proj.neuron = IntegerLIF()
    with pytest.raises(SettingError) as caught:
        mixer.step_mode = "s"
    assert str(caught.value) == (
        "SMixer: step_mode='s' needs neurons that keep their membrane, got IntegerLIF. Pass neuron=LIF."
    )
    assert (mixer.step_mode, mixer.neuron.step_mode, mixer.value.neuron.step_mode) == ("m", "m", "m")
