"""Families of one's own: asked first, and held to the same form."""

import pytest
from torch import nn

from snntorch_smixer import dstsp
from snntorch_smixer.errors import FamilyError
from tests.fakes.wrapped import Calls, each, logits
from tests.fakes.zoo import Fake


class SecondBlock:
    """Prunes in front of the second block alone."""

    name = "second_block"

    def missing(self, model: nn.Module) -> list[str]:
        return [] if hasattr(model, "deck") or hasattr(model, "block") else ["a deck"]

    def sites(self, model: nn.Module) -> dstsp.Sites:
        return dstsp.Sites(("deck.1",) if hasattr(model, "deck") else ("block.1",), steps=4)

    def stored_steps(self, model: nn.Module) -> list[str]:
        return []


@pytest.fixture(autouse=True)
def as_it_was():
    before = [*dstsp.FAMILIES]
    yield
    dstsp.FAMILIES[:] = before


@each(["spikformer_cifar", "one_big_block"])
def test_a_family_of_ones_own_is_asked_first(fake: Fake):
    family = SecondBlock()
    assert dstsp.register(family) is family
    assert dstsp.FAMILIES[0] is family
    model, x = fake.build(), fake.example(batch=3)
    dstsp.wrap(model, ps=0.5, t=2, example_input=x)
    assert (model.dstsp.plan.family, model.dstsp.plan.depth) == ("second_block", 1)
    blocks = model.deck if hasattr(model, "deck") else model.block
    with Calls(blocks[0]) as first, Calls(blocks[1]) as second:
        logits(fake, model, x)
    assert first.args[0][0].shape[:3] == (4, 3, 16)
    assert second.args[0][0].shape[:3] == (2, 3, 8)
    assert [name.split(".")[1] for name in model.state_dict() if name.endswith("w_m.weight")] == ["1"]


def test_what_is_no_family_is_refused():
    before = [*dstsp.FAMILIES]
    for thing, text in (
        (SecondBlock, r"got a class; pass an instance"),
        (object(), r"got an object without name, missing, sites, stored_steps"),
        (type("Half", (), {"name": "half", "missing": None})(), r"got an object without sites, stored_steps"),
    ):
        with pytest.raises(
            FamilyError, match=rf"^register: {text}\. Expected name, missing\(model\), sites\(model\), "
        ):
            dstsp.register(thing)
    taken = SecondBlock()
    taken.name = "stmixer"
    with pytest.raises(FamilyError, match=r"^register: there is a family 'stmixer' already\. Choose another name\.$"):
        dstsp.register(taken)
    dstsp.register(SecondBlock())
    with pytest.raises(FamilyError, match="'second_block' already"):
        dstsp.register(SecondBlock())
    assert dstsp.FAMILIES[1:] == before


@each(["einsum"])
def test_a_family_that_has_nothing_in_common_is_not_called_near(fake: Fake):
    dstsp.register(SecondBlock())
    with pytest.raises(FamilyError, match=r"^wrap: no family matches \w+\. Pass example_input"):
        dstsp.wrap(fake.build())


@each(["einsum"])
def test_the_nearest_family_is_named(fake: Fake):
    family = SecondBlock()
    family.missing = lambda model: ["a deck"] if any(True for _ in model.children()) else ["blocks", "a deck"]
    dstsp.register(family)
    with pytest.raises(FamilyError, match=r"Nearest is second_block, which needs a deck\."):
        dstsp.wrap(fake.build())
