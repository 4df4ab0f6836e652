"""Layers of a detector against readable references, pruned and dense."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import set_memory, shapes
from snntorch_smixer.detect.layers import (
    BlockPruning,
    GridDSTSP,
    GridMixer,
    PruneSteps,
    SpikingConvBlock,
    SpikingMixerBlocks,
    SpikingSPPF,
)
from snntorch_smixer.detect.rows import SpikingPyramid, read_config
from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.token_mix import resize_matrix
from snntorch_smixer.layers.mixer import SMixer
from snntorch_smixer.layers.unit import fire
from snntorch_smixer.neurons import IntegerLIF
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.softmatch import merge_dropped

DROP = partial(DSTSPConfig, ps=0.3, t=None, merge="drop")


def tiny(kind: str = "smixer", **changes: object) -> SpikingPyramid:
    """A pyramid of 8 to 32 channels, whose neurons fire: BatchNorm takes its statistics from random pictures."""
    table = {**read_config(f"spike-yolo-n-{kind}.yaml"), "scales": {"n": [0.33, 0.0625, 512]}}
    table |= {"grid": [4, 4], "heads": 4} if kind == "smixer" else {}
    return firing(SpikingPyramid({**table, **changes}), torch.randn(4, 3, 128, 128))


def firing(net: nn.Module, x: Tensor) -> nn.Module:
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        nn.init.constant_(norm.weight, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
    with torch.no_grad():
        net.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def maps(dim: int = 8, size: tuple[int, int] = (5, 6), steps: int = 2, batch: int = 3) -> Tensor:
    return 1.5 * torch.randn(steps, batch, dim, *size)


def conv_block(**changes: object) -> SpikingConvBlock:
    return firing(SpikingConvBlock(8, kernel=3, pruning=BlockPruning(GridDSTSP(DROP())), **changes), maps())


def mixer_blocks(**changes: object) -> SpikingMixerBlocks:
    made = SpikingMixerBlocks(8, 2, grid=(5, 6), heads=2, pruning=BlockPruning(GridDSTSP(DROP())), **changes)
    return firing(made, maps())


@pytest.mark.parametrize("pruned", [False, True])
def test_a_grid_mixer_at_its_own_grid_is_the_mixer(pruned: bool):
    ours = firing(GridMixer(8, grid=(5, 6), heads=2), shapes.grid_to_tokens(maps()))
    plain = SMixer(8, num_tokens=30, heads=2, neuron=IntegerLIF).eval()
    plain.load_state_dict(ours.state_dict())
    x = shapes.grid_to_tokens(maps())
    kept = GridDSTSP(DROP())(x, (x > 0).float())[1] if pruned else None
    tokens = x if kept is None else merge_dropped(x, kept, "drop")
    out = ours(tokens, kept, (5, 6))
    assert torch.equal(out, plain(tokens, kept))
    assert torch.equal(out, ours(tokens, kept))
    assert out.std() > 0.1


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("grid", [(7, 4), (10, 12), (1, 3)])
def test_at_another_grid_it_is_a_mixer_with_the_resized_matrix(grid: tuple[int, int], pruned: bool):
    ours = firing(GridMixer(8, grid=(5, 6), heads=2), shapes.grid_to_tokens(maps()))
    tokens = grid[0] * grid[1]
    plain = SMixer(8, num_tokens=tokens, heads=2, neuron=IntegerLIF).eval()
    resized = resize_matrix(ours.matrix, (5, 6), grid)
    plain.load_state_dict({**ours.state_dict(), "w_m.weight": resized.reshape(2 * tokens, tokens, 1)})
    x = shapes.grid_to_tokens(maps(size=grid))
    kept = GridDSTSP(DROP())(x, (x > 0).float())[1] if pruned else None
    here = x if kept is None else merge_dropped(x, kept, "drop")
    torch.testing.assert_close(ours(here, kept, grid), plain(here, kept))


def replay(block: SpikingConvBlock, x: Tensor, kept: Tensor) -> Tensor:
    """The block written out: a value is read only where ``kept`` (B, H, W) is True, and written only there."""
    for branch in (block.separable, block.mlp):
        y = x
        for unit in branch:
            spikes = fire(unit.neuron, y)
            silent = torch.where(kept[None, :, None], spikes, torch.zeros(()))
            y = torch.stack([unit.norm(unit.linear(step)) for step in silent])
        x = torch.where(kept[None, :, None], x + y, x)
    return x


@pytest.mark.parametrize("full", [False, True])
def test_a_convolution_block_prunes_position_by_position(full: bool):
    block, x = conv_block(full=full), maps()
    counts = block.separable[0].neuron(x).sum((0, 2)).flatten(1)
    busiest = counts.argsort(dim=1, descending=True, stable=True)[:, :21]  # 30 positions, 30% dropped
    kept = torch.zeros(3, 30, dtype=torch.bool).scatter(1, busiest, value=True).view(3, 5, 6)
    out = block(x)
    torch.testing.assert_close(out, replay(block, x, kept))
    dropped = ~kept[None, :, None].expand_as(x)
    assert torch.equal(out[dropped], x[dropped])
    assert not torch.equal(out[~dropped], x[~dropped])


def test_no_neuron_of_a_convolution_block_fires_at_a_dropped_position():
    block, x = conv_block(), maps()
    fired: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, __: object, out: Tensor) -> None:
        fired[name] = out  # the last call: the first one of a block only counts spikes

    for name, part in block.named_modules():
        if isinstance(part, IntegerLIF):
            part.register_forward_hook(partial(note, name))
    moved = (block(x) != x).any(2).any(0)  # (B, H, W), the kept positions
    assert moved.sum(dim=(1, 2)).tolist() == [21, 21, 21]
    assert len(fired) == 5
    for name, spikes in fired.items():
        inside = spikes.movedim(2, -1)
        assert not inside[:, ~moved].any(), name
        assert inside[:, moved].any(), name


@pytest.mark.parametrize("size", [(5, 6), (8, 4)])
def test_mixer_blocks_run_on_the_kept_tokens_alone(size: tuple[int, int]):
    net, x = mixer_blocks(), maps(size=size)
    tokens = shapes.grid_to_tokens(x)
    spikes = net.blocks[0].first_spikes(tokens)
    _, kept = net.dstsp(tokens, spikes)
    mine = merge_dropped(tokens, kept, "drop")
    for block in net.blocks:
        weight = resize_matrix(block.mixer.matrix, (5, 6), size) if size != (5, 6) else block.mixer.matrix
        fired = fire(block.mixer.neuron, block.mixer.value(mine)).unflatten(3, (2, 4))
        at = kept.tokens
        parts = torch.stack([weight[:, rows[:, None], rows] for rows in at])  # (B, h, N', N')
        mixed = torch.einsum("bhnm,tbmhc->tbnhc", parts, fired).flatten(3)
        mine = mine + block.mixer.proj(mixed)
        mine = mine + block.mlp(mine)
    wanted = tokens.clone()
    for sample in range(3):
        wanted[:, sample, kept.tokens[sample]] = mine[:, sample]
    torch.testing.assert_close(net(x), shapes.tokens_to_grid(wanted, *size))
    assert not torch.equal(net(x), x)


@pytest.mark.parametrize("merge", ["drop", "softmatch", "sum", "fuse"])
def test_every_merge_gives_the_whole_map(merge: str):
    net, x = mixer_blocks(), maps()
    net.dstsp.merge = merge
    out = net(x)
    changed = (out != x).any(2).any(0).flatten(1).sum(1)
    assert out.shape == x.shape
    assert changed.tolist() == ([30] * 3 if merge == "fuse" else [21] * 3)
    net.dstsp.ps = 0.0
    dense = net(x)
    net.dstsp.active = "never"
    assert torch.equal(net(x), dense)


@pytest.mark.parametrize("make", [conv_block, mixer_blocks])
def test_a_sample_alone_is_as_in_its_batch(make: type):
    net, x = make(), maps()
    torch.testing.assert_close(net(x)[:, 1:2], net(x[:, 1:2]))


def test_the_busiest_steps_are_kept():
    prune = PruneSteps(GridDSTSP(DSTSPConfig(ps=0.0, t=2, merge="drop")))
    x = torch.zeros(4, 2, 3, 4, 4)
    x[1, 0], x[3, 0] = 1.0, 3.0
    x[0, 1], x[2, 1] = 2.0, 1.0
    out = prune(x)
    assert torch.equal(out[:, 0], x[[1, 3], 0])
    assert torch.equal(out[:, 1], x[[0, 2], 1])
    prune.dstsp.t = None
    assert prune(x) is x


@pytest.mark.parametrize("kind", ["smixer", "conv"])
def test_all_maps_have_the_kept_steps(kind: str):
    net, x = tiny(kind, T=3), torch.randn(2, 3, 128, 64)
    assert {one.shape[0] for one in net(x)} == {3}
    net.dstsp.t = 2
    assert [tuple(one.shape) for one in net(x)] == [
        (2, 2, c, 128 // s, 64 // s) for c, s in zip(net.channels, net.strides, strict=True)
    ]


@pytest.mark.parametrize("ps", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["smixer", "conv"])
def test_gradients_reach_every_parameter(kind: str, ps: float):
    net = tiny(kind).train()
    net.dstsp.settings = DSTSPConfig(ps=ps, t=1 if ps else None, merge="drop")
    out = net(torch.randn(2, 3, 128, 128))
    sum((one * torch.randn_like(one)).sum() for one in out).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_a_sample_alone_is_as_in_its_batch_in_a_whole_net():
    net, x = tiny(), torch.randn(3, 3, 128, 128)
    net.dstsp.settings = DSTSPConfig(ps=0.2, t=1, merge="drop")
    for whole, one in zip(net(x), net(x[1:2]), strict=True):
        assert whole.std() > 0.1
        torch.testing.assert_close(whole[:, 1:2], one)


def test_no_pruning_is_no_pruning_bit_for_bit():
    net, x = tiny(), torch.randn(2, 3, 128, 128)
    net.dstsp.active = "never"
    dense = net(x)
    net.dstsp.settings = DSTSPConfig(ps=0.0, t=None, merge="drop")
    assert all(map(torch.equal, net(x), dense))
    net.dstsp.settings = DSTSPConfig(ps=0.0, t=2, merge="softmatch")
    assert all(map(torch.equal, net(x), dense))
    net.dstsp.ps = 0.3
    assert not all(map(torch.equal, net(x), dense))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_share_one_pruning_of_their_own(copied: object):
    net, x = tiny(), torch.randn(2, 3, 128, 128)
    twin = copied(net)  # type: ignore[operator]
    assert len({id(m) for m in twin.modules() if isinstance(m, GridDSTSP)}) == 1
    assert twin.dstsp is not net.dstsp
    dense = net(x)
    twin.dstsp.ps = 0.3
    assert all(map(torch.equal, net(x), dense))
    assert not all(map(torch.equal, twin(x), dense))
    net.dstsp.ps = 0.3
    assert all(map(torch.equal, net(x), twin(x)))


@pytest.mark.slow
def test_a_compiled_net_agrees():
    net, x = tiny(), torch.randn(2, 3, 128, 128)
    net.dstsp.settings = DSTSPConfig(ps=0.2, t=1, merge="drop")
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        assert all(map(torch.equal, compiled(x), net(x)))


@pytest.mark.parametrize("ps", [0.0, 0.2])
@pytest.mark.parametrize("side", [128, 64])
def test_memory_modes_agree(side: int, ps: float):
    # In float32 a rounding may move a membrane over a threshold, and with it a gradient.
    net, x = tiny().double(), torch.randn(2, 3, side, side).double()
    net.dstsp.settings = DSTSPConfig(ps=ps, t=1, merge="drop")
    found, grads = {}, {}
    for mode in ("reference", "fused", "recompute"):
        twin = copy.deepcopy(net).train()
        set_memory(twin, mode)
        found[mode] = twin(x)
        sum(one.square().mean() for one in found[mode]).backward()
        grads[mode] = [p.grad for p in twin.parameters()]
    for mode in ("fused", "recompute"):
        for one, other in zip(found[mode], found["reference"], strict=True):
            torch.testing.assert_close(one, other)
        for one, other in zip(grads[mode], grads["reference"], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_pooling_pyramid_is_means_of_spikes():
    net, x = firing(SpikingSPPF(8, 6, 3), maps()), maps()
    parts = [fire(net.neuron, net.reduce(x))]
    for _ in range(3):
        wide = nn.functional.pad(parts[-1], (1, 1, 1, 1))
        ones = nn.functional.pad(torch.ones(5, 6), (1, 1, 1, 1))
        size = sum(ones[i : i + 5, j : j + 6] for i in range(3) for j in range(3))
        parts.append(sum(wide[..., i : i + 5, j : j + 6] for i in range(3) for j in range(3)) / size)
    joined = torch.cat(parts, 2)
    wanted = torch.stack([net.fuse.norm(net.fuse.linear(step)) for step in joined])
    torch.testing.assert_close(net(x), wanted)


@pytest.mark.parametrize(
    ("setting", "value", "why"),
    [("spike_cap", 1, "spike_cap"), ("place", "lif2", "place"), ("w_prime", "crop", "w_prime"), ("t", 3, "t=3")],
)
def test_a_detector_refuses_what_it_cannot_do(setting: str, value: object, why: str):
    net = tiny()
    before = net.dstsp.settings
    with pytest.raises(SettingError, match=why):
        setattr(net.dstsp, setting, value)
    assert net.dstsp.settings == before
