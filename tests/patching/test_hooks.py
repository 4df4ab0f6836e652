"""What the hooks leave alone: handles of other hooks, recomputed blocks, keyword arguments, a sample at a time."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.patching.wrap import unwrap, wrap
from tests.fakes.neurons import reset
from tests.fakes.wrapped import Calls, each, logits, wrapped
from tests.fakes.zoo import FAKES, Fake

READERS = {"sdt_v1": "block.0.attn.shortcut_lif", "sdt_v2": "block3.0.attn.head_lif", "strided_keys": "rungs.0.gate"}


@each(READERS)
def test_hooks_on_the_neuron_that_is_peeked_at_can_still_be_removed(fake: Fake):
    model, x = wrapped(fake).model, fake.example()
    neuron, calls = model.get_submodule(READERS[fake.name]), []
    handle = neuron.register_forward_hook(lambda *_: calls.append(1))
    logits(fake, model, x)
    assert calls == [1], "the hook is for the forward, not for the peek"
    handle.remove()
    logits(fake, model, x)
    assert calls == [1]


@each(READERS)
def test_a_peek_leaves_the_membrane_alone(fake: Fake):
    model, x = wrapped(fake).model, fake.example()
    neuron, seen = model.get_submodule(READERS[fake.name]), []
    handle = neuron.register_forward_pre_hook(lambda module, args: seen.append(module.v))
    logits(fake, model, x)
    handle.remove()
    assert seen == [0.0]


class ByName(nn.Module):
    """Calls its block with the stream as a keyword."""

    def __init__(self) -> None:
        super().__init__()
        net = FAKES["one_big_block"].build()
        self.entry, self.deck, self.verdict = net.entry, net.deck, net.verdict

    def forward(self, picture: Tensor) -> Tensor:
        x = self.entry(picture).flatten(3).mT
        for block in self.deck:
            x = block(x=x)
        return self.verdict(x.mean((0, 2)))


def test_blocks_may_be_called_by_keyword():
    fake = FAKES["one_big_block"]
    named, plain, x = ByName(), fake.build(), fake.example(batch=3)
    for one in (named, plain):
        torch.manual_seed(0)
        wrap(one, ps=0.3, t=2, example_input=x)
    with Calls(named.deck[0]) as calls, torch.no_grad():
        assert torch.equal(named(x), plain(x))
    assert calls.args[0][0].shape[:3] == (2, 3, 11)
    assert torch.equal(unwrap(named)(x), fake.build()(x))


def test_a_stream_of_another_rank_is_refused():
    fake = FAKES["spikformer_cifar"]
    model = wrapped(fake).model
    text = r"^wrapped model: the stream has shape \(4, 2, 24, 4, 4\), expected 't b n c'\. Feed the number of axes"
    with pytest.raises(LayoutError, match=text):
        model.block[0](torch.zeros(4, 2, 24, 4, 4))
    reset(model)


def test_two_wrapped_models_do_not_meet():
    fake, other = FAKES["spikformer_cifar"], FAKES["strided_keys"]
    model, inner = wrapped(fake).model, wrapped(other).model

    def run_the_other(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        logits(other, inner, other.example())

    alone = logits(fake, model, fake.example())
    model.block[1].register_forward_pre_hook(run_the_other)
    assert torch.equal(logits(fake, model, fake.example()), alone)
