"""The quirks for which the stand-ins exist, each on its own."""

import pytest
import torch
from torch import Tensor, nn

from tests.fakes import neurons, sdt_v2
from tests.fakes.neurons import reset
from tests.fakes.zoo import FAKES


def seen(model: nn.Module, path: str, x: Tensor) -> tuple[tuple, object]:
    """Positional arguments and output of the module at ``path`` in one forward of the model."""
    calls: list[tuple[tuple, object]] = []
    hook = model.get_submodule(path).register_forward_hook(lambda _, args, out: calls.append((args, out)))
    with torch.no_grad():
        model(x)
    hook.remove()
    reset(model)
    return calls[0]


def fresh(name: str) -> tuple[nn.Module, Tensor]:
    return FAKES[name].build(), FAKES[name].example()


def without_gradient(name: str) -> set[str]:
    model, x = fresh(name)
    FAKES[name].logits(model(x)).sum().backward()
    return {key for key, p in model.named_parameters() if p.grad is None}


def test_multi_step_lif_by_hand():
    lif = neurons.MultiStepLIF()
    x = torch.tensor([1.5, 1.5, 0.0, 2.0]).view(4, 1)
    # v: 0.75, 1.125 -> spike, 0, 1 -> spike
    assert lif(x).flatten().tolist() == [0, 1, 0, 1]
    # From v = 0.
    assert lif(x[:1]).item() == 0
    assert lif.v.item() == 0.75
    # It goes on from there: 0.75 + (1.5 - 0.75) / 2.
    assert lif(x[:1]).item() == 1
    assert lif.state_dict() == {}
    with pytest.raises(RuntimeError, match=r"got \(2,\) per step, but v is \(1,\). Call reset"):
        lif(torch.ones(1, 2))
    lif.reset()
    assert lif(torch.ones(1, 2)).shape == (1, 2)


def test_a_second_backward_without_reset_fails():
    lif = neurons.MultiStepLIF()
    x = torch.full((2, 1), 0.5, requires_grad=True)
    lif(x).sum().backward()
    with pytest.raises(RuntimeError, match="a second time"):
        lif(x).sum().backward()


def test_stored_t_lif_by_hand():
    lif = neurons.StoredTLIF(2)
    x = torch.tensor([0.75, 0.25, 0.75, 0.875])
    # Samples 0 and 1 of step 0, then of step 1: 0.75 -> 1.125, 0.25 -> 1.0.
    assert lif(x).tolist() == [0, 0, 1, 1]
    assert lif(x).tolist() == [0, 0, 1, 1]
    lif.T = 1
    assert lif(x).tolist() == [0, 0, 0, 0]


def test_integer_neurons_by_hand():
    x = torch.tensor([-1.0, 0.4, 1.6, 3.5, 9.0], requires_grad=True)
    out = neurons.MultiSpike()(x)
    assert out.tolist() == [0, 0, 0.5, 1, 1]
    out.sum().backward()
    assert x.grad.tolist() == [0, 0.25, 0.25, 0.25, 0]
    assert neurons.MultiSpike(Norm=1)(x).tolist() == [0, 0, 2, 4, 4]
    assert neurons.Multispike(lens=1)(x).tolist() == [0, 0, 0.5, 1, 1]
    # 2.5 -> 2 (to even), then (2.5 - 2) / 4 + 2.5 = 2.625 -> 3.
    assert neurons.MemUpdate()(torch.tensor([[2.5], [2.5]])).flatten().tolist() == [2, 3]


def test_step_node_by_hand():
    node = neurons.StepNode(2)
    x = torch.tensor([1.5, 1.0, 0.5, 0.0])
    # Sample 0: 0.75, 0.625; sample 1: 0.5, 0.25. Then from there, sample 0: 1.0625 -> spike.
    assert node(x).tolist() == [0, 0, 0, 0]
    assert node.mem.tolist() == [0.625, 0.25]
    assert node(x).tolist() == [1, 0, 0, 0]
    node.n_reset()
    assert node(x).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "path", "values"),
    [
        ("spikformer_cifar", "patch_embed", {0, 1, 2}),
        ("spikformer_dvs", "patch_embed", {0, 1, 2}),
        ("qkformer", "patch_embed3", {0, 1, 2}),
        ("spikformer_v2", "patch_embed", {0, 1}),
        ("sdt_v3", "block3.0.attn.attn_spike", {0, 0.25, 0.5, 0.75, 1}),
        ("sdt_v3_large", "block3.0.attn.v_lif", {0, 0.25, 0.5, 0.75, 1}),
        ("sdt_v3", "spike", {0, 1, 2, 3, 4}),
        ("spikeyolo", "model.9.lif", {0, 1, 2, 3, 4}),
    ],
)
def test_levels(name: str, path: str, values: set[float]):
    model, _ = fresh(name)
    _, out = seen(model, path, FAKES[name].example(batch=8))
    assert {*out.unique().tolist()} == values


@pytest.mark.parametrize(
    ("name", "path"), [("sdt_v2", "downsample3"), ("sdt_v3", "downsample3"), ("stmixer", "patch_embd")]
)
def test_stem_gives_real_values(name: str, path: str):
    model, x = fresh(name)
    _, out = seen(model, path, x)
    assert (out < 0).any()
    assert len(out.unique()) > 100


@pytest.mark.parametrize(
    ("name", "path", "shape"),
    [
        ("spikformer_cifar", "block.0.attn", (4, 2, 16, 24)),
        ("spikformer_imagenet", "block.0.attn", (4, 2, 24, 4, 4)),
        ("spikformer_dvs", "block.0.attn", (4, 2, 24, 16)),
        ("qkformer", "stage3.0.attn", (4, 2, 40, 4, 4)),
        ("sdt_v1", "block.0.attn", (4, 2, 24, 4, 4)),
        ("sdt_v2", "block3.0.attn", (4, 2, 24, 4, 4)),
        ("sdt_v2", "block4.0.attn", (4, 2, 30, 4, 4)),
        ("sdt_v3", "block3.0.attn", (2, 24, 4, 4)),
        ("sdt_v3_large", "block3.0.attn", (1, 2, 24, 16)),
        ("stmixer", "block.0.token_mix.attn", (8, 24, 16)),
        ("braincog", "block.0.attn", (4, 2, 16, 24)),
        ("root_attention", "look_one", (4, 2, 24, 16)),
    ],
)
def test_layout(name: str, path: str, shape: tuple[int, ...]):
    model, x = fresh(name)
    args, out = seen(model, path, x)
    assert args[0].shape == shape
    assert (out[0] if isinstance(out, tuple) else out).shape == shape


def test_imagenet_spikformer_returns_pairs():
    model, x = fresh("spikformer_imagenet")
    _, (stem, size) = seen(model, "patch_embed", x)
    assert (stem.shape, size) == ((4, 2, 24, 4, 4), (4, 4))
    args, (_, v) = seen(model, "block.1.attn", x)
    assert v.shape == args[1].shape == (4, 2, 3, 16, 8)
    assert not hasattr(model, "T")


def test_declared_but_unused():
    assert without_gradient("spikformer_dvs") == {
        *("pos_embed", "norm.weight", "norm.bias"),
        *(f"block.{i}.norm{j}.{kind}" for i in (0, 1) for j in (1, 2) for kind in ("weight", "bias")),
    }
    assert without_gradient("sdt_v1") == {f"block.{i}.attn.talking_heads.weight" for i in (0, 1)}


def test_dvs_stem_takes_one_size_only():
    model, x = fresh("spikformer_dvs")
    with pytest.raises(RuntimeError, match="to have 12 channels, but got 9"):  # what the reshape makes of it
        model(x[..., :12])


def test_qkformer_returns_width_before_height():
    attn = fresh("qkformer")[0].stage3[0].attn
    x = torch.randint(0, 3, (4, 2, 40, 8, 2)).float()
    assert attn(x).shape == (4, 2, 40, 2, 8)
    reset(attn)
    x = x.reshape(4, 2, 40, 16, 1)
    assert (x + attn(x)).shape == (4, 2, 40, 16, 16)


@pytest.mark.parametrize(("name", "inside"), [("sdt_v1", True), ("sdt_v2", False), ("strided_keys", True)])
def test_residual_inside_or_not(name: str, inside: bool):
    model, x = fresh(name)
    path = FAKES[name].sites[0]
    last = [m for m in model.get_submodule(path).modules() if isinstance(m, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    args, out = seen(model, path, x)
    out = out[0] if isinstance(out, tuple) else out
    assert torch.equal(out, args[0] if inside else torch.zeros_like(args[0]))


def test_sdt_v1_fills_and_returns_the_hook():
    model, x = fresh("sdt_v1")
    hook: dict[str, Tensor] = {}
    out, returned = model(x, hook=hook)
    assert out.shape == (2, 5)
    assert returned is hook
    assert {*hook} == {"MS_SPS_lif", "MS_SSA_Conv0_first_lif", "MS_SSA_Conv1_first_lif"}
    model, x = fresh("sdt_v1_dvs")
    out, returned = model(x)
    assert out.shape == (4, 2, 5)
    assert returned is None


@pytest.mark.parametrize(
    ("name", "pointwise"),
    [
        *(("spikformer_imagenet", True), ("spikformer_v2", True), ("qkformer", True), ("sdt_v1", True)),
        *(("sdt_v1_dvs", False), ("sdt_v2", False), ("sdt_v3", True), ("strided_keys", False)),
    ],
)
def test_which_attentions_need_true_neighbours(name: str, pointwise: bool):
    model, x = fresh(name)
    attn = model.get_submodule(FAKES[name].sites[0])
    (given, *rest), out = seen(model, FAKES[name].sites[0], x)
    order = torch.randperm(given.flatten(-2).shape[-1])

    def shuffled(y: Tensor) -> Tensor:
        return y.flatten(-2)[..., order].view(y.shape)

    again = attn(shuffled(given), *rest)
    first, again = (y[0] if isinstance(y, tuple) else y for y in (out, again))
    assert torch.allclose(again, shuffled(first), atol=1e-4) == pointwise


def test_sdt_v2_steps_and_distillation():
    torch.manual_seed(0)
    model = sdt_v2.Spiking_vit_MetaFormer(kd=True)
    assert model.T == 1
    x = FAKES["sdt_v2"].example()
    assert [out.shape for out in model(x)] == [(2, 5), (2, 5)]
    reset(model)
    assert model.eval()(x).shape == (2, 5)
    attn = FAKES["sdt_v2"].build().block4[0].attn
    assert attn.dim // attn.num_heads == 10


@pytest.mark.parametrize(("name", "ratio"), [("sdt_v3", 4), ("sdt_v3_large", 2)])
def test_sdt_v3_has_wider_values(name: str, ratio: int):
    model, x = fresh(name)
    axis = 1 if name == "sdt_v3" else 2
    widths = [seen(model, f"block3.0.attn.{part}_conv", x)[1].shape[-3 if axis == 1 else -2] for part in "qkv"]
    assert widths == [24, 24, 24 * ratio]


def test_stmixer_mixes_the_batch_into_time_when_t_is_not_set():
    model = FAKES["stmixer"].build()
    x = FAKES["stmixer"].example(batch=4)
    model.patch_embd.register_forward_hook(lambda _, args, out: out[:4])  # one step of four samples
    assert model(x).shape == (1, 5)  # taken for four steps of one sample
    for module in (model, *model.block.modules()):
        if hasattr(module, "T"):
            module.T = 1
    assert model(x).shape == (4, 5)


def test_braincog_refuses_other_steps_between_blocks_but_splits_the_batch_in_the_stem():
    model, x = fresh("braincog")
    assert model.patch_embed(x.repeat(2, 1, 1, 1)).shape == (4, 1, 16, 24)  # two steps of two samples
    with pytest.raises(RuntimeError, match="got 1 steps, step is 4"):
        model.block[0](torch.zeros(1, 2, 16, 24))


def test_spikeyolo_is_wired_by_numbers():
    model, x = fresh("spikeyolo")
    out = model(x)
    assert [one.shape for one in out] == [(2, 9, 8, 8), (2, 9, 4, 4)]
    assert [layer.i for layer in model.model] == [*range(12)]
    assert model.model[8].f == [-1, 4]
    assert model.model[11].f == [10, 6]
    assert {source for layer in model.model if layer.f != -1 for source in layer.f} == {-1, *model.save}


def test_strided_keys_are_fewer():
    model, x = fresh("strided_keys")
    assert seen(model, "rungs.0.matmul1", x)[1].shape == (4, 2, 3, 64, 16)
    assert seen(model, "rungs.0.matmul2", x)[1].shape == (4, 2, 3, 64, 8)
    before = model.rungs[0].busy.clone()
    model.train()(x)
    assert model.rungs[0].busy != before


def test_einsum_heads_are_the_last_axis():
    model, x = fresh("einsum")
    _, before = seen(model, "chain.0.held.sum_cell", x)
    with torch.no_grad():
        model.chain[0].held.roles[1].weight[0::3].neg_()  # of the keys, the channels of head 0
    _, after = seen(model, "chain.0.held.sum_cell", x)
    changed = (after != before).any(2).any(1).any(0)
    assert changed[0::3].any()
    assert not changed.view(8, 3)[:, 1:].any()
