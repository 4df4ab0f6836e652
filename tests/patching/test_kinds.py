"""Only attention is swapped, masks and windows are refused by name, and tokens that mean something are not pruned."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.patching.wrap import plan, wrap
from tests.fakes.neurons import MultiStepLIF

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


class QuietAndLearned(Quiet):
    def between(self, x: Tensor) -> Tensor:
        return torch.cat([self.extra[:, :1].expand(len(x), -1, -1), x[:, 1:]], 1)


class First(Net):
    def pool(self, x: Tensor) -> Tensor:
        return x[:, 0]


class Last(Net):
    def pool(self, x: Tensor) -> Tensor:
        return x.select(1, -1)


class AllButFirst(Net):
    def pool(self, x: Tensor) -> Tensor:
        return x[:, 1:].mean(1)


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
        (Causal, r"^blocks\.0\.attn: wrap: its attention has a causal mask \(tril\)"),
        (Where, r"its attention has a causal mask between its products \(where\)"),
        (CausalCall, r"its scaled_dot_product_attention has a mask"),
        (Band, r"its attention has a mask or bias between its products \(mul\)"),
        (Bias, r"its attention has a learned bias or factor between its products \(add\)"),
        (Padding, r"other data joins its scores \(mul\), as a padding mask does"),
        (Windows, r"it attends within windows, of \d+ of \d+ tokens in the trial"),
    ],
)
def test_masks_and_windows_are_named(attention: type[Attention], text: str):
    refused(made(Net, attention), FamilyError, text, ps=0, t=None)
    refused(made(Net, attention), SettingError, r"cannot be pruned: .*(causal|mask|bias|windows)", swap=False)
    left = wrap(made(Net, attention), example_input=X, swap=False, ps=0, t=None)
    assert "blocks.0.attn: stays: " in str(left.dstsp.plan)
    assert torch.equal(left(X), made(Net, attention)(X))


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
    refused(made(Net, other), FamilyError, rf"The chained products of blocks\.0\.attn are no attention: {text}")
    net = made(Net, Attention, other)
    kept = {name for name, _ in net.named_parameters() if ".mlp." in name}
    wrap(net, example_input=X)
    assert kept <= {name for name, _ in net.named_parameters()}
    assert f"blocks.0.mlp: stays, it is no attention: {text}" in str(net.dstsp.plan)
    assert net(X).shape == (2, 5)


@pytest.mark.parametrize("kind", [Front, Middle])
def test_learned_tokens_are_not_pruned_whatever_their_name(kind: type[Net]):
    net = made(kind)
    refused(net, SettingError, "cannot be pruned: its stream holds extra, which would be ranked and dropped")
    assert wrap(net, ps=0, t=1, example_input=X)(X).shape == (2, 5)
    with pytest.raises(SettingError, match="cannot be pruned"):
        net.dstsp.ps = 0.3


def test_tokens_that_no_example_reaches_are_no_learned_ones():
    assert plan(made(Quiet), example_input=X).tokens == (16, 11)
    refused(made(QuietAndLearned), SettingError, r"cannot be pruned: its stream holds extra")


@pytest.mark.parametrize("kind", [First, Last, AllButFirst])
def test_tokens_that_the_head_reads_by_place_are_not_pruned(kind: type[Net]):
    refused(made(kind), SettingError, r"tokens behind blocks\.0 change places, so its head reads by place")


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


@pytest.mark.parametrize(
    ("attention", "text"),
    [
        (MultiHead, r"blocks\.0\.attn\.whole is a nn\.MultiheadAttention, whose products are one call of torch"),
        (Hadamard, r"blocks\.0\.attn multiplies activations entry by entry and sums them, .*linear \(Hadamard\)"),
        (OverTime, r"attends over the T x N steps and tokens together"),
    ],
)
def test_a_refusal_names_what_is_there(attention: type[Attention], text: str):
    refused(made(Net, attention), FamilyError, text)


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
