"""Only attention is swapped, masks and windows are refused by name, and tokens that mean something are not pruned."""

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.patching.wrap import plan, wrap
from tests.fakes.kinds import Membranes, pictures
from tests.fakes.neurons import MultiStepLIF, reset

X = torch.rand(2, 3, 16, 16)
WIDTH = 16


class Attention(nn.Module):
    """(T, B, N, C) in and out; subclasses mix by other means."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.fires = nn.ModuleList(MultiStepLIF(v_threshold=0.1) for _ in range(4))
        self.bias, self.deep = nn.Parameter(torch.randn(1024, 1024)), nn.Parameter(torch.randn(WIDTH, WIDTH))
        self.pick = nn.Linear(WIDTH, 4)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT) @ v * 0.2

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (fire(part(x)) for fire, part in zip(self.fires, (self.q, self.k, self.v), strict=False))
        return self.proj(self.fires[3](self.mix(q, k, v)))


class Causal(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT).tril() @ v * 0.2


class Where(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        place = torch.arange(q.shape[-2])
        return torch.where(place[:, None] >= place, q @ k.mT, float("-inf")).softmax(-1) @ v


class CausalCall(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class Band(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        place = torch.arange(q.shape[-2])
        return (q @ k.mT * ((place[:, None] - place).abs() < 3)) @ v * 0.2


class Bias(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n = q.shape[-2]
        return (q @ k.mT + self.bias[:n, :n]).softmax(-1) @ v


class Padding(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * (k.sum(-1) > 0).float()[..., None, :]) @ v * 0.2


class Windows(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (z.unflatten(2, (2, -1)) for z in (q, k, v))
        return ((q @ k.mT) @ v * 0.2).flatten(2, 3)


class Routed(Attention):
    """Clusters of tokens, by a softmax over the clusters."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        share = self.pick(q).softmax(-1)
        return share @ (share.mT @ v)


class Channels(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q.mT @ k).softmax(-1) @ v.mT).mT


class Made(Attention):
    """Weights made from data, as in a hypernetwork."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = self.pick(k.mean(-2))[..., None] * self.deep[:4]
        return v @ made.mT @ made


class Learned(Attention):
    """A learned layer between the products."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ (k.mT @ v @ self.deep) @ self.deep


class TopK(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT
        return scores.scatter(-1, scores.topk(3).indices, 0.0) @ v


class Softmax(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT * 0.2).exp()
        return (scores / scores.sum(-1, keepdim=True)) @ v


class Block(nn.Module):
    def __init__(self, attention: type[Attention], mlp: type[Attention] | None = None) -> None:
        super().__init__()
        self.attn, self.fire, self.fc = attention(), MultiStepLIF(v_threshold=0.1), nn.Linear(WIDTH, WIDTH)
        self.mlp = None if mlp is None else mlp()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        x = x if self.mlp is None else x + self.mlp(x)
        return x + self.fc(self.fire(x))


class Net(nn.Module):
    """Subclasses make other tokens, or read them otherwise."""

    def __init__(self, attention: type[Attention] = Attention, mlp: type[Attention] | None = None) -> None:
        super().__init__()
        self.stem, self.start, self.head = nn.Conv2d(3, WIDTH, 4, 4), MultiStepLIF(v_threshold=0.1), nn.Linear(WIDTH, 5)
        self.blocks = nn.Sequential(Block(attention, mlp))
        self.extra = nn.Parameter(torch.rand(1, 2, WIDTH) + 0.5)

    def tokens(self, x: Tensor) -> Tensor:
        return x

    def pool(self, x: Tensor) -> Tensor:
        return x.mean(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.start(self.stem(x).flatten(2).mT.expand(4, -1, -1, -1))
        return self.head(self.pool(self.blocks(self.tokens(x)).mean(0)))


class Front(Net):
    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat([self.extra.expand(*x.shape[:2], -1, -1), x], 2)


class Middle(Net):
    def tokens(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :, :5], self.extra.expand(*x.shape[:2], -1, -1), x[:, :, 5:]], 2)


class Quiet(Net):
    """Its second block sees one constant where the first gives little, as in an untrained model of several stages."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Sequential(Block(Attention))
        self.register_buffer("least", torch.where(torch.arange(16) < 4, 6.0, -6.0)[:, None])

    def between(self, x: Tensor) -> Tensor:
        return x

    def pool(self, x: Tensor) -> Tensor:
        x = self.second(self.between((x - self.least).relu() + 0.5).expand(4, -1, -1, -1))
        return x.mean((0, 2))


class First(Net):
    def pool(self, x: Tensor) -> Tensor:
        return x[:, 0]


class Last(Net):
    def pool(self, x: Tensor) -> Tensor:
        return x.select(1, -1)


class AllButFirst(Net):
    def pool(self, x: Tensor) -> Tensor:
        return x[:, 1:].mean(1)


class Flat(Net):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(16))

    def pool(self, x: Tensor) -> Tensor:
        return (x * self.weights[: x.shape[1], None]).sum(1)


class Most(Net):
    def pool(self, x: Tensor) -> Tensor:
        return x.amax(1)


def made(net: type[Net] = Net, *parts: type[Attention]) -> nn.Module:
    torch.manual_seed(0)
    return net(*parts).eval()


def refused(net: nn.Module, error: type[Exception], text: str, **settings: object) -> None:
    for call in (plan, wrap):
        with pytest.raises(error, match=text):
            call(net, example_input=X, **settings)
    assert not hasattr(net, "dstsp")


@pytest.mark.parametrize("attention", [Attention, Softmax])
def test_attention_is_swapped_and_pruned(attention: type[Attention]):
    net = wrap(made(Net, attention), example_input=X)
    assert net(X).shape == (2, 5)
    assert any("W_M" in edit for edit in net.dstsp.plan.edits)


@pytest.mark.parametrize(
    ("attention", "text"),
    [
        (Band, r"its attention has a mask or bias between its products \(mul\)"),
        (Padding, r"other data joins its scores \(mul\), as a padding mask does"),
    ],
)
def test_masks_are_named(attention: type[Attention], text: str):
    refused(made(Net, attention), FamilyError, text, ps=0, t=None)
    refused(made(Net, attention), SettingError, r"cannot be pruned: .*mask", swap=False)
    left = wrap(made(Net, attention), example_input=X, swap=False, ps=0, t=None)
    assert "blocks.0.attn: stays: " in str(left.dstsp.plan)
    assert torch.equal(left(X), made(Net, attention)(X))


@pytest.mark.parametrize("attention", [Causal, Where, CausalCall])
def test_causal_attention_gets_a_lower_triangle_and_no_pruning(attention: type[Attention]):
    refused(made(Net, attention), SettingError, r"cannot be pruned: blocks\.0 is causal")
    net = wrap(made(Net, attention), example_input=X, ps=0, t=None)
    assert "16 x 16, lower triangular" in str(net.dstsp.plan)
    later = torch.zeros(4, 2, 16, WIDTH)
    later[:, :, 9:] = 1
    with torch.no_grad():
        reset(net)
        before = net.blocks[0].attn(torch.ones(4, 2, 16, WIDTH))
        reset(net)
        after = net.blocks[0].attn(torch.ones(4, 2, 16, WIDTH) + later)
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert not torch.equal(before[:, :, 9:], after[:, :, 9:])


def test_a_learned_bias_goes_into_w_m_or_ties_the_tokens():
    assert wrap(made(Net, Bias), example_input=X).dstsp.plan.tokens == (16, 11)
    refused(made(Net, Bias), SettingError, r"at blocks\.0\.attn the attention is kept, and depends on", swap=False)


def test_windows_share_one_w_m_and_keep_the_grid():
    net = wrap(made(Net, Windows), example_input=X)
    assert net.blocks[0].attn.mixer.shape == (8, 8)
    assert net.dstsp.plan.keeps_grid
    assert net(X).shape == (2, 5)


def test_steps_of_a_causal_model_are_not_ranked():
    refused(made(Net, Causal), SettingError, "blocks.0 is causal, and what is kept", swap=False, ps=0, t=1)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (Routed, "softmax makes what its products multiply, as a router does"),
        (Channels, "a softmax over channels, as in channel attention, lies between its two products"),
        (Made, "its products sum over no axis of its tokens, as with weights made from data"),
        (Learned, "matmul lies between its two products"),
        (TopK, "topk lies between its two products"),
    ],
)
def test_other_chained_products_stay(other: type[Attention], text: str):
    refused(made(Net, other), FamilyError, rf"The products of blocks\.0\.attn are no attention: {text}")
    net = made(Net, Attention, other)
    kept = {name for name, _ in net.named_parameters() if ".mlp." in name}
    wrap(net, example_input=X)
    assert kept <= {name for name, _ in net.named_parameters()}
    assert f"blocks.0.mlp: stays, it is no attention: {text}" in str(net.dstsp.plan)
    assert net(X).shape == (2, 5)


@pytest.mark.parametrize(("kind", "places"), [(Front, (0, 1)), (Middle, (5, 6))])
def test_learned_tokens_are_always_kept_whatever_their_name(kind: type[Net], places: tuple[int, ...]):
    net = made(kind)
    assert wrap(net, example_input=X).dstsp.plan.always == places
    assert f"always kept tokens {', '.join(map(str, places))} of" in str(net.dstsp.plan)
    for ps in (0.3, 0.9):
        net.dstsp.ps = ps
        kept = kept_tokens(net, X)
        assert all((kept == place).sum(1).eq(1).all() for place in places)
        image = net.dstsp.plan.tokens[0] - len(places)
        assert kept.shape[1] == len(places) + max(1, round(image * (1 - ps)))


def kept_tokens(net: nn.Module, x: Tensor) -> Tensor:
    reset(net)
    found = []
    hook = net.blocks[0].register_forward_hook(lambda *_: found.append(net.dstsp.current.kept.tokens))
    with torch.no_grad():
        net(x)
    hook.remove()
    return found[0]


@pytest.mark.parametrize("merge", ["softmatch", "sum", "drop"])
def test_nothing_is_merged_into_a_learned_token(merge: str):
    net, given = wrap(made(Front), example_input=X), []
    net.dstsp.merge = merge
    before = net.blocks[0].register_forward_pre_hook(lambda _, args: given.append(args[0]), prepend=True)
    after = net.blocks[0].attn.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    reset(net)
    net(X)
    whole, pruned = given
    assert torch.equal(pruned[:, :, :2], whole[net.dstsp.current.kept.steps[0], :, :2])
    assert pruned.shape[2] == 13
    before.remove()
    after.remove()


def test_settings_that_move_learned_tokens_are_refused():
    net = wrap(made(Middle), example_input=X)
    for name, value in {"w_prime": "crop", "merge": "fuse"}.items():
        with pytest.raises(SettingError, match=r"moves tokens \(5, 6\) of this Middle"):
            setattr(net.dstsp, name, value)


def test_tokens_that_no_example_reaches_are_no_learned_ones():
    made_plan = plan(made(Quiet), example_input=X)
    assert (made_plan.tokens, made_plan.always) == ((16, 11), ())


@pytest.mark.parametrize(("kind", "places"), [(First, (0,)), (Last, (15,)), (AllButFirst, (0,))])
def test_tokens_that_the_head_reads_by_place_are_always_kept(kind: type[Net], places: tuple[int, ...]):
    assert wrap(made(kind), example_input=X).dstsp.plan.always == places


def test_a_head_that_reads_every_token_by_its_place_is_not_pruned():
    refused(made(Flat), SettingError, r"tokens behind blocks\.0 change places, so its head reads by place")


def test_a_head_that_pools_over_all_tokens_is_pruned():
    assert wrap(made(Most), example_input=X).dstsp.plan.tokens == (16, 11)


class MultiHead(Attention):
    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.whole(*(z.flatten(0, 1) for z in (q, k, v)), need_weights=False)[0].unflatten(0, q.shape[:2])


class Hadamard(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q * (k * v).sum(-2, keepdim=True)


class OverTime(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        t, n = q.shape[0], q.shape[2]
        q, k, v = (z.transpose(0, 1).flatten(1, 2) for z in (q, k, v))
        return (q @ (k.mT @ v) * 0.1).unflatten(1, (t, n)).transpose(0, 1)


def test_attention_of_torch_and_over_time_is_swapped():
    lines = str(wrap(made(Net, MultiHead), example_input=X).dstsp.plan)
    assert "2 heads, 16 x 16" in lines
    assert "its softmax is lost, so fit W_M (dstsp.fit) before use" in lines
    assert "1 heads, 16 x 16" in str(wrap(made(Net, OverTime), example_input=X).dstsp.plan)


def test_a_sum_on_which_no_neuron_fires_is_named_and_only_pruned():
    refused(
        made(Net, Hadamard), FamilyError, r"blocks\.0\.attn are no attention: no neuron fires on its sum .*swap=False"
    )
    assert wrap(made(Net, Hadamard), example_input=X, swap=False).dstsp.plan.tokens == (16, 11)


class Family(Front):
    """Named as a Spikformer, so that it needs no example."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed, self.block = nn.Identity(), self.blocks
        self.block[0].mlp = nn.Identity()


def test_without_an_example_a_learned_token_is_asked_for():
    with pytest.raises(SettingError, match=r"without example_input=.* whether extra is a token of its stream"):
        plan(made(Family))
    assert plan(made(Family), ps=0, t=None).family == "spikformer"


class TwoStreams(nn.Module):
    """Two nets side by side: the second has tokens of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Net(), Net()

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


def test_two_streams_are_refused_by_name():
    refused(TwoStreams().eval(), FamilyError, r"^wrap: right\.blocks\.0 takes another stream than left\.blocks\.0")


def test_the_part_that_cannot_be_copied_is_named():
    net = made()
    net.blocks[0].attn.lock = threading.Lock()
    refused(net, FamilyError, r"^wrap: blocks\.0\.attn, a Attention, cannot be copied to be looked at")


class AsLongAsItTakes(Membranes):
    """Its number of steps follows from the picture."""

    def forward(self, x: Tensor) -> Tensor:
        self.num_steps = int(x.abs().mean() * 6) + 1
        return super().forward(x)


def test_steps_that_follow_from_data_stay_and_tokens_are_pruned():
    torch.manual_seed(0)
    net, x = AsLongAsItTakes().eval(), pictures()
    with pytest.raises(SettingError, match=r"no step .* can be dropped: .* or follows from data\. Keep that number"):
        wrap(net, ps=0.3, t=1, example_input=x)
    assert wrap(net, ps=0.3, t=None, example_input=x).dstsp.plan.tokens == (36, 25)
    assert net(x * 2).shape == (2, 5)
